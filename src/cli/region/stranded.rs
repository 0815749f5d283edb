//! `entrepot region stranded`: units that nobody may sell.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::output;
use super::super::target::{Target, TargetArgs};
use super::{OPERATOR, ensure_known, server_of, survivor};
use crate::types::RegionId;

/// Pages that are read, of 200 each at most: a list of twenty thousand lines is for a program, which reads the API.
const PAGES_MAX: usize = 100;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot region stranded eu-west\n  entrepot region stranded eu-west --json | jq '.units'"
)]
pub(super) struct Args {
    /// Which region.
    region: RegionId,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Value>,
    next_cursor: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let target = Target::find(&args.target, OPERATOR)?;
    let region = args.region;
    ensure_known(&target, region)?;
    let asked = survivor(&target, region).await?;
    let client = server_of(&target, asked)?;
    let (mut items, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let after = cursor.map(|cursor: String| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/api/v1/admin/regions/{region}/stranded?limit=200{after}");
        let page: Page = client.get(&path, target.admin(asked)).await?;
        items.extend(page.items);
        (cursor, pages) = (page.next_cursor, pages + 1);
        if cursor.is_none() || pages == PAGES_MAX {
            break;
        }
    }
    let units: u64 = items.iter().filter_map(|item| item["units"].as_u64()).sum();
    if args.json {
        let told =
            json!({"region": region, "units": units, "items": items, "complete": cursor.is_none()});
        output::line(&told.to_string());
    } else {
        output::line(&table(region, units, &items, cursor.is_none()));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(region: RegionId, units: u64, items: &[Value], is_complete: bool) -> String {
    if items.is_empty() && is_complete {
        return format!("{region}: nothing is stranded");
    }
    let head =
        ["SKU", "NODE", "EPOCH", "UNITS", "CEILING", "KNOWN OUT", "REASON"].map(str::to_owned);
    let names = ["sku", "node", "epoch", "units", "ceiling", "known_outflow", "reason"];
    let text = |item: &Value, name: &str| {
        let value = &item[name];
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let rows = items.iter().map(|item| names.map(|name| text(item, name)));
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    let rest = if is_complete {
        ""
    } else {
        "\nthere is more: read GET /api/v1/admin/regions/REGION/stranded"
    };
    format!("{rows}\n{region}: {units} units are stranded{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_nobody_sells_and_why() {
        let region = "eu-west".parse().unwrap();
        let item = |sku: &str, units: u64, reason: &str| {
            json!({"sku": sku, "node": "wh-eu-west", "region": "eu-west", "epoch": 1, "units": units,
                   "ceiling": 100, "known_outflow": 100 - units, "reason": reason})
        };
        let items = [item("MUG", 7, "fenced"), item("PLATE-LARGE", 100, "set_back")];
        expect_test::expect![[r"
            SKU          NODE        EPOCH  UNITS  CEILING  KNOWN OUT  REASON
            MUG          wh-eu-west  1      7      100      93         fenced
            PLATE-LARGE  wh-eu-west  1      100    100      0          set_back
            eu-west: 107 units are stranded"]]
        .assert_eq(&table(region, 107, &items, true));
        assert_eq!(table(region, 0, &[], true), "eu-west: nothing is stranded");
        assert!(table(region, 7, &items[..1], false).ends_with("REGION/stranded"));
    }
}
