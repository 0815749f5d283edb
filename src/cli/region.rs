//! `entrepot region`.

use std::process::ExitCode;

/// The operator's levers on one region.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot region` is being built")
}

/// Every region as every other sees it.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

pub(super) async fn list(_args: ListArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`entrepot regions` is being built")
}
