//! Orders get another home.
//!
//! A home that is given up moves its orders away itself, as the last thing it writes of them; what is undecided stays,
//! since only its home has what the provider is to be asked with. From then on the other region writes them.

use crate::domain::order::{EventBody, OrderStatus};
use crate::ports::Needs;
use crate::types::{OrderId, RegionId};

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
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> u64 {
        let (from, to) = (workspace.region.id, self.to);
        let mut moved = 0;
        for id in &self.orders {
            let may_move = workspace.view.orders.get(id).is_some_and(|record| {
                record.order.home_region == from && record.order.status() == OrderStatus::Confirmed
            });
            if may_move {
                let mut made = workspace.change_order(Some(*id));
                let stamp = workspace.tick();
                let event = EventBody::Moved { from, to };
                made.push(stamp, event).expect("the home was looked at before");
                workspace.write_order(made, None);
                moved += 1;
            }
        }
        moved
    }
}
