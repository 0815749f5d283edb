//! Regions that tell each other what they know, in simulated worlds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gone::world;
use crate::app::joining::{COMPARISONS_MAX, JoinError, Joining, ask};
use crate::domain::order::{Event, EventBody, EventMaker, fold_copy};
use crate::ports::Learned;
use crate::replication::rejoin::Ask;
use crate::replication::retirement::Retirement;
use crate::sim::memory::{Memory, MemoryRights};
use crate::types::{Epoch, HlcTimestamp, OrderId, RegionId};

/// An order of three events.
fn order(home: RegionId) -> (OrderId, Vec<Event>) {
    let id = "01a1fc10-9d4c-7e5c-b4d9-28fcba41f401";
    let address = serde_json::json!({
        "name": "A", "line1": "B", "city": "C", "postal_code": "1", "country": "DE",
    });
    let payment = serde_json::json!({
        "id": id, "method": "card", "gateway": "simulator", "provider_key": "k", "amount_minor": 0,
        "state": "pending",
    });
    let order = serde_json::json!({
        "id": id, "number": "1-1", "home_region": home, "channel": "web", "currency": "EUR", "lines": [],
        "shipping_option": "standard", "shipping_address": address, "payments": [payment],
        "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
    });
    let payment_id = serde_json::from_value(id.into()).unwrap();
    let placed: crate::domain::order::Order = serde_json::from_value(order).unwrap();
    let id = placed.id;
    let mut made = EventMaker::new(home, Epoch::FIRST, None);
    let bodies = [
        EventBody::Placed(Box::new(placed)),
        EventBody::PaymentAuthorized { payment_id, reference: "r".to_owned() },
        EventBody::Confirmed {},
    ];
    for (body, wall_ms) in bodies.into_iter().zip(1..) {
        made.push(HlcTimestamp { wall_ms, logical: 0, region: home }, body).unwrap();
    }
    (id, made.finish().1)
}

/// So much of an order is known.
fn know(memory: &Memory, id: OrderId, events: &[Event]) {
    memory.put_copy(Arc::new(fold_copy(None, id, events).unwrap().unwrap()));
    memory.tables().events.insert(id, events.to_vec());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_changes_meanwhile_is_compared_again() {
    let world = world().await;
    let (server, [own, peer, ..]) = (world.server(0).unwrap(), world.sites()) else {
        panic!("three regions")
    };
    let (id, events) = order(own.region);
    know(&peer.memory, id, &events);
    let store = MemoryRights::new(own.memory.clone(), Epoch::FIRST);
    let (region, bus) = (&server.app.region, server.rejoin.bus.as_ref());
    let joining = Joining { region, store: &store, bus, of: own.region, at_once: 9 };
    // Somebody else writes it between the look at it and what follows from that.
    for changes in 0..=COMPARISONS_MAX as usize {
        know(&own.memory, id, &events[..1]);
        let looks = AtomicUsize::new(0);
        let others_write = |_: &Learned| {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            if look < changes {
                know(&own.memory, id, &events[..2 - look % 2]);
            }
            true
        };
        let taken = joining.take_over(peer.region, &[id], others_write).await;
        if changes < COMPARISONS_MAX as usize {
            assert_eq!(taken.unwrap().learned, [id].into(), "{changes}");
            assert_eq!(own.memory.tables().orders[&id].version, 3);
        } else {
            let error = taken.unwrap_err();
            assert!(
                matches!(error, JoinError::KeepsChanging { order, .. } if order == id),
                "{error}"
            );
        }
        own.memory.tables().orders.clear();
    }
    world.end();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_with_its_reason() {
    let world = world().await;
    let (server, [_, peer, third]) = (world.server(0).unwrap(), world.sites()) else {
        panic!("three regions")
    };
    let retirement = serde_json::json!({
        "region": third.region, "ends": 2, "fence": {"round": 1, "region": peer.region}, "asked_by": "p",
        "asked_at_ms": 1,
    });
    let retirement: Retirement = serde_json::from_value(retirement).unwrap();
    let question = Ask::Retire(Box::new(retirement));
    let error = ask(server.rejoin.bus.as_ref(), peer.region, &question).await.unwrap_err();
    let expected =
        format!("{} refuses: {} is heard here: it is not gone", peer.region, third.region);
    assert_eq!(error.to_string(), expected);
    world.end();
}
