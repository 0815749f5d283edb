//! `entrepot down`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::boot::local;

/// Stops a deployment in order, and returns when it is gone.
///
/// Its data stay: `entrepot up` goes on with them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  entrepot down --data-dir /tmp/shop")]
pub(super) struct Args {
    /// The deployment's folder.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot", value_name = "DIR")]
    data_dir: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = args.data_dir.display();
    if local::down(&args.data_dir).await? {
        output::line(&format!("stopped; the data stay in {folder}"));
    } else {
        output::line(&format!("no deployment runs on {folder}"));
    }
    Ok(ExitCode::SUCCESS)
}
