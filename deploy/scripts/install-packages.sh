#!/usr/bin/env bash
# Installs the system packages that are missing: `install-packages.sh run|test`.
# On Debian and Ubuntu, after asking; without asking as root or with YES=1. Elsewhere it says what is needed.
set -euo pipefail

purpose=${1:?usage: install-packages.sh run|test}

has_postgres() { compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null; }

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
has_postgres || missing+=(postgresql)
command -v curl >/dev/null || missing+=(curl ca-certificates)
if [ "$purpose" = test ]; then
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
    { command -v rsyslogd >/dev/null || [ -x /usr/sbin/rsyslogd ]; } && compgen -G '/usr/lib/*/rsyslog/lmnsd_ossl.so' >/dev/null ||
        missing+=(rsyslog rsyslog-openssl)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Please install what these Debian packages hold, then try again: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    if [ "${YES:-}" != 1 ]; then
        read -r -p "Install ${missing[*]} with apt-get? [y/N] " answer </dev/tty
        [[ $answer == [yY]* ]] || exit 1
    fi
fi

# Neither a cluster nor a daemon of the system's own is wanted: the programs are started as they are needed.
if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
