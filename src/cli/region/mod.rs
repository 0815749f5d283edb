//! `entrepot regions` and `entrepot region`: what the regions see of each other, and the operator's
//! levers, by the admin API.
//!
//! Each region is asked at its own server where the configuration names one: an operator wants to
//! know what a region says that the load balancer has already given up.

mod evacuate;
mod retire;
mod stranded;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{ApiClient, Call};
use super::output;
use super::target::{Target, TargetArgs};
use crate::types::RegionId;

pub(super) use evacuate::give_up;

/// Who pulls levers in a local deployment, for the audit trail.
const OPERATOR: &str = "operator";
/// Ran, and found something wrong.
const FOUND_SOMETHING: u8 = 2;
/// How long a server may take to start again.
const BEGUN_WITHIN: Duration = Duration::from_mins(1);
/// Between looks.
const LOOK: Duration = Duration::from_millis(200);

/// Shows every region as every other sees it: state, epoch, replication lag, watermark, and how many units it may
/// still sell alone.
///
/// Exit code 2 when a region can't be asked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot regions --json | jq '.regions[].sees[] | {region, status, lag_ms}'"
)]
pub(super) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Takes a region out of traffic, puts it back, or declares it dead.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot region drain eu-west\n  entrepot region resume eu-west"
)]
pub(super) struct Args {
    #[command(subcommand)]
    lever: Lever,
}

#[derive(Debug, clap::Subcommand)]
enum Lever {
    /// New orders are refused, the load balancer turns away, open work finishes.
    Drain(LeverArgs),
    /// A drained region takes orders again. One that is in doubt whether its database remembers everything trusts it
    /// on your word.
    Resume(LeverArgs),
    /// Declares a region dead: the others take over what it had not sold, and one of them its orders.
    Fence(FenceArgs),
    /// Gives a region up while it lives: what it may sell and its orders go to another one.
    Evacuate(evacuate::Args),
    /// A region is gone for good: two people say so, and what it had not sold below its ceilings is freed.
    Retire(retire::Args),
    /// Lists the units of a lost region that nobody may sell, with the reason.
    Stranded(stranded::Args),
    /// A fenced region comes back; one whose database was set back begins a new incarnation.
    Rejoin(LeverArgs),
}

#[derive(Debug, clap::Args)]
struct LeverArgs {
    /// Which region.
    region: RegionId,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot region fence eu-west\n  entrepot region fence eu-west --gone --by us-east"
)]
struct FenceArgs {
    #[command(flatten)]
    lever: LeverArgs,
    /// Who takes over; the first of the others that answers if absent.
    #[arg(long, value_name = "REGION")]
    by: Option<RegionId>,
    /// On your word none of its processes will ever act again: nothing is waited for. If one does, two regions act on
    /// one order.
    #[arg(long)]
    gone: bool,
}

/// One region and what it sees.
#[derive(Debug, Serialize)]
struct Viewpoint {
    seen_from: RegionId,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    sees: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Seen {
    items: Vec<Value>,
}

pub(super) async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let target = Target::find(&args.target, OPERATOR)?;
    let views = futures::future::join_all(target.all().map(|region| look(&target, region))).await;
    let all_answer = views.iter().all(|view| view.error.is_none());
    if args.json {
        output::line(&json!({ "regions": views }).to_string());
    } else {
        output::line(&table(&views));
    }
    Ok(if all_answer { ExitCode::SUCCESS } else { ExitCode::from(FOUND_SOMETHING) })
}

