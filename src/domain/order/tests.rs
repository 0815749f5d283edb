//! An order's events: only legal ones, and none that was changed.

use serde_json::json;
use serde_json::value::RawValue;

use super::event::{
    ChainVerdict, CopyError, Event, EventBody, EventMaker, fold_copy, verify_chain,
};
use super::fold::FoldError;
use super::{Cancellation, OrderRecord};
use crate::types::{Epoch, HlcTimestamp, PaymentId, RegionId};

fn region() -> RegionId {
    "a".parse().unwrap()
}

fn hlc(wall_ms: u64) -> HlcTimestamp {
    HlcTimestamp { wall_ms, logical: 0, region: region() }
}

fn payment() -> PaymentId {
    PaymentId(uuid::Uuid::from_u128(7))
}

fn placed() -> EventBody {
    let id = "01a1fc10-9d4c-7e5c-b4d9-28fcba41f401";
    let address =
        json!({"name": "A", "line1": "B", "city": "C", "postal_code": "1", "country": "DE"});
    let payment = json!({
        "id": payment(), "method": "card", "gateway": "simulator", "provider_key": "k",
        "amount_minor": 5, "state": "pending",
    });
    let allocation = json!({"reservation_id": id, "node": "n", "quantity": 1, "state": "held"});
    let line = json!({
        "id": id, "sku": "S", "quantity": 1, "unit_minor": 5, "allocations": [allocation],
        "cancelled": 0,
    });
    let order = json!({
        "id": id, "number": "1-1", "home_region": "a", "channel": "web", "currency": "EUR",
        "lines": [line], "shipping_option": "standard", "shipping_address": address,
        "payments": [payment], "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
    });
    EventBody::Placed(Box::new(serde_json::from_value(order).unwrap()))
}

fn authorized() -> EventBody {
    EventBody::PaymentAuthorized { payment_id: payment(), reference: "r".to_owned() }
}

fn cancelled() -> EventBody {
    EventBody::Cancelled(Cancellation { code: "c".to_owned(), detail: "d".to_owned() })
}

/// What these events make, one after the other.
fn made(
    bodies: impl IntoIterator<Item = EventBody>,
) -> Result<(OrderRecord, Vec<Event>), FoldError> {
    let mut made = EventMaker::new(region(), Epoch::FIRST, None);
    for (body, wall_ms) in bodies.into_iter().zip(1..) {
        made.push(hlc(wall_ms), body)?;
    }
    Ok(made.finish())
}

/// I-08.
#[test]
fn nothing_leaves_a_terminal_status() {
    made([placed(), authorized(), EventBody::Confirmed {}, cancelled()]).unwrap();
    assert_eq!(made([placed(), EventBody::Confirmed {}]).unwrap_err(), FoldError::NotAuthorized);
    assert_eq!(made([placed(), placed()]).unwrap_err(), FoldError::PlacedTwice);
    assert!(matches!(made([cancelled()]), Err(FoldError::NotPlaced(_))));
    // Back from confirmed to pending.
    let undecided = EventBody::PaymentVoided { payment_id: payment(), reference: None };
    let back = made([placed(), authorized(), EventBody::Confirmed {}, undecided]);
    assert!(matches!(back, Err(FoldError::IllegalTransition { .. })), "{back:?}");
}

/// I-19, I-28.
#[test]
fn a_change_of_any_part_of_any_event_is_noticed() {
    let (record, events) =
        made([placed(), authorized(), EventBody::Confirmed {}, cancelled()]).unwrap();
    let id = record.order.id;
    assert_eq!(verify_chain(id, &events), ChainVerdict::Intact);
    assert_eq!(fold_copy(None, id, &events).unwrap(), Some(record));
    let changes: [fn(&mut Event); 8] = [
        |event| event.kind.push('x'),
        |event| event.from_status = Some("x".to_owned()),
        |event| event.to_status.push('x'),
        |event| event.region = "b".parse().unwrap(),
        |event| event.epoch = Epoch(9),
        |event| event.hlc.logical += 1,
        |event| event.payload_hash.push('x'),
        |event| event.data = RawValue::from_string("{ }".to_owned()).unwrap(),
    ];
    for (place, seq) in (0..events.len()).zip(1..) {
        for change in changes {
            let mut changed = events.clone();
            change(&mut changed[place]);
            assert_eq!(verify_chain(id, &changed), ChainVerdict::BrokenAt(seq));
            let refused = fold_copy(None, id, &changed).unwrap_err();
            assert_eq!(refused, CopyError::Chain(seq));
        }
    }
    let without_the_second = [&events[..1], &events[2..]].concat();
    assert_eq!(verify_chain(id, &without_the_second), ChainVerdict::BrokenAt(2));
    let gap = fold_copy(None, id, &without_the_second).unwrap_err();
    assert_eq!(gap, CopyError::Gap { have: 1, got: 3 });
}
