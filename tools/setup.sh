#!/usr/bin/env bash
# Installs what building and testing need on Debian and its relatives; silent when everything is there.
#
#     tools/setup.sh [build] [test] [fuzz] [format]        default: build test
#
# Elsewhere, or without the right to install, it says what is needed and goes on if a compiler finds the headers.
set -uo pipefail

packages_build="gcc libc6-dev make libyaml-dev libjansson-dev zlib1g-dev liblzma-dev libxxhash-dev libdnnl-dev dataset-fashion-mnist"
packages_test="libcmocka-dev diffutils"
packages_fuzz="clang"
packages_format="clang-format"
headers_build="yaml.h jansson.h zlib.h lzma.h xxhash.h"
headers_test="cmocka.h"
headers_fuzz=
headers_format=

say() { printf 'setup: %s\n' "$*" >&2; }

[ $# -gt 0 ] || set -- build test
packages='' headers=''
for group in "$@"; do
    case $group in
    build | test | fuzz | format) ;;
    *) say "'$group' is not one of build test fuzz format"; exit 2 ;;
    esac
    name=packages_$group packages="$packages ${!name}"
    name=headers_$group headers="$headers ${!name}"
done

# The fallback: is a working compiler there, and does it find every header that is not optional?
headers_found() {
    local header missing=''
    for header in $headers; do
        printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <%s>\n' \
            "$header" | ${CC:-gcc} -x c -fsyntax-only - >/dev/null 2>&1 || missing="$missing $header"
    done
    [ -z "$missing" ] && return 0
    say "not found by '${CC:-gcc}':$missing"
    return 1
}
go_on_or_stop() {
    say "needed, by their Debian names:$missing"
    headers_found || exit 1
    say 'the required headers are there; going on (without oneDNN, convolutions use our own code;' \
        'without dataset-fashion-mnist, set data.path)'
    exit 0
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    missing=$packages
    [ -z "$headers" ] && exit 0
    headers_found 2>/dev/null && exit 0
    go_on_or_stop
fi

missing=''
for package in $packages; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

say "missing:$missing"
if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null; then
    root='sudo'
    [ -t 0 ] || root='sudo -n' # nobody is there to type a password
else
    say 'cannot install: not root, and no sudo'
    go_on_or_stop
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$log" 2>&1; }
known() { # does apt have a candidate for every missing package?
    local package
    for package in $missing; do
        apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [^(]' || return 1
    done
}

$root true || { say "cannot install: '$root' was refused"; go_on_or_stop; }
if ! known; then
    say 'apt-get update'
    apt update || say 'apt-get update failed; trying with the lists at hand'
fi
say "apt-get install$missing"
# shellcheck disable=SC2086
if ! apt install -y --no-install-recommends $missing; then
    # Old lists name versions the mirror has dropped: fetch new ones and try once more.
    if ! { apt update && apt install -y --no-install-recommends $missing; }; then
        tail -n 20 "$log" >&2
        say 'apt-get failed'
        go_on_or_stop
    fi
fi
say 'done'
