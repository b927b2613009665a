# Ends what a test process has started, once that process is gone: its process groups first, then its folder ($1).
# Standard input says which groups: lines `watch N` and `forget N`, until the process ends.
trap '' HUP INT TERM
groups=
while read -r verb group; do
    kept=
    for each in $groups; do
        [ "$each" = "$group" ] || kept="$kept $each"
    done
    groups=$kept
    [ "$verb" = forget ] || groups="$groups $group"
done
for group in $groups; do
    kill -s KILL -- "-$group"
done
# What was killed may still be writing for a moment.
tries=0
while [ -e "$1" ] && [ "$tries" -lt 50 ]; do
    rm -rf "$1" || sleep 0.1
    tries=$((tries + 1))
done
