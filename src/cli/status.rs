//! `entrepot status`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::boot::local;

/// What runs where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  entrepot status --json | jq -r '.regions[0].database_url'")]
pub(super) struct Args {
    /// The deployment's folder.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot", value_name = "DIR")]
    data_dir: PathBuf,
    /// Prints everything, also the passwords of the database URLs, as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = local::report(&args.data_dir).await?;
    if args.json {
        output::line(&serde_json::to_string_pretty(&report)?);
    } else {
        output::line(report.details().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
