use serde_json::{Value, json};

use super::super::super::json::parse;
use super::super::super::problem::Code;
use super::*;

fn body() -> Value {
    json!({
        "channel": "web", "channel_order_ref": null, "customer_id": null, "email": null, "currency": "EUR",
        "lines": [{"sku": "85123A", "quantity": 2}, {"sku": "85123A", "quantity": 1}],
        "shipping_option": "standard",
        "shipping_address": {"name": "A", "line1": "B 1", "city": "C", "postal_code": "1", "country": "DE"},
        "billing_address": null, "payments": [{"method": "card", "token": "tok_ok"}],
        "allow_backorder": false, "allow_split": true, "durability": "local"
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut changed = body();
    let (parent, name) = path.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[name] = value;
    changed
}

fn check(body: &Value, role: Role) -> Result<PlaceRequest, Vec<String>> {
    let fields = |problem: Problem| {
        assert_eq!(problem.code, Code::ValidationFailed);
        problem.errors.into_iter().map(|error| error.field).collect()
    };
    let body: PlaceOrderBody = parse(body.to_string().as_bytes()).map_err(fields)?;
    let intent = IntentKey { principal: "p".to_owned(), key: "k".to_owned() };
    body.check(&Principal::for_tests(role, "alice"), intent).map_err(fields)
}

#[test]
fn the_request_of_the_contract_is_good() {
    let request = check(&body(), Role::Customer).unwrap();
    assert_eq!(request.lines.len(), 2, "two lines of one SKU are legal");
    assert_eq!(request.customer_id, Some("alice".parse().unwrap()), "taken from the token");
    let service = check(&body(), Role::Service).unwrap();
    assert_eq!(service.customer_id, None, "a guest");
    let least = json!({
        "currency": "EUR", "lines": [{"sku": "a", "quantity": 1}],
        "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "", "country": "IE"},
        "payments": [{"method": "upi", "token": "t"}],
    });
    assert!(check(&least, Role::Customer).is_ok());
}

#[test]
fn each_fault_is_named() {
    for (path, value, field) in [
        ("/channel", json!("shop"), "channel"),
        ("/channel", json!("marketplace:"), "channel"),
        ("/channel", json!("pos"), "channel"),
        ("/customer_id", json!("bob"), "customer_id"),
        ("/email", json!("a@b"), "email"),
        ("/email", json!("a b@c.de"), "email"),
        ("/currency", json!("eur"), "currency"),
        ("/lines", json!([]), "lines"),
        ("/lines", Value::Array(vec![json!({"sku": "a", "quantity": 1}); 201]), "lines"),
        ("/lines/0/quantity", json!(0), "lines[0].quantity"),
        ("/lines/0/quantity", json!(-1), "lines[0].quantity"),
        ("/lines/1/quantity", json!(10_001), "lines[1].quantity"),
        ("/lines/1/quantity", json!(1e30), "lines[1].quantity"),
        ("/lines/0/sku", json!(""), "lines[0].sku"),
        ("/lines/0/sku", json!("x".repeat(65)), "lines[0].sku"),
        ("/lines/0/sku", json!("a\u{0}"), "lines[0].sku"),
        ("/lines/0/unit_price", json!({"amount": 1, "currency": "EUR"}), "lines[0].unit_price"),
        ("/shipping_address/country", json!("UK"), "shipping_address.country"),
        ("/shipping_address/name", json!(" "), "shipping_address.name"),
        ("/shipping_address/line1", json!("4111 1111 1111 1111"), "shipping_address.line1"),
        ("/shipping_address/planet", json!("Mars"), "shipping_address.planet"),
        (
            "/billing_address",
            json!({"name": "A", "line1": "B", "city": "C", "postal_code": "1", "country": "XX"}),
            "billing_address.country",
        ),
        ("/payments/0/method", json!("cash"), "payments[0].method"),
        ("/payments/0/method", json!("loyalty"), "payments[0].method"),
        ("/payments/0/token", json!("4111111111111111"), "payments[0].token"),
        ("/payments/0/token", Value::Null, "payments[0].token"),
        (
            "/payments/0/amount",
            json!({"amount": 5, "currency": "USD"}),
            "payments[0].amount.currency",
        ),
        (
            "/payments/0/amount",
            json!({"amount": 0, "currency": "EUR"}),
            "payments[0].amount.amount",
        ),
        (
            "/payments/0/amount",
            json!({"amount": -5, "currency": "EUR"}),
            "payments[0].amount.amount",
        ),
        ("/durability", json!("eternal"), "durability"),
        ("/allow_backorder", json!(true), "allow_backorder"),
        ("/colour", json!("red"), "colour"),
    ] {
        assert_eq!(
            check(&with(path, value.clone()), Role::Customer),
            Err(vec![field.to_owned()]),
            "{path} = {value}"
        );
    }
}

#[test]
fn all_faults_are_named_at_once() {
    let mut bad = with("/lines/0/quantity", json!(0));
    bad["lines"][1]["sku"] = json!("");
    bad["email"] = json!("x");
    let fields = check(&bad, Role::Customer).unwrap_err();
    assert_eq!(fields, ["lines[0].quantity", "lines[1].sku", "email"]);
}

#[test]
fn only_a_service_on_a_trade_channel_names_prices() {
    let mut priced = with("/lines/0/unit_price", json!({"amount": 255, "currency": "EUR"}));
    assert!(check(&priced, Role::Service).is_err(), "not on web");
    for channel in ["pos", "marketplace:bazaar_1"] {
        priced["channel"] = json!(channel);
        assert_eq!(check(&priced, Role::Service).unwrap().lines[0].unit_minor, Some(255));
        assert!(check(&priced, Role::Staff).is_err(), "not by staff");
    }
    priced["lines"][0]["unit_price"]["currency"] = json!("GBP");
    assert_eq!(check(&priced, Role::Service), Err(vec!["lines[0].unit_price.currency".to_owned()]));
}

#[test]
fn the_hash_is_of_the_meaning() {
    let hash = |text: &str| parse::<PlaceOrderBody>(text.as_bytes()).unwrap().hash();
    let compact = body().to_string();
    let spaced = serde_json::to_string_pretty(&body()).unwrap();
    assert_eq!(hash(&compact), hash(&spaced));
    assert_ne!(hash(&compact), hash(&with("/lines/0/quantity", json!(3)).to_string()));
}
