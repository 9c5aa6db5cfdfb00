#!/usr/bin/env bash
# What ptxas says of every kernel on every architecture, from the logs of `nvcc -Xptxas -v`: registers and spilled bytes
# of a thread, shared memory of a block, and how many blocks of 256 threads (K_THREADS, which all kernels have) a
# multiprocessor holds, with what runs out first. Exit status 1 when a kernel spills that is not accepted, when an
# architecture has no limits below, or when there is no kernel at all.
#
#     tests/ptxas.sh build/release/kernels/*.ptxas
set -uo pipefail

# Kernels that may spill, as "ARCH KERNEL" of the table, one a line. The build refuses every spill (-warn-spills, warnings
# are errors), so what is accepted here has to be excepted there.
accepted=''

# Limits of a multiprocessor (CUDA C++ Programming Guide, technical specifications per compute capability): threads,
# blocks, KiB of shared memory. All have 65,536 registers, given to warps 256 at a time, and keep 1 KiB of shared memory
# for each block.
limits='80 2048 32 164
86 1536 16 100
87 1536 16 164
89 1536 24 100
90 2048 32 228
100 2048 32 228
103 2048 32 228
120 1536 24 100
121 1536 24 100'

[ $# -gt 0 ] || { echo 'usage: tests/ptxas.sh LOG...' >&2; exit 2; }
cat "$@" | c++filt | awk -v accepted="$accepted" -v limits="$limits" '
    function least(a, b) { return a < b ? a : b }
    function finish(    by, blocks, l, key, regs) {
        if (kernel == "") return
        key = arch " " kernel
        if (!(arch in threads)) {
            print "no limits are known of sm_" arch ": add a line to tests/ptxas.sh"
            bad++; kernel = ""; return
        }
        regs = int((used * 32 + 255) / 256) * 256 # of a warp
        by["threads"] = int(threads[arch] / 256)
        by["blocks"] = most[arch]
        by["registers"] = int(int(65536 / regs) / 8)
        by["shared"] = int(shared[arch] * 1024 / (int((smem + 127) / 128) * 128 + 1024))
        blocks = 99
        for (l = 1; l <= 4; l++)
            if (by[order[l]] < blocks) { blocks = by[order[l]]; what = order[l] }
        printf "%-5s %-44s %9d %8d %7d %7d %7d  %s\n", "sm_" arch, kernel, used, smem, stores + loads, stack, blocks, what
        n++
        if (stores + loads > 0 && !(key in allowed)) { spilled[++bad] = key }
        kernel = "" }
    BEGIN {
        split("threads blocks registers shared", order, " ")
        lines = split(limits, line, "\n")
        for (i = 1; i <= lines; i++) { split(line[i], f, " "); threads[f[1]] = f[2]; most[f[1]] = f[3]; shared[f[1]] = f[4] }
        lines = split(accepted, line, "\n")
        for (i = 1; i <= lines; i++) allowed[line[i]] = 1
        printf "%-5s %-44s %9s %8s %7s %7s %7s  %s\n", "arch", "kernel<variant> x items", "registers", "shared",
               "spilled", "stack", "blocks", "limited by" }
    /Compiling entry function/ {
        finish()
        match($0, /sm_[0-9]+/); arch = substr($0, RSTART + 3, RLENGTH - 3)
        kernel = $0; used = smem = stores = loads = stack = 0
        sub(/^[^\047]*\047/, "", kernel); sub(/\047 for .*/, "", kernel); sub(/^void /, "", kernel); sub(/\(.*/, "", kernel)
        items = kernel
        if (sub(/.*, k_pack<[^,]*, /, "", items)) { # k<V, k_pack<ARGS, N> >
            sub(/>.*/, "", items); sub(/, k_pack<.*/, "", kernel); kernel = kernel "> x" items } }
    /spill stores/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
        for (i = 2; i <= NF; i++) { if ($(i - 1) == "Used") used = $i; if ($i ~ /^smem/) smem = $(i - 2) }
        if (used !~ /^[0-9]+$/ || smem !~ /^[0-9]+$/) { print "not understood: " $0; bad++ } }
    END {
        finish()
        for (i = 1; i <= bad; i++) if (spilled[i] != "") print "spills: " spilled[i]
        print n + 0 " kernels, " bad + 0 " refused"
        exit bad > 0 || n == 0 }'
