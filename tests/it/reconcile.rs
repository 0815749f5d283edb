//! Reconciliation on real databases: each thing is broken on purpose, exactly its class is told, and a repair
//! mends what is safe to mend and touches nothing else.

use entrepot::reconcile::{Class, Provided};
use entrepot::types::SagaId;

use crate::support::reconciled::{Region, Regions, key, order_id};

/// A document in which somebody has another name.
const OTHER_NAME: &str = "replace(document, '\"name\":\"A\"', '\"name\":\"Z\"')";

fn one(class: Class, region: &str) -> Vec<(String, String)> {
    vec![(class.code().to_owned(), region.to_owned())]
}

/// What a region holds, to be compared as a whole.
async fn contents(region: &Region) -> Vec<String> {
    let mut connection = region.database.connection().await;
    let mut contents = Vec::new();
    for table in [
        "orders",
        "order_events",
        "rights",
        "outbox",
        "inbox",
        "sagas",
        "watermarks",
        "idempotency",
    ] {
        let query = format!(
            "SELECT coalesce(string_agg(t::text, ' ' ORDER BY t::text), '') FROM {table} t"
        );
        let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        contents.push(format!("{table}: {text}"));
    }
    contents
}

#[tokio::test]
async fn healthy_regions_do_not_differ() {
    let regions = Regions::start().await;
    assert_eq!(regions.classes().await, []);
    let report = regions.reconcile(true).await;
    assert_eq!(report.regions.len(), 2);
    assert_eq!((report.checked.orders, report.checked.keys), (6, 2));
    assert_eq!(report.checked.payments, 3);
    assert!(report.checked.copies >= 10, "{:?}", report.checked);
}

/// What is broken, where it must be seen, in which region it is broken, and how.
type Case = (Class, &'static str, &'static str, String);

/// Exactly that is told, a repair does not touch it, and nothing else changes either.
async fn told_and_left(cases: impl IntoIterator<Item = Case>) {
    for (class, seen_in, broken_in, sql) in cases {
        let regions = Regions::start().await;
        let broken = if broken_in == "a" { &regions.a } else { &regions.b };
        broken.sql(&sql).await;
        if matches!(class, Class::ReservationNotInRights | Class::RightsOverdrawn) {
            // A row that its owner wrote, and that was copied.
            regions.b.sql(&sql).await;
        }
        let before = (contents(&regions.a).await, contents(&regions.b).await);
        assert_eq!(regions.classes().await, one(class, seen_in), "{sql}");
        let report = regions.reconcile(true).await;
        assert_eq!(report.differences.len(), 1, "{report:#?}");
        assert_eq!(report.differences[0].repair, None, "{report:#?}");
        assert_eq!((contents(&regions.a).await, contents(&regions.b).await), before, "{sql}");
    }
}

#[tokio::test]
async fn each_fault_of_rights_is_told_under_its_class() {
    let set = |what: &str| format!("UPDATE rights SET {what} WHERE owner = 'a'");
    told_and_left([
        (Class::ReservationNotInRights, "a", "a", set("spent = spent + 1, version = version + 1")),
        (Class::RightsCellDiffers, "b", "b", set("received = received + 1")),
        (Class::RightsNotConserved, "a", "a", set("granted_total = granted_total + 1")),
        (Class::RightsOverdrawn, "a", "a", set("ceiling = 1")),
        (Class::RightsForgotten, "b", "b", set("version = version + 1")),
    ])
    .await;
}

#[tokio::test]
async fn each_fault_of_an_order_is_told_under_its_class() {
    let of_a = format!("WHERE order_id = '{}'", order_id(1, 1));
    let document = format!("UPDATE orders SET document = {OTHER_NAME} {of_a}");
    let events = format!(
        "UPDATE order_events SET events = replace(events, '\"name\":\"A\"', '\"name\":\"Z\"') {of_a}"
    );
    told_and_left([
        (Class::FoldDiffers, "a", "a", document),
        (Class::OrderUnreadable, "a", "a", format!("UPDATE orders SET document = '{{}}' {of_a}")),
        (Class::EventMissing, "a", "a", format!("DELETE FROM order_events {of_a}")),
        (Class::EventChainBroken, "a", "a", events.clone()),
        (Class::EventChainBroken, "b", "b", events),
    ])
    .await;
}

