//! Rights between regions: obtaining them on demand, giving them, copying the rows.
//!
//! ```text
//!  order is short ─► Granter ── TRANSFER ──► Giver of a peer ─► its database, once per request
//!                      │  ◄── rows, grant ───┘
//!                      ▼
//!                    learn ─► this region's database (ceiling raised in the same transaction)
//!                      ▲  ▲
//!  peers' rows ────────┘  └──── pulled rows, where digests differ
//! ```
//!
//! What arrives is stored by [`Rights::learn`] and nowhere else; the decisions are in
//! [`crate::escrow`], the transactions in [`crate::ports::RightsStore`].

mod board;
mod giver;
mod granter;
mod peers_rows;
mod transfer;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::escrow::{Digest, KeyedRow, MergeError};
use crate::ports::{
    Bus, Clock, Credit, Ids, MergeReport, Reachability, RequestKind, RightsStore, StoreError,
};
use crate::types::{Actor, StockKey};

pub use board::{Board, KeyWish};
pub use giver::Giver;
pub use granter::{Granter, ask_peer};
pub use peers_rows::{Compared, DigestHandler, PullHandler, repair_from};
pub use transfer::{TransferError, transfer};
pub use waiting::Waiting;

use super::DirtyRows;

/// A peer asks for rights.
pub const TRANSFER: RequestKind = RequestKind::named("transfer-rights");
/// A peer asks for the sums of all rows.
pub const ROWS_DIGEST: RequestKind = RequestKind::named("rows-digest");
/// A peer asks for rows in which it differs.
pub const ROWS_PULL: RequestKind = RequestKind::named("rows-pull");

/// Called with the evidence that this region's database was set back. Selling on could oversell.
pub type AmnesiaAlarm = dyn Fn(&StockKey, &MergeError) + Send + Sync;

/// What everything about rights shares in one process.
pub struct Rights {
    /// This region, in its incarnation.
    pub own: Actor,
    /// Its database.
    pub store: Arc<dyn RightsStore>,
    /// The way to the peers.
    pub bus: Arc<dyn Bus>,
    /// Which of them are worth asking.
    pub reachability: Arc<dyn Reachability>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of requests.
    pub ids: Arc<dyn Ids>,
    /// Own rows to ship.
    pub dirty: Arc<DirtyRows>,
    /// What sells how fast, here and elsewhere.
    pub board: Board,
    /// What orders here wait for.
    pub waiting: Waiting,
    /// The sums of all rows and when the scan for them began and ended, shared by this region's comparisons and those of
    /// its peers: they read the whole table.
    pub sums: tokio::sync::Mutex<Option<(u64, u64, Arc<Digest>)>>,
    /// Whether rights may be given away: not when this region's database forgot what it sold.
    pub may_give: Box<dyn Fn() -> bool + Send + Sync>,
    /// How old they may be.
    pub sums_age: Duration,
    /// How long a peer may take to answer.
    pub request_timeout: Duration,
    /// Whom to tell of amnesia.
    pub on_amnesia: Box<AmnesiaAlarm>,
}

impl Rights {
    /// Stores what peers' rows bring, and looks into what must not be merged.
    pub async fn learn(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, StoreError> {
        let report = self.store.merge(rows, credits).await?;
        self.take_note(&report);
        Ok(report)
    }

    /// The sums of all rows that this region holds, of now or a little earlier: a comparison with old
    /// sums pulls rows that turn out to be known, or finds a difference the next time.
    /// `fresh` ones are not older than the call.
    pub async fn digest(&self, fresh: bool) -> Result<Arc<Digest>, StoreError> {
        let asked_ms = self.clock.monotonic_ms();
        let mut sums = self.sums.lock().await;
        let now_ms = self.clock.monotonic_ms();
        // Who waited for another's scan that began later than the question takes its result.
        if let Some((begun_ms, _, digest)) = sums.as_ref()
            && *begun_ms >= asked_ms
        {
            return Ok(Arc::clone(digest));
        }
        if let Some((_, made_ms, digest)) = sums.as_ref()
            && !fresh
            && Duration::from_millis(now_ms.saturating_sub(*made_ms)) < self.sums_age
        {
            return Ok(Arc::clone(digest));
        }
        let digest = Arc::new(self.store.digest().await?);
        *sums = Some((now_ms, self.clock.monotonic_ms(), Arc::clone(&digest)));
        Ok(digest)
    }

    /// Draws the conclusions from a merge.
    fn take_note(&self, report: &MergeReport) {
        let now_ms = self.clock.monotonic_ms();
        for row in &report.changed {
            self.board.saw(row, now_ms);
        }
        // What came in raised the own ceilings, which peers keep a copy of.
        let raised = report.credited.keys().map(|key| (key.clone(), StockDelta::default()));
        self.dirty.mark(&raised.collect::<StockDeltas>());
        for (key, error) in &report.refused {
            let (sku, node) = (&key.sku, &key.node);
            tracing::error!(%sku, %node, %error, "a peer's row is not merged: {error}");
            if matches!(error, MergeError::Amnesia { .. }) {
                (self.on_amnesia)(key, error);
            }
        }
    }
}
