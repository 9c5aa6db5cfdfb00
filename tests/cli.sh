#!/usr/bin/env bash
# Command line cases. Each tests/cli/NAME.sh runs in an empty folder with DASS (the program) and DASS_TEST_ROOT (the
# repository) set, and its stdout, stderr and exit status must equal NAME.out, NAME.err and NAME.exit. A missing file
# means: nothing printed, status 0. What cannot be exact (times, paths) is filtered by the case itself.
# Status 77 skips the case; its last line says why.
#
#     tests/cli.sh [NAME...]            run; prints TAP
#     UPDATE=1 tests/cli.sh [NAME...]   accept what the program prints now
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
limit=${DASS_CLI_TIMEOUT:-120} # seconds per case
DASS=${DASS:-$root/build/dass}
case $DASS in /*) ;; *) DASS=$PWD/$DASS ;; esac
export DASS DASS_TEST_ROOT=$root LC_ALL=C.UTF-8
unset MAKEFLAGS MFLAGS MAKELEVEL # cases that run make start a fresh one

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for file in "$root"/tests/cli/*.sh; do
        [ -e "$file" ] && names+=("$(basename "$file" .sh)")
    done
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Compares one stream with its expectation; prints the difference as TAP comments.
same() { # name, suffix, actual file
    local expected=$root/tests/cli/$1.$2
    if [ "${UPDATE:-0}" = 1 ]; then
        if [ -s "$3" ]; then cp "$3" "$expected"; else rm -f "$expected"; fi
        return 0
    fi
    [ -e "$expected" ] || expected=/dev/null
    cmp -s "$expected" "$3" && return 0
    diff -u --label "expected $1.$2" --label "actual $2" "$expected" "$3" | sed 's/^/# /'
    return 1
}

echo "1..${#names[@]}"
number=0 bad=0
for name in "${names[@]}"; do
    number=$((number + 1))
    mkdir -p "$work/$name.dir"
    (cd "$work/$name.dir" && exec timeout -k 5 "$limit" bash "$root/tests/cli/$name.sh") \
        >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -eq 77 ]; then
        tail -n 1 "$work/out"
        echo "ok $number # SKIP $name"
        continue
    fi
    if [ $status -eq 0 ]; then : >"$work/exit"; else echo $status >"$work/exit"; fi
    report=$(same "$name" out "$work/out"; a=$?; same "$name" err "$work/err"; b=$?
             same "$name" exit "$work/exit"; c=$?; exit $((a + b + c)))
    if [ $? -eq 0 ]; then
        echo "ok $number - $name"
    else
        bad=$((bad + 1))
        printf 'not ok %d - %s\n%s\n' "$number" "$name" "$report"
    fi
done
[ $bad -eq 0 ]