#[tokio::test]
async fn each_fault_of_the_log_is_told_under_its_class() {
    let sql = |text: &str| text.to_owned();
    told_and_left([
        (Class::OutboxNotApplied, "b", "b", sql("DELETE FROM inbox WHERE seq = 2")),
        (
            Class::EnvelopeDiffers,
            "b",
            "b",
            sql("UPDATE inbox SET event_hash = 'other' WHERE seq = 2"),
        ),
        (Class::InboxUnknownToOrigin, "b", "a", sql("DELETE FROM outbox WHERE seq = 2")),
    ])
    .await;
}

/// The home's database was set back: a peer knows more of its orders, and of the log. Nothing of it is mended.
#[tokio::test]
async fn a_home_that_forgot_is_told_and_not_overwritten() {
    let regions = Regions::start().await;
    let a1 = order_id(1, 1);
    regions.a.sql(&format!("DELETE FROM order_events WHERE order_id = '{a1}'")).await;
    regions.a.sql(&format!("DELETE FROM orders WHERE order_id = '{a1}'")).await;
    let report = regions.reconcile(true).await;
    let found: Vec<_> = report
        .differences
        .iter()
        .map(|one| (one.class, one.region.as_str(), one.repair.as_deref()))
        .collect();
    let expected = [
        (Class::ReservationNotInRights, "a", None),
        (Class::PaymentHeldWithoutOrder, "a", None),
        (Class::OrderForgotten, "b", None),
    ];
    assert_eq!(found, expected, "{report:#?}");
}

#[tokio::test]
async fn copies_are_pulled_from_their_home() {
    let a1 = order_id(1, 1);
    for (class, sql) in [
        (
            Class::OrderCopyMissing,
            format!(
                "DELETE FROM order_events WHERE order_id = '{a1}'; DELETE FROM orders WHERE order_id = '{a1}'"
            ),
        ),
        (
            Class::OrderCopyDiffers,
            format!(
                "UPDATE orders SET document = replace(document, '\"name\":\"A\"', '\"name\":\"Z\"') WHERE order_id = '{a1}'"
            ),
        ),
        (
            Class::OrderCopyDiffers,
            format!("UPDATE orders SET status = 'cancelled' WHERE order_id = '{a1}'"),
        ),
        (Class::RightsCopyBehind, "DELETE FROM rights WHERE owner = 'a'".to_owned()),
        (Class::ProductDiffers, "DELETE FROM products WHERE sku = 'of-a'".to_owned()),
    ] {
        let regions = Regions::start().await;
        let healthy = (contents(&regions.a).await, contents(&regions.b).await);
        regions.b.sql(&sql).await;
        assert_eq!(regions.classes().await, one(class, "b"), "{sql}");
        let report = regions.reconcile(true).await;
        assert!(report.differences[0].repair.is_some(), "{report:#?}");
        assert_eq!(regions.classes().await, [], "mended: {sql}");
        assert_eq!((contents(&regions.a).await, contents(&regions.b).await), healthy, "{sql}");
    }
}

/// A copy may lack only its last commit, and be mended while the next one is on its way.
#[tokio::test]
async fn a_mended_copy_goes_on_with_what_arrives() {
    let regions = Regions::start().await;
    let a1 = order_id(1, 1);
    regions.b.sql(&format!("UPDATE orders SET document = replace(document, '\"name\":\"A\"', '\"name\":\"Z\"') WHERE order_id = '{a1}'")).await;
    regions.reconcile(true).await;
    regions.cancel(&regions.a, a1, 50).await;
    regions.replicate().await;
    assert_eq!(regions.classes().await, []);
}

/// Nothing of what is under way is told: an order that was not copied yet, and the units it holds.
#[tokio::test]
async fn what_is_under_way_is_left_out_by_name() {
    let regions = Regions::start().await;
    regions.place(&regions.a, order_id(1, 7), 60).await;
    let report = regions.reconcile(true).await;
    // Nothing moves here while it is waited for, and that is told, once, instead of what it causes; rows travel by
    // themselves.
    let mut found: Vec<_> = report.differences.iter().map(|one| one.class.code()).collect();
    found.sort_unstable();
    assert_eq!(found, ["replication_stands_still", "rights_copy_behind"], "{report:#?}");
    regions.replicate().await;
    assert_eq!(regions.classes().await, []);
}

