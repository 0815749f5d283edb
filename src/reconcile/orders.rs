//! One order against its own events and lines, as one snapshot shows them.

use crate::domain::order::{
    AllocationState, CopyError, Event, Order, OrderRecord, OrderStatus, fold_copy,
};
use crate::types::{OrderId, RegionId};

use super::Class;

/// An order as it is stored: the document may be anything.
#[derive(Debug, Clone)]
pub struct StoredOrder {
    /// Which.
    pub id: OrderId,
    /// By its column.
    pub home: RegionId,
    /// By its column.
    pub status: String,
    /// By its column.
    pub payment_status: String,
    /// By its column.
    pub version: u64,
    /// By its column.
    pub chain_hash: String,
    /// By its columns: first and last stamp.
    pub stamps: (String, String),
    /// The state, or why it can't be read.
    pub document: Result<Order, String>,
    /// A saga of it is open.
    pub saga_open: bool,
}

/// What is wrong with an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// What kind.
    pub class: Class,
    /// What must be.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl Flaw {
    fn new(class: Class, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { class, expected: expected.into(), found: found.into() }
    }
}

/// Judges an order of this region by its own document.
pub fn judge_document(stored: &StoredOrder) -> Vec<Flaw> {
    let order = match &stored.document {
        Ok(order) => order,
        Err(why) => {
            return vec![Flaw::new(Class::OrderUnreadable, "an order's document", why.as_str())];
        }
    };
    let is_pending = order.status() == OrderStatus::Pending;
    let waits = is_pending && !stored.saga_open;
    let waits = waits.then(|| Flaw::new(Class::OrderWithoutSaga, "an open saga", "none"));
    waits.into_iter().chain(unreserved_line(order)).collect()
}

/// Judges an order, of this region or a copy, by its events, as one snapshot shows both. The first flaw counts: what
/// comes behind a broken event is not known. A document that can't be read is told elsewhere: at home by
/// [`judge_document`], of a copy by the comparison with its home, which also tells and mends a copy that is
/// not the fold.
pub fn judge_log(
    own: RegionId,
    stored: &StoredOrder,
    events: &Result<Vec<Event>, String>,
) -> Option<Flaw> {
    let order = stored.document.as_ref().ok()?;
    let flaw = judge_events(stored, order, events).err();
    flaw.filter(|flaw| stored.home == own || flaw.class != Class::FoldDiffers)
}

fn judge_events(
    stored: &StoredOrder,
    order: &Order,
    events: &Result<Vec<Event>, String>,
) -> Result<(), Flaw> {
    let events = events
        .as_ref()
        .map_err(|why| Flaw::new(Class::OrderUnreadable, "the order's events", why.as_str()))?;
    for (event, seq) in events.iter().zip(1_u64..) {
        if event.seq != seq {
            let (expected, found) = (format!("event {seq}"), format!("event {}", event.seq));
            return Err(Flaw::new(Class::EventMissing, expected, found));
        }
    }
    let folded = fold_copy(None, stored.id, events).map_err(|error| {
        let class = match error {
            CopyError::Gap { .. } => Class::EventMissing,
            CopyError::Chain(_) => Class::EventChainBroken,
            CopyError::Payload { .. } => Class::OrderUnreadable,
            CopyError::Foreign { .. } => Class::EventOfOtherRegion,
            CopyError::Fold(_) => Class::EventIllegal,
            CopyError::Status { .. } => Class::FoldDiffers,
        };
        Flaw::new(class, "the event as it was written", error.to_string())
    })?;
    if let Some([early, late]) = events.array_windows().find(|[early, late]| early.hlc >= late.hlc)
    {
        let (expected, found) = (format!("a stamp after {}", early.hlc), late.hlc.to_string());
        return Err(Flaw::new(Class::HlcWentBack, expected, found));
    }
    let Some(folded) = folded else {
        return Err(Flaw::new(Class::EventMissing, "event 1", "no event"));
    };
    if folded.version < stored.version {
        let expected = format!("events up to {}", stored.version);
        return Err(Flaw::new(
            Class::EventMissing,
            expected,
            format!("events up to {}", folded.version),
        ));
    }
    compare_state(stored, order, &folded)
}

