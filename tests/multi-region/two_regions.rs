//! Two regions and a witness: each goes on without the other one, and both without the witness
//! (`region-config/two-regions.toml`).

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Deployment, http};

const REGIONS: [&str; 2] = ["us-east", "eu-west"];
const WITNESS: &str = "ca-central";
const SKU: &str = "SAMPLE-MUG";

/// The lease, and what the fence and the moves take on a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(1);

/// The deployment, and what a test asks of it.
struct Shop {
    deployment: Deployment,
    keys: Cell<u32>,
}

impl Shop {
    fn open() -> Self {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("region-config/two-regions.toml");
        let shop = Self { deployment: Deployment::start_with(Some(&config)), keys: Cell::new(0) };
        shop.until("all vote", Self::all_are_there);
        shop
    }

    fn until(&self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        self.deployment.within(TAKEN_OVER_WITHIN, what, |_| is_true(self));
    }

    fn all_are_there(&self) -> bool {
        self.state(WITNESS) == "witness"
            && REGIONS.iter().all(|region| self.state(region) == "ready")
    }

    fn state(&self, region: &str) -> String {
        self.deployment.region(region)["state"].as_str().unwrap().to_owned()
    }

    fn order(&self, region: &str, quantity: u64) -> Answer {
        let arguments =
            ["token", "--role", "customer", "--customer", "alice", "--home-region", region];
        let token = format!("Bearer {}", self.deployment.entrepot_ok(&arguments).trim());
        self.keys.set(self.keys.get() + 1);
        let key = format!("two-regions-{}", self.keys.get());
        let body = json!({
            "channel": "web", "customer_id": "alice", "currency": "EUR",
            "lines": [{"sku": SKU, "quantity": quantity}],
            "shipping_address": {"name": "Alice", "line1": "1", "city": "Berlin", "postal_code": "10117", "country": "DE"},
            "payments": [{"method": "card", "token": "tok_ok"}],
        });
        let headers = [
            ("Authorization", token.as_str()),
            ("Idempotency-Key", key.as_str()),
            ("Content-Type", "application/json"),
        ];
        let port = self.deployment.base_port;
        let send = || http::call(port, "POST", "/api/v1/orders", &headers, Some(&body));
        let mut answer = None;
        self.until("the order is told", |_| {
            answer = send().filter(|answer| {
                ![409, 502, 503, 504].contains(&answer.status)
                    || answer.body.contains("insufficient")
            });
            answer.is_some()
        });
        answer.unwrap()
    }

    /// What one region says of another one.
    fn seen(&self, from: &str, region: &str) -> Value {
        let output = self.deployment.entrepot(&["regions", "--json"]);
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let views = all["regions"].as_array().into_iter().flatten();
        let view = views.filter(|view| view["seen_from"] == from);
        let mut sees = view.filter_map(|view| view["sees"].as_array()).flatten();
        sees.find(|seen| seen["region"] == region).cloned().unwrap_or_default()
    }

    fn acts_on_its_orders(&self, region: &str) -> bool {
        self.seen(region, region)["order_lease"] == true
    }

