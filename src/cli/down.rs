//! `entrepot down`.

use std::process::ExitCode;

/// Stops a detached deployment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot down` is being built")
}
