//! The nodes, products and stock that a plan's orders need. Pure.

use serde_json::json;

use super::parse::History;
use super::plan::Plan;
use crate::cli::seed::load::{ProductSpec, Receipt, Stocking};
use crate::cli::seed::places;
use crate::types::RegionId;

/// How the ids of the nodes begin.
const NODE_PREFIX: &str = "retail-";

/// The stock beyond a region's own demand, in percent of it: rights move between regions while the
/// replay runs, and a region that sells its last units would have to ask for them.
const MARGIN_PERCENT: u64 = 10;

/// The least margin, in units.
const MARGIN_UNITS_MIN: u64 = 10;

/// The longest product name, in bytes. Those of the known histories have 35.
const NAME_BYTES_MAX: usize = 200;

/// What has to be there before the first order.
pub(super) fn stocking(history: &History, plan: &Plan, regions: &[RegionId]) -> Stocking {
    let nodes: Vec<_> =
        regions.iter().map(|&region| places::warehouse(NODE_PREFIX, region)).collect();
    let products = plan
        .prices
        .iter()
        .map(|(&index, &price_minor)| {
            let code = &history.skus[index as usize];
            let body = json!({
                "sku": code.sku,
                "name": name_of(&code.name, code.sku.as_str()),
                "description": "",
                "category": "gifts",
                "tax_class": "standard",
                "weight_grams": 250,
                "prices": [{"amount": price_minor, "currency": "GBP"}],
            });
            ProductSpec { sku: code.sku.to_string(), body }
        })
        .collect();
    let mut receipts = Vec::new();
    for ((demand, node), &region) in plan.demand.iter().zip(&nodes).zip(regions) {
        for (&index, &units) in demand {
            let margin = (units * MARGIN_PERCENT / 100).max(MARGIN_UNITS_MIN);
            receipts.push(Receipt {
                sku: history.skus[index as usize].sku.to_string(),
                node: node.id.clone(),
                region,
                units: units + margin,
            });
        }
    }
    Stocking { source: history.fingerprint.clone(), nodes, products, receipts }
}

/// Without control characters, never empty, never too long.
fn name_of(name: &str, sku: &str) -> String {
    let legal = |c: &char| !c.is_control();
    let mut name: String = name.chars().filter(legal).collect::<String>().trim().to_owned();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    if name.trim().is_empty() { sku.to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_the_catalogue() {
        assert_eq!(name_of("  RED\u{0} LAMP ", "A"), "RED LAMP");
        assert_eq!(name_of("", "85123A"), "85123A");
        assert_eq!(name_of(&"é".repeat(200), "A").len(), 200);
    }
}
