# Where the plugin is looked for: DASS_CUDA_PLUGIN, beside the program, one folder up, ../lib; never the working folder.
# The plugin here is an empty library, so the program says which file it opened and what it lacks.
unset DASS_CUDA_PLUGIN
case ${MODE:-release} in asan | ubsan | tsan) echo 'a sanitizer wants to be loaded first'; exit 77 ;; esac
: | ${CC:-cc} -x c -shared -fPIC -o empty.so - || exit 1
cat >blind.c <<'C'
#include <errno.h>
#include <sys/types.h>
ssize_t readlink(const char *path, char *buf, size_t n) { (void)path; (void)buf; (void)n; errno = EACCES; return -1; }
C
${CC:-cc} -shared -fPIC -o blind.so blind.c || exit 1
program=$PWD/there/tests/dass
mkdir -p there/tests there/lib here
cp "$(readlink -f "$DASS")" "$program"
cd here || exit 1
say() { printf '%s: ' "$1"; shift; "$@" plan --device cuda 2>&1 >/dev/null | sed "s|${program%/there*}||; s|; or use.*||"; }

cp ../empty.so libdass_cuda.so
say 'in the working folder alone' "$program"
say 'there too, the own folder unknown' env LD_PRELOAD="${program%/there*}/blind.so" "$program"
for to in lib . tests; do # each is asked before those tried already
    cp ../empty.so "../there/$to/libdass_cuda.so"
    say "in there/$to" "$program"
done
cp ../empty.so ../own.so
say 'named' env DASS_CUDA_PLUGIN="${program%/there*}/own.so" "$program"
say 'named and not there' env DASS_CUDA_PLUGIN="${program%/there*}/none.so" "$program"