#[tokio::test]
async fn payments_are_compared_both_ways_and_voided_only_where_nobody_counts_on_them() {
    let (standing, cancelled) = (order_id(1, 1), order_id(1, 2));
    let regions = Regions::start().await;
    let (held, undone) = (format!("key-{standing}"), format!("key-{cancelled}"));
    // Voided behind our back.
    regions.provider.set(&held, &standing.to_string(), Provided::NotHeld);
    assert_eq!(regions.classes().await, one(Class::PaymentNotHeld, "a"));
    regions.provider.forget(&held);
    assert_eq!(regions.classes().await, one(Class::PaymentUnknownToProvider, "a"));
    let dearer = entrepot::types::Money::new(11, "EUR".parse().unwrap());
    regions.provider.set(&held, &standing.to_string(), Provided::Held(Some(dearer)));
    assert_eq!(regions.classes().await, one(Class::PaymentAmountDiffers, "a"));
    regions.provider.set(&held, &standing.to_string(), Provided::Held(None));
    assert_eq!(regions.classes().await, []);
    // Nobody's, an order's that no region knows, and one that the order knows nothing of.
    for order in ["whose".to_owned(), order_id(1, 99).to_string(), standing.to_string()] {
        regions.provider.set("stray", &order, Provided::Held(None));
        assert_eq!(regions.classes().await, one(Class::PaymentHeldWithoutOrder, "a"), "{order}");
        let report = regions.reconcile(true).await;
        assert_eq!(report.differences[0].repair, None);
        assert_eq!(regions.provider.says("stray"), Provided::Held(None), "by hand");
        regions.provider.forget("stray");
    }
    // Held for a cancelled order: not voided while a region is away, and voided when all agree.
    regions.provider.set(&undone, &cancelled.to_string(), Provided::Held(None));
    regions.hub.cut(regions.a.id, regions.b.id);
    let report = regions.reconcile(true).await;
    assert_eq!(report.differences.len(), 1, "{report:#?}");
    assert!(report.not_compared.iter().any(|left_out| left_out.what == "b"), "{report:#?}");
    assert_eq!(regions.provider.says(&undone), Provided::Held(None));
    regions.hub.heal();
    assert_eq!(regions.classes().await, one(Class::PaymentHeldForCancelledOrder, "a"));
    regions.reconcile(true).await;
    assert_eq!(regions.provider.says(&undone), Provided::NotHeld);
    assert_eq!(regions.provider.says(&held), Provided::Held(None));
    assert_eq!(regions.classes().await, []);
}

#[tokio::test]
async fn a_stuck_saga_is_woken_and_a_pending_order_without_one_is_told() {
    let regions = Regions::start().await;
    let id = order_id(1, 5);
    let write = crate::support::writes::referenced(regions.a.id, id, 40, "r", "c1");
    // It has nothing to pay, so it stands, and its line holds nothing.
    regions.a.commit(&crate::support::writes::orders([write]), 40).await;
    regions.replicate().await;
    assert_eq!(regions.classes().await, one(Class::LineNotReserved, "a"));
    let saga = SagaId(order_id(1, 1).0);
    let record = serde_json::json!({
        "id": saga, "order_id": saga, "state": "running", "step": "authorize", "attempts": 1, "log": [],
        "payments": [], "created_at_ms": 1, "updated_at_ms": 1, "due_at_ms": 1, "version": 1,
    });
    regions.a.sql(&format!("INSERT INTO sagas VALUES ('{saga}', '{saga}', 'running', 'authorize', 1, 1, 1, 1, 1, '{record}')")).await;
    let report = regions.reconcile(true).await;
    let classes: Vec<_> = report.differences.iter().map(|one| one.class).collect();
    assert_eq!(classes, [Class::LineNotReserved, Class::SagaStuck]);
    assert_eq!(*regions.a.woken.lock().unwrap(), [saga]);
}

#[tokio::test]
async fn two_orders_under_one_claim_and_an_oversold_key_are_told() {
    let regions = Regions::start().await;
    let (a1, b1) = (order_id(1, 1), order_id(2, 1));
    let intents = format!(
        "INSERT INTO idempotency VALUES ('customer:c1', 'k', 'a', 'h', '{a1}', NULL, 1), ('customer:c1', 'k', 'b', 'h', '{b1}', NULL, 1)"
    );
    for region in [&regions.a, &regions.b] {
        region.sql(&intents).await;
    }
    assert_eq!(regions.classes().await, one(Class::IntentTakenTwice, "a"));
    for region in [&regions.a, &regions.b] {
        region.sql("DELETE FROM idempotency").await;
        region
            .sql(&format!(
                "UPDATE rights SET received = 1, ceiling = 99 WHERE sku = '{}'",
                key().sku
            ))
            .await;
    }
    let found = regions.classes().await;
    assert_eq!(found.len(), 2, "each region adds up what it knows: {found:?}");
    assert!(found.iter().all(|(class, _)| class == "oversold"), "{found:?}");
}

