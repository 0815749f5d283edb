//! SKUs of the benchmark's own, with stock that a run can't use up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::json;

use crate::ports::Ids as _;
use crate::runtime::{RandomIds, SystemClock, spawn_named};

use super::PlaceArgs;
use super::connection::Connection;
use super::request::{bytes, sku};
use super::target::Target;

/// How many requests prepare at once: enough to fill the server's group commits.
const PREPARERS: u64 = 64;

/// More orders a second than any deployment on one machine takes: stock is made for twice as many.
const ORDERS_PER_SECOND_MAX: u64 = 20_000;

/// Minor units.
const PRICE: i64 = 1999;

/// Makes one node in each region, the products, and their stock at the node.
pub(super) async fn prepare(targets: &[Target], args: &PlaceArgs) -> anyhow::Result<()> {
    let run = format!("setup-{}", RandomIds::new(SystemClock::new()).uuid().simple());
    let seconds = args.seconds + 2;
    let units = 2 * seconds * ORDERS_PER_SECOND_MAX * args.lines / args.skus + 1000;
    for target in targets {
        let run = format!("{run}-{}", target.region);
        let mut connection = Connection::new(&target.authority);
        let node = node(target);
        send(target, &mut connection, "/api/v1/nodes", &format!("{run}-node"), &node).await?;
        let next = Arc::new(AtomicU64::new(0));
        let preparers: Vec<_> = (0..PREPARERS.min(args.skus))
            .map(|_| {
                let preparer =
                    preparer(target.clone(), run.clone(), Arc::clone(&next), args.skus, units);
                spawn_named("bench preparer", preparer)
            })
            .collect();
        for preparer in preparers {
            preparer.await.context("a preparer panicked")??;
        }
    }
    Ok(())
}

async fn preparer(
    target: Target,
    run: String,
    next: Arc<AtomicU64>,
    skus: u64,
    units: u64,
) -> anyhow::Result<()> {
    let mut connection = Connection::new(&target.authority);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= skus {
            return Ok(());
        }
        let sku = sku(number);
        let product = json!({
            "sku": sku, "name": format!("Benchmark article {number}"), "description": "",
            "category": "benchmark", "tax_class": "standard", "weight_grams": 500,
            "prices": [{"amount": PRICE, "currency": "EUR"}],
        });
        let key = format!("{run}-product-{number}");
        send(&target, &mut connection, "/api/v1/products", &key, &product).await?;
        let adjustment = json!({
            "node": node_id(&target.region), "delta": units, "reason": "receipt",
        });
        let path = format!("/api/v1/inventory/{sku}/adjustments");
        let key = format!("{run}-stock-{number}");
        send(&target, &mut connection, &path, &key, &adjustment).await?;
    }
}

fn node_id(region: &str) -> String {
    format!("bench-{region}")
}

fn node(target: &Target) -> serde_json::Value {
    json!({
        "id": node_id(&target.region), "name": "Benchmark warehouse", "kind": "warehouse",
        "region": target.region, "country": "DE", "latitude": 52.5, "longitude": 13.4,
        "capacity_per_day": 1_000_000, "carriers": ["dhl"],
    })
}

/// Posts; what exists already from an earlier run is as good.
async fn send(
    target: &Target,
    connection: &mut Connection,
    path: &str,
    key: &str,
    body: &serde_json::Value,
) -> anyhow::Result<()> {
    let request = bytes(target, "POST", path, key, &body.to_string());
    let (status, answer) = connection.exchange(&request).await.with_context(|| {
        format!("http://{}{path}: is {} running?", target.authority, target.region)
    })?;
    let exists = status == 409 && !path.ends_with("/adjustments");
    anyhow::ensure!(
        (200..300).contains(&status) || exists,
        "POST {path} in {} was answered {status}: {}",
        target.region,
        String::from_utf8_lossy(answer)
    );
    Ok(())
}
