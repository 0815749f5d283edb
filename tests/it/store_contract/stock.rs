//! Own rights rows under sales and stocktakes.

use entrepot::domain::catalogue::Node;
use entrepot::domain::inventory::StockDelta;
use entrepot::ports::store::Shelf;
use entrepot::ports::{ChangeSet, CommitError, Needs};
use entrepot::types::{NodeId, StockKey};

use super::{Kind, Subject};
use crate::support::writes::{hlc, stamp};

pub(super) fn key(sku: &str, node: &str) -> StockKey {
    StockKey { sku: sku.parse().unwrap(), node: node.parse().unwrap() }
}

pub(super) async fn change(
    subject: &Subject,
    key: &StockKey,
    delta: StockDelta,
) -> Result<(), CommitError> {
    let changes = ChangeSet { stock: [(key.clone(), delta)].into(), ..ChangeSet::default() };
    subject.store.commit(&changes, stamp(subject.region, 1)).await.map(drop)
}

/// A node as its only change.
pub(super) async fn put_node(subject: &Subject, id: &str, region: &str, active: bool, time: u64) {
    let node: Node = serde_json::from_value(serde_json::json!({
        "id": id, "name": id, "kind": "warehouse", "region": region, "country": "DE",
        "latitude_e6": 0, "longitude_e6": 0, "capacity_per_day": 1, "backlog": 0, "carriers": [],
        "active": active, "hlc": hlc(subject.region, time),
    }))
    .unwrap();
    let changes = ChangeSet { nodes: [(node.id.clone(), node)].into(), ..ChangeSet::default() };
    subject.store.commit(&changes, stamp(subject.region, time)).await.unwrap();
}

pub(super) async fn nothing_is_sold_beyond_the_ceiling_nor_given_back_twice(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    put_node(&a, "n", "a", true, 1).await;
    let x = key("x", "n");
    let spend = |spent| StockDelta { spent, ..StockDelta::default() };
    let release = |released| StockDelta { released, ..StockDelta::default() };
    let refused =
        |outcome| assert!(matches!(outcome, Err(CommitError::Conflict(_))), "{outcome:?}");
    refused(change(&a, &x, spend(1)).await);
    change(&a, &x, StockDelta { received: 5, ..StockDelta::default() }).await.unwrap();
    refused(change(&a, &x, spend(1)).await);
    a.open(&x).await;
    refused(change(&a, &x, spend(6)).await);
    change(&a, &x, spend(4)).await.unwrap();
    refused(change(&a, &x, StockDelta { withdrawn: 2, ..StockDelta::default() }).await);
    refused(change(&a, &x, release(5)).await);
    change(&a, &x, release(3)).await.unwrap();
    refused(change(&a, &x, release(2)).await);
    // One group may give back and sell again.
    change(&a, &x, StockDelta { spent: 5, released: 1, ..StockDelta::default() }).await.unwrap();
    let rows = a.store.rights_of(&x.sku).await.unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let row = &row.row;
    let cells = (row.version, row.received, row.spent, row.released, row.chosen.value.ceiling);
    assert_eq!(cells, (4, 5, 9, 4, 5));
    let alone = a.store.may_sell_alone().await.unwrap();
    assert_eq!(alone.get(&a.region), None, "nothing is left");
}

pub(super) async fn a_stocktake_is_written_only_over_what_was_counted(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let x = key("x", "n");
    change(&a, &x, StockDelta { received: 5, ..StockDelta::default() }).await.unwrap();
    a.open(&x).await;
    let counted =
        |from| StockDelta { withdrawn: 1, counted_from: Some(from), ..StockDelta::default() };
    let late = change(&a, &x, counted(4)).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
    change(&a, &x, counted(5)).await.unwrap();
    let needs = Needs { shelves: [x.clone(), key("y", "n")].into(), ..Needs::default() };
    let view = a.store.load(&needs).await.unwrap();
    assert_eq!(view.shelves, [(x, Shelf { on_hand: 4, spendable: 4 })].into());
}

pub(super) async fn own_nodes_are_preferred_and_those_switched_off_left_out(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    for (node, region) in [("m", "b"), ("n", "a"), ("o", "a")] {
        put_node(&a, node, region, true, 1).await;
        let received = StockDelta { received: 2, ..StockDelta::default() };
        change(&a, &key("x", node), received).await.unwrap();
        a.open(&key("x", node)).await;
    }
    // Of a node that nobody has heard of nothing is sold either.
    let received = StockDelta { received: 2, ..StockDelta::default() };
    change(&a, &key("x", "unknown"), received).await.unwrap();
    put_node(&a, "o", "a", false, 2).await;
    let wanted: NodeId = "o".parse().unwrap();
    let needs = Needs {
        skus: ["x".parse().unwrap()].into(),
        nodes: [wanted.clone()].into(),
        ..Needs::default()
    };
    let view = a.store.load(&needs).await.unwrap();
    let nodes = view.stock.nodes(&"x".parse().unwrap());
    let nodes: Vec<_> = nodes.iter().map(|it| (it.node.as_str(), it.spendable)).collect();
    assert_eq!(nodes, [("n", 2), ("m", 2)]);
    assert!(!view.nodes[&wanted].active);
}
