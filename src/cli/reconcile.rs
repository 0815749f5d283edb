//! `entrepot reconcile`: has all regions compare what must agree, and shows what differs.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiClient, Call};
use super::output;
use super::region::server_of;
use super::target::{Target, TargetArgs};
use crate::types::RegionId;

/// Ran, and found something wrong.
const FOUND_SOMETHING: u8 = 2;

const PATH: &str = "/api/v1/admin/reconciliations";

/// Between two looks at a run.
const LOOK: Duration = Duration::from_millis(300);

/// A region that answers nothing so many times in a row is not coming back for this run.
const FAILURES_MAX: u32 = 10;

/// Compares all regions that can be reached, the payment ledger and the event logs. May run under load: what is merely
/// under way is no difference.
///
/// Exit code 2 when something differs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot reconcile\n  entrepot reconcile --json | jq '.differences[] | {class, region, subject}'"
)]
pub(super) struct Args {
    /// Mends what is safe to mend: pulls copies from their origin, voids money held for cancelled orders, wakes
    /// sagas. The rest is for people.
    #[arg(long)]
    repair: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let target = Target::find(&args.target, "operator")?;
    let report = report(&target, args.repair).await?;
    output::line(&if args.json { report.to_string() } else { text(&report) });
    if report["status"] != "finished" {
        bail!("the run did not end well, its report is not complete: {}", plain(&report["error"]));
    }
    let differs = report["counts"].as_object().is_some_and(|counts| !counts.is_empty());
    Ok(if differs { ExitCode::from(FOUND_SOMETHING) } else { ExitCode::SUCCESS })
}

/// Runs it to its end. The report says whether that was a good one.
pub(super) async fn report(target: &Target, repair: bool) -> anyhow::Result<Value> {
    let (client, region, begun) = begin(target, repair).await?;
    finish(&client, target.admin(region), begun).await
}

/// Has the region begin the run that hears the most others: one that is cut off would compare little.
async fn begin(target: &Target, repair: bool) -> anyhow::Result<(ApiClient, RegionId, Value)> {
    let body = Bytes::from(json!({ "repair": repair }).to_string());
    let looks = target.regions.iter().map(|region| async move {
        let client = server_of(target, *region)?;
        let heard = heard_by(&client, target.admin(*region)).await?;
        Ok::<_, anyhow::Error>((heard, *region, client))
    });
    let looks = futures::future::join_all(looks).await;
    let mut why = String::new();
    let mut candidates = Vec::new();
    for look in looks {
        match look {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => why = format!("{error:#}"),
        }
    }
    candidates.sort_by_key(|(heard, region, _)| (std::cmp::Reverse(*heard), *region));
    for (_, region, client) in candidates {
        let (method, token, body) = (Method::POST, target.admin(region), body.clone());
        let call = Call { method, path: PATH, token, idempotency_key: None, body };
        match client.send(call).await {
            Ok(answer) => return Ok((client, region, answer.expect(PATH)?)),
            Err(error) => why = error.to_string(),
        }
    }
    bail!("no region can be asked to reconcile ({why}); `entrepot status` shows what runs")
}

/// How many regions one hears, itself included.
async fn heard_by(client: &ApiClient, token: &str) -> anyhow::Result<usize> {
    let seen: Value = client.get("/api/v1/admin/regions", token).await?;
    let away = ["silent", "one_way", "never_heard"];
    let status = |region: &&Value| region["status"].as_str().is_some_and(|s| !away.contains(&s));
    Ok(list(&seen["items"]).filter(status).count())
}

