#!/usr/bin/env bash
# Writes the generated files: sample configuration, configuration reference, OpenAPI document.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo=${CARGO:-cargo}
api=${CARGO_TARGET_DIR:-target}/debug/pganalytics-api
# As the tests build it, so that nothing is compiled again after them.
"$cargo" build -q --workspace --all-features --bin pganalytics-api
mkdir -p docs deploy/config
"$api" config sample >deploy/config/pganalytics-api.toml
"$api" config reference >docs/configuration.md
"$api" config openapi >docs/openapi.json
