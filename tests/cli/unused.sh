# Settings that nothing reads: an error where somebody typed them, one line where a file holds them, nothing where they
# switch something off.
say() { # command... : the last line that it says, and its status
    echo "\$ dass $*"
    "$DASS" "$@" 2>err >/dev/null
    status=$?
    grep -E 'no effect|error' err
    echo "status $status"
}
small=(--set data.name=random --set data.limit=64 --set data.test_limit=16 --set train.batch=16 --set net.image=8
    --set net.channels=4 --set net.layers=3
    --set net.in_channels=1)

say plan --net mobilenet_v2 --set net.channels=4
say plan --net mobilenet_v2 --set net.layers=3
say plan --net resnet18 --set train.drop_path=0.2
say plan --net resnet18 --set train.drop_path=0 --set train.auxiliary=0
say plan --net resnet18 --set search.lr=0.1
say plan --set prune.density=0.1
say search --set train.lr=0.1
say search --set search.method=random --set search.lr=0.1
say search --set search.method=darts --set search.density=0.1
say train --net resnet18 --set prune.density=0.1
say bench step --net resnet18 --set bench.batch=4
say bench latency --net resnet18 --set data.flip=true
say bench latency --net resnet18 --set prune.density=0.1

cat >shared.yaml <<END
net: {channels: 8, layers: 4, nodes: 3}
search: {density: 0.1}
train: {drop_path: 0.1, auxiliary: 0}
prune: {density: 0.1, every: 7}
END
say plan -c shared.yaml --net mobilenet_v2
say plan -c shared.yaml

# The network of a run is the run's; its own settings are not spoken of.
"$DASS" search -q "${small[@]}" --set net.nodes=2 --set search.epochs.pretrain=1 --set search.epochs.score=0 \
    --set search.epochs.finetune=0 -o found >/dev/null || exit 1
"$DASS" train -q "${small[@]}" --genotype found/genotype.json --set train.epochs=2 -o run || exit 1
say prune run --genotype found/genotype.json -o pruned
say prune run --set prune.every=5 -o pruned
say prune run --set train.warmup=1 -o pruned
say eval run --set train.lr=0.1
say eval run
say bench latency run --set prune.density=0.5

# The commands that configs/paper_cifar10.yaml gives.
paper=$DASS_TEST_ROOT/configs/paper_cifar10.yaml
say plan -c "$paper" --genotype "$DASS_TEST_ROOT/configs/genotypes/dass_99.json" | sed "s|$DASS_TEST_ROOT/||g"
say plan -c "$paper" --net mobilenet_v2 --set train.drop_path=0 --set train.auxiliary=0 | sed "s|$DASS_TEST_ROOT/||g"
