//! The `entrepot` executable: everything is in [`entrepot::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    entrepot::cli::main()
}
