//! `entrepot bench`.

use std::process::ExitCode;

/// Measures this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot bench` is being built")
}
