//! Puts nodes, products and stock into a deployment, by the same API that everybody uses.
//!
//! Everything goes under keys that are made of what is put there, so that a second run of the same
//! thing adds nothing: the server answers as it did the first time. What exists already under
//! another key (an earlier release's seed, an operator's own product) stays as it is.
//!
//! The catalogue is written in one region and replicated to the others. Stock is only received, and
//! the command only ends, when every region knows every product: the last one is created alone, after
//! all others, and regions apply what another one wrote in its order. So each region is asked at its own
//! server where that is known: the load balancer sends what belongs to a region that drains or has just
//! returned to others, which know other things.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hyper::Method;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::places::NodeSpec;
use crate::cli::client::{Answer, ApiClient, Call};
use crate::cli::region::server_of;
use crate::cli::target::Target;
use crate::types::RegionId;

/// Requests on their way at once: thirty for each of three regions, enough to fill the groups in which
/// they commit. More would only wait in their queues.
const IN_FLIGHT: usize = 96;

/// Tries of one request. With the pauses, 25 s in all, they outlast a server that is started again.
const ATTEMPTS_MAX: u32 = 8;

/// Between tries; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// For a change of the catalogue to reach every region. Replication takes well under a second.
const KNOWN_EVERYWHERE_WITHIN: Duration = Duration::from_mins(1);

/// Between two looks at a region.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A product to be created.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct ProductSpec {
    /// Its id.
    pub(in crate::cli) sku: String,
    /// The body of the request.
    pub(in crate::cli) body: Value,
}

/// Units to be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Receipt {
    /// Of what.
    pub(in crate::cli) sku: String,
    /// Where.
    pub(in crate::cli) node: String,
    /// The owner of the node.
    pub(in crate::cli) region: RegionId,
    /// How many.
    pub(in crate::cli) units: u64,
}

/// Everything that is to be there.
#[derive(Debug, Default)]
pub(in crate::cli) struct Stocking {
    /// Names the source, in the keys: the same source adds its stock once.
    pub(in crate::cli) source: String,
    /// Places.
    pub(in crate::cli) nodes: Vec<NodeSpec>,
    /// Goods.
    pub(in crate::cli) products: Vec<ProductSpec>,
    /// Stock.
    pub(in crate::cli) receipts: Vec<Receipt>,
}

/// What was new, and what was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Loaded {
    pub(in crate::cli) nodes: u64,
    pub(in crate::cli) nodes_already_there: u64,
    pub(in crate::cli) products: u64,
    pub(in crate::cli) products_already_there: u64,
    pub(in crate::cli) units: u64,
    pub(in crate::cli) units_already_there: u64,
}

impl Stocking {
    /// Requests that [`load`] is going to make: the length of its progress bar.
    pub(in crate::cli) fn requests(&self) -> u64 {
        (self.nodes.len() + self.products.len() + self.receipts.len()) as u64
    }
}

/// Puts everything there.
pub(in crate::cli) async fn load(
    target: &Target,
    stocking: &Stocking,
    progress: &ProgressBar,
) -> anyhow::Result<Loaded> {
    let own = |&region: &RegionId| anyhow::Ok((region, server_of(target, region)?));
    let servers = target.regions.iter().map(own).collect::<anyhow::Result<_>>()?;
    let loader = Loader { target, servers, progress };
    let mut loaded = Loaded::default();
    for node in &stocking.nodes {
        let new = loader.create("/api/v1/nodes", &node.id, node.region, &node.body).await?;
        *(if new { &mut loaded.nodes } else { &mut loaded.nodes_already_there }) += 1;
    }
    let writer = *target.regions.first().context("the deployment has no region")?;
    if let Some((last, others)) = stocking.products.split_last() {
        let create = |product: &'_ ProductSpec| {
            let (sku, body) = (product.sku.clone(), product.body.clone());
            let loader = &loader;
            async move { loader.create("/api/v1/products", &sku, writer, &body).await }
        };
        let new: Vec<bool> =
            futures::stream::iter(others).map(create).buffered(IN_FLIGHT).try_collect().await?;
        let new_last = create(last).await?;
        loaded.products = new.iter().chain([&new_last]).map(|&new| u64::from(new)).sum();
        loaded.products_already_there = stocking.products.len() as u64 - loaded.products;
        // One that was there already says nothing about those that were not.
        let new = others.iter().zip(new).filter(|(_, new)| *new && !new_last);
        for (product, _) in new {
            loader.wait_until_known("products", &product.sku).await?;
        }
        loader.wait_until_known("products", &last.sku).await?;
    }
    if let Some(last) = stocking.nodes.last() {
        loader.wait_until_known("nodes", &last.id).await?;
    }
    let receive = |receipt: &'_ Receipt| {
        let (receipt, loader) = (receipt.clone(), &loader);
        async move {
            let new = loader.receive(&stocking.source, &receipt).await?;
            anyhow::Ok((new, receipt.units))
        }
    };
    let received: Vec<(bool, u64)> = futures::stream::iter(&stocking.receipts)
        .map(receive)
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await?;
    for (new, units) in received {
        *(if new { &mut loaded.units } else { &mut loaded.units_already_there }) += units;
    }
    Ok(loaded)
}

