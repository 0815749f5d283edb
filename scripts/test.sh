#!/usr/bin/env bash
# Every test, cheapest first; stops at the first group that fails. One build of the dev profile serves
# most of them; what looks at millions of states runs optimized.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if cargo fmt --version >/dev/null 2>&1; then
    step format
    cargo fmt --check
fi
if cargo clippy --version >/dev/null 2>&1; then
    step lints
    cargo clippy --locked --all-targets --quiet -- -D warnings
fi
step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --document-private-items
if cargo nextest --version >/dev/null 2>&1; then
    step unit tests
    cargo nextest run --locked --no-fail-fast --lib --bins
    step one region
    cargo nextest run --locked --no-fail-fast --no-tests pass --test it
    step several regions
    cargo nextest run --locked --no-fail-fast --no-tests pass --test multi-region
else
    step unit tests
    cargo test --locked --quiet --lib --bins
    step one region
    # Each in a process of its own, as nextest does it: a test freezes or fills the PostgreSQL of its process.
    cargo test --locked --quiet --test it -- --list --format terse | sed -n 's/: test$//p' |
        xargs -n 1 -P 4 sh -c 'said=$(cargo test --locked --quiet --test it -- --exact "$0" 2>&1) ||
            { printf "%s\n" "$said"; exit 1; }'
    step several regions
    cargo test --locked --quiet --test multi-region -- --test-threads 1
fi
step "model of the protocol"
cargo test --locked --quiet --release --test model -- --nocapture --test-threads 1
step "simulated worlds"
# Always the same, so that a red run is the change's doing. New ones are `make nightly`'s.
cargo run --locked --quiet --release -- sim soak --seeds 2500 --first 1 --failures target
step "all passed"
