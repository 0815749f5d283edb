//! The state of an order, as it is stored in its document and copied to the other regions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{
    Actor, Currency, CustomerId, Epoch, HlcTimestamp, LineId, NodeId, OrderId, PaymentId, RegionId,
    ReservationId, Sku, StockKey,
};

/// An order. Money is in minor units of [`Order::currency`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Tells the region that placed it.
    pub id: OrderId,
    /// For people.
    pub number: String,
    /// The only region that writes this order (I-13).
    pub home_region: RegionId,
    /// Present once the order has moved to another home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Placed while its region was not sure to be the only one to act on it: until it is decided, no other
    /// region takes it over without a person's word.
    #[serde(default, skip_serializing_if = "is_false")]
    pub alone: bool,
    /// `web`, `mobile`, `pos` or `marketplace:<name>`.
    pub channel: String,
    /// The channel's own name of the order; unique in its channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_order_ref: Option<String>,
    /// Absent for guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<CustomerId>,
    /// For notifications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Of every amount in the order.
    pub currency: Currency,
    /// At least one.
    pub lines: Vec<Line>,
    /// E.g. `standard`.
    pub shipping_option: String,
    /// Where it goes.
    pub shipping_address: Address,
    /// Where the bill goes, if elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing_address: Option<Address>,
    /// Empty only when there is nothing to pay.
    pub payments: Vec<Payment>,
    /// May be sent from several nodes.
    pub allow_split: bool,
    /// Wall time.
    pub created_at_ms: u64,
    /// Wall time of the last event.
    pub updated_at_ms: u64,
    /// Why it was cancelled as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<Cancellation>,
}

/// What is remembered of an order that has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The region that placed it, under whose rights its units are held.
    pub placed_in: RegionId,
    /// How often. Of two histories of one order that part, the one with more moves stands: who wrote the other
    /// was no longer, or never, its home.
    pub times: u32,
}

/// One SKU and quantity at a captured unit price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Unique.
    pub id: LineId,
    /// What.
    pub sku: Sku,
    /// How many were ordered.
    pub quantity: u32,
    /// Price of one.
    pub unit_minor: i64,
    /// Where the units are held.
    pub allocations: Vec<Allocation>,
    /// Units that won't be sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cancelled: u32,
}

/// A hold on units of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Taken once, ended once (I-03).
    pub reservation_id: ReservationId,
    /// Where the units lie.
    pub node: NodeId,
    /// How many.
    pub quantity: u32,
    /// Under the rights of which incarnation of the region that placed the order they were taken: only that one can
    /// give them back.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: Epoch,
    /// What became of it.
    pub state: AllocationState,
}

fn first_epoch() -> Epoch {
    Epoch::FIRST
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first_epoch(epoch: &Epoch) -> bool {
    *epoch == Epoch::FIRST
}

/// The life of a hold: taken once, ended once (I-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationState {
    /// The units are the order's.
    Held,
    /// Given back.
    Released,
}

/// One payment of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Unique.
    pub id: PaymentId,
    /// E.g. `card`.
    pub method: String,
    /// Which provider.
    pub gateway: String,
    /// Names the intent to the provider, for ever (I-07).
    pub provider_key: String,
    /// How much is to be held.
    pub amount_minor: i64,
    /// What the provider said.
    pub state: PaymentState,
    /// The provider's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The life of a payment, as far as a placement takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// The provider was not asked yet, or has not said.
    Pending,
    /// Money is held.
    Authorized,
    /// Nothing is held; the provider's reason.
    Declined(String),
    /// Nothing is held any more, or ever will be under this key.
    Voided,
}

/// Why an order was cancelled as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// Stable, e.g. `payment_declined`, `fraud_rejected`, `duplicate`.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A postal address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Recipient.
    pub name: String,
    /// Street.
    pub line1: String,
    /// Further part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    /// Town.
    pub city: String,
    /// State, province or the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Postal code.
    pub postal_code: String,
    /// ISO 3166 alpha-2.
    pub country: String,
}

/// An order with what its last event says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRecord {
    /// The state.
    pub order: Order,
    /// The sequence of its last event, which is its version.
    pub version: u64,
    /// The chain hash of its last event.
    pub chain_hash: String,
    /// The stamp of its first event.
    pub created_hlc: HlcTimestamp,
    /// The stamp of its last event.
    pub updated_hlc: HlcTimestamp,
}

impl OrderRecord {
    /// Of two orders of which only one may stand, the one that comes first stays.
    pub fn precedence(&self) -> (HlcTimestamp, OrderId) {
        (self.created_hlc, self.order.id)
    }
}

impl Line {
    /// Price of all units.
    pub fn total_minor(&self) -> i64 {
        self.unit_minor * i64::from(self.quantity)
    }
}

impl Order {
    /// The region that placed it.
    pub fn placed_in(&self) -> RegionId {
        self.moved.map_or(self.home_region, |moved| moved.placed_in)
    }

    /// The units that it holds under the rights of one incarnation, by key.
    pub fn held_under(&self, owner: Actor) -> BTreeMap<StockKey, u64> {
        let mut held = BTreeMap::new();
        if self.placed_in() != owner.region {
            return held;
        }
        for line in &self.lines {
            let under =
                |it: &&Allocation| it.state == AllocationState::Held && it.epoch == owner.epoch;
            for allocation in line.allocations.iter().filter(under) {
                let key = StockKey { sku: line.sku.clone(), node: allocation.node.clone() };
                *held.entry(key).or_default() += u64::from(allocation.quantity);
            }
        }
        held
    }

    /// The sum of the lines, as ordered.
    pub fn subtotal_minor(&self) -> i64 {
        self.lines.iter().map(Line::total_minor).sum()
    }

    /// What the customer is to pay.
    pub fn total_minor(&self) -> i64 {
        self.subtotal_minor()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !*value
}
