# Runs one PostgreSQL server for an owner that may vanish at any moment.
#
# Standard input is the owner: a line `SIGNAL keep` or `SIGNAL clean` ends the server, end of file says that the owner
# is gone. Standard output tells the server's pid and is then held by the server's processes alone: its end says that
# all of them are gone. Standard error is the log, and whoever has it open holds the lock on the data.
umask 077
postgres=$1 initdb=$2 base=$3 sockets=$4 kind=$5 superuser=$6 patience=$7
shift 7
data=$base/pgdata
server=
end=INT initdb_sync= postgres_sync=
if [ "$kind" = temporary ]; then end=QUIT initdb_sync=-N postgres_sync=-F; fi

exec 3<&0 </dev/null
trap '' HUP INT PIPE TERM

make_data() {
    [ -e "$data/PG_VERSION" ] && return
    rm -rf "$data.new"
    "$initdb" -D "$data.new" -U "$superuser" -E UTF8 --locale=C --auth-local=trust --auth-host=scram-sha-256 \
        --pwfile="$base/password" $initdb_sync >&2 3<&- && mv "$data.new" "$data"
}

# Should this shell be killed, the parent-death signal ends the server; without util-linux there is none.
start() {
    guard=
    if setpriv --pdeathsig "$end" true 2>/dev/null; then guard="setpriv --pdeathsig $end"; fi
    ( trap - HUP INT PIPE TERM; exec $guard "$postgres" -D "$data" "$@" 3<&- ) &
    server=$!
    echo "$server"
}

# A server that was told to stop at once kills processes that do not after five seconds; only then is it killed itself.
escalate() {
    nap=
    trap 'kill $nap; exit' USR1
    sleep "$patience" & nap=$!
    wait "$nap"
    kill -s QUIT "$server"
    sleep 8 & nap=$!
    wait "$nap"
    kill -s KILL "$server"
}

stop() {
    [ -n "$server" ] || return
    kill -s "$1" "$server" 2>/dev/null
    escalate >/dev/null 2>&1 3<&- &
    wait "$server"
    kill -s USR1 $! 2>/dev/null
}

# A killed server leaves shared memory behind; a start on its data finds and frees it, once its last process is gone.
free_memory() {
    tries=0
    while [ -e "$data/postmaster.pid" ] && [ "$tries" -lt 50 ]; do
        "$postgres" --single $postgres_sync -D "$data" template1 >/dev/null && return
        tries=$((tries + 1))
        sleep 0.1
    done
}

make_data && start "$@"
exec >&-
read -r signal after <&3 || { signal=$end; after=clean; }
stop "$signal"
[ "$after" = clean ] || exit 0
free_memory
rm -rf "$sockets"
[ "$kind" = kept ] || rm -rf "$base"
