//! What becomes of the payments of an order.

use serde_json::{Value, json};

use super::*;

fn two_cards(first: &Value, second: &Value) -> Value {
    let mut body = order_body("A-1", 1, "tok_ok");
    body["payments"] = json!([first, second]);
    body
}

fn card(token: &str, amount: i64) -> Value {
    json!({"method": "card", "token": token, "amount": {"amount": amount, "currency": "EUR"}})
}

#[tokio::test]
async fn payments_of_more_than_the_order_are_refused() {
    let shop = shop(10).await;
    let rest = json!({"method": "card", "token": "tok_ok"});
    for body in [
        two_cards(&card("tok_ok", 251), &rest),
        two_cards(&rest, &card("tok_ok", 1)),
        two_cards(&card("tok_ok", 100), &card("tok_ok", 149)),
    ] {
        let answer = shop.place("k1", &body).await;
        assert_eq!(answer.status(), 422, "{body}");
        assert_eq!(json_of(answer).await["errors"][0]["field"], "payments");
    }
    assert_eq!(shop.fixture.gateway.asked.load(Ordering::Relaxed), 0);
    assert!(shop.fixture.store.tables().orders.is_empty());
    assert_eq!(shop.place("k1", &two_cards(&card("tok_ok", 100), &rest)).await.status(), 201);
}

#[tokio::test]
async fn each_payment_ends_as_the_provider_says() {
    let shop = shop(10).await;
    for (first, second, code, ends) in [
        ("tok_ok", "tok_declined", "payment_declined", ["voided", "declined"]),
        ("tok_declined", "tok_async", "payment_declined", ["declined", "voided"]),
        ("tok_declined", "tok_declined", "payment_declined", ["declined", "declined"]),
        ("tok_fraud", "tok_ok", "fraud_rejected", ["declined", "voided"]),
    ] {
        let body = two_cards(&card(first, 100), &card(second, 150));
        let problem = json_of(shop.place(&format!("{first}-{second}"), &body).await).await;
        assert_eq!(problem["code"], code, "{first} {second}");
        let path = format!("{ORDERS}/{}", problem["order_id"].as_str().unwrap());
        let order = json_of(shop.get(&path, &shop.alice).await).await;
        for (payment, end) in order["payments"].as_array().unwrap().iter().zip(ends) {
            assert_eq!(payment["status"], end, "{first} {second}: {order}");
            let named = payment["gateway_reference"].is_string();
            assert_eq!(named, end == "voided", "{first} {second}: {order}");
        }
        assert_eq!(shop.available().await, 10);
    }
}

#[tokio::test]
async fn a_request_that_the_provider_refuses_is_undone_at_once() {
    let shop = shop(10).await;
    let answer = shop.place("k1", &order_body("A-1", 1, "tok_refused")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(json_of(answer).await["code"], "dependency_unavailable");
    assert_eq!(shop.fixture.gateway.asked.load(Ordering::Relaxed), 1, "asking again is no use");
    assert_eq!(shop.available().await, 10);
}
