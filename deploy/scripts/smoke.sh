#!/usr/bin/env bash
# From an empty data folder to metrics read back through the API, then to the end: `smoke.sh FOLDER-OF-THE-PROGRAMS`.
# Prints `first metrics after N s`. Fails when that takes longer than SMOKE_SECONDS (10), or when something is left
# running afterwards.
set -euo pipefail
programs=${1:?usage: smoke.sh FOLDER-OF-THE-PROGRAMS}
limit=${SMOKE_SECONDS:-10}

data=$(mktemp -d /tmp/pga-smoke-XXXXXX)
said=$data.out
pid=

# Processes that name the data folder in their arguments or work in it.
left() {
    for process in /proc/[0-9]*; do
        if [ "${process#/proc/}" != $$ ] && { [[ $(readlink "$process/cwd" 2>/dev/null) == "$data"* ]] ||
            tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF -- "$data"; }; then
            echo "${process#/proc/}"
        fi
    done 2>/dev/null
}

end() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null && wait "$pid" || true; fi
    rm -rf "$data" "$said"
}
trap end EXIT
fail() {
    echo "smoke: $*" >&2
    cat "$said" >&2
    [ ! -f "$data/collector.log" ] || tail -n 20 "$data/collector.log" >&2
    exit 1
}
now() { date +%s%N; }
seconds() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", (to - from) / 1e9 }'; }
late() { (($(now) - began > limit * 1000000000)); }
fetch() { curl -sf --max-time 5 -H "Authorization: Bearer $token" "$api/$1"; }

began=$(now)
"$programs/pganalytics-api" dev --data "$data" --port 0 --no-open >"$said" 2>&1 &
pid=$!
api='' password=''
until [ -n "$api" ] && [ -n "$password" ]; do
    kill -0 "$pid" 2>/dev/null || fail "the server has ended"
    ! late || fail "the server did not start within $limit s"
    sleep 0.05
    api=$(sed -n 's#^API: \(.*\)/docs/$#\1#p' "$said")
    password=$(sed -n 's/^  \([0-9a-z]*\)$/\1/p' "$said")
done
token=''
until [ -n "$token" ]; do
    ! late || fail "no sign-in within $limit s"
    token=$(curl -sf --max-time 5 -H 'Content-Type: application/json' \
        -d "{\"username\":\"admin\",\"password\":\"$password\"}" "$api/auth/login" |
        grep -o '"access_token":"[^"]*"' | cut -d'"' -f4) || sleep 0.05
done
until
    collector=$(fetch collectors | grep -o '"id":"[^"]*"' | head -n 1 | cut -d'"' -f4) &&
        fetch "collectors/$collector/metrics/pg_database_stats/latest" | grep -q '"transactions_committed"'
do
    ! late || fail "no metrics within $limit s"
    sleep 0.05
done
took=$(seconds "$began")

sockets=$(sed 's/.*@\(%2F[^:]*\):.*/\1/; s/%2F/\//g' "$data/database-url")
kill -INT "$pid"
wait "$pid" || fail "the server ended with status $?"
pid=
[ -z "$(left)" ] || fail "still running: $(left | tr '\n' ' ')"
[ ! -e "$sockets" ] || fail "$sockets, the folder of the database's socket, is left"
echo "first metrics after $took s"
