//! Orders, intents, references and sagas.

use entrepot::domain::idempotency::{IntentKey, IntentRecord};
use entrepot::domain::inventory::StockDelta;
use entrepot::domain::order::EventBody;
use entrepot::ports::store::{OrderFilter, SagaFilter, SagaWrite};
use entrepot::ports::{ChangeSet, CommitError, Needs};
use entrepot::saga::{SagaRecord, SagaState, Step};
use entrepot::types::{OrderId, SagaId};

use super::{Kind, Subject};
use crate::support::writes::{self, order_id, orders, placed, placed_for, referenced, stamp};

fn intent(key: &str) -> IntentKey {
    IntentKey { principal: "customer:c1".to_owned(), key: key.to_owned() }
}

fn saga(id: OrderId, due_at_ms: u64) -> SagaRecord {
    SagaRecord {
        id: SagaId(id.0),
        order_id: id,
        state: SagaState::Running,
        step: Step::Authorize,
        attempts: 0,
        log: Vec::new(),
        payments: Vec::new(),
        reason: None,
        created_at_ms: 1,
        updated_at_ms: 1,
        due_at_ms,
        version: 1,
    }
}

fn with_saga(record: SagaRecord, expected_version: u64) -> ChangeSet {
    let write = SagaWrite { record, expected_version };
    ChangeSet { sagas: [(write.record.id, write)].into(), ..ChangeSet::default() }
}

fn cancelled() -> EventBody {
    EventBody::Cancelled(serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap())
}

pub(super) async fn a_commit_is_written_as_a_whole_or_not_at_all(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let id = order_id(1, 1);
    let mut changes = placed_for(a.region, id, "k", 1);
    changes.sagas = with_saga(saga(id, 5), 0).sagas;
    let key = serde_json::from_str("{\"sku\":\"x\",\"node\":\"n\"}").unwrap();
    // A row that is not there can't be sold from.
    let spent = StockDelta { spent: 1, ..StockDelta::default() };
    changes.stock.insert(key, spent);
    let refused = a.store.commit(&changes, stamp(a.region, 1)).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(a.store.order(id).await.unwrap(), None);
    assert_eq!(a.store.saga(SagaId(id.0)).await.unwrap(), None);
    assert_eq!(a.store.intents(&intent("k")).await.unwrap(), []);
    assert_eq!(a.store.head().await.unwrap().position.sequence, 0);

    changes.stock.clear();
    let committed = a.store.commit(&changes, stamp(a.region, 1)).await.unwrap();
    assert_eq!(committed.sequence, Some(1));
    let stored = a.store.order(id).await.unwrap().unwrap();
    assert_eq!(stored.version, 1);
    assert_eq!(a.store.sagas_of(id).await.unwrap().len(), 1);
    assert_eq!(a.store.intents(&intent("k")).await.unwrap(), changes.intents);
    let needs = Needs { intents: [intent("k")].into(), ..Needs::default() };
    let view = a.store.load(&needs).await.unwrap();
    assert_eq!(view.orders.get(&id), Some(&stored), "the order of an intent comes with it");
}

pub(super) async fn an_old_version_refuses_the_commit(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let id = order_id(1, 1);
    let first = placed(a.region, id, 1);
    let record = first.record.as_ref().clone();
    a.store.commit(&orders([first.clone()]), stamp(a.region, 1)).await.unwrap();
    let again = a.store.commit(&orders([first]), stamp(a.region, 2)).await;
    assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");
    let second = writes::next(a.region, Some(record), 2, cancelled());
    a.store.commit(&orders([second.clone()]), stamp(a.region, 2)).await.unwrap();
    let late = a.store.commit(&orders([second]), stamp(a.region, 3)).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
    let events = a.store.events(id, 0, 9).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(a.store.events(id, 1, 9).await.unwrap().len(), 1);
    assert_eq!(a.store.events(id, 0, 1).await.unwrap().len(), 1);

    a.store.commit(&with_saga(saga(id, 5), 0), stamp(a.region, 4)).await.unwrap();
    let second = SagaRecord { version: 2, ..saga(id, 9) };
    a.store.commit(&with_saga(second.clone(), 1), stamp(a.region, 5)).await.unwrap();
    let late = a.store.commit(&with_saga(second, 1), stamp(a.region, 6)).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
}

pub(super) async fn an_intent_is_taken_once_in_a_region(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let first = placed_for(a.region, order_id(1, 1), "k", 1);
    a.store.commit(&first, stamp(a.region, 1)).await.unwrap();
    let second = placed_for(a.region, order_id(1, 2), "k", 2);
    let refused = a.store.commit(&second, stamp(a.region, 2)).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(a.store.order(order_id(1, 2)).await.unwrap(), None);
    // Another region's record of the same intent is one of its own.
    let record = IntentRecord { region: "c".parse().unwrap(), ..second.intents[0].clone() };
    let changes = ChangeSet { intents: vec![record], ..ChangeSet::default() };
    a.store.commit(&changes, stamp(a.region, 3)).await.unwrap();
    let known = a.store.intents(&intent("k")).await.unwrap();
    let regions: Vec<_> = known.iter().map(|record| record.region.to_string()).collect();
    assert_eq!(regions, ["a", "c"], "the earliest first");
}

