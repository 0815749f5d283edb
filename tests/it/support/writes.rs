//! Change sets as use cases make them, small enough to read.

use entrepot::domain::catalogue::Product;
use entrepot::domain::idempotency::{IntentKey, IntentRecord};
use entrepot::domain::order::{EventBody, EventMaker, OrderRecord};
use entrepot::ports::store::OrderWrite;
use entrepot::ports::{ChangeSet, Stamp};
use entrepot::types::{Epoch, HlcTimestamp, OrderId, RegionId, RegionNumber, uuid_v7};

/// A stamp of a region; higher ones are later.
pub(crate) fn hlc(region: RegionId, time: u64) -> HlcTimestamp {
    HlcTimestamp { wall_ms: time, logical: 0, region }
}

pub(crate) fn stamp(region: RegionId, time: u64) -> Stamp {
    Stamp { epoch: Epoch::FIRST, hlc: hlc(region, time), now_ms: time }
}

/// One product as its only change.
pub(crate) fn product(region: RegionId, sku: &str, time: u64) -> ChangeSet {
    described(region, sku, time, "")
}

/// The same with a text of any length.
pub(crate) fn described(region: RegionId, sku: &str, time: u64, description: &str) -> ChangeSet {
    let product = Product {
        sku: sku.parse().unwrap(),
        name: format!("as of {time}"),
        description: description.to_owned(),
        category: String::new(),
        tax_class: "standard".to_owned(),
        weight_grams: 1,
        prices: [].into(),
        preorder_release_at: None,
        hlc: hlc(region, time),
    };
    ChangeSet { products: [(product.sku.clone(), product)].into(), ..ChangeSet::default() }
}

pub(crate) fn order_id(number: u8, serial: u64) -> OrderId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&serial.to_be_bytes());
    let home = RegionNumber(std::num::NonZeroU8::new(number).unwrap());
    OrderId::new(uuid_v7(1_700_000_000_000 + serial, random), home)
}

/// A new order of nothing much.
pub(crate) fn placed(region: RegionId, id: OrderId, time: u64) -> OrderWrite {
    placed_with(region, id, time, serde_json::json!({}))
}

/// A new order that stands, under a channel's own reference.
pub(crate) fn referenced(
    region: RegionId,
    id: OrderId,
    time: u64,
    reference: &str,
    customer: &str,
) -> OrderWrite {
    let line = serde_json::json!({
        "id": id, "sku": "x", "quantity": 1, "unit_minor": 0, "allocations": [],
    });
    let more = serde_json::json!({
        "channel_order_ref": reference, "customer_id": customer, "lines": [line],
    });
    placed_with(region, id, time, more)
}

/// A new order whose money nobody has asked for yet.
pub(crate) fn unpaid(region: RegionId, id: OrderId, time: u64) -> OrderWrite {
    let line = serde_json::json!({
        "id": id, "sku": "x", "quantity": 1, "unit_minor": 100, "allocations": [],
    });
    let payment = serde_json::json!({
        "id": id, "method": "card", "gateway": "simulator", "provider_key": id.to_string(),
        "amount_minor": 100, "state": "pending",
    });
    placed_with(region, id, time, serde_json::json!({"lines": [line], "payments": [payment]}))
}

pub(crate) fn placed_with(
    region: RegionId,
    id: OrderId,
    time: u64,
    mut more: serde_json::Value,
) -> OrderWrite {
    let mut order = serde_json::json!({
        "id": id, "number": id.to_string(), "home_region": region, "channel": "web",
        "currency": "EUR", "lines": [], "shipping_option": "standard", "payments": [],
        "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
        "allow_split": true, "created_at_ms": time, "updated_at_ms": time,
    });
    order.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    let order = serde_json::from_value(order).unwrap();
    next(region, None, time, EventBody::Placed(Box::new(order)))
}

/// One more event of an order.
pub(crate) fn next(
    region: RegionId,
    before: Option<OrderRecord>,
    time: u64,
    body: EventBody,
) -> OrderWrite {
    let expected_version = before.as_ref().map_or(0, |record| record.version);
    let mut maker = EventMaker::new(region, Epoch::FIRST, before);
    maker.push(hlc(region, time), body).unwrap();
    let (record, events) = maker.finish();
    OrderWrite { record: record.into(), expected_version, events, intent: None }
}

pub(crate) fn orders(writes: impl IntoIterator<Item = OrderWrite>) -> ChangeSet {
    let orders = writes.into_iter().map(|write| (write.record.order.id, write)).collect();
    ChangeSet { orders, ..ChangeSet::default() }
}

/// An order together with the client's intent that placed it.
pub(crate) fn placed_for(region: RegionId, id: OrderId, key: &str, time: u64) -> ChangeSet {
    let intent = IntentRecord {
        intent: IntentKey { principal: "customer:c1".to_owned(), key: key.to_owned() },
        region,
        body_hash: "same".to_owned(),
        order_id: Some(id),
        answer: None,
        first_at_ms: time,
    };
    let write = OrderWrite { intent: Some(intent.clone()), ..placed(region, id, time) };
    ChangeSet { intents: vec![intent], ..orders([write]) }
}