async fn look(target: &Target, region: RegionId) -> Viewpoint {
    let seen = async {
        server_of(target, region)?.get::<Seen>("/api/v1/admin/regions", target.admin(region)).await
    };
    let (sees, error) = match seen.await {
        Ok(seen) => (seen.items, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Viewpoint { seen_from: region, error, sees }
}

/// A region's own server, or the load balancer where that is all there is.
pub(super) fn server_of(target: &Target, region: RegionId) -> anyhow::Result<ApiClient> {
    match target.servers.get(&region) {
        Some(url) => ApiClient::new(url),
        None => Ok(target.client.clone()),
    }
}

fn table(views: &[Viewpoint]) -> String {
    let mut rows = vec![
        ["SEEN FROM", "REGION", "STATUS", "EPOCH", "LAG", "LAG MS", "WATERMARK", "MAY SELL"]
            .map(str::to_owned),
    ];
    for view in views {
        if let Some(error) = &view.error {
            let mut row: [String; 8] = Default::default();
            row[0] = view.seen_from.to_string();
            row[2] = format!("can't be asked: {error}");
            rows.push(row);
        }
        for seen in &view.sees {
            let text = |pointer: &str| match seen.pointer(pointer) {
                None | Some(Value::Null) => "-".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            rows.push([
                view.seen_from.to_string(),
                text("/region"),
                text("/status"),
                text("/epoch"),
                text("/lag_events"),
                text("/lag_ms"),
                text("/watermark/sequence"),
                text("/may_sell_alone/units"),
            ]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    // A long error stands in the third column of its row, which has nothing behind it.
    let widths: Vec<usize> = (0..8).map(|column| width(column).min(16)).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (name, args, by, query) = match args.lever {
        Lever::Drain(args) => ("drain", args, None, ""),
        Lever::Resume(args) => ("resume", args, None, ""),
        Lever::Fence(FenceArgs { lever, by, gone }) => {
            ("fence", lever, by, if gone { "?gone=true" } else { "" })
        }
        Lever::Rejoin(args) => ("rejoin", args, None, ""),
        Lever::Evacuate(args) => return evacuate::run(args).await,
        Lever::Retire(args) => return retire::run(args).await,
        Lever::Stranded(args) => return stranded::run(args).await,
    };
    let target = Target::find(&args.target, OPERATOR)?;
    let region = args.region;
    ensure_known(&target, region)?;
    let asked = match by {
        Some(by) => {
            ensure_known(&target, by)?;
            by
        }
        None if name == "fence" => survivor(&target, region).await?,
        None => region,
    };
    if args.dry_run {
        let view = look(&target, asked).await;
        anyhow::ensure!(view.error.is_none(), "{}", view.error.unwrap_or_default());
        let status = view.sees.iter().find(|seen| seen["region"] == region.as_str());
        let status = status.map_or(&Value::Null, |seen| &seen["status"]);
        report(args.json, &json!({"region": region, "would": name, "status": status}));
        return Ok(ExitCode::SUCCESS);
    }
    report(args.json, &pull(&target, &format!("{name}{query}"), region, asked).await?);
    Ok(ExitCode::SUCCESS)
}

fn ensure_known(target: &Target, region: RegionId) -> anyhow::Result<()> {
    let known: Vec<RegionId> = target.all().collect();
    let names = || known.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(known.contains(&region), "there is no region {region}; there are {}", names());
    Ok(())
}

/// Puts a region back into traffic.
pub(super) async fn resume(target: &Target, region: RegionId) -> anyhow::Result<()> {
    pull(target, "resume", region, region).await.map(drop)
}

/// Pulls a lever at the server of `asked`, and waits until that is done. Answers what there is to tell.
async fn pull(
    target: &Target,
    lever: &str,
    region: RegionId,
    asked: RegionId,
) -> anyhow::Result<Value> {
    let answer = post(target, lever, region, asked).await?;
    let mut status = answer["status"].clone();
    if status == "rejoining" {
        status = until_begun(target, region, &answer["epoch"]).await?;
    }
    let mut result = json!({"region": region, "status": status});
    for name in ["taken_over", "stranded_units"] {
        if let Some(value) = answer.get(name) {
            result[name] = value.clone();
        }
    }
    Ok(result)
}

async fn post(
    target: &Target,
    lever: &str,
    region: RegionId,
    asked: RegionId,
) -> anyhow::Result<Value> {
    let path = format!("/api/v1/admin/regions/{region}/{lever}");
    let call = Call {
        method: Method::POST,
        path: &path,
        token: target.admin(asked),
        idempotency_key: None,
        body: Bytes::new(),
    };
    server_of(target, asked)?.send(call).await?.expect(&path)
}

/// Has a survivor take over from a region.
pub(super) async fn fence(target: &Target, region: RegionId) -> anyhow::Result<()> {
    let asked = survivor(target, region).await?;
    pull(target, "fence", region, asked).await.map(drop)
}

/// Waits until a region says that its database was set back, and has it begin anew.
pub(super) async fn begin_anew(target: &Target, region: RegionId) -> anyhow::Result<()> {
    let set_back = async {
        loop {
            let view = look(target, region).await;
            let mut own = view.sees.iter().filter(|seen| seen["own"] == true);
            if own.any(|own| own["status"] == "set_back") {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(BEGUN_WITHIN, set_back).await.map_err(|_| {
        anyhow::anyhow!("{region} does not say that its database was set back; is it started?")
    })?;
    pull(target, "rejoin", region, region).await.map(drop)
}

/// Waits until a region knows that it was fenced, and has it rejoin. One that all regions take for one that is back is.
pub(super) async fn come_back(target: &Target, region: RegionId) -> anyhow::Result<()> {
    let settled = async {
        loop {
            let views =
                futures::future::join_all(target.regions.iter().map(|by| look(target, *by)));
            let views = views.await;
            let status = |view: &Viewpoint| {
                let seen = view.sees.iter().find(|seen| seen["region"] == region.as_str());
                seen.map(|seen| seen["status"].clone())
            };
            let own = views.iter().find(|view| view.seen_from == region).and_then(status);
            if own.as_ref().is_some_and(|own| own == "fenced") {
                return true;
            }
            let is_back = own.is_some_and(|own| own == "ready")
                && views.iter().all(|view| status(view).is_some_and(|seen| seen != "fenced"));
            if is_back {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let is_fenced = tokio::time::timeout(BEGUN_WITHIN, settled).await.map_err(|_| {
        anyhow::anyhow!(
            "{region} does not say that it was fenced; is it started, and are the others there?"
        )
    })?;
    if is_fenced {
        pull(target, "rejoin", region, region).await?;
    }
    Ok(())
}

/// Waits until a region that begins anew is there again. Answers its status.
async fn until_begun(target: &Target, region: RegionId, epoch: &Value) -> anyhow::Result<Value> {
    let begun = async {
        loop {
            let view = look(target, region).await;
            let own = view.sees.into_iter().find(|seen| seen["own"] == true);
            let is_there = |own: &Value| own["epoch"] == *epoch && own["status"] != "in_doubt";
            if let Some(own) = own.filter(is_there) {
                return own["status"].clone();
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(BEGUN_WITHIN, begun).await.map_err(|_| {
        anyhow::anyhow!(
            "{region} has begun incarnation {epoch}, but its server is not there again after {} s: see that it is \
             started, and look at its log",
            BEGUN_WITHIN.as_secs()
        )
    })
}

/// A region that can fence another one: the first other that answers.
async fn survivor(target: &Target, lost: RegionId) -> anyhow::Result<RegionId> {
    for region in target.regions.iter().copied().filter(|region| *region != lost) {
        if look(target, region).await.error.is_none() {
            return Ok(region);
        }
    }
    anyhow::bail!(
        "no other region answers, so nobody can take over from {lost}: nothing was done; start one of the others \
         and repeat it"
    )
}

fn report(as_json: bool, result: &Value) {
    if as_json {
        output::line(&result.to_string());
        return;
    }
    let text = |name: &str| result[name].as_str().unwrap_or("unknown");
    let line = match result.get("would") {
        Some(_) => format!("{} is {}; would {}", text("region"), text("status"), text("would")),
        None => format!("{} is {}", text("region"), text("status")),
    };
    let units = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64);
    let line = match (units("/taken_over/units"), units("/stranded_units")) {
        (Some(taken), Some(stranded)) => {
            format!("{line}; {taken} units taken over, {stranded} stranded until it is back")
        }
        _ => line,
    };
    output::line(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_viewpoint() {
        let views = [
            Viewpoint {
                seen_from: "us-east".parse().unwrap(),
                error: None,
                sees: vec![
                    json!({"region": "us-east", "status": "ready", "epoch": 1, "lag_events": 0, "lag_ms": 0, "watermark": null, "may_sell_alone": {"units": 120, "keys": 3}}),
                    json!({"region": "eu-west", "status": "silent", "epoch": 2, "lag_events": 7, "lag_ms": 1200, "watermark": {"sequence": 41}, "may_sell_alone": {"units": 7, "keys": 1}}),
                ],
            },
            Viewpoint {
                seen_from: "eu-west".parse().unwrap(),
                error: Some("no answer".to_owned()),
                sees: Vec::new(),
            },
        ];
        expect_test::expect![[r"
            SEEN FROM  REGION   STATUS            EPOCH  LAG  LAG MS  WATERMARK  MAY SELL
            us-east    us-east  ready             1      0    0       -          120
            us-east    eu-west  silent            2      7    1200    41         7
            eu-west             can't be asked: no answer"]]
        .assert_eq(&table(&views));
    }

    #[tokio::test]
    async fn without_a_deployment_it_says_what_to_do() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: Args,
        }
        let dir = "/nonexistent/entrepot";
        let parsed = Only::parse_from(["region", "drain", "eu-west", "--data-dir", dir]);
        let error = run(parsed.args).await.unwrap_err().to_string();
        assert!(error.contains("entrepot up"), "{error}");
    }
}
