//! `entrepot chaos`.

use std::process::ExitCode;

/// Faults on a running deployment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot chaos` is being built")
}
