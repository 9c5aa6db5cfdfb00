#!/bin/sh
# The demonstration: search, derive, train, prune to 10 % and to 1 % of the weights, evaluate, time, draw; one table.
#
#     tools/demo.sh            runs build/dass (or $DASS) with configs/demo.yaml; results in runs/demo
#
# Needs the program and a POSIX shell; begins anew over its own results. Status: that of the step that failed.
set -eu

cd "$(dirname "$0")/.."
dass=${DASS:-build/dass}
config=${DASS_DEMO_CONFIG:-configs/demo.yaml}
out=${DASS_DEMO_OUT:-runs/demo}
search_images=${DASS_DEMO_SEARCH_IMAGES:-4096}

if [ ! -x "$dass" ]; then
    echo "demo: $dass does not exist: run make first" >&2
    exit 1
fi
mkdir -p "$out"
began=$(date +%s)

step() { # title, arguments of dass...
    printf '\n== %s (%s s so far)\n' "$1" $(($(date +%s) - began)) >&2
    shift
    "$dass" "$@"
}
field() { # name, file of one JSON object
    sed 's/.*"'"$1"'":"*\([^,"}]*\).*/\1/' "$2"
}

step "search on $search_images images: dense, score and finetune stages" \
    search -c "$config" --set data.limit="$search_images" -o "$out/search" --restart >"$out/searched.json"
step 'derive: the genotype that the search left' \
    derive "$out/search" >"$out/genotype.json"
cat "$out/genotype.json" >&2
step 'train the derived network, dense' \
    train -c "$config" --genotype "$out/genotype.json" -o "$out/dense" --restart
step 'prune it to 10 % of the weights' \
    prune "$out/dense" --set prune.density=0.1 -o "$out/pruned_10" --restart
step 'prune it to 1 % of the weights' \
    prune "$out/dense" --set prune.density=0.01 -o "$out/pruned_1" --restart
step 'evaluate on the 10,000 test images, time one answer, draw' \
    bench latency "$out/dense" --json --quiet >"$out/latency.json"
for run in dense pruned_10 pruned_1; do
    "$dass" eval "$out/$run" --json --quiet >"$out/$run.json"
done
"$dass" plot "$out/search" "$out/dense" "$out/pruned_10" "$out/pruned_1" --quiet >"$out/pictures.txt"

latency=$(field median_ms "$out/latency.json")
{
    printf '%-30s %9s %12s %10s %16s\n' 'network found by the search' 'weights' 'never pruned' 'accuracy' 'multiplications'
    for run in dense pruned_10 pruned_1; do
        case $run in
        dense) title='all weights' ;;
        pruned_10) title='10 % of the weights' ;;
        pruned_1) title='1 % of the weights' ;;
        esac
        awk -v title="$title" -v kept="$(field kept "$out/$run.json")" -v unpruned="$(field unpruned "$out/$run.json")" \
            -v top1="$(field top1 "$out/$run.json")" -v macs="$(field sparse_macs "$out/$run.json")" \
            'BEGIN { printf "%-30s %9d %12d %8.2f %% %16d\n", title, kept, unpruned, 100 * top1, macs }'
    done
} >"$out/table.txt"

echo
cat "$out/table.txt"
echo
echo "accuracy: of 10,000 Fashion-MNIST test images. never pruned: batch norm and biases. multiplications: for one"
echo "image, counting those whose weight was kept. One dense answer takes $latency ms on this machine; what the"
echo "pruned ones take, \`dass bench latency RUN --execution sparse\` measures: on the processor they are not faster yet."
echo
echo 'pictures:'
sed 's/^/  /' "$out/pictures.txt"
echo
echo "demo: $(($(date +%s) - began)) s; results in $out"
