//! Goods, stock and shoppers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Call, REGIONS, World};

/// Of one unit of everything.
pub(crate) const PRICE: i64 = 1_000;

/// For a change of stock to be known in every region.
const KNOWN_EVERYWHERE_WITHIN: Duration = Duration::from_secs(30);

/// For an answer other than "try again", on a machine that has more to do.
const TOLD_WITHIN: Duration = Duration::from_mins(1);

/// One payment for the whole order.
pub(crate) fn card(token: &str) -> Value {
    json!([{"method": "card", "token": token}])
}

/// Two payments: `first` for a part of the price, `second` for what is left.
pub(crate) fn cards(first: &str, second: &str) -> Value {
    json!([
        {"method": "card", "token": first, "amount": {"amount": PRICE / 4, "currency": "EUR"}},
        {"method": "card", "token": second},
    ])
}

/// The body of an order of one line.
pub(crate) fn cart_of(sku: &str, quantity: u32, payments: &Value) -> Value {
    json!({
        "currency": "EUR",
        "lines": [{"sku": sku, "quantity": quantity}],
        "shipping_address": {
            "name": "A. Shopper", "line1": "1 Main Street", "city": "Berlin",
            "postal_code": "10115", "country": "DE",
        },
        "payments": payments,
    })
}

impl World {
    /// A SKU with so many units in each region, known everywhere.
    pub(crate) async fn goods(&self, name: &str, units: [u64; 3]) -> String {
        let sku = self.fresh(name);
        let product = json!({
            "sku": sku, "name": name, "prices": [{"amount": PRICE, "currency": "EUR"}],
        });
        self.create("products", &sku, &product).await;
        for (region, units) in REGIONS.into_iter().zip(units) {
            let node = format!("w-{region}");
            let body = json!({"id": node, "kind": "warehouse", "region": region, "country": "DE"});
            self.create("nodes", &node, &body).await;
            if units > 0 {
                self.receive(&sku, region, units).await;
            }
        }
        let total: u64 = units.iter().sum();
        self.eventually(KNOWN_EVERYWHERE_WITHIN, "every region knows the stock", async || {
            for region in REGIONS {
                let stock = self.inventory(region, &sku).await;
                let rights = |of: &str, units: u64| {
                    let regions = stock["regions"].as_array().into_iter().flatten();
                    let mut held = regions.filter(|known| known["region"] == of);
                    held.next().map_or(0, |known| known["rights"].as_u64().unwrap_or(0)) == units
                };
                let known = REGIONS.into_iter().zip(units).all(|(of, units)| rights(of, units));
                if stock["on_hand"] != total || !known {
                    return None;
                }
            }
            Some(())
        })
        .await;
        sku
    }

    async fn create(&self, kind: &str, id: &str, body: &Value) {
        let url = format!("{}/api/v1/{kind}", self.at(REGIONS[0]));
        let call = Call::post(url, body).token(&self.admin()).key(&format!("create-{id}"));
        let answer = self.send_until_told(&call).await;
        assert!(matches!(answer.status, 200 | 201 | 409), "{kind} {id}: {answer:?}");
        self.until(&format!("every region knows {id}"), async || {
            for region in REGIONS {
                let url = format!("{}/api/v1/{kind}/{id}", self.at(region));
                let answer = self.http.send(Call::get(url).token(&self.admin())).await;
                if answer.is_none_or(|answer| answer.status != 200) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    async fn send_until_told(&self, call: &Call) -> Answer {
        self.eventually(TOLD_WITHIN, "the operator is told", async || {
            self.http.send(call.clone()).await.filter(|answer| answer.status != 503)
        })
        .await
    }

    /// Goods come in at the warehouse of a region.
    pub(crate) async fn receive(&self, sku: &str, region: &str, units: u64) {
        let url = format!("{}/api/v1/inventory/{sku}/adjustments", self.at(region));
        let body = json!({"node": format!("w-{region}"), "delta": units, "reason": "receipt"});
        let call = Call::post(url, &body).token(&self.admin()).key(&self.fresh("receive"));
        let answer = self.send_until_told(&call).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A SKU as a region knows it.
    pub(crate) async fn inventory(&self, region: &str, sku: &str) -> Value {
        let url = format!("{}/api/v1/inventory/{sku}", self.at(region));
        let answer = self.http.send(Call::get(url).token(&self.admin())).await;
        answer.map(|answer| answer.json()).unwrap_or_default()
    }

    /// An order as a region knows it.
    pub(crate) async fn order_at(&self, region: &str, id: &str) -> Value {
        let url = format!("{}/api/v1/orders/{id}", self.at(region));
        let answer = self.http.send(Call::get(url).token(&self.admin())).await;
        answer.map(|answer| answer.json()).unwrap_or_default()
    }

    /// A customer orders, and asks again with the same key for as long as a region that is busy or
    /// just away says so or says nothing. What comes back is the order's fate.
    pub(crate) async fn order_until_told(&self, base: &str, key: &str, cart: &Value) -> Answer {
        self.eventually(TOLD_WITHIN, "the shopper is told", async || {
            let answer = self.order(base, key, cart).await?;
            let later = answer.status == 503 || answer.code() == "idempotency_in_flight";
            (!later).then_some(answer)
        })
        .await
    }

    /// A customer orders. `None` when there was no answer.
    pub(crate) async fn order(&self, base: &str, key: &str, cart: &Value) -> Option<Answer> {
        let token = self.token("customer", "alice", None);
        let url = format!("{base}/api/v1/orders");
        self.http.send(Call::post(url, cart).token(&token).key(key)).await
    }

    /// An order as a region shows it.
    pub(crate) async fn show(&self, region: &str, path: &str) -> Answer {
        let url = format!("{}/api/v1/orders/{path}", self.at(region));
        self.send_until_told(&Call::get(url).token(&self.admin())).await
    }
}
