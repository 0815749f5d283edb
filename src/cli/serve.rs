//! `entrepot serve`.

use std::process::ExitCode;

/// One region's server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot serve` is being built")
}
