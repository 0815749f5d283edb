//! Rights between regions: merging, giving, comparing.

use std::collections::{BTreeMap, BTreeSet};

use entrepot::domain::inventory::StockDelta;
use entrepot::escrow::{
    Ballot, GiverDemand, KeyedRow, MergeError, Row, SkuRows, Slot, TransferRequest, Value,
    bucket_of,
};
use entrepot::ports::{Credit, Moved};
use entrepot::types::{Actor, Epoch, TransferId};

use super::stock::{change, key, put_node};
use super::{Kind, Subject, two};

fn received(units: u64) -> StockDelta {
    StockDelta { received: units, ..StockDelta::default() }
}

fn actor(subject: &Subject) -> Actor {
    Actor { region: subject.region, epoch: Epoch::FIRST }
}

fn name(number: u128) -> TransferId {
    TransferId(uuid::Uuid::from_u128(number))
}

async fn spendable(subject: &Subject) -> u64 {
    let ledgers = subject.rights.ledgers(&"x".parse().unwrap()).await.unwrap();
    ledgers.values().map(entrepot::escrow::Ledger::spendable).sum()
}

pub(super) async fn a_newer_copy_wins_and_brings_its_rights_once(kind: Kind) {
    let (a, b) = two(kind).await;
    put_node(&b, "n", "a", true, 1).await;
    let x = key("x", "n");
    let granted = BTreeMap::from([(actor(&b), 3)]);
    // It may sell up to its ceiling, whatever else it holds.
    let value = Value { ceiling: 8, ..Value::default() };
    let chosen = Slot::birth(a.region).followed_by(Ballot::birth(a.region), value);
    let row = |version, granted| Row {
        version,
        received: 9,
        granted,
        chosen: chosen.clone(),
        ..Row::new(actor(&a))
    };
    let keyed = |row| KeyedRow { key: x.clone(), owner: actor(&a), row };
    let credit = Credit { transfer: name(1), key: x.clone(), from: a.region, units: 3 };
    let (old, new) = (keyed(row(1, BTreeMap::new())), keyed(row(2, granted)));
    let report = b.rights.merge(std::slice::from_ref(&old), &[]).await.unwrap();
    assert_eq!((report.changed.len(), report.credited.len()), (1, 0));
    let report = b.rights.merge(std::slice::from_ref(&new), &[credit]).await.unwrap();
    assert_eq!(report.credited, [(x.clone(), 3)].into());
    assert_eq!(spendable(&b).await, 0, "its ceiling is not raised yet");
    b.open(&x).await;
    assert_eq!(spendable(&b).await, 3);
    for again in [&new, &old] {
        let report = b.rights.merge(std::slice::from_ref(again), &[]).await.unwrap();
        assert_eq!(report, entrepot::ports::MergeReport::default());
    }
    let spent = StockDelta { spent: 4, ..StockDelta::default() };
    assert!(change(&b, &x, spent).await.is_err());
    change(&b, &x, StockDelta { spent: 3, ..spent }).await.unwrap();

    // A peer that knows more of our own row than we do: we forgot something.
    let newer = Row { version: 9, received: 9, ..Row::new(actor(&b)) };
    let own = KeyedRow { owner: actor(&b), ..keyed(newer) };
    let report = b.rights.merge(&[own], &[]).await.unwrap();
    assert!(matches!(report.refused.as_slice(), [(_, MergeError::Amnesia { .. })]), "{report:?}");
    let alone = b.store.may_sell_alone().await.unwrap();
    let units: Vec<_> = alone.iter().map(|(region, it)| (region.as_str(), it.units)).collect();
    assert_eq!(units, [("a", 5)]);
}

pub(super) async fn a_request_is_granted_once(kind: Kind) {
    let (a, b) = two(kind).await;
    for node in ["m", "n"] {
        put_node(&a, node, "a", true, 1).await;
        change(&a, &key("x", node), received(4)).await.unwrap();
        a.open(&key("x", node)).await;
    }
    let request = TransferRequest {
        request: name(7),
        asker: actor(&b),
        sku: "x".parse().unwrap(),
        node: None,
        need: 6,
        want: 6,
        rows: SkuRows::new(),
    };
    let nobody = GiverDemand::default();
    let given = a.rights.give(&request, nobody).await.unwrap();
    let units: u64 = given.grants.values().map(|grant| grant.units).sum();
    assert_eq!((units, given.grants.len(), spendable(&a).await), (6, 2, 2));
    assert!(given.grants.values().any(|grant| grant.transfer == name(7)));
    let again = a.rights.give(&request, nobody).await.unwrap();
    assert_eq!((again.grants, spendable(&a).await), (given.grants, 2));
    // Another request, at one node only; then there is nothing left to give.
    let node = Some("m".parse().unwrap());
    let held = a.rights.ledgers(&request.sku).await.unwrap()[node.as_ref().unwrap()].spendable();
    let only = TransferRequest { request: name(8), node, ..request.clone() };
    let given = a.rights.give(&only, nobody).await.unwrap();
    assert_eq!(given.grants.values().map(|grant| grant.units).sum::<u64>(), held);
    let rest = TransferRequest { request: name(9), ..request.clone() };
    a.rights.give(&rest, nobody).await.unwrap();
    let empty = TransferRequest { request: name(10), ..request };
    let given = a.rights.give(&empty, nobody).await.unwrap();
    assert_eq!((given.grants.len(), spendable(&a).await), (0, 0));
    // What the giver answers is what it granted.
    let rows = &given.rows;
    let told: u64 =
        rows.values().filter_map(|rows| rows.get(&actor(&a))).map(Row::granted_total).sum();
    assert_eq!(told, 8);
}

