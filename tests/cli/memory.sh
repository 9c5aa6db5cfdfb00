# JSON that does not fit into memory is no damaged file: status 6, and the word for it.
[ -z "${DASS_TEST_SHORT:-}" ] || { echo 'a sanitizer needs more address space than the limit leaves'; exit 77; }
{ # a header of twelve million zeroes, each of which becomes a number of 24 bytes and more
    printf '\x09\x36\x6e\x01\0\0\0\0{"a":['
    yes 0, | head -n 12000000 | tr -d '\n'
    printf '0]}'
} >many.safetensors
(ulimit -v 400000; "$DASS" derive many.safetensors 2>&1 | sed 's/([0-9]* bytes/(N bytes/'; echo "= ${PIPESTATUS[0]}")
