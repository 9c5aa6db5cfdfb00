# Every $(shell ...) probe of the Makefile answers: a probe that expands to nothing would silently switch off what it
# looks for. The names are read from the Makefile, so that a new probe is covered when it is written.
cd "$DASS_TEST_ROOT" || exit 1
mapfile -t names < <(sed -n 's/^\([a-z_]*\) *:=.*\$(\(shell\|call probe\)[ ,].*/\1/p' Makefile)
[ ${#names[@]} -ge 4 ] || { echo 'the probes were not found in the Makefile'; exit 1; }

# The answers, one line each, in the order of names.
mapfile -t answers < <(make -s "${names[@]/#/print-}")
for i in "${!names[@]}"; do
    case ${names[i]}:${answers[i]-} in
    have_*:[01]) ;; # yes or no
    have_*) echo "${names[i]} answers '${answers[i]-}', not 0 or 1" ;;
    *:) echo "${names[i]} answers nothing" ;;
    esac
done

# And each says no when there is nothing to find.
mapfile -t answers < <(make -s "${names[@]/#/print-}" CC=false MPICC=false)
for i in "${!names[@]}"; do
    case ${names[i]}:${answers[i]-} in
    have_*:0) ;;
    have_*) echo "${names[i]} answers '${answers[i]-}' without a compiler, not 0" ;;
    esac
done
