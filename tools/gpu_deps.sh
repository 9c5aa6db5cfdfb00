#!/usr/bin/env bash
# Gathers the headers and libraries that building dass and its tests needs, without oneDNN and CUDA, in one small folder
# that travels: for a machine with a GPU and a compiler but no package registry.
#
#     tools/gpu_deps.sh FOLDER        then, on that machine: make gpu-check DEPS=FOLDER
#
# Static libraries where Debian has them. What comes along keeps its own licence (copied beside it).
set -euo pipefail
out=${1:?usage: tools/gpu_deps.sh FOLDER}
rm -rf "$out"
mkdir -p "$out/include" "$out/lib" "$out/licences"

packages="libyaml-dev libjansson-dev zlib1g-dev liblzma-dev libxxhash-dev libcmocka-dev libcmocka0"
for package in $packages; do
    dpkg-query -L "$package" | while read -r file; do
        [ -f "$file" ] || continue
        case $file in
        /usr/include/*/*-linux-gnu/*) ;;
        /usr/include/*.h | /usr/include/lzma/*.h)
            rel=${file#/usr/include/}
            install -D -m 644 "$file" "$out/include/$rel" ;;
        *.a) cp "$file" "$out/lib/" ;;
        */libcmocka.so*) cp -P "$file" "$out/lib/" ;;
        /usr/share/doc/*/copyright) cp "$file" "$out/licences/$package" ;;
        esac
    done
done
# A link is not a plain file, and may get lost on the way: the name that the linker and the loader ask for.
so=$(find "$out/lib" -name 'libcmocka.so.*.*' -type f | head -n 1)
[ -n "$so" ] || { echo "gpu_deps: libcmocka.so was not found" >&2; exit 1; }
cp --remove-destination "$so" "$out/lib/libcmocka.so"
cp --remove-destination "$so" "$out/lib/libcmocka.so.0"
rm "$so"
du -sh "$out" | sed 's/^/gpu_deps: /'
