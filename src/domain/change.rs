//! What a commit tells the other regions.

use serde::{Deserialize, Serialize};

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::IntentRecord;
use crate::domain::order::Event;
use crate::types::OrderId;

/// One change, as it travels in an envelope's payload. Payload schemas only grow; an envelope with a
/// change of an unknown kind is parked as a whole, never dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// New events of an order.
    Order(OrderChange),
    /// A product as it is now.
    Product(Product),
    /// A node as it is now.
    Node(Node),
}

/// New events of one order, and the intent that placed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrderChange {
    /// Which.
    pub order_id: OrderId,
    /// Travels with the placement, so that a retry in another region finds the order (I-07).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentRecord>,
    /// In order, without a gap.
    pub events: Vec<Event>,
    /// The home tells the whole order, as many events a commit: some of them, or all, may be known. So it does when it
    /// begins anew, and always of an order that has moved, since the homes before told the rest in outboxes of their
    /// own. Else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retold: Vec<usize>,
}

impl OrderChange {
    /// The whole of an order, as it was committed.
    pub fn retelling(
        order_id: OrderId,
        intent: Option<IntentRecord>,
        commits: &[Vec<Event>],
    ) -> Self {
        let retold = commits.iter().map(Vec::len).collect();
        Self { order_id, intent, events: commits.concat(), retold }
    }

    /// The events as they were committed together; those of an order told again by the commits of then.
    pub fn commits(&self) -> Vec<&[Event]> {
        if self.retold.is_empty() {
            return vec![&self.events];
        }
        let mut rest = self.events.as_slice();
        let mut commits = Vec::with_capacity(self.retold.len());
        for count in &self.retold {
            let (commit, behind) = rest.split_at((*count).min(rest.len()));
            commits.push(commit);
            rest = behind;
        }
        commits
    }
}

/// The payload of an envelope.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Payload {
    /// What one commit group decided.
    pub changes: Vec<Change>,
}