struct Loader<'a> {
    target: &'a Target,
    servers: BTreeMap<RegionId, ApiClient>,
    progress: &'a ProgressBar,
}

impl Loader<'_> {
    /// Creates a resource. Says whether it is new.
    async fn create(
        &self,
        path: &str,
        id: &str,
        region: RegionId,
        body: &Value,
    ) -> anyhow::Result<bool> {
        let body = body.to_string();
        let digest = hex::encode(Sha256::digest(&body));
        let key = format!("create-{}", &digest[..32]);
        let answer = self.post(path, region, &key, body).await?;
        // Another body under the same id: what is there stays.
        let exists = answer.status == 409;
        if !answer.is_success() && !exists {
            bail!("`{id}` could not be created: {path} answered {}", answer.problem());
        }
        Ok(!exists && !answer.replayed)
    }

    /// Receives units at a node. Says whether they are new.
    async fn receive(&self, source: &str, receipt: &Receipt) -> anyhow::Result<bool> {
        let path = format!("/api/v1/inventory/{}/adjustments", encoded(&receipt.sku));
        let body = json!({"node": receipt.node, "delta": receipt.units, "reason": "receipt"});
        let named = format!("{source}\n{}\n{}\n{}", receipt.sku, receipt.node, receipt.units);
        let key = format!("receive-{}", &hex::encode(Sha256::digest(named))[..32]);
        let answer = self.post(&path, receipt.region, &key, body.to_string()).await?;
        if !answer.is_success() {
            bail!(
                "{} units of {} could not be received at {}: {}",
                receipt.units,
                receipt.sku,
                receipt.node,
                answer.problem()
            );
        }
        Ok(!answer.replayed)
    }

    async fn post(
        &self,
        path: &str,
        region: RegionId,
        key: &str,
        body: String,
    ) -> anyhow::Result<Answer> {
        let call = Call {
            method: Method::POST,
            path,
            token: self.target.admin(region),
            idempotency_key: Some(key),
            body: Bytes::from(body),
        };
        let (mut pause, mut attempt) = (PAUSE_MIN, 1);
        loop {
            let sent = self.servers[&region].send(call.clone()).await;
            let wait = match &sent {
                Ok(answer) if !matches!(answer.status, 429 | 502 | 503 | 504) => {
                    self.progress.inc(1);
                    return Ok(sent?);
                }
                Ok(answer) => answer.retry_after.unwrap_or(pause),
                Err(_) => pause,
            };
            if attempt == ATTEMPTS_MAX {
                return sent.with_context(|| {
                    let address = &self.target.address;
                    format!("is {region} up? (`entrepot status`; load balancer {address})")
                });
            }
            tokio::time::sleep(wait).await;
            attempt += 1;
            pause *= 2;
        }
    }

    /// Waits until every region answers for what was written in one.
    async fn wait_until_known(&self, kind: &str, id: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/{kind}/{}", encoded(id));
        for &region in &self.target.regions {
            let look = async {
                let (client, token) = (&self.servers[&region], self.target.admin(region));
                while client.get::<Value>(&path, token).await.is_err() {
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                }
            };
            if tokio::time::timeout(KNOWN_EVERYWHERE_WITHIN, look).await.is_err() {
                bail!(
                    "{region} doesn't know `{id}` after {} s: is it up, and are its links? \
                     (`entrepot status`, `entrepot regions`). Run the command again then: nothing \
                     is added twice",
                    KNOWN_EVERYWHERE_WITHIN.as_secs()
                );
            }
        }
        Ok(())
    }
}

/// A path segment: everything but unreserved characters is percent-encoded.
pub(in crate::cli) fn encoded(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
