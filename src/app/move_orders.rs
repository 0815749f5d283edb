//! Orders get another home.
//!
//! A home that is given up moves its orders away itself, as the last thing it writes of them; what is undecided stays,
//! since only its home has what the provider is to be asked with. From then on the other region writes them.

use std::sync::Arc;

use crate::domain::order::{EventBody, OrderRecord, OrderStatus};
use crate::ports::Needs;
use crate::types::{OrderId, RegionId, SagaId};

use super::{Command, Workspace};

/// Moves own orders to another region.
pub struct MoveOrders {
    /// Which.
    pub orders: Vec<OrderId>,
    /// Where to.
    pub to: RegionId,
}

impl Command for MoveOrders {
    /// How many have moved. The others are undecided, gone already, or cancelled.
    type Answer = u64;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.orders.extend(self.orders.iter().copied());
        needs.sagas.extend(self.orders.iter().map(|id| SagaId(id.0)));
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> u64 {
        let (from, to) = (workspace.region.id, self.to);
        let mut moved = 0;
        for id in &self.orders {
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
