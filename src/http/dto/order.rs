//! Orders and their events in answers, as the contract names them.
//!
//! Written straight from the stored order into bytes: thousands a second leave here.

use axum::body::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::order::{
    Allocation, AllocationState, Event, Line, Order, OrderRecord, OrderStatus, Payment,
    PaymentState,
};
use crate::types::{Currency, RegionId};

use super::{MoneyOut, rfc3339};

/// An order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Order)]
pub(in crate::http) struct OrderOut<'a> {
    /// Tells the home region.
    #[schema(value_type = uuid::Uuid)]
    id: crate::types::OrderId,
    /// For people.
    number: &'a str,
    /// The only region that writes it.
    #[schema(value_type = String)]
    home_region: RegionId,
    /// Where it came from.
    channel: &'a str,
    /// The channel's own name of it.
    channel_order_ref: Option<&'a str>,
    /// Whose; `null` for guests.
    customer_id: Option<&'a str>,
    /// Where it stands as a whole.
    status: &'static str,
    /// Where the money stands.
    payment_status: &'static str,
    /// Where the goods stand.
    fulfillment_status: &'static str,
    /// Of every amount in it.
    #[schema(value_type = String)]
    currency: Currency,
    /// What was ordered.
    lines: Vec<LineOut<'a>>,
    /// The sum of the lines before discounts.
    subtotal: MoneyOut,
    /// Taken off.
    discount_total: MoneyOut,
    /// For sending it.
    shipping_total: MoneyOut,
    /// Taxes.
    tax_total: MoneyOut,
    /// To be paid.
    total: MoneyOut,
    /// How it is paid.
    payments: Vec<PaymentOut<'a>>,
    /// What was sent.
    #[schema(value_type = Vec<Object>)]
    shipments: [(); 0],
    /// Where placing it stands.
    saga: SagaStatus,
    /// Why it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancellation: Option<CancellationOut<'a>>,
    /// Raised by every change; the `ETag`.
    version: u64,
    /// When it was taken.
    created_at: String,
    /// When it last changed.
    updated_at: String,
    /// In a region that is not its home: the time up to which this copy is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_as_of: Option<String>,
}

/// A line of an order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = OrderLine)]
struct LineOut<'a> {
    /// Unique.
    #[schema(value_type = uuid::Uuid)]
    id: crate::types::LineId,
    /// What.
    sku: &'a str,
    /// How many.
    quantity: u32,
    /// Of one, as it was when the order was placed.
    unit_price: MoneyOut,
    /// Taken off.
    discount: MoneyOut,
    /// Taxes.
    tax: MoneyOut,
    /// To be paid for the line.
    total: MoneyOut,
    /// Where the units are held for it.
    allocations: Vec<AllocationOut<'a>>,
    /// Sent.
    quantity_shipped: u32,
    /// Arrived.
    quantity_delivered: u32,
    /// Won't be sent.
    quantity_cancelled: u32,
    /// Came back.
    quantity_returned: u32,
    /// Will be sent when there are some.
    quantity_backordered: u32,
    /// Where it stands.
    status: &'static str,
}

/// Units held at a node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Allocation)]
struct AllocationOut<'a> {
    /// Where.
    node: &'a str,
    /// How many.
    quantity: u32,
}

/// A payment of an order.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Payment)]
struct PaymentOut<'a> {
    /// Unique.
    #[schema(value_type = uuid::Uuid)]
    id: crate::types::PaymentId,
    /// E.g. `card`.
    method: &'a str,
    /// Who holds the money.
    gateway: &'a str,
    /// The provider's name for it.
    gateway_reference: Option<&'a str>,
    /// How much is held, or was to be.
    amount: MoneyOut,
    /// `pending`, `authorized`, `declined` or `voided`.
    status: &'static str,
    /// Taken of what is held.
    captured: MoneyOut,
    /// Given back of what was taken.
    refunded: MoneyOut,
}

/// Where placing the order stands.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
struct SagaStatus {
    /// `running`, `completed` or `compensated`.
    status: &'static str,
}

/// Why an order was cancelled.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Cancellation)]
struct CancellationOut<'a> {
    /// Stable, e.g. `payment_declined`.
    code: &'a str,
    /// For people.
    detail: &'a str,
}

impl<'a> OrderOut<'a> {
    /// Of an order that is at home here.
    pub(in crate::http) fn of(record: &'a OrderRecord) -> Self {
        let order = &record.order;
        let money = |amount| MoneyOut { amount, currency: order.currency };
        Self {
            id: order.id,
            number: &order.number,
            home_region: order.home_region,
            channel: &order.channel,
            channel_order_ref: order.channel_order_ref.as_deref(),
            customer_id: order.customer_id.as_ref().map(crate::types::CustomerId::as_str),
            status: order.status().as_str(),
            payment_status: order.payment_status().as_str(),
            fulfillment_status: order.fulfillment_status().as_str(),
            currency: order.currency,
            lines: order.lines.iter().map(|line| line_out(line, order.currency)).collect(),
            subtotal: money(order.subtotal_minor()),
            discount_total: money(0),
            shipping_total: money(0),
            tax_total: money(0),
            total: money(order.total_minor()),
            payments: order.payments.iter().map(|paid| payment_out(paid, order.currency)).collect(),
            shipments: [],
            saga: saga_status(order),
            cancellation: order
                .cancellation
                .as_ref()
                .map(|why| CancellationOut { code: &why.code, detail: &why.detail }),
            version: record.version,
            created_at: rfc3339(order.created_at_ms),
            updated_at: rfc3339(order.updated_at_ms),
            stale_as_of: None,
        }
    }

