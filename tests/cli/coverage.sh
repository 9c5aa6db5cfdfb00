# What the steps and the graphs of single operations reach, on the host and on the device or its double. Numbers of nodes
# and launches move with every fusion and are left out; what has to stay is that nothing is missing.
"$DASS" info --coverage >host || echo "host: exit status $?"
grep -E '^(graphs|operations|kernels|of those|  never)' host
[ -n "${DASS_CUDA_PLUGIN:-}" ] || { echo 'no double of the CUDA plugin was built'; exit 77; }
[ -z "${DASS_TEST_SHORT:-}" ] || { echo 'the double runs it for ten seconds, minutes under a sanitizer'; exit 77; }
"$DASS" info --coverage --device cuda >cuda || echo "cuda: exit status $?"
grep -E '^(graphs|operations|of those|  never)' cuda
# every launch of a step is counted by the device as often as the plan says
awk '/^one step of/ { run = 1; for (i = 1; i <= NF; i++) from_end[$i] = NF - i; next }
    /^search, C=/ { run = 0 }
    run && $(NF - from_end["executed"]) != $(NF - from_end["merged"]) { print "not counted: " $0 }' cuda
awk '/^kernels, libraries and copies/ { print $(NF - 2) == $NF ? "all kinds of launches" : $0 }' cuda
"$DASS" info --coverage --net resnet18 >out 2>&1
echo "a network that is not searched: $?"; cat out
