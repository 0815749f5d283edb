//! `entrepot token`.

use std::process::ExitCode;

/// A bearer token of the local issuer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot token` is being built")
}
