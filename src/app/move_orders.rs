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
        let mut last = String::new();
        for _ in 0..DECISIONS_MAX {
            let view = self.store.load(&needs).await?;
            let mut workspace = Workspace::new(view, self.region);
            let moved = decide(&mut workspace);
            if workspace.changes.is_empty() {
                return Ok(0);
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
                Err(CommitError::Unknown(why)) => last = why,
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
