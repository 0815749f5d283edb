//! `entrepot region retire`: a region is gone for good.

use std::process::ExitCode;

use serde_json::Value;

use super::super::output;
use super::super::target::Target;
use super::{LOOK, LeverArgs, OPERATOR, ensure_known, post, survivor};
use crate::types::CustomerId;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot region retire eu-west --dry-run\n  entrepot region retire eu-west --operator alice\n  entrepot region retire eu-west --operator bob"
)]
pub(super) struct Args {
    #[command(flatten)]
    lever: LeverArgs,
    /// Who says so, in a local deployment; elsewhere the token tells.
    #[arg(long, default_value = OPERATOR, value_name = "NAME")]
    operator: CustomerId,
    /// Takes back what people have said, as long as nothing has ended.
    #[arg(long, conflicts_with = "dry_run")]
    abort: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { lever, operator, abort } = args;
    let target = Target::find(&lever.target, &operator.to_string())?;
    let region = lever.region;
    ensure_known(&target, region)?;
    let asked = survivor(&target, region).await?;
    let query = format!("retire?dry_run={}&abort={abort}", lever.dry_run);
    let mut answer = post(&target, &query, region, asked).await?;
    while answer["status"] == "retiring" {
        tokio::time::sleep(LOOK).await;
        answer = post(&target, &query, region, asked).await?;
    }
    output::line(&if lever.json { answer.to_string() } else { retirement_text(&answer) });
    Ok(ExitCode::SUCCESS)
}

fn retirement_text(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str().unwrap_or("?");
    let count = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let region = text("region");
    if answer.get("would").is_some() {
        let asked = answer["asked_by"].as_str().map(|who| format!("; {who} has asked for it"));
        let at_least = |is: bool| if is { "at least " } else { "" };
        let not_read = answer.pointer("/lost_orders/not_read").and_then(Value::as_str);
        return format!(
            "{region} would be retired{}; {}{} units below its ceilings would be freed; {}{} payments are for orders that \
             nobody knows{}",
            asked.unwrap_or_default(),
            at_least(answer["units_are_at_least"] == true),
            count("/units_stranded"),
            at_least(not_read.is_some()),
            count("/lost_orders/payments"),
            not_read.map(|why| format!(" (the provider's ledger: {why})")).unwrap_or_default(),
        );
    }
    match text("status") {
        "asked" => format!(
            "{region}: {} asks for it to be retired; another person has to confirm by the same command within a day",
            text("asked_by")
        ),
        "withdrawn" => format!("{region} is not going to be retired"),
        _ => {
            let mut lines = vec![format!(
                "{region} is retired, as {} and {} say; {} units are free again; {} payments are for orders that nobody knows",
                text("asked_by"),
                text("confirmed_by"),
                count("/units_freed"),
                count("/lost_orders/payments"),
            )];
            if count("/units_uncovered") > 0 {
                let units = count("/units_uncovered");
                lines.push(format!(
                    "  {units} units are held by orders and are nowhere: count the shelves"
                ));
            }
            if let Some(why) = answer.pointer("/lost_orders/not_read").and_then(Value::as_str) {
                lines.push(format!("  the payment provider's ledger could not be read: {why}"));
            }
            let items = answer.pointer("/lost_orders/items").and_then(Value::as_array);
            for item in items.into_iter().flatten() {
                let order = item["order_id"].as_str().unwrap_or("?");
                let held =
                    match (item["held"]["amount"].as_i64(), item["held"]["currency"].as_str()) {
                        (Some(amount), Some(currency)) => {
                            format!("{amount} {currency} (minor units) held")
                        }
                        _ => "not decided by the provider".to_owned(),
                    };
                let again = item["placed_again_as"].as_str();
                let again = again.map(|order| format!("; placed again as {order}"));
                lines.push(format!("  order {order}: {held}{}", again.unwrap_or_default()));
            }
            lines.join("\n")
        }
    }
}