    fn stock(&self) -> Value {
        let token =
            format!("Bearer {}", self.deployment.entrepot_ok(&["token", "--role", "admin"]).trim());
        let path = format!("/api/v1/inventory/{SKU}");
        let answer = self.deployment.get(&path, &[("Authorization", &token)]).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    fn refused(&self, arguments: &[&str]) {
        let output = self.deployment.entrepot(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("witness"), "{arguments:?}: {said}");
    }
}

#[test]
fn either_region_goes_on_without_the_other_one_and_both_without_the_witness() {
    let shop = Shop::open();
    let of_all = |deployment: &Deployment, arguments: &[&str]| -> Value {
        serde_json::from_str(&deployment.entrepot_ok(arguments)).unwrap()
    };
    let first = REGIONS.map(|region| shop.order(region, 1));
    for (region, order) in REGIONS.iter().zip(&first) {
        assert_eq!(order.status, 201, "{order:?}");
        assert_eq!(order.json()["home_region"], *region);
    }
    assert_eq!(shop.seen("us-east", WITNESS)["status"], "witness");
    for arguments in [
        ["region", "fence", WITNESS].as_slice(),
        &["region", "fence", "eu-west", "--by", WITNESS],
        &["region", "evacuate", WITNESS],
        &["region", "evacuate", "eu-west", "--to", WITNESS],
        &["region", "retire", WITNESS],
    ] {
        shop.refused(arguments);
    }
    let stock = shop.stock();
    let names: Vec<&Value> =
        stock["regions"].as_array().unwrap().iter().map(|region| &region["region"]).collect();
    assert_eq!(names, ["eu-west", "us-east"], "the witness holds nothing: {stock}");

    // One region is lost: the other one takes over, with the witness's vote.
    shop.until("eu-west's order is known to us-east", |shop| shop.stock()["reserved"] == 2);
    shop.deployment.entrepot_ok(&["chaos", "kill", "eu-west"]);
    let taken = of_all(&shop.deployment, &["region", "fence", "eu-west", "--json"]);
    assert_eq!(taken["status"], "fenced", "{taken}");
    let left = shop.stock();
    let of_lost = left["regions"].as_array().unwrap().iter().find(|it| it["region"] == "eu-west");
    let stranded = of_lost.unwrap()["ceiling"].as_u64().unwrap() - 1;
    let can_be_sold = left["available"].as_u64().unwrap() - stranded;
    let order = shop.order("us-east", can_be_sold);
    assert_eq!(order.status, 201, "what the lost region had above its ceiling: {order:?}");
    assert_eq!(shop.order("us-east", 1).status, 409, "and nothing below");
    let id = first[1].json()["id"].as_str().unwrap().to_owned();
    let admin =
        format!("Bearer {}", shop.deployment.entrepot_ok(&["token", "--role", "admin"]).trim());
    shop.until("its order has another home", |shop| {
        let path = format!("/api/v1/orders/{id}");
        let order = shop.deployment.get(&path, &[("Authorization", &admin)]);
        order.is_some_and(|order| order.json()["home_region"] == "us-east")
    });

    shop.deployment.entrepot_ok(&["chaos", "start", "eu-west"]);
    shop.until("it knows that it was fenced", |shop| shop.state("eu-west") == "fenced");
    shop.deployment.entrepot_ok(&["region", "rejoin", "eu-west"]);
    shop.until("it is back", |shop| shop.all_are_there() && shop.acts_on_its_orders("eu-west"));
    assert_eq!(shop.order("eu-west", stranded).status, 201, "what it had left is sold now");

    // The witness is lost: the two are a majority.
    shop.deployment.entrepot_ok(&["chaos", "kill", WITNESS]);
    shop.until("it is not heard", |shop| shop.seen("us-east", WITNESS)["status"] == "silent");
    for region in REGIONS {
        assert!(shop.acts_on_its_orders(region), "{region}");
        assert_eq!(shop.order(region, 1).status, 409);
    }

    // It comes back with nothing of what it kept, and begins anew.
    shop.deployment.entrepot_ok(&["down"]);
    std::fs::remove_dir_all(shop.deployment.folder.join("regions").join(WITNESS)).unwrap();
    let up = shop.deployment.up();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    shop.until("it knows that it was set back", |shop| shop.state(WITNESS) == "set_back");
    let rejoined = of_all(&shop.deployment, &["region", "rejoin", WITNESS, "--json"]);
    assert_eq!(rejoined["status"], "witness", "{rejoined}");
    assert!(shop.seen("us-east", WITNESS)["epoch"].as_u64() > Some(1));
    shop.deployment.entrepot_ok(&["reconcile", "--json"]);
}
