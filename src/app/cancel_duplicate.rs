//! One intent, one standing order (I-07): when two regions took the same intent because the first could
//! not be asked, all but one of the orders are cancelled once they know of each other. The same goes for
//! two orders of one customer under one reference of a channel.
//!
//! The rule is fixed and needs no agreement: of two orders that stand, the one with the lower stamp
//! stays. The money of one intent was held once, because the provider's key comes from the intent and
//! not from the order, so the order that yields gives back its units and leaves the money to the one
//! that stays. Two intents with one reference held money each: the order that yields has its own voided
//! first, by its saga, which is taken up again for that.

use std::collections::BTreeSet;

use crate::domain::order::{OrderRecord, OrderStatus};
use crate::ports::{Needs, Reader, StoreError};
use crate::saga::{CompensationReason, SagaState, Step};
use crate::types::{OrderId, SagaId};

use super::{Command, Region, Workspace, Writer, advance_saga};

/// Contested orders looked at in one round.
const CONTESTED_MAX: u32 = 256;

/// What the rule says of our order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruling {
    /// Cancel ours.
    Yield,
    /// Nothing to do, now or later.
    Settled,
    /// One of the two is still on its way, or the other must yield and has not yet.
    NotYet,
}

fn rule(own: &OrderRecord, other: &OrderRecord) -> Ruling {
    use OrderStatus::{Cancelled, Confirmed, Pending};
    match (own.order.status(), other.order.status()) {
        (Cancelled, _) | (Confirmed, Cancelled) => Ruling::Settled,
        (Pending, _) | (_, Pending) => Ruling::NotYet,
        (Confirmed, Confirmed) => {
            let ours_is_later = own.precedence() > other.precedence();
            if ours_is_later { Ruling::Yield } else { Ruling::NotYet }
        }
    }
}

/// Cancels an own order in favor of another region's.
pub struct CancelDuplicate {
    /// Ours.
    pub own: OrderId,
    /// The one that stays.
    pub other: OrderId,
}

impl Command for CancelDuplicate {
    /// It yields, now.
    type Answer = bool;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.orders.extend([self.own, self.other]);
        needs.sagas.insert(SagaId(self.own.0));
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> bool {
        let orders = &workspace.view.orders;
        let (Some(own), Some(other)) = (orders.get(&self.own), orders.get(&self.other)) else {
            return false;
        };
        if own.order.home_region != workspace.region.id || rule(own, other) != Ruling::Yield {
            return false;
        }
        if share_money(own, other) {
            let own = own.clone();
            advance_saga::cancel(workspace, &own, &CompensationReason::Duplicate, &[]);
            return true;
        }
        take_up_again(workspace, SagaId(self.own.0))
    }
}

/// What the provider holds for one it holds for the other.
fn share_money(own: &OrderRecord, other: &OrderRecord) -> bool {
    let keys = |record: &OrderRecord| -> BTreeSet<String> {
        record.order.payments.iter().map(|payment| payment.provider_key.clone()).collect()
    };
    keys(own).is_subset(&keys(other))
}

/// Has the saga of a confirmed order undo it. `false` when it does so already.
fn take_up_again(workspace: &mut Workspace<'_>, id: SagaId) -> bool {
    let completed = workspace.saga(id).filter(|saga| saga.state == SagaState::Completed);
    let Some(mut saga) = completed.cloned() else { return false };
    let now_ms = workspace.now_ms;
    saga.note(Step::Void, CompensationReason::Duplicate.code(), now_ms);
    saga.state = SagaState::Compensating;
    saga.step = Step::Void;
    saga.attempts = 0;
    saga.reason = Some(CompensationReason::Duplicate);
    saga.due_at_ms = now_ms;
    workspace.write_saga(saga);
    true
}

/// Looks at every contested order of this region. Answers how many yielded.
pub async fn settle_contested(
    region: &Region,
    reader: &dyn Reader,
    writer: &Writer,
) -> Result<usize, StoreError> {
    let mut yielded = 0;
    for pair in reader.contested(CONTESTED_MAX).await? {
        match rule(&pair.own, &pair.other) {
            Ruling::NotYet => {}
            Ruling::Settled => reader.settled(pair.own.order.id, pair.other.order.id).await?,
            Ruling::Yield => {
                let (own, other) = (pair.own.order.id, pair.other.order.id);
                match writer.submit(CancelDuplicate { own, other }).await {
                    Ok((true, _)) => {
                        tracing::info!(order = %own, %other, region = %region.id, "yields to the other region's order");
                        yielded += 1;
                    }
                    Ok((false, _)) => {}
                    Err(error) => tracing::warn!(order = %own, %error, "could not yield yet"),
                }
            }
        }
    }
    Ok(yielded)
}
