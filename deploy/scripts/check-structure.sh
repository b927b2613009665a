#!/usr/bin/env bash
# Checks what the crates may depend on, and that each feature compiles alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}

fail() { echo "structure: $*" >&2; exit 1; }
tree() { "$cargo" tree --edges normal --prefix none --format '{p}' "$@" 2>/dev/null | awk '{print $1}' | sort -u; }

# The star: crypto, auth and store depend on core alone, core on none of them.
for crate in core crypto auth store; do
    # A tree that cannot be made must not look like one without faults.
    tree -p "pganalytics-$crate" --all-features | grep -qx "pganalytics-$crate" || fail "cargo tree does not work"
    allowed="pganalytics-$crate pganalytics-core"
    for dependency in $(tree -p "pganalytics-$crate" --all-features | grep '^pganalytics' || true); do
        [[ " $allowed " == *" $dependency "* ]] || fail "pganalytics-$crate must not depend on $dependency"
    done
done

# Core is lean: no network, no database, no HTTP server.
for crate in axum hyper hyper-util reqwest sqlx sqlx-core tokio-postgres redis rustls aws-lc-rs mio; do
    ! tree -p pganalytics-core --all-features | grep -qx "$crate" || fail "pganalytics-core must not depend on $crate"
done

# The lean build of the crypto crate is pure Rust.
! tree -p pganalytics-crypto --no-default-features | grep -qx aws-lc-rs || fail "pganalytics-crypto must not depend on aws-lc-rs without its feature"

# One provider of cryptography.
! "$cargo" tree --workspace --all-features --edges normal,build -i ring 2>/dev/null | grep -q . || fail "ring is in the tree"

# Each feature compiles alone.
"$cargo" check -q -p pganalytics-core --no-default-features
for feature in \
    pganalytics-core/testing pganalytics-core/tlog pganalytics-core/tower \
    pganalytics-auth/tower \
    pganalytics-crypto/aws-lc pganalytics-crypto/recovery pganalytics-crypto/vault \
    pganalytics-store/local pganalytics-store/postgres pganalytics-store/local-postgres pganalytics-store/redis \
    pganalytics-store/audit pganalytics-store/audit-syslog; do
    "$cargo" check -q -p "${feature%/*}" --no-default-features --features "${feature#*/}" || fail "$feature does not compile alone"
done
for crate in crypto auth store; do
    "$cargo" check -q -p "pganalytics-$crate" --no-default-features || fail "pganalytics-$crate does not compile without features"
done
echo "structure: the star holds, core is lean, ring is absent, every feature compiles alone"