/// Waits for the end of the run.
async fn finish(client: &ApiClient, token: &str, mut report: Value) -> anyhow::Result<Value> {
    let path = format!("{PATH}/{}", plain(&report["id"]));
    let mut failures = 0;
    while report["status"] == "running" {
        tokio::time::sleep(LOOK).await;
        match client.get(&path, token).await {
            Ok(now) => (report, failures) = (now, 0),
            Err(_) if failures < FAILURES_MAX => failures += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(report: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes everything");
    let regions: Vec<_> = list(&report["regions"]).map(plain).collect();
    let checked = |what: &str| plain(&report["checked"][what]);
    line(format!(
        "looked at {}: {} orders with their events, {} keys of rights, {} payments, {} copies",
        regions.join(", "),
        checked("orders"),
        checked("keys"),
        checked("payments"),
        checked("copies")
    ));
    for left_out in list(&report["not_compared"]) {
        let part = |name: &str| plain(&left_out[name]);
        line(format!("not compared by {}: {} ({})", part("region"), part("what"), part("why")));
    }
    for difference in list(&report["differences"]) {
        let part = |name: &str| plain(&difference[name]);
        let peer = difference["peer"].as_str();
        let peer = peer.map(|peer| format!(", compared with {peer}")).unwrap_or_default();
        line(String::new());
        line(format!(
            "{} ({}) in {}{peer}: {}",
            part("class"),
            part("invariant"),
            part("region"),
            part("subject")
        ));
        line(format!("  {}", part("meaning")));
        line(format!("  expected: {}", part("expected")));
        line(format!("  found:    {}", part("found")));
        let repair = &difference["repair"];
        let how = match (&repair["done"], repair["safe"] == true) {
            (Value::Null, true) => format!("--repair will {}", plain(&repair["what"])),
            (Value::Null, false) => format!("by hand: {}", plain(&repair["what"])),
            (done, _) => plain(done),
        };
        line(format!("  repair:   {how}"));
    }
    let total: u64 =
        report["counts"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    let listed = list(&report["differences"]).count() as u64;
    line(String::new());
    line(match total {
        0 => "nothing differs".to_owned(),
        1 => "1 difference".to_owned(),
        _ if total > listed => format!("{total} differences, {listed} of them listed"),
        _ => format!("{total} differences"),
    });
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_report(differences: &Value) -> Value {
        let counts: serde_json::Map<_, _> =
            list(differences).map(|one| (plain(&one["class"]), json!(1))).collect();
        json!({
            "id": "0190163d-8694-739b-aea5-966c26f8ad01", "status": "finished",
            "regions": ["eu-west", "us-east"],
            "not_compared": [{"region": "eu-west", "what": "ap-south", "why": "it can't be reached"}],
            "checked": {"orders": 120, "keys": 30, "payments": 118, "copies": 540, "moving": 0},
            "counts": counts, "differences": differences,
        })
    }

    #[test]
    fn the_text_names_each_difference_with_both_values_and_its_repair() {
        let differences = json!([
            {"class": "order_copy_differs", "invariant": "I-20", "region": "eu-west", "peer": "us-east",
             "subject": "order 0190163d-8694-739b-aea5-966c26f8ad02",
             "meaning": "A copy of an order is another order than its home holds.",
             "expected": "version 3, hash a at us-east", "found": "version 3, hash b",
             "repair": {"safe": true, "what": "pull the order from its home", "done": "pulled version 3 from us-east"}},
            {"class": "product_differs", "invariant": "I-20", "region": "eu-west", "peer": "us-east",
             "subject": "product A-1", "meaning": "A region holds an older or another product than a peer.",
             "expected": "version 2", "found": "version 1",
             "repair": {"safe": true, "what": "pull the newer product", "done": null}},
            {"class": "oversold", "invariant": "I-01", "region": "us-east", "peer": null, "subject": "A-1 at w-1",
             "meaning": "More units of a key are promised than were ever received.",
             "expected": "at most 5 promised", "found": "6 promised",
             "repair": {"safe": false, "what": "receive the missing units", "done": null}},
        ]);
        expect_test::expect![[r"
            looked at eu-west, us-east: 120 orders with their events, 30 keys of rights, 118 payments, 540 copies
            not compared by eu-west: ap-south (it can't be reached)

            order_copy_differs (I-20) in eu-west, compared with us-east: order 0190163d-8694-739b-aea5-966c26f8ad02
              A copy of an order is another order than its home holds.
              expected: version 3, hash a at us-east
              found:    version 3, hash b
              repair:   pulled version 3 from us-east

            product_differs (I-20) in eu-west, compared with us-east: product A-1
              A region holds an older or another product than a peer.
              expected: version 2
              found:    version 1
              repair:   --repair will pull the newer product

            oversold (I-01) in us-east: A-1 at w-1
              More units of a key are promised than were ever received.
              expected: at most 5 promised
              found:    6 promised
              repair:   by hand: receive the missing units

            3 differences"]]
        .assert_eq(&text(&a_report(&differences)));
    }

    #[test]
    fn the_text_of_a_clean_run_is_short() {
        expect_test::expect![[r"
            looked at eu-west, us-east: 120 orders with their events, 30 keys of rights, 118 payments, 540 copies
            not compared by eu-west: ap-south (it can't be reached)

            nothing differs"]]
        .assert_eq(&text(&a_report(&json!([]))));
    }
}