pub(super) async fn what_is_pinned_is_not_given(kind: Kind) {
    let (a, b) = two(kind).await;
    put_node(&a, "n", "a", true, 1).await;
    let x = key("x", "n");
    change(&a, &x, received(9)).await.unwrap();
    a.open(&x).await;
    let ask = async |id| {
        let request = TransferRequest {
            request: name(id),
            asker: actor(&b),
            sku: x.sku.clone(),
            node: None,
            need: 9,
            want: 9,
            rows: SkuRows::new(),
        };
        let given = a.rights.give(&request, GiverDemand::default()).await.unwrap();
        given.grants.values().map(|grant| grant.units).sum::<u64>()
    };
    for units in [7, 4] {
        a.rights.pin(&x.sku, units).await.unwrap();
        assert_eq!(a.rights.pinned(&x.sku).await.unwrap(), units);
    }
    assert_eq!((ask(1).await, ask(2).await), (5, 0));
    // An operator moves it all the same, and it can be sold here.
    assert_eq!(a.rights.transfer(name(3), &x, actor(&b), 1).await.unwrap(), Moved::Done);
    change(&a, &x, StockDelta { spent: 1, ..StockDelta::default() }).await.unwrap();
    a.rights.pin(&x.sku, 0).await.unwrap();
    assert_eq!((a.rights.pinned(&x.sku).await.unwrap(), ask(4).await), (0, 2));
}

pub(super) async fn a_transfers_name_stands_for_one_transfer(kind: Kind) {
    let (a, b) = two(kind).await;
    put_node(&a, "n", "a", true, 1).await;
    let x = key("x", "n");
    change(&a, &x, received(5)).await.unwrap();
    a.open(&x).await;
    let transfer =
        async |id, units| a.rights.transfer(name(id), &x, actor(&b), units).await.unwrap();
    assert_eq!(transfer(1, 6).await, Moved::Insufficient { spendable: 5 });
    assert_eq!(transfer(1, 2).await, Moved::Done, "a refusal takes no name");
    assert_eq!(transfer(1, 2).await, Moved::Replayed);
    assert_eq!(transfer(1, 3).await, Moved::OtherTransfer);
    assert_eq!(transfer(2, 3).await, Moved::Done);
    assert_eq!(spendable(&a).await, 0);
}

pub(super) async fn equal_rows_have_equal_sums_and_are_paged_by_bucket(kind: Kind) {
    let (a, b) = two(kind).await;
    let keys: Vec<_> = (0..200).map(|number| key(&format!("sku-{number:03}"), "n")).collect();
    for key in &keys {
        change(&a, key, received(1)).await.unwrap();
    }
    let bucket = bucket_of(&keys[0]);
    let all = a.rights.rows_in(actor(&a), bucket, None, 99).await.unwrap();
    let expected: Vec<_> = keys.iter().filter(|key| bucket_of(key) == bucket).cloned().collect();
    assert_eq!(all.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), expected);
    let page = a.rights.rows_in(actor(&a), bucket, Some(&expected[0]), 1).await.unwrap();
    assert_eq!(page.first(), all.get(1));
    assert_eq!(a.rights.rows_in(actor(&b), bucket, None, 99).await.unwrap(), []);
    let wanted: BTreeSet<_> = keys.iter().cloned().collect();
    let rows = a.rights.rows(&wanted).await.unwrap();
    assert_eq!(rows.len(), keys.len());
    assert_ne!(a.rights.digest().await.unwrap(), b.rights.digest().await.unwrap());
    b.rights.merge(&rows, &[]).await.unwrap();
    assert_eq!(a.rights.digest().await.unwrap(), b.rights.digest().await.unwrap());
}
