//! `entrepot payment-simulator`.

use std::process::ExitCode;

/// The payment provider simulator.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot payment-simulator` is being built")
}
