//! `entrepot up`.

use std::process::ExitCode;

/// Starts a whole local deployment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot up` is being built")
}
