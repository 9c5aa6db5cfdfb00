#!/usr/bin/env bash
# The steps of `make gpu-check` that are its own, on the double: they run, and leave a report. Prints TAP.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo 1..1
if [ -z "${DASS_CUDA_PLUGIN:-}" ] || [ "${MODE:-release}" != release ] || ! command -v python3 >/dev/null; then
    echo 'ok 1 - the report of gpu-check # SKIP needs the double of a release build, and python3'
    exit 0
fi
if tools/gpu_check.py --double --out "$work" >"$work/log" 2>&1 &&
    python3 - "$work" <<'PY'
import glob, json, sys
report = json.load(open(glob.glob(sys.argv[1] + "/*.json")[0]))
text = open(glob.glob(sys.argv[1] + "/*.md")[0]).read()
assert report["failed"] == [] and len(report["steps"]) >= 10, report["failed"]
assert {s["state"] for s in report["steps"]} == {"ok"} and report["state"] == "finished"
assert report["timings"]["dense fp32"]["step_ms"] > 0
assert all(c["ok"] for s in report["steps"] if "plans" in s["name"] for c in s["result"]["convolutions"])
assert "| dense fp32 |" in text and "| dense bf16 |" in text and "the same search twice" in text
PY
then
    echo 'ok 1 - the report of gpu-check'
else
    echo 'not ok 1 - the report of gpu-check'
    sed 's/^/# /' "$work/log"
fi