/// A region that is away is named, and the rest is compared.
#[tokio::test]
async fn a_region_that_is_away_is_named_and_the_rest_is_compared() {
    let regions = Regions::start().await;
    regions.a.sql("UPDATE rights SET spent = spent + 1 WHERE owner = 'a'").await;
    regions.hub.cut(regions.a.id, regions.b.id);
    let report = regions.reconcile(false).await;
    assert_eq!(report.regions, [regions.a.id]);
    assert_eq!(report.differences.len(), 1, "{report:#?}");
    assert_eq!(report.differences[0].class, Class::ReservationNotInRights);
    assert!(report.not_compared.iter().all(|left_out| left_out.what == "b"), "{report:#?}");
    assert!(!report.not_compared.is_empty());
}

/// Nobody waits for a region that is gone for good: what it knew is with the others.
#[tokio::test]
async fn a_region_that_is_gone_for_good_is_not_waited_for() {
    let regions = Regions::start().await;
    let (a, b) = (&regions.a, &regions.b);
    let cancelled = order_id(1, 2);
    let undone = format!("key-{cancelled}");
    regions.provider.set(&undone, &cancelled.to_string(), Provided::Held(None));
    let received = format!("UPDATE rights SET received = 1 WHERE sku = '{}'", key().sku);
    a.sql(&received).await;
    regions.hub.cut(a.id, b.id);
    let told = async || {
        let report = regions.reconcile(true).await;
        assert_eq!(report.regions, [a.id]);
        let left_out = report.not_compared.iter().filter(|left_out| left_out.what == "b");
        let whys: Vec<String> = left_out.map(|left_out| left_out.why.clone()).collect();
        let classes: Vec<_> = report.differences.iter().map(|one| one.class).collect();
        (classes, whys)
    };
    let (classes, whys) = told().await;
    assert_eq!(classes, [Class::PaymentHeldForCancelledOrder]);
    assert!(whys.iter().any(|why| why.contains("oversold")), "{whys:?}");
    assert_eq!(regions.provider.says(&undone), Provided::Held(None));
    a.retires(b.id).await;
    let (classes, whys) = told().await;
    assert_eq!(classes, [Class::Oversold, Class::PaymentHeldForCancelledOrder]);
    assert!(whys.len() == 1 && whys[0].contains("gone for good"), "{whys:?}");
    assert_eq!(regions.provider.says(&undone), Provided::NotHeld);
}

/// One process of a region at a time; a run that never ended is marked, and old reports go.
#[tokio::test]
async fn rounds_take_turns_and_reports_are_kept() {
    use entrepot::ports::ReconcileStore;

    let regions = Regions::start().await;
    let turn = regions.a.store.turn().await.unwrap().expect("nobody has it");
    assert!(regions.a.database.store("a").turn().await.unwrap().is_none(), "another process waits");
    let kept = async || {
        let query = "SELECT count(*) FROM reconciliations WHERE asked_by = 'timer'";
        let mut connection = regions.a.database.connection().await;
        sqlx::query_scalar::<_, i64>(query).fetch_one(&mut connection).await.unwrap()
    };
    regions.a.reconciler.round().await.unwrap();
    assert_eq!(kept().await, 0, "it is not its turn");
    drop(turn);
    crate::support::eventually("the turn is given back", || async {
        regions.a.reconciler.round().await.unwrap();
        (kept().await == 1).then_some(())
    })
    .await;
    // A round tells what a run tells, and goes on where the last one ended.
    let sql = format!(
        "UPDATE order_events SET events = replace(events, '\"name\":\"A\"', '\"name\":\"Z\"') WHERE order_id = '{}'",
        order_id(1, 1)
    );
    regions.a.sql(&sql).await;
    regions.a.reconciler.round().await.unwrap();
    let query = "SELECT class FROM evidence.v_reconciliations WHERE class IS NOT NULL";
    let mut connection = regions.a.database.connection().await;
    let told: String = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    assert_eq!(told, Class::EventChainBroken.code());
    let report = regions.reconcile(false).await;
    regions.a.sql("UPDATE reconciliations SET status = 'running', started_at_ms = 0 WHERE asked_by <> 'timer'").await;
    regions.a.store.tidy(1, 3).await.unwrap();
    let lost = regions.a.reconciler.report(report.id).await.unwrap().unwrap();
    assert!(lost.error.is_some(), "{lost:#?}");
    regions.a.store.tidy(1, 2).await.unwrap();
    assert_eq!(regions.a.reconciler.report(report.id).await.unwrap(), None, "the oldest goes");
    assert_eq!(kept().await, 2);
}
