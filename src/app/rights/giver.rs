//! Answers peers that ask for rights.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::Rights;
use super::granter::{closed, keyed};
use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::escrow::{GiverDemand, Ledger, TransferAnswer, TransferRequest};
use crate::ports::{Given, RequestHandler, StoreError};
use crate::types::{RegionId, StockKey};

/// Gives rights to peers.
pub struct Giver {
    rights: Arc<Rights>,
}

impl Giver {
    /// Gives what `rights` has.
    pub fn new(rights: Arc<Rights>) -> Self {
        Self { rights }
    }

    async fn give(
        &self,
        from: RegionId,
        request: &TransferRequest,
    ) -> Result<TransferAnswer, String> {
        let rights = &self.rights;
        if request.asker.region != from {
            return Err(format!("{from} asks for {}", request.asker));
        }
        if !(rights.may_give)() {
            return Err(
                "this region forgot what it sold, or may have, and gives nothing away".to_owned()
            );
        }
        if rights.witness == Some(request.asker.region) {
            return Err(format!("{} is the witness, which sells nothing", request.asker.region));
        }
        if rights.is_fenced(request.asker) {
            return Err(format!("{} was fenced: what it got would be stranded", request.asker));
        }
        self.open(request).await.map_err(|error| undecided(&error))?;
        let (sku, node) = (&request.sku, request.node.as_ref());
        let expected = rights.board.expected(sku);
        // Without an order that needs them, units go only to whom they belong.
        let share =
            if request.need == 0 { rights.board.share(sku, node, &rights.sellers()) } else { 0 };
        let demand = GiverDemand {
            waiting: rights.waiting.units(sku, rights.clock.monotonic_ms()),
            expected: expected.max(share),
            // Known to the database, which decides.
            pinned: 0,
        };
        let mut given = self.decide(request, demand).await?;
        // The last open units may have been sold since they were looked at, with others above the ceiling.
        let in_vain = given.grants.is_empty() && !given.busy && request.need > 0;
        if in_vain && self.open(request).await.map_err(|error| undecided(&error))? {
            given = self.decide(request, demand).await?;
        }
        rights.take_note(&given.learned);
        let changed: StockDeltas = given
            .grants
            .keys()
            .map(|node| StockKey { sku: request.sku.clone(), node: node.clone() })
            .map(|key| (key, StockDelta::default()))
            .collect();
        rights.dirty.mark(&changed);
        Ok(TransferAnswer { grants: given.grants, busy: given.busy, rows: given.rows })
    }

    async fn decide(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, String> {
        let given = self.rights.store.give(request, demand).await;
        given.map_err(|error| undecided(&error))
    }

    /// What an order of the asker's needs may lie above this region's ceilings, or have been on its way here
    /// so far. Answers whether a ceiling was to be raised for it.
    async fn open(&self, request: &TransferRequest) -> Result<bool, StoreError> {
        let (rights, sku) = (&self.rights, &request.sku);
        let ledgers = rights.store.ledgers(sku).await?;
        if ledgers.values().map(Ledger::spendable).sum::<u64>() >= request.need {
            return Ok(false);
        }
        rights.learn(&keyed(sku, &request.rows), &[]).await?;
        let closed = closed(&rights.store.ledgers(sku).await?, sku);
        let some = !closed.is_empty();
        if some {
            rights.raise(closed.into_iter().map(|key| (key, request.want))).await;
        }
        Ok(some)
    }
}

fn undecided(error: &StoreError) -> String {
    format!("nothing was decided: {error}; ask again")
}

#[async_trait]
impl RequestHandler for Giver {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let request: TransferRequest = serde_json::from_slice(&request)
            .map_err(|error| format!("not a transfer request: {error}"))?;
        let answer = self.give(from, &request).await?;
        let bytes = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }
}
