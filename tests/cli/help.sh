# The help is made from the option table, and asking for it is not an error.
"$DASS" --help >asked
"$DASS" help >called
cmp asked called
cat called
for word in info plan search derive train prune eval bench plot; do
    "$DASS" help $word >one || echo "help $word fails"
    grep -q "^usage: dass $word" one || echo "help $word does not say how it is used"
done
