#!/usr/bin/env bash
# Checks what no compiler checks. Prints file:line: text for each offence and exits 1 when there was one.
#
#   includes    point down the layers only; neighbours on one level never include each other
#   vendors     a library's header appears only in the file that owns the library
#   allocation  malloc and friends only in src/base/mem.c; exit only in src/cli/main.c
#   locale      none is set: numbers are written and read with a point
#   backends    #if on a library or device only in the registries and in the file that owns it
#   text        no line over 120 columns in C files, no TODO or FIXME, file names unique
#   warnings    functions over 120 lines (these do not fail)
set -uo pipefail
export LC_ALL=C.UTF-8
columns=120 # .clang-format says the same
cd "$(dirname "$0")/.." || exit 1

list() { find src include kernels tests -type f \( -name '*.c' -o -name '*.h' -o -name '*.def' -o -name '*.cu' \
    -o -name '*.cuh' \) 2>/dev/null | sort; }
mapfile -t files < <(list)
[ ${#files[@]} -gt 0 ] || { echo 'lint: no sources found'; exit 1; }

report=$(
    # ------------------------------------------------------------------------------------ columns, words, names
    mapfile -t c_files < <(printf '%s\n' "${files[@]}" | grep '\.[ch]$')
    grep -nHE "^.{$((columns + 1)),}" "${c_files[@]}" | sed -E "s/^([^:]*:[0-9]+):.*/\\1: over $columns columns/"
    mapfile -t texts < <(find src include kernels tests tools configs Makefile README.md .ci -type f 2>/dev/null)
    grep -nHIwE 'TODO|FIX''ME|XX''X' "${texts[@]}" | grep -v '^tools/lint.sh:' |
        sed -E 's/^([^:]*:[0-9]+):.*/\1: unfinished work is not marked in the tree/'
    printf '%s\n' "${files[@]}" | grep -E '\.(c|cu)$' | sed 's|.*/||' | sort | uniq -d | while read -r name; do
        for file in "${files[@]}"; do
            [ "${file##*/}" = "$name" ] && echo "$file:1: file names are unique in the tree"
        done
    done

    # ------------------------------------------------------------------- what needs comments and strings removed
    awk '
    BEGIN {
        split("base 0 graph 1 host 2 cuda 2 comm 2 exec 3 model 4 data 4 infer 4 train 5 bench 5 plot 5 cli 6", t, " ")
        for (i = 1; i in t; i += 2) level[t[i]] = t[i + 1]
        # Public headers belong to a layer as well; graph.h plan.h and the two contracts are one level.
        split("status base clock base file base text base log base mem base rng base config base bf16 base graph graph ops graph plan graph backend graph plugin graph step_block base " \
              "comm graph exec exec param model space model net model step model zoo model data data infer infer optim train " \
              "ckpt train run train bench bench plot plot", t, " ")
        for (i = 1; i in t; i += 2) owner[t[i]] = t[i + 1]
        # header pattern -> pattern of the files that may include it
        vendor["^(cuda|cudnn|cublas|nvrtc|nvml)"] = "^(src/cuda/|kernels/|tests/(fakecuda|cudnn_plans)/)"
        vendor["^cusparse"]  = "^(src/cuda/cuda_sparse[.]c|tests/fakecuda/fake_cusparse[.]cc)$"
        vendor["^nccl"]      = "^src/cuda/cuda_nccl[.]c$"
        vendor["^(oneapi/)?dnnl"] = "^src/host/host_onednn[.]c$"
        vendor["^mpi[.]h$"]  = "^src/comm/comm_mpi[.]c$"
        vendor["^yaml[.]h$"] = "^src/base/config(_yaml)?[.]c$"
        vendor["^(zlib|lzma)[.]h$"] = "^(src/data/|tests/test_data[.]c$)"
        vendor["^xxhash[.]h$"] = "^src/(train/safetensors|cuda/cuda_dnn_cache)[.]c$"
        vendor["^cmocka[.]h$"] = "^tests/"
        alloc = "(malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf|aligned_alloc|posix_memalign)"
        for (i = 1; i < ARGC; i++) { # what exists, to tell private headers apart
            n = split(ARGV[i], part, "/"); dir = ARGV[i]; sub(/\/[^\/]*$/, "", dir)
            exists[dir "/" part[n]] = 1
        }
    }
    function say(text) { print FILENAME ":" FNR ": " text }
    function module(name) { sub(/^dass\//, "", name); sub(/[.](h|def)$/, "", name); return name }
    FNR == 1 {
        in_comment = 0; start = 0; folder = FILENAME; sub(/\/[^\/]*$/, "", folder)
        split(FILENAME, part, "/")
        if (part[1] == "src") layer = part[2]
        else if (part[1] == "include") layer = owner[module(part[3])]
        else layer = ""
        if (part[1] == "src" && !(layer in level)) say("folder src/" layer " has no layer in tools/lint.sh")
        if (part[1] == "include" && layer == "") say("header " part[3] " has no layer in tools/lint.sh")
    }
    { # code: the line without strings, character constants and comments
        code = $0
        if (code !~ /^[ \t]*#[ \t]*include/) {
            gsub(/\\["\047\\]/, "", code); gsub(/"[^"]*"/, "\"\"", code); gsub(/\047[^\047]*\047/, "0", code)
        }
        out = ""
        while (code != "") {
            if (in_comment) {
                if (!(i = index(code, "*/"))) { code = ""; break }
                code = substr(code, i + 2); in_comment = 0
            } else {
                i = index(code, "/*"); j = index(code, "//")
                if (j && (!i || j < i)) { out = out substr(code, 1, j - 1); code = ""; break }
                if (!i) { out = out code; code = ""; break }
                out = out substr(code, 1, i - 1) " "; code = substr(code, i + 2); in_comment = 1
            }
        }
        code = out
    }
    code ~ /^[ \t]*#[ \t]*include/ {
        name = code; sub(/^[^<"]*[<"]/, "", name); sub(/[>"].*/, "", name)
        if (code ~ /</) {
            for (v in vendor) if (name ~ v && FILENAME !~ vendor[v]) say("<" name "> belongs to another file")
        } else if (name ~ /^dass\//) {
            o = owner[module(name)]
            if (o == "") say("\"" name "\" has no layer in tools/lint.sh")
            else if (layer != "" && o != layer && level[o] + 0 >= level[layer] + 0)
                say("layer " layer " must not include \"" name "\" of layer " o)
        } else if (name ~ /^kernels\//) {
            if (layer != "cuda") say("\"" name "\" is for src/cuda")
        } else if (!((folder "/" name) in exists) && layer != "")
            say("\"" name "\" is private to another folder")
        else if (name ~ /\.\./) say("\"" name "\" climbs out of its folder")
    }
    part[1] == "src" || part[1] == "include" || part[1] == "kernels" {
        if (code ~ "(^|[^A-Za-z0-9_>.])" alloc "[ \t]*\\(" && FILENAME != "src/base/mem.c")
            say("memory comes from dass/mem.h")
        if (code ~ /(^|[^A-Za-z0-9_>.])(_exit|_Exit|exit|quick_exit)[ \t]*\(/ && FILENAME != "src/cli/main.c")
            say("only src/cli/main.c exits")
        if (code ~ /(^|[^A-Za-z0-9_])(setlocale|uselocale|newlocale)[ \t]*\(/)
            say("numbers have a point and texts are UTF-8 wherever we run: no locale is set")
        if (code ~ /^[ \t]*#[ \t]*(el)?if.*(DASS_ONEDNN|DASS_HAVE_|DASS_CUDA|DASS_MPI|__CUDA)/ &&
            FILENAME !~ /^(src\/exec\/exec[.]c|src\/comm\/comm[.]c|src\/host\/host_onednn[.]c|src\/cli\/info[.]c|kernels\/.*)$/)
            say("backends are chosen in the registry, not by #if")
    }
    /^{/ { start = FNR }
    /^}/ { if (start && FNR - start > 120) print "warning: " FILENAME ":" start ": function of " FNR - start " lines"
           start = 0 }
    ' "${files[@]}"
)

printf '%s\n' "$report" | grep '^warning: '
offences=$(printf '%s\n' "$report" | grep -v -e '^warning: ' -e '^$' | sort -t: -k1,1 -k2,2n)
[ -z "$offences" ] && exit 0
printf '%s\n' "$offences"
echo "lint: $(printf '%s\n' "$offences" | wc -l) offences"
exit 1
