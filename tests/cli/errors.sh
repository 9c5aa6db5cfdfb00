# A mistake is one line on stderr with a remedy, nothing on stdout, and the status of its kind.
try() {
    echo "\$ dass $*"
    "$DASS" "$@" >out 2>err
    status=$?
    [ -s out ] && echo 'printed on stdout'
    cat err
    echo "= $status"
}
try serch
try search --devise host
try plan --set
try plan --set net.chanels=16
try plan --set net.channels=many
try bench step --seconds 0
try plan -c missing.yaml
try plan --device gpu
printf 'net:\n  channels: 16\n  channels: 8\n' >twice.yaml
try plan -c twice.yaml
printf 'net: [1, 2\n' >broken.yaml
try plan -c broken.yaml
try derive missing
try help nothing
