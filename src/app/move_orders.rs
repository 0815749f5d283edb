//! Orders get another home.
//!
//! A home that is given up moves its orders away itself, as the last thing it writes of them; what is undecided stays,
//! since only its home has what the provider is to be asked with. From then on the other region writes them. Whoever acts for
//! a lost home moves them to itself.
//!
//! Each move rests on a [`Mandate`] that may end while a process stands still: the database looks at it with each commit.

use std::sync::Arc;

use crate::domain::order::{EventBody, OrderRecord, OrderStatus};
use crate::ports::store::{Mandate, NO_MANDATE};
use crate::ports::{CommitError, Needs, Stamp, Store, StoreError};
use crate::types::{OrderId, RegionId, SagaId};

use super::{Region, Signals, Workspace};

/// How often a group of moves is decided again because something changed meanwhile.
const DECISIONS_MAX: u32 = 20;

/// Why orders did not move. Those of earlier transactions have.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// It has ended, or somebody else has one.
    #[error("{NO_MANDATE}; none was moved by this try")]
    NoMandate,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database, or its state.
    #[error("orders could not be moved: {0}")]
    Commit(String),
}

/// Commits moves, in transactions of their own: shoppers' orders must not wait for them, nor fail with them.
pub(super) struct Moves<'a> {
    pub(super) region: &'a Region,
    pub(super) store: &'a dyn Store,
    pub(super) signals: &'a Signals,
    pub(super) mandate: Mandate,
}

impl Moves<'_> {
    /// Answers how many orders have moved: those that `decide` moves, and counts.
    pub(super) async fn commit(
        &self,
        orders: &[OrderId],
        decide: impl Fn(&mut Workspace<'_>) -> u64,
    ) -> Result<u64, MoveError> {
        let mut needs = Needs::default();
        needs.orders.extend(orders.iter().copied());
        needs.sagas.extend(orders.iter().map(|id| SagaId(id.0)));
        let (mut last, mut unknown) = (String::new(), None);
        for _ in 0..DECISIONS_MAX {
            let view = self.store.load(&needs).await?;
            let mut workspace = Workspace::new(view, self.region);
            let moved = decide(&mut workspace);
            if workspace.changes.is_empty() {
                let Some(moved) = unknown else { return Ok(0) };
                // What is not known of has moved them, and nobody was woken for it.
                self.signals.outbox.notify_one();
                return Ok(moved);
            }
            workspace.changes.mandate = Some(self.mandate);
            let stamp = Stamp {
                epoch: self.region.epoch,
                hlc: workspace.last_stamp(),
                now_ms: workspace.now_ms,
            };
            match self.store.commit(&workspace.changes, stamp).await {
                Ok(_) => {
                    self.signals.outbox.notify_one();
                    return Ok(moved);
                }
                Err(CommitError::Conflict(NO_MANDATE)) => return Err(MoveError::NoMandate),
                Err(CommitError::Conflict(what)) => what.clone_into(&mut last),
                // Decided again on what is there now: what has moved is passed over.
                Err(CommitError::Unknown(why)) => (last, unknown) = (why, Some(moved)),
                Err(
                    error @ (CommitError::Unavailable(_)
                    | CommitError::Fenced
                    | CommitError::Draining
                    | CommitError::Broken(_)),
                ) => return Err(MoveError::Commit(error.to_string())),
            }
        }
        Err(MoveError::Commit(last))
    }
}

/// Moves own orders to another region. Answers how many: the others are undecided, gone already, or cancelled.
pub(super) fn move_away(workspace: &mut Workspace<'_>, orders: &[OrderId], to: RegionId) -> u64 {
    let from = workspace.region.id;
    let mut moved = 0;
    for id in orders {
        let may_move = workspace.view.orders.get(id).is_some_and(|record| {
            let is_confirmed = record.order.status() == OrderStatus::Confirmed;
            let saga = workspace.view.sagas.get(&SagaId(id.0));
            is_confirmed
                && saga.is_none_or(|saga| saga.state.is_over())
                && workspace.region.may_act_on(&record.order)
        });
        if may_move {
            move_order(workspace, *id, from, to);
            moved += 1;
        }
    }
    moved
}

/// Writes that an order, which is loaded and whose home is `from`, goes to `to`.
pub(super) fn move_order(
    workspace: &mut Workspace<'_>,
    id: OrderId,
    from: RegionId,
    to: RegionId,
) -> Arc<OrderRecord> {
    let mut made = workspace.change_order(Some(id));
    let stamp = workspace.tick_after(made.last_stamp());
    made.push(stamp, EventBody::Moved { from, to }).expect("the home was looked at before");
    workspace.write_order(made, None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::FutureExt as _;
    use uuid::Uuid;

    use super::*;
    use crate::domain::inventory::StockDelta;
    use crate::ports::store::{ChangeSet, Committed, View};
    use crate::runtime::{RandomIds, SystemClock};
    use crate::types::{Epoch, HlcTimestamp, RegionNumber, StockKey};

    /// It answers nothing to a commit.
    struct Breaks {
        /// What it was told before that is stored all the same.
        stores: bool,
        is_stored: AtomicBool,
        commits: AtomicUsize,
    }

    #[async_trait]
    impl Store for Breaks {
        async fn load(&self, _: &Needs) -> Result<View, StoreError> {
            Ok(View::default())
        }

        async fn commit(&self, _: &ChangeSet, _: Stamp) -> Result<Committed, CommitError> {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.is_stored.store(self.stores, Ordering::Relaxed);
            Err(CommitError::Unknown("the connection broke".to_owned()))
        }
    }

    #[tokio::test]
    async fn moves_whose_answer_is_lost_count_and_wake_whoever_ships_them() {
        let (id, clock): (RegionId, _) = ("a".parse().unwrap(), SystemClock::new());
        let region = Region::new(
            id,
            [(id, RegionNumber(std::num::NonZeroU8::MIN))].into(),
            Epoch::FIRST,
            HlcTimestamp::origin(id),
            Arc::new(clock),
            Arc::new(RandomIds::new(clock)),
        );
        for stores in [true, false] {
            let (is_stored, commits) = (AtomicBool::new(false), AtomicUsize::new(0));
            let store = Breaks { stores, is_stored, commits };
            let signals = Signals::default();
            let mandate = Mandate::Evacuation(Uuid::nil());
            let moves = Moves { region: &region, store: &store, signals: &signals, mandate };
            let decide = |workspace: &mut Workspace<'_>| {
                if store.is_stored.load(Ordering::Relaxed) {
                    return 0;
                }
                let key = StockKey { sku: "s".parse().unwrap(), node: "n".parse().unwrap() };
                workspace.change_stock(key, StockDelta { spent: 1, ..StockDelta::default() });
                3
            };
            let moved = moves.commit(&[], decide).await;
            let is_woken = signals.outbox.notified().now_or_never().is_some();
            let commits = store.commits.load(Ordering::Relaxed);
            if stores {
                assert_eq!((moved.unwrap(), is_woken, commits), (3, true, 1));
            } else {
                assert!(matches!(moved, Err(MoveError::Commit(_))));
                assert_eq!((is_woken, commits), (false, DECISIONS_MAX as usize));
            }
        }
    }
}