pub(super) async fn a_reference_has_one_standing_order_and_is_left_by_a_cancelled_one(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let reference = ("web".to_owned(), "r".to_owned());
    let standing = async || {
        let needs = Needs { channel_refs: [reference.clone()].into(), ..Needs::default() };
        let view = a.store.load(&needs).await.unwrap();
        view.channel_refs.get(&reference).cloned().unwrap_or_default()
    };
    let first = referenced(a.region, order_id(1, 1), 1, "r", "c");
    a.store.commit(&orders([first.clone()]), stamp(a.region, 1)).await.unwrap();
    assert_eq!(standing().await, [order_id(1, 1)]);
    let second = referenced(a.region, order_id(1, 2), 2, "r", "c");
    let refused = a.store.commit(&orders([second.clone()]), stamp(a.region, 2)).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    let gone = writes::next(a.region, Some(first.record.as_ref().clone()), 3, cancelled());
    a.store.commit(&orders([gone, second]), stamp(a.region, 3)).await.unwrap();
    assert_eq!(standing().await, [order_id(1, 2)]);
}

pub(super) async fn lists_are_in_order_and_end_where_they_are_told(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    for serial in 1..=4 {
        let write = placed(a.region, order_id(1, serial), serial);
        a.store.commit(&orders([write]), stamp(a.region, serial)).await.unwrap();
        let product = writes::product(a.region, &format!("sku-{serial}"), serial);
        a.store.commit(&product, stamp(a.region, serial)).await.unwrap();
    }
    let ids = async |filter: OrderFilter| {
        let found = a.store.orders(&filter).await.unwrap();
        found.iter().map(|record| record.order.id).collect::<Vec<_>>()
    };
    let all = OrderFilter { limit: 9, ..OrderFilter::default() };
    let newest_first = [4, 3, 2, 1].map(|serial| order_id(1, serial));
    assert_eq!(ids(all.clone()).await, newest_first);
    let before = Some(order_id(1, 3));
    assert_eq!(ids(OrderFilter { before, limit: 1, ..all.clone() }).await, newest_first[2..3]);
    assert_eq!(ids(OrderFilter { since_ms: Some(3), ..all.clone() }).await, newest_first[..2]);
    let nobody = Some("nobody".parse().unwrap());
    assert_eq!(ids(OrderFilter { customer_id: nobody, ..all.clone() }).await, []);
    assert_eq!(ids(OrderFilter { channel: Some("pos".to_owned()), ..all }).await, []);
    let after = "sku-2".parse().unwrap();
    let products = a.store.products(Some(&after), 1).await.unwrap();
    assert_eq!(products.iter().map(|it| it.sku.as_str()).collect::<Vec<_>>(), ["sku-3"]);
}

pub(super) async fn a_due_saga_is_claimed_by_one_worker(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    for (serial, due) in [(1, 30), (2, 10), (3, 99)] {
        let changes = with_saga(saga(order_id(1, serial), due), 0);
        a.store.commit(&changes, stamp(a.region, serial)).await.unwrap();
    }
    let claim = async |now_ms, again_ms, limit| {
        let claimed = a.store.claim(now_ms, again_ms, limit).await.unwrap();
        let mut claimed: Vec<_> = claimed.iter().map(|saga| saga.order_id).collect();
        claimed.sort_unstable();
        claimed
    };
    let [one, two, three] = [1, 2, 3].map(|serial| order_id(1, serial));
    assert_eq!(claim(50, 200, 1).await, [two], "the one that is due for longest");
    assert_eq!(claim(50, 200, 9).await, [one]);
    assert_eq!(claim(50, 200, 9).await, []);
    assert_eq!(claim(200, 300, 9).await, [one, two, three]);
    // The claim is no step: the document is as it was.
    let stored = a.store.saga(SagaId(one.0)).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.due_at_ms), (1, 30));
    let done = SagaRecord { state: SagaState::Completed, version: 2, ..saga(one, 30) };
    a.store.commit(&with_saga(done, 1), stamp(a.region, 9)).await.unwrap();
    assert_eq!(claim(900, 901, 9).await, [two, three]);
    let open = a.store.sagas(SagaFilter::Running, Some(SagaId(two.0)), 9).await.unwrap();
    assert_eq!(open.iter().map(|saga| saga.order_id).collect::<Vec<_>>(), [three]);
    assert_eq!(a.store.sagas(SagaFilter::OpenSince(1), None, 9).await.unwrap().len(), 2);
    assert_eq!(a.store.sagas(SagaFilter::OpenSince(0), None, 9).await.unwrap().len(), 0);
    assert_eq!(a.store.sagas(SagaFilter::Compensating, None, 9).await.unwrap().len(), 0);
}
