//! `entrepot region evacuate`: a region is given up while it lives.

use std::process::ExitCode;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::super::client::Call;
use super::super::output;
use super::super::target::Target;
use super::{LeverArgs, OPERATOR, ensure_known, server_of};
use crate::types::RegionId;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot region evacuate eu-west --dry-run\n  entrepot region evacuate eu-west --to us-east\n  entrepot region evacuate eu-west --abort"
)]
pub(super) struct Args {
    #[command(flatten)]
    lever: LeverArgs,
    /// Who gets everything; the first region in reach if absent.
    #[arg(long)]
    to: Option<RegionId>,
    /// Ends an evacuation that has not moved orders yet; the region takes orders again.
    #[arg(long, conflicts_with_all = ["dry_run", "to"])]
    abort: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { lever, to, abort } = args;
    let target = Target::find(&lever.target, OPERATOR)?;
    let region = lever.region;
    ensure_known(&target, region)?;
    let heir = to.map(|to| format!("&to={to}")).unwrap_or_default();
    let query = format!("dry_run={}&abort={abort}{heir}", lever.dry_run);
    let tell = |answer: &Value| {
        if !lever.json {
            report_evacuation(false, answer);
        }
    };
    let answer = evacuated(&target, region, &query, tell).await?;
    report_evacuation(lever.json, &answer);
    ensure_given_up(region, &answer)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks until it has ended: each call waits a while, and tells how far it is.
async fn evacuated(
    target: &Target,
    region: RegionId,
    query: &str,
    tell: impl Fn(&Value),
) -> anyhow::Result<Value> {
    let server = server_of(target, region)?;
    let mut told = Value::Null;
    loop {
        let follows = told["run"].as_str().map(|run| format!("&run={run}")).unwrap_or_default();
        let path = format!("/api/v1/admin/regions/{region}/evacuate?{query}{follows}");
        let call = Call {
            method: Method::POST,
            path: &path,
            token: target.admin(region),
            idempotency_key: None,
            body: Bytes::new(),
        };
        let answer: Value = server.send(call).await?.expect(&path)?;
        if answer.get("would").is_some() {
            return Ok(answer);
        }
        match answer["status"].as_str() {
            Some("done" | "failed" | "aborted") => return Ok(answer),
            Some(_) => {}
            None => anyhow::bail!("{region} does not say how far it is: {answer}"),
        }
        if answer != told {
            tell(&answer);
        }
        told = answer;
    }
}

fn ensure_given_up(region: RegionId, answer: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(
        answer["status"] != "failed",
        "{region} is drained and not given up: {}; what has moved stays moved. Repeat it, or `entrepot region resume \
         {region}`",
        answer["detail"].as_str().unwrap_or("no reason was told")
    );
    Ok(())
}

/// Gives a region up, to the first one in reach.
pub(in crate::cli) async fn give_up(target: &Target, region: RegionId) -> anyhow::Result<()> {
    let answer = evacuated(target, region, "", |_| {}).await?;
    ensure_given_up(region, &answer)
}

fn report_evacuation(as_json: bool, answer: &Value) {
    if as_json {
        output::line(&answer.to_string());
        return;
    }
    let text = |name: &str| answer[name].as_str().unwrap_or("?");
    let count = |name: &str| answer[name].as_u64().unwrap_or(0);
    let line = if answer.get("would").is_some() {
        format!(
            "{} would be drained; {} orders and {} units would go to {}; {} orders are on their way and would be waited for",
            text("region"),
            count("orders"),
            count("units"),
            text("to"),
            count("undecided"),
        )
    } else {
        format!(
            "{}: {}; {} units and {} orders have gone to {}",
            text("region"),
            text("status"),
            count("units_moved"),
            count("orders_moved"),
            text("to"),
        )
    };
    let detail = answer["detail"].as_str().map(|detail| format!(" ({detail})"));
    output::line(&format!("{line}{}", detail.unwrap_or_default()));
}
