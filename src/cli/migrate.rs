//! `entrepot migrate`.

use std::process::ExitCode;

/// Applies migrations.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot migrate` is being built")
}
