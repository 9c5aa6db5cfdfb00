#!/usr/bin/env bash
# Runs test programs and the command line cases one after the other, and counts single tests.
#
#     MODE=release DASS=build/dass tests/run.sh build/release/tests/test_base ...
#
# A program prints TAP (cmocka does when asked; tests/cli.sh always does). Passing files get one line; failures are
# shown in full. A program that dies or times out fails every test it had planned and not reached; one that exits
# non-zero after its last test (a leak, say) counts as one failure. The last line is always
# "tests: N passed, N failed, N skipped", and the exit status is 1 when something failed or nothing ran.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
limit=${DASS_TEST_TIMEOUT:-300} # seconds per program
export CMOCKA_MESSAGE_OUTPUT=TAP
export DASS_TEST_ROOT=$root # where tests find configs/ and their golden files
export DASS=${DASS:-build/dass}
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-5000} # as the program sets it for itself: waiting threads soon sleep

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0 failed=0 skipped=0

# Reads one TAP log; prints failures and the reasons of skips; the last line is "counts P F S".
read_log() {
    awk -v status="$2" -v limit="$limit" '
        function flush_text(    i) { # at most the last 200 lines
            if (n > 200) print "      (" n - 200 " lines left out)"
            for (i = n > 200 ? n - 200 : 0; i < n; i++) print "      " text[i]
            n = 0 }
        /^1\.\.[0-9]+$/     { group = substr($0, 4); planned += group; n = 0; next }
        /^not ok [0-9]+ # SKIP|^ok [0-9]+.*# SKIP/ {
            name = $0; sub(/.*# SKIP */, "", name)
            print "    skipped: " name (n ? " (" text[n - 1] ")" : ""); s++; n = 0; after = 0; next }
        /^ok [0-9]+ /       { p++; n = 0; after = 0; next }
        /^not ok 0 /        { # the set-up of a cmocka group: none of its tests ran
            name = $0; sub(/^not ok 0 - /, "", name); print "    FAILED: all of " name; flush_text()
            f += group; after = 1; next }
        /^not ok [0-9]+/    {
            name = $0; sub(/^not ok [0-9]+ (- )?/, "", name)
            print "    FAILED: " name; flush_text(); f++; after = 1; next }
        /^# (not )?ok - /   { after = 0; next }                                  # the end of a cmocka group
        after && /^# /      { print "      " substr($0, 3); next }
                            { text[n++] = $0 }
        END {
            lost = planned - p - f - s
            if (status == 124 || status == 137) print "    FAILED: stopped after " limit " s"
            else if (lost > 0 || status > 128) print "    FAILED: the program ended early, exit status " status
            else if (p + f + s == 0) print "    FAILED: the program ran no test"
            else if (status != 0 && f == 0) print "    FAILED: exit status " status " after the last test"
            if (lost > 0 || (status != 0 && f == 0) || status > 123 || p + f + s == 0) {
                flush_text(); f += lost > 0 ? lost : 1 }
            print "counts " p + 0, f + 0, s + 0
        }' "$1"
}

run_one() { # label, command...
    local label=$1 log=$logs/log start status counts text p f s
    shift
    start=$(date +%s%N)
    # head: a program that prints without end is stopped by its pipe, not by the disk.
    { timeout -k 10 "$limit" "$@" 2>&1 </dev/null | head -c 8000000 >"$log"; status=${PIPESTATUS[0]}; } 2>/dev/null
    text=$(read_log "$log" "$status")
    counts=${text##*counts }
    text=${text%counts *}
    read -r p f s <<<"$counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    local ms=$((($(date +%s%N) - start) / 1000000))
    printf '  %-24s %5d passed' "$label" "$p"
    [ "$f" -gt 0 ] && printf ', %d FAILED' "$f"
    [ "$s" -gt 0 ] && printf ', %d skipped' "$s"
    printf '   %d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100))
    printf '%s' "$text"
}

cd "$root" || exit 1
printf 'tests (%s%s)\n' "${MODE:-release}" "${DASS_TEST_SHORT:+, short}"
for program in "$@"; do
    run_one "$(basename "$program")" "$program"
done
if [ $# -gt 0 ] && command -v python3 >/dev/null; then
    run_one gpu_check_real tests/gpu_check_real.py
fi
if [ -n "${PLANS:-}" ]; then
    run_one cudnn_plans tests/cudnn_plans.sh
    run_one gpu_check tests/gpu_check.sh
fi
if [ -n "${FAULT:-}" ] && [ -x "$DASS" ]; then
    run_one fault "$FAULT"
fi
if compgen -G 'tests/cli/*.sh' >/dev/null && [ -x "$DASS" ]; then
    run_one cli tests/cli.sh
elif [ $# -eq 0 ]; then
    echo 'nothing to run: no test program was given and there is no '"$DASS"
fi

printf 'tests: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ $((passed + failed)) -gt 0 ]
