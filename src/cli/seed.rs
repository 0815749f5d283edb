//! `entrepot seed`.

use std::process::ExitCode;

/// Catalogue, nodes, stock.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot seed` is being built")
}