    /// Marks it as a copy that is complete up to a time.
    #[must_use]
    pub(in crate::http) fn stale_as_of(self, wall_ms: u64) -> Self {
        Self { stale_as_of: Some(rfc3339(wall_ms)), ..self }
    }

    /// The body of an answer.
    pub(in crate::http) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("plain values").into()
    }
}

fn saga_status(order: &Order) -> SagaStatus {
    let status = match order.status() {
        OrderStatus::Pending => "running",
        OrderStatus::Confirmed => "completed",
        OrderStatus::Cancelled => "compensated",
    };
    SagaStatus { status }
}

fn line_out(line: &Line, currency: Currency) -> LineOut<'_> {
    let money = |amount| MoneyOut { amount, currency };
    let held = |allocation: &&Allocation| allocation.state == AllocationState::Held;
    LineOut {
        id: line.id,
        sku: line.sku.as_str(),
        quantity: line.quantity,
        unit_price: money(line.unit_minor),
        discount: money(0),
        tax: money(0),
        total: money(line.total_minor()),
        allocations: line
            .allocations
            .iter()
            .filter(held)
            .map(|held| AllocationOut { node: held.node.as_str(), quantity: held.quantity })
            .collect(),
        quantity_shipped: 0,
        quantity_delivered: 0,
        quantity_cancelled: line.cancelled,
        quantity_returned: 0,
        quantity_backordered: 0,
        status: line.status().as_str(),
    }
}

fn payment_out(payment: &Payment, currency: Currency) -> PaymentOut<'_> {
    let money = |amount| MoneyOut { amount, currency };
    PaymentOut {
        id: payment.id,
        method: &payment.method,
        gateway: &payment.gateway,
        gateway_reference: payment.reference.as_deref(),
        amount: money(payment.amount_minor),
        status: match payment.state {
            PaymentState::Pending => "pending",
            PaymentState::Authorized => "authorized",
            PaymentState::Declined(_) => "declined",
            PaymentState::Voided => "voided",
        },
        captured: money(0),
        refunded: money(0),
    }
}

/// One event of the audit trail.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Event)]
pub(in crate::http) struct EventOut<'a> {
    /// 1..n without a gap.
    seq: u64,
    /// What happened.
    r#type: &'a str,
    /// Status of the order before.
    from_status: Option<&'a str>,
    /// Status of the order after.
    to_status: &'a str,
    /// Who wrote it.
    #[schema(value_type = String)]
    region: RegionId,
    /// In which incarnation of the region.
    #[schema(value_type = u32)]
    epoch: crate::types::Epoch,
    /// When, by the region's hybrid logical clock; sorts.
    #[schema(value_type = String)]
    hlc: crate::types::HlcTimestamp,
    /// When, for people.
    at: String,
    /// What else it says, to the byte as it was hashed.
    #[schema(value_type = Object)]
    data: &'a RawValue,
    /// Hex SHA-256 of `data`.
    payload_hash: &'a str,
    /// Hex SHA-256 over the chain hash before and every field of this event.
    chain_hash: &'a str,
}

impl<'a> EventOut<'a> {
    pub(in crate::http) fn of(event: &'a Event) -> Self {
        Self {
            seq: event.seq,
            r#type: &event.kind,
            from_status: event.from_status.as_deref(),
            to_status: &event.to_status,
            region: event.region,
            epoch: event.epoch,
            hlc: event.hlc,
            at: rfc3339(event.hlc.wall_ms),
            data: &event.data,
            payload_hash: &event.payload_hash,
            chain_hash: &event.chain_hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::confirmed_order;

    #[test]
    fn an_order_has_the_members_of_the_contract() {
        let record = confirmed_order();
        let mut value: serde_json::Value =
            serde_json::from_slice(&OrderOut::of(&record).to_bytes()).unwrap();
        let golden = expect_test::expect_file!["order.golden.json"];
        golden.assert_eq(&format!("{value:#}\n"));
        assert!(value.as_object_mut().unwrap().remove("stale_as_of").is_none());
        let copy = OrderOut::of(&record).stale_as_of(0).to_bytes();
        let copy: serde_json::Value = serde_json::from_slice(&copy).unwrap();
        assert_eq!(copy["stale_as_of"], "1970-01-01T00:00:00.000Z");
    }
}
