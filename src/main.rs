//! The `entrepot` executable: everything is in [`entrepot::cli`].

use std::process::ExitCode;

/// Half of a server's time under load went into glibc's allocator (documents, rows and events are many
/// small strings); see `docs/PERFORMANCE.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    entrepot::cli::main()
}
