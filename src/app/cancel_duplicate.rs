//! One intent, one standing order (I-07): when two regions took the same intent because the first could
//! not be asked, all but one of the orders are cancelled once they know of each other.
//!
//! The rule is fixed and needs no agreement: of two orders that stand, the one with the lower stamp
//! stays. The money was held once, because the provider's key comes from the intent and not from the
//! order, so the order that yields gives back its units and leaves the money to the one that stays.

use crate::domain::order::{OrderRecord, OrderStatus};
use crate::ports::{Needs, Reader, StoreError};
use crate::saga::CompensationReason;
use crate::types::OrderId;

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
            let ours_is_later =
                (own.created_hlc, own.order.id) > (other.created_hlc, other.order.id);
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
    type Answer = ();

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.orders.extend([self.own, self.other]);
    }

    fn decide(&self, workspace: &mut Workspace<'_>) {
        let orders = &workspace.view.orders;
        let (Some(own), Some(other)) = (orders.get(&self.own), orders.get(&self.other)) else {
            return;
        };
        if own.order.home_region == workspace.region.id && rule(own, other) == Ruling::Yield {
            let own = own.clone();
            advance_saga::cancel(workspace, &own, &CompensationReason::Duplicate, &[]);
        }
    }
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
                tracing::info!(order = %own, %other, region = %region.id, "yields to the order of the same intent");
                match writer.submit(CancelDuplicate { own, other }).await {
                    Ok(_) => yielded += 1,
                    Err(error) => tracing::warn!(order = %own, %error, "could not yield yet"),
                }
            }
        }
    }
    Ok(yielded)
}
