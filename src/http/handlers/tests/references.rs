//! One order under a channel's own reference.

use serde_json::Value;

use super::elsewhere::Neighbors;
use super::*;
use crate::app::settle_contested;
use crate::domain::order::{OrderRecord, PaymentState};

fn referenced(token: &str) -> Value {
    let mut body = order_body("A-1", 1, token);
    body["channel_order_ref"] = json!("1");
    body
}

#[tokio::test]
async fn a_reference_answers_its_order_to_those_who_may_see_it() {
    let shop = shop(10).await;
    let body = referenced("tok_ok");
    let first = json_of(shop.place("k1", &body).await).await;
    let bob = shop.fixture.token(Role::Customer, "bob");
    let answer = shop.door.answer(send("POST", ORDERS, &bob, "k1", &body)).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-home-region")), (409, ""));
    let problem = json_of(answer).await;
    assert_eq!(problem["code"], "channel_ref_taken");
    assert!(!problem.to_string().contains(first["id"].as_str().unwrap()), "{problem}");
    let service = shop.fixture.token(Role::Service, "channel");
    for token in [&shop.alice, &service] {
        let answer = shop.door.answer(send("POST", ORDERS, token, "k2", &body)).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "idempotency-replayed")),
            (201, "true")
        );
        assert_eq!(json_of(answer).await["id"], first["id"]);
    }
    let mut bobs = body.clone();
    bobs["customer_id"] = json!("bob");
    let answer = shop.door.answer(send("POST", ORDERS, &service, "k3", &bobs)).await;
    assert_eq!(answer.status().as_u16(), 409, "a service that orders for bob is not given alice's");
    assert_eq!(shop.available().await, 9);
}

#[tokio::test]
async fn a_refused_order_leaves_its_reference_to_the_next() {
    let shop = shop(10).await;
    for replayed in ["", "true"] {
        let answer = shop.place("k1", &referenced("tok_declined")).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "idempotency-replayed")),
            (402, replayed)
        );
    }
    for (key, replayed) in [("k2", ""), ("k2", "true"), ("k3", "true")] {
        let answer = shop.place(key, &referenced("tok_ok")).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "idempotency-replayed")),
            (201, replayed),
            "{key}"
        );
    }
    assert_eq!(shop.available().await, 9);
}

#[tokio::test]
async fn a_reference_of_another_region_is_answered_there() {
    let mut regions = Neighbors::new(10).await;
    let (body, alice) = (referenced("tok_ok"), regions.there.alice.clone());
    let placed = regions.there.place("k1", &body).await;
    regions.copy(header(&placed, "location"));
    let first = json_of(placed).await;
    let answer = regions.door.answer(send("POST", ORDERS, &alice, "k2", &body)).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "x-region")),
        (201, "eu-west"),
        "its home answers"
    );
    assert_eq!(json_of(answer).await["id"], first["id"]);
    let bob = regions.there.fixture.token(Role::Customer, "bob");
    let answer = regions.door.answer(send("POST", ORDERS, &bob, "k3", &body)).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-region")), (409, "us-east"));
    regions.stop().await;
    let answer = regions.door.answer(send("POST", ORDERS, &alice, "k4", &body)).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-region")), (201, "us-east"));
    assert_eq!(json_of(answer).await["id"], first["id"], "the copy is the best answer");
}

/// Another region's order of the same reference, with its own money, placed earlier or later.
fn rival(own: &OrderRecord, wall_ms: u64) -> OrderRecord {
    let mut rival = own.clone();
    rival.order.id = "01999999-9999-7000-8000-000000000001".parse().unwrap();
    rival.order.home_region = "us-east".parse().unwrap();
    rival.created_hlc.wall_ms = wall_ms;
    for payment in &mut rival.order.payments {
        payment.provider_key = "another".to_owned();
    }
    rival
}

#[tokio::test]
async fn of_two_regions_orders_of_one_reference_the_later_gives_back_its_money() {
    for (earlier, status) in [(false, "confirmed"), (true, "cancelled")] {
        let shop = shop(10).await;
        let placed = json_of(shop.place("k1", &referenced("tok_ok")).await).await;
        let id = placed["id"].as_str().unwrap().parse().unwrap();
        let own = shop.fixture.store.tables().orders[&id].clone();
        let rival = rival(&own, if earlier { 1 } else { u64::MAX });
        let rival_id = rival.order.id;
        shop.fixture.store.put_copy(rival.into());
        let app = &shop.fixture.context.app;
        let settle = || settle_contested(app.reader.as_ref(), &app.writer);
        assert_eq!(settle().await.unwrap(), usize::from(earlier));
        assert_eq!(settle().await.unwrap(), 0, "once");
        let finished = app.completions.wait_for(id);
        let due = app.sagas.recover().await.unwrap();
        assert_eq!(due, usize::from(earlier));
        if earlier {
            finished.await.unwrap();
        }
        let path = format!("{ORDERS}/{}", placed["id"].as_str().unwrap());
        let order = json_of(shop.get(&path, &shop.alice).await).await;
        assert_eq!(order["status"], status);
        assert_eq!(shop.available().await, if earlier { 10 } else { 9 });
        let stored = shop.fixture.store.tables().orders[&id].clone();
        let payment = &stored.order.payments[0];
        assert_eq!(payment.state == PaymentState::Voided, earlier);
        assert_eq!(shop.fixture.gateway.holds(&payment.provider_key), !earlier);
        // A retry of the intent that yielded is answered with the order that stays.
        let answer = shop.place("k1", &referenced("tok_ok")).await;
        let stays = if earlier { rival_id } else { id };
        assert_eq!(json_of(answer).await["id"], stays.to_string());
    }
}
