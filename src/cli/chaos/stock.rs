//! The goods of a run: SKUs of its own, so that every unit can be accounted for whatever else is sold beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use indicatif::ProgressBar;
use serde_json::json;

use super::run::Stage;
use super::scenario::{Sale, Scenario};
use super::shoppers::{PRICE, sale_sku, sku};
use crate::cli::seed::load::{ProductSpec, Receipt, Stocking, load};
use crate::cli::seed::places;
use crate::types::{RegionId, split_by_largest_remainder};

/// No order of the steady load has more units.
const UNITS_OF_AN_ORDER_MAX: u64 = 4;

/// Chance does not spread demand evenly over SKUs.
const MARGIN_UNITS: u64 = 100;

/// For stock to be known everywhere. Rows travel at once; digests make up for lost ones every 5 s.
const KNOWN_EVERYWHERE_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Units by SKU: of the steady load's, each region alone could sell what all regions' shoppers want, where the scenario
/// does not say how many there are.
pub(super) fn wanted(
    scenario: &Scenario,
    regions: &[RegionId],
    run: &str,
) -> BTreeMap<String, i64> {
    let mut stock = BTreeMap::new();
    if let Some(load) = scenario.load {
        let demand = load.orders_per_second * scenario.seconds * UNITS_OF_AN_ORDER_MAX / load.skus;
        let plenty = (demand + MARGIN_UNITS) * regions.len() as u64;
        let units = load.units.unwrap_or(plenty);
        let units = i64::try_from(units).expect("a scenario's load is bounded");
        stock.extend((0..load.skus).map(|number| (sku(run, number), units)));
    }
    if let Some(sale) = scenario.sale {
        let units = i64::try_from(sale.units).expect("a scenario's sale is bounded");
        stock.insert(sale_sku(run), units);
    }
    stock
}

/// How many units of a sale a region has.
pub(super) fn share_of(sale: Sale, regions: &[RegionId], region: RegionId) -> u64 {
    let units = i64::try_from(sale.units).expect("a scenario's sale is bounded");
    let shares = split_by_largest_remainder(units, &vec![1; regions.len()]);
    let of_region = regions.iter().zip(shares).find(|(known, _)| **known == region);
    of_region.and_then(|(_, share)| u64::try_from(share).ok()).unwrap_or(0)
}

/// Puts the goods there, and waits until every region knows all of them.
pub(super) async fn prepare(stage: &Stage) -> anyhow::Result<()> {
    let regions = &stage.target.regions;
    let nodes: Vec<_> = regions.iter().map(|&region| places::warehouse("wh-", region)).collect();
    let evenly = vec![1; regions.len()];
    let mut products = Vec::new();
    let mut receipts = Vec::new();
    for (sku, units) in &stage.stock {
        let body = json!({
            "sku": sku, "name": "Article under fire", "category": "chaos", "weight_grams": 250,
            "prices": [{"amount": PRICE, "currency": "EUR"}],
        });
        products.push(ProductSpec { sku: sku.clone(), body });
        for (node, share) in nodes.iter().zip(split_by_largest_remainder(*units, &evenly)) {
            let (sku, node_id, units) = (sku.clone(), node.id.clone(), u64::try_from(share)?);
            if units > 0 {
                receipts.push(Receipt { sku, node: node_id, region: node.region, units });
            }
        }
    }
    let stocking = Stocking { source: stage.run.clone(), nodes, products, receipts };
    load(&stage.target, &stocking, &ProgressBar::hidden()).await?;
    let known = tokio::time::timeout(KNOWN_EVERYWHERE_WITHIN, wait_until_known(stage)).await;
    known.unwrap_or_else(|_| bail!("the stock was not known everywhere in time; are all links up?"))
}

async fn wait_until_known(stage: &Stage) -> anyhow::Result<()> {
    for auditor in stage.auditors.values() {
        loop {
            let mut known: BTreeMap<String, i64> = BTreeMap::new();
            for row in auditor.rights(&stage.run).await? {
                *known.entry(row.sku).or_default() += row.received;
            }
            if known == stage.stock {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}
