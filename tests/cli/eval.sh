# eval as a table and as JSON: the keys that scripts read.
cat >tiny.yaml <<'YAML'
net: {channels: 4, layers: 3, nodes: 2, classes: 3, in_channels: 2, image: 8}
data: {name: random, limit: 200, test_limit: 30, pad: 1}
train: {batch: 10, epochs: 1}
prune: {density: 0.25, epochs: {score: 1, finetune: 1}}
run: {threads: 1, eval_batch: 8}
YAML
"$DASS" search -q -c tiny.yaml --set search.method=random -o cell >genotype.json || exit
"$DASS" train -q -c tiny.yaml --genotype cell/genotype.json -o dense || exit
"$DASS" prune -q dense -o pruned || exit
# what depends on the processor's rounding is cut away
"$DASS" eval -q dense pruned --json | sed -E 's/"(loss|top1)":[0-9.]+/"\1":X/g'
"$DASS" eval -q dense pruned | sed -E 's/ +[0-9.]+% +([0-9]+)$/ X% \1/'
"$DASS" bench latency dense --json -q | tr ',' '\n' | sed 's/:.*//; s/^{//'
# sparse answers: dense is timed along; what does not fit is refused
"$DASS" bench latency pruned --execution sparse --json -q | tr ',' '\n' | sed -E 's/^\{//; /"(network|execution|.*_convolutions|sparse_products|blocks)"/!s/:.*//; s/\}$//'
"$DASS" bench latency --net mobilenet_v2 --execution sparse,dense -c tiny.yaml --set net.in_channels=3 -q | awk '{print NR <= 2 ? $0 : $1 " " $2 " " NF}'
"$DASS" bench latency dense --execution sparse 2>&1
"$DASS" bench latency pruned --execution library -q --json 2>&1
"$DASS" bench latency pruned --execution spars 2>&1
true
