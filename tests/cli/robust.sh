# What surrounds the program: closed descriptors, readers that leave, little memory, names and texts of any bytes, pipes
# where files belong; and a run that diverges. Each ends with its status and one line that may be shown.
cat >tiny.yaml <<'YAML'
net: {channels: 4, layers: 3, nodes: 2, classes: 3, in_channels: 2, image: 8}
data: {name: random, limit: 40, test_limit: 30, pad: 1}
train: {batch: 10, epochs: 2}
prune: {density: 0.25, epochs: {score: 2, finetune: 2}}
run: {threads: 1, eval_batch: 8}
YAML
"$DASS" search -q -c tiny.yaml --set search.method=random -o cell >genotype.json || exit
train() { "$DASS" train -c tiny.yaml --genotype genotype.json "$@"; }
try() {
    "$@" >out 2>err
    echo "= $?"
    cat -v err
}

echo '-- descriptors 0 to 2 closed'
train -o closed 0<&- 1>&- 2>&-
echo "= $?"
train -o unheard 1>&- 2>&-
echo "= $?"
grep -h -v '^{.*}$' {closed,unheard}/*.jsonl # what was said must not be in a log
wc -l {closed,unheard}/metrics.jsonl | awk '{print $1}'

echo '-- nobody reads the log'
{ sleep 0.3; train -o unread 2>&1; echo $? >status; } | true
cmp closed/params.safetensors unread/params.safetensors
echo "= $(cat status)"

echo '-- nobody reads the results'
{ sleep 0.3; "$DASS" help 2>err; echo $? >status; } | true
echo "= $(cat status)"
cat err

echo '-- texts of files'
pair='["skip_connect", 0], ["skip_connect", 1]'
printf '{"version": 1, "normal": [["\\u001b[31mskip\\n\\u0007", 0], ["none", 1]], "reduce": [%s], "normal_concat": [2],
    "reduce_concat": [2]}' "$pair" >evil.json
try "$DASS" plan --genotype evil.json
printf 'net.name: "\\e[2J\\nx"\n' >evil.yaml
try "$DASS" plan -c evil.yaml
try "$DASS" derive $'no\e[31m\nsuch\xff'

echo '-- names of any bytes'
name=$'r\xff\n'
train -q -o "$name" -c $'tiny.yaml' --set data.flip=true && "$DASS" eval -q --json "$name" | sed -E 's/"(loss|top1)":[0-9.]+/"\1":X/g'
cp tiny.yaml $'tiny\nrun.seed: 9'
"$DASS" train -q -c $'tiny\nrun.seed: 9' --genotype genotype.json -o named && grep -c '^run.seed: ' named/config.yaml

echo '-- pipes'
mkfifo pipe
for option in -c --genotype; do
    try timeout 10 "$DASS" plan $option pipe
done
try timeout 10 "$DASS" eval pipe
try timeout 10 "$DASS" plot pipe -o pictures

echo '-- a run that diverges'
"$DASS" prune -q closed -o run --set prune.lr_finetune=1000 --set train.weight_decay=1 --set train.clip=1e9 2>err
echo "= $?"
sed -E 's/step [0-9]+: .* is -?(inf|nan)/step N: X is Y/; s/epoch [0-9]+, /epoch N, /; s/epoch-[0-9]+/epoch-N/' err
cp err first
"$DASS" prune -q closed -o run --set prune.lr_finetune=1000 --set train.weight_decay=1 --set train.clip=1e9 2>err
echo "= $?"
cmp err first
newest=$(ls run/checkpoint | tail -n 1)
for of in run "run/checkpoint/$newest"; do
    "$DASS" eval -q "$of" 2>err | sed -E "s/ +[0-9.]+% +([0-9]+)\$/ X% \\1/; s/^run[^ ]*/RUN/; s/  +/ /g"
    sed "s/$newest/NEWEST/" err
done
