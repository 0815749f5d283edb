//! `entrepot status`.

use std::process::ExitCode;

/// What runs where.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot status` is being built")
}
