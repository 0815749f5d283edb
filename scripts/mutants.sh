#!/usr/bin/env bash
# Makes every deliberate fault and shows what noticed it; arguments are names of faults, all without.
#
# The program with the faults is a binary of its own, optimized like a release and with the release's
# dependencies; debug assertions for our own code are what the switch asks for (src/mutants.rs). Only this
# line turns both on.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --features mutants --bin mutants \
    --config 'profile.release.package.entrepot.debug-assertions=true' \
    --config 'profile.release.package.entrepot.opt-level=1'
exec "${CARGO_TARGET_DIR:-target}/release/mutants" "$@"
