//! `entrepot replay`.

use std::process::ExitCode;

/// Replays a real order history.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot replay` is being built")
}
