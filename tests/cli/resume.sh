# kill -9 at any moment, then the same command again: the run ends in the bytes of one that was never stopped. For
# search, train and the three ways to prune; the moments are spread over the whole run, also into the writing of
# checkpoints, which are due every few steps.
[ -z "${DASS_TEST_SHORT:-}" ] || { echo "a dozen whole runs, too long for a sanitizer; make test has them"; exit 77; }
kills=${DASS_TEST_KILLS:-6}
cat >tiny.yaml <<'YAML'
net: {channels: 4, layers: 3, nodes: 2, classes: 3, in_channels: 2, image: 8}
data: {name: random, limit: 400, test_limit: 30, pad: 1}
search: {density: 0.3, epochs: {pretrain: 2, score: 2, finetune: 1}}
train: {batch: 10, epochs: 3, ema: 0.9, warmup: 1, drop_path: 0.3}
prune: {density: 0.25, every: 7, epochs: {score: 2, finetune: 2}}
run: {threads: 1, eval_batch: 8}
YAML
"$DASS" search -q -c tiny.yaml -o cell >genotype.json || exit

now() { date +%s%N; }
run() { # folder, arguments of dass...
    local out=$1
    shift
    "$DASS" "$@" --set run.checkpoint_minutes=0.001 -o "$out" >>printed 2>said || { echo "status $?"; cat said; }
}
survives() { # name, arguments of dass...
    local name=$1 began took wait_ms i pid resumed=0 verdict=differs
    shift
    began=$(now)
    run "$name.whole" "$@"
    took=$((($(now) - began) / 1000000)) # milliseconds
    for ((i = 1; i <= kills || (resumed == 0 && i < 60); ++i)); do
        "$DASS" "$@" --set run.checkpoint_minutes=0.001 -o "$name.killed" >>printed 2>said &
        pid=$!
        wait_ms=$((20 + RANDOM % (took * 2 / kills + 60))) # spread over the run, start and end included
        sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        grep -q 'going on in' said && resumed=$((resumed + 1))
    done
    # killed while it wrote one last time, of which no later write needs the name
    mkdir -p "$name.killed/checkpoint"
    echo half | tee "$name.killed/params.safetensors.tmp" >"$name.killed/checkpoint/partial.safetensors.tmp"
    cp "$name.killed/params.safetensors.tmp" "$name.killed/checkpoint/epoch-000001.safetensors.tmp"
    run "$name.killed" "$@"
    grep -q 'going on in' said && resumed=$((resumed + 1))
    # config.yaml and run.json quote the command line, which names the folder; times are what they are
    diff -r -x config.yaml -x run.json -x times.jsonl "$name.whole" "$name.killed" && verdict='the same bytes'
    [ $resumed -gt 0 ] || verdict="$verdict, but nothing was resumed"
    echo "$name: $verdict"
}
survives search search -c tiny.yaml
survives 'second order' search -c tiny.yaml --set search.order=2
survives train train -c tiny.yaml --genotype cell/genotype.json
cp -r train.whole dense
for method in learned oneshot gradual; do
    survives $method prune dense --set prune.method=$method
done
