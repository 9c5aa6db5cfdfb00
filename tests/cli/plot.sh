# Pictures of a run: the paths on stdout, the files where they were asked for, mistakes named.
try() {
    echo "\$ dass plot $*"
    "$DASS" plot "$@" 2>&1
    echo "= $?"
}
genotype=$DASS_TEST_ROOT/configs/genotypes/dass_99.json
mkdir run other empty
cp "$genotype" run/genotype.json
row='[0.5,0,0,1,2,0,0,0]'
line() { printf '{"stage":"%s","epoch":%d,"normal":[%s,%s],"reduce":[%s,%s]}\n' "$1" "$2" $row $row $row $row; }
{ line dense 1; line dense 2; line score 1; printf '{"stage":"score","epo'; } >run/alphas.jsonl
{
    printf '{"stage":"dense","epoch":%d,"epochs":2,"train_loss":1.5,"train_top1":0.5}\n' 1 2
    echo '{"command":"train","stage":"test","test_loss":1.25,"test_top1":0.5625,"images":10000}'
} >run/metrics.jsonl
head -n 1 run/metrics.jsonl >other/metrics.jsonl

try run
try run -o pictures/of
cmp run/curves.svg pictures/of/curves.svg
try run other
try "$genotype" -o cells | sed "s|$DASS_TEST_ROOT/||"
cmp run/cell_normal.svg cells/cell_normal.svg
ls run pictures/of other cells empty
grep -c '<polyline' run/alphas.svg
grep -o '>56.25 %<' run/curves.svg

for file in */*.svg; do
    [ "$(sed -n 2p "$file" | cut -c 1-5)" = '<svg ' ] && [ "$(tail -n 1 "$file")" = '</svg>' ] || echo "$file is cut"
done

try
try empty
try missing
try run other -o both
try run/genotype.json
try run/metrics.jsonl -o cells
try run --json
echo '{"stage":"dense","epoch":3,"epochs":2}' >>other/metrics.jsonl
try other
: >other/metrics.jsonl
try other