/// I-19: the stored state is the fold, in every part.
fn compare_state(stored: &StoredOrder, order: &Order, folded: &OrderRecord) -> Result<(), Flaw> {
    let texts = [
        ("version", folded.version.to_string(), stored.version.to_string()),
        ("chain_hash", folded.chain_hash.clone(), stored.chain_hash.clone()),
        ("created_hlc", folded.created_hlc.to_string(), stored.stamps.0.clone()),
        ("updated_hlc", folded.updated_hlc.to_string(), stored.stamps.1.clone()),
        ("status", folded.order.status().to_string(), stored.status.clone()),
        (
            "payment_status",
            folded.order.payment_status().to_string(),
            stored.payment_status.clone(),
        ),
        ("home_region", folded.order.home_region.to_string(), stored.home.to_string()),
    ];
    for (name, by_events, is) in texts {
        if by_events != is {
            let (expected, found) = (format!("{name} {by_events}"), format!("{name} {is}"));
            return Err(Flaw::new(Class::FoldDiffers, expected, found));
        }
    }
    if folded.order == *order {
        return Ok(());
    }
    let (expected, found) = first_difference(&folded.order, order);
    Err(Flaw::new(Class::FoldDiffers, expected, found))
}

/// The first field of the document that differs. Only its name: documents hold personal data.
fn first_difference(folded: &Order, stored: &Order) -> (String, String) {
    let fields = |order: &Order| match serde_json::to_value(order) {
        Ok(serde_json::Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (folded, stored) = (fields(folded), fields(stored));
    let name =
        folded.keys().chain(stored.keys()).find(|name| folded.get(*name) != stored.get(*name));
    let name = name.map_or("document", String::as_str);
    (format!("`{name}` as the events say"), format!("another `{name}`"))
}

/// I-02: what stands holds all of its units.
fn unreserved_line(order: &Order) -> Option<Flaw> {
    order.lines.iter().find_map(|line| {
        let held = line.allocations.iter().filter(|held| held.state == AllocationState::Held);
        let held: u64 = held.map(|held| u64::from(held.quantity)).sum();
        let wanted = u64::from(line.quantity.saturating_sub(line.cancelled));
        let unit = |units: u64| format!("{units} of {} held", line.sku);
        (held != wanted).then(|| Flaw::new(Class::LineNotReserved, unit(wanted), unit(held)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::{Cancellation, EventBody, EventMaker};
    use crate::types::{Epoch, HlcTimestamp};
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn stamp(wall_ms: u64) -> HlcTimestamp {
        HlcTimestamp { wall_ms, logical: 0, region: region("a") }
    }

    fn new_order() -> Order {
        let id = |n: u128| uuid::Uuid::from_u128(n);
        serde_json::from_value(serde_json::json!({
            "id": id(2), "number": "1", "home_region": "a", "channel": "web", "currency": "EUR",
            "lines": [{"id": id(3), "sku": "x", "quantity": 2, "unit_minor": 5, "allocations": [
                {"reservation_id": id(4), "node": "n", "quantity": 2, "state": "held"}]}],
            "shipping_option": "standard", "payments": [{"id": id(5), "method": "card", "gateway": "simulator",
                "provider_key": "k", "amount_minor": 10, "state": "pending"}],
            "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
            "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
        }))
        .unwrap()
    }

    /// Placed, authorized, confirmed, and perhaps cancelled.
    fn history(cancelled: bool) -> (StoredOrder, Vec<Event>) {
        let mut maker = EventMaker::new(region("a"), Epoch::FIRST, None);
        let order = new_order();
        let payment_id = order.payments[0].id;
        let mut bodies = vec![
            EventBody::Placed(Box::new(order)),
            EventBody::PaymentAuthorized { payment_id, reference: "r".to_owned() },
            EventBody::Confirmed {},
        ];
        if cancelled {
            let why = Cancellation { code: "duplicate".to_owned(), detail: String::new() };
            bodies.push(EventBody::Cancelled(why));
        }
        for (body, time) in bodies.into_iter().zip(1..) {
            maker.push(stamp(time), body).unwrap();
        }
        let (record, events) = maker.finish();
        let stored = StoredOrder {
            id: record.order.id,
            home: region("a"),
            status: record.order.status().to_string(),
            payment_status: record.order.payment_status().to_string(),
            version: record.version,
            chain_hash: record.chain_hash,
            stamps: (record.created_hlc.to_string(), record.updated_hlc.to_string()),
            document: Ok(record.order),
            saga_open: false,
        };
        (stored, events)
    }

    fn classes(stored: &StoredOrder, events: Vec<Event>) -> Vec<Class> {
        let flaw = judge_log(region("a"), stored, &Ok(events));
        flaw.into_iter().map(|flaw| flaw.class).collect()
    }

    #[test]
    fn an_order_that_is_the_fold_of_its_events_is_right() {
        for cancelled in [false, true] {
            let (stored, events) = history(cancelled);
            assert_eq!(classes(&stored, events), []);
        }
    }

    #[test]
    fn each_flaw_has_its_class() {
        let (good, events) = history(false);
        let document = |change: fn(&mut Order)| {
            let mut stored = good.clone();
            change(stored.document.as_mut().unwrap());
            stored
        };
        assert_eq!(
            classes(&document(|o| o.shipping_address.name = "B".into()), events.clone()),
            [Class::FoldDiffers]
        );
        assert_eq!(
            classes(&StoredOrder { status: "cancelled".into(), ..good.clone() }, events.clone()),
            [Class::FoldDiffers]
        );
        assert_eq!(
            classes(&StoredOrder { chain_hash: "x".into(), ..good.clone() }, events.clone()),
            [Class::FoldDiffers]
        );
        assert_eq!(classes(&good, events[..2].to_vec()), [Class::EventMissing]);
        assert_eq!(classes(&good, events[1..].to_vec()), [Class::EventMissing]);
        assert_eq!(classes(&good, Vec::new()), [Class::EventMissing]);
        let mut changed = events.clone();
        changed[1].data = RawValue::from_string("{\"payment_id\":1}".to_owned()).unwrap();
        assert_eq!(classes(&good, changed), [Class::EventChainBroken]);
        let mut maker = EventMaker::new(region("a"), Epoch::FIRST, None);
        let payment_id = new_order().payments[0].id;
        maker.push(stamp(5), EventBody::Placed(Box::new(new_order()))).unwrap();
        let late = EventBody::PaymentAuthorized { payment_id, reference: "r".to_owned() };
        maker.push(stamp(4), late).unwrap();
        assert_eq!(classes(&good, maker.finish().1), [Class::HlcWentBack]);
        let mut maker = EventMaker::new(region("b"), Epoch::FIRST, None);
        maker.push(stamp(5), EventBody::Placed(Box::new(new_order()))).unwrap();
        assert_eq!(classes(&good, maker.finish().1), [Class::EventOfOtherRegion]);
    }

    #[test]
    fn a_pending_order_needs_a_saga_and_a_standing_one_its_units() {
        let (good, _) = history(false);
        assert_eq!(judge_document(&good), []);
        let pending = StoredOrder { document: Ok(new_order()), ..good.clone() };
        assert_eq!(judge_document(&pending)[0].class, Class::OrderWithoutSaga);
        assert_eq!(judge_document(&StoredOrder { saga_open: true, ..pending }), []);
        let unreadable = StoredOrder { document: Err("no JSON".into()), ..good.clone() };
        assert_eq!(judge_document(&unreadable)[0].class, Class::OrderUnreadable);
        let mut short = good;
        short.document.as_mut().unwrap().lines[0].allocations[0].quantity = 1;
        assert_eq!(judge_document(&short)[0].class, Class::LineNotReserved);
        assert_eq!(judge_document(&short)[0].found, "1 of x held");
    }

    proptest! {
        /// Whatever single byte of the log changes, the order is not called right.
        #[test]
        fn no_change_of_the_log_goes_unseen(which in 0usize..3, at in any::<prop::sample::Index>(), with in b'0'..=b'9') {
            let (stored, events) = history(false);
            let text = serde_json::to_string(&events[which]).unwrap();
            let place = at.index(text.len());
            let mut bytes = text.clone().into_bytes();
            prop_assume!(bytes[place].is_ascii_digit() && bytes[place] != with);
            bytes[place] = with;
            let parsed: Result<Event, _> = serde_json::from_slice(&bytes);
            let log = match parsed {
                Ok(event) => {
                    let mut log = events.clone();
                    log[which] = event;
                    Ok(log)
                }
                Err(error) => Err(error.to_string()),
            };
            let flaw = judge_log(region("a"), &stored, &log);
            prop_assert!(flaw.is_some(), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
