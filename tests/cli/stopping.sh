# Signals, a full disk, damaged checkpoints, another configuration: nothing is lost, and the message says what to do.
[ -z "${DASS_TEST_SHORT:-}" ] || { echo "a dozen whole runs, too long for a sanitizer; make test has them"; exit 77; }
cat >tiny.yaml <<'YAML'
net: {channels: 4, layers: 3, nodes: 2, classes: 3, in_channels: 2, image: 8}
data: {name: random, limit: 600, test_limit: 30, pad: 1}
search: {density: 0.3, epochs: {pretrain: 3, score: 2, finetune: 3}}
train: {batch: 10}
run: {threads: 1, eval_batch: 8}
YAML
search=("$DASS" search -c tiny.yaml --set run.checkpoint_minutes=0.001)
search() { "${search[@]}" "$@" 2>said >printed; }
same() { diff -r -x config.yaml -x run.json -x times.jsonl "$@" && echo 'the same bytes'; }
# steps and damage differ from run to run
show() { sed -E '/^dass: error|^dass: warning|^dass: search: stopped/!d; s/[0-9]+ steps/N steps/; s/to [0-9a-f]{16}/to HASH/; s/with [0-9a-f]{16}/with HASH/' said; }
stop() { # signal, folder
    : >said
    "${search[@]}" -o "$2" 2>said >printed & # not the function, whose shell would get the signal
    local pid=$!
    for ((i = 0; i < 600; ++i)); do # until it has taken a step
        grep -q 'left$' said && break
        sleep 0.02
    done
    kill -"$1" $pid
    wait $pid
    echo "$1: status $?"
    show
}

search -o whole || cat said
for name in INT TERM USR1; do
    stop $name stopped
done
search -o stopped
echo "then: status $?"
same whole stopped

echo '-- another dass in the folder'
"${search[@]}" -o busy 2>said >printed &
for ((i = 0; i < 600; ++i)); do [ -e busy/metrics.jsonl ] && break; sleep 0.02; done
kill -STOP $!
"$DASS" search -c tiny.yaml -o busy -q
echo "status $?"
kill -CONT $!
wait

echo '-- a full disk'
stop TERM full
(ulimit -f 200; search -o full)
echo "status $?"
show
search -o full
echo "then: status $?"
same whole full

echo '-- a damaged checkpoint'
cp -r whole damaged
printf '\377' | dd of=damaged/checkpoint/epoch-000008.safetensors bs=1 seek=200000 conv=notrunc status=none
head -c 1000 whole/checkpoint/epoch-000007.safetensors >damaged/checkpoint/partial.safetensors
search -o damaged
echo "status $?"
show
same whole damaged
for file in damaged/checkpoint/*; do echo rubbish >"$file"; done
search -o damaged
echo "status $?"
show

echo '-- another configuration'
"$DASS" search -c tiny.yaml -o whole -q --set search.lr=0.5
echo "status $?"
"$DASS" train -c tiny.yaml --net resnet18 -o whole -q
echo "status $?"
"$DASS" search -c tiny.yaml -o whole -q --set run.keep=5 >printed # changes no result: allowed
echo "status $?"
"$DASS" search -c tiny.yaml -o whole -q --restart --set search.epochs.pretrain=1 >printed
echo "restarted: status $?, $(wc -l <whole/metrics.jsonl) epochs, $(ls whole/checkpoint | wc -l) checkpoints"
