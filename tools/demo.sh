#!/bin/sh
# The demonstration: search, derive, train, prune to 10 % and to 1 % of the weights, evaluate, one table.
#
#     tools/demo.sh            runs build/dass (or $DASS) with configs/demo.yaml; results in runs/demo
#
# Needs the program and a POSIX shell; runs again over its own results. Status: that of the step that failed.
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
    printf '\n== %s\n' "$1" >&2
    shift
    "$dass" "$@"
}

step "search on $search_images images: dense, score and finetune stages" \
    search -c "$config" --set data.limit="$search_images" -o "$out/search" >"$out/searched.json"
step 'derive: the genotype that the search left' \
    derive "$out/search" >"$out/genotype.json"
cat "$out/genotype.json" >&2
step 'train the derived network, dense' \
    train -c "$config" --genotype "$out/genotype.json" -o "$out/dense"
step 'prune it to 10 % of the weights' \
    prune "$out/dense" --set prune.density=0.1 -o "$out/pruned_10"
step 'prune it to 1 % of the weights' \
    prune "$out/dense" --set prune.density=0.01 -o "$out/pruned_1"
step 'evaluate on the 10,000 test images' \
    eval "$out/dense" "$out/pruned_10" "$out/pruned_1" --quiet >"$out/table.txt"

echo
cat "$out/table.txt"
echo
echo "demo: $(($(date +%s) - began)) s; results in $out"
