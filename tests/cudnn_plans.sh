#!/usr/bin/env bash
# Does cuDNN have a plan for every convolution of the shipped networks, on cards that are not here? Prints TAP. PLANS is
# the folder of list_convs and cudnn_plans. All in fp32 for an H100, a sample of those in bf16 (gradients of weights are
# compiled, for seconds each) and samples for the others; ALL=1 takes all for each.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo 1..4
if ! "$PLANS/list_convs" configs/*.yaml >"$work/all" 2>"$work/err"; then
    sed 's/^/# /' "$work/err"
    exit 1
fi
number=0
for device in h100 a100 l40s; do
    number=$((number + 1))
    every=1
    [ "$device" = h100 ] || [ "${ALL:-0}" = 1 ] || every=10
    narrow=$((every * 2 + 10)) # of those in bf16
    [ "${ALL:-0}" != 1 ] || narrow=1
    [ -z "${DASS_TEST_SHORT:-}" ] || { every=$((every * 10)) narrow=$((narrow * 3)); }
    grep -v 'precision=bf16' "$work/all" | awk -v every=$every 'NR % every == 0' >"$work/lines"
    grep 'precision=bf16' "$work/all" | awk -v every=$narrow 'NR % every == 0' >>"$work/lines"
    if "$PLANS/cudnn_plans" "tests/cudnn_plans/$device.json" --deterministic <"$work/lines" >"$work/log" 2>&1; then
        echo "ok $number - $(wc -l <"$work/lines") of $(wc -l <"$work/all") convolutions have a plan on $device"
    else
        echo "not ok $number - $device"
        grep -v '^ok' "$work/log" | sed 's/^/# /'
    fi
done

# The tool that compares plans on a card, on the doubles: a few convolutions, two images each.
sed 's/ n=[0-9]*/ n=2/' "$work/all" | awk 'NR % 60 == 0' | sort -u >"$work/lines"
if "$PLANS/../fakecuda/live_plans" tests/cudnn_plans/h100.json --card tests/cudnn_plans/h100.json <"$work/lines" \
    >"$work/log" 2>&1; then
    echo "ok 4 - plans of two descriptions run and agree: $(grep -c '"ok":true' "$work/log") of $(wc -l <"$work/lines")"
else
    echo 'not ok 4 - plans of two descriptions run and agree'
    grep -v '"ok":true' "$work/log" | sed 's/^/# /'
fi
