//! The drivers: shoppers who order through the load balancer at a steady rate, and the crowd of a flash sale.
//!
//! A shopper who gets no answer, or is asked to come again, tries once more with the same key and token, at the next
//! region's own entrance, as if their network led them there. They go on until somebody tells them what
//! became of their order.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::history::{Line, Recorder, Told, Try, Wish};
use super::scenario::{Load, Sale};
use super::tokens::{Tokens, customer, sale_customer};
use crate::cli::client::{Answer, ApiClient, Call};
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::types::RegionId;

/// The most units of one line.
const QUANTITY_MAX: u64 = 3;

/// Shoppers on their way at once: all of a sale's, and those of a steady load whom nobody answers.
const IN_FLIGHT_MAX: usize = 8_192;

/// How long a shopper waits for one answer. A region takes at most 2 s for its saga and 5 s for other
/// regions' rights.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long after the load's end a shopper asks on. Regions must be back long before that.
pub(super) const ASK_ON_MS: u64 = 60_000;

/// So many of a hundred shoppers of the steady load ask again although they were told, in another region at once: a
/// second click, a second tab.
const ASK_AGAIN_PERCENT: u64 = 5;

/// The longest that somebody who hangs up waits.
const HANG_UP_MS_MAX: u64 = 300;

/// In minor units.
pub(super) const PRICE: i64 = 1_000;

/// What all shoppers share.
pub(super) struct Shop<'a> {
    pub(super) balancer: ApiClient,
    /// Each region's own.
    pub(super) entrances: &'a BTreeMap<RegionId, ApiClient>,
    pub(super) tokens: &'a Tokens<'a>,
    pub(super) regions: &'a [RegionId],
    /// Begins every key and SKU of this run.
    pub(super) run: &'a str,
    pub(super) recorder: &'a Recorder,
    /// Since the load began.
    pub(super) clock: SystemClock,
    /// The cards to pay with now; none: a good one.
    pub(super) cards: &'a (dyn Fn() -> Vec<String> + Send + Sync),
    /// Orders are placed with `durability: remote`.
    pub(super) remote: bool,
}

/// The part of an answer that we read.
#[derive(Deserialize)]
struct Placed {
    id: String,
    status: String,
}

impl Shop<'_> {
    /// Orders at a steady rate for so long, whatever happens to the earlier ones.
    pub(super) async fn steady(&self, load: Load, seconds: u64) {
        let give_up_ms = seconds * 1_000 + ASK_ON_MS;
        let Load { orders_per_second: rate, hang_up_percent, .. } = load;
        let shoppers = futures::stream::iter(0..rate * seconds)
            .then(|serial| async move {
                let due_ms = serial * 1_000 / rate;
                let left_ms = due_ms.saturating_sub(self.clock.monotonic_ms());
                tokio::time::sleep(Duration::from_millis(left_ms)).await;
                serial
            })
            .map(|serial| {
                let dice = scattered(serial);
                let hang_up_ms =
                    (dice % 100 < hang_up_percent).then_some((dice >> 8) % HANG_UP_MS_MAX);
                let ask_again = (dice >> 24) % 100 < ASK_AGAIN_PERCENT;
                let wish = self.wish(serial, load);
                self.shop(customer(serial), wish, hang_up_ms, ask_again, give_up_ms)
            })
            .buffer_unordered(IN_FLIGHT_MAX);
        shoppers.collect::<()>().await;
    }

    /// All want one unit of the same, at once.
    pub(super) async fn sale(&self, sale: Sale, seconds: u64) {
        let give_up_ms = seconds * 1_000 + ASK_ON_MS;
        let left_ms = (sale.from * 1_000).saturating_sub(self.clock.monotonic_ms());
        tokio::time::sleep(Duration::from_millis(left_ms)).await;
        let crowd = (0..sale.shoppers).map(|serial| {
            let wish = Wish {
                key: format!("{}-sale-{serial}", self.run),
                home: sale.home(self.regions, serial),
                lines: vec![Line { sku: sale_sku(self.run), quantity: 1 }],
                card: "tok_ok".to_owned(),
                on_sale: true,
                tries: Vec::new(),
            };
            self.shop(sale_customer(serial), wish, None, false, give_up_ms)
        });
        futures::stream::iter(crowd).buffer_unordered(IN_FLIGHT_MAX).collect::<()>().await;
    }

    /// What the shopper of this number wants: mostly one line.
    fn wish(&self, serial: u64, load: Load) -> Wish {
        let (dice, skus) = (scattered(serial), load.skus);
        let first = dice % skus;
        let mut lines =
            vec![Line { sku: sku(self.run, first), quantity: 1 + (dice >> 16) % QUANTITY_MAX }];
        if dice.is_multiple_of(4) && skus > 1 {
            lines.push(Line { sku: sku(self.run, (first + 1) % skus), quantity: 1 });
        }
        let cards = (self.cards)();
        let turn = usize::try_from(serial).unwrap_or_default();
        let card = cards.get(turn % cards.len().max(1)).cloned();
        Wish {
            key: format!("{}-{serial}", self.run),
            home: load.home(self.regions, serial),
            lines,
            card: card.unwrap_or_else(|| "tok_ok".to_owned()),
            on_sale: false,
            tries: Vec::new(),
        }
    }

    /// Goes on until there is an answer that stands.
    async fn shop(
        &self,
        customer: String,
        mut wish: Wish,
        hang_up_ms: Option<u64>,
        ask_again: bool,
        give_up_ms: u64,
    ) {
        let body = body_of(&wish, self.remote);
        let home = self.regions.iter().position(|region| *region == wish.home).unwrap_or_default();
        let mut pause = PAUSE_MIN;
        let regions = self.regions.iter().cycle().skip(home);
        for (attempt, via) in regions.enumerate() {
            let wait = match hang_up_ms.filter(|_| attempt == 0) {
                Some(ms) => Duration::from_millis(ms),
                None => PATIENCE,
            };
            let tried = self.ask(&customer, &wish, *via, &body, wait).await;
            let ended_ms = tried.ended_ms;
            wish.tries.push(tried);
            if wish.outcome().is_some() || ended_ms > give_up_ms {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        if ask_again && wish.acknowledged().is_some() {
            let via = self.regions[(home + 1) % self.regions.len()];
            wish.tries.push(self.ask(&customer, &wish, via, &body, PATIENCE).await);
        }
        self.recorder.add(wish);
    }

    /// Asks once. Who doesn't wait as long as others do hangs up.
    async fn ask(
        &self,
        customer: &str,
        wish: &Wish,
        via: RegionId,
        body: &Bytes,
        wait: Duration,
    ) -> Try {
        let sent_ms = self.clock.monotonic_ms();
        let elsewhere = self.entrances.get(&via).filter(|_| via != wish.home);
        let entrance = elsewhere.unwrap_or(&self.balancer);
        let answer = async {
            let token = self.tokens.of(customer, wish.home)?;
            let call = Call {
                method: Method::POST,
                path: "/api/v1/orders",
                token: &token,
                idempotency_key: Some(&wish.key),
                body: body.clone(),
            };
            anyhow::Ok(entrance.send(call).await?)
        };
        let told = match tokio::time::timeout(wait, answer).await {
            Ok(Ok(answer)) => told(&answer),
            Ok(Err(error)) => Told::NoAnswer { why: format!("{error:#}") },
            Err(_) if wait < PATIENCE => Told::HungUp,
            Err(_) => Told::NoAnswer { why: format!("none within {} s", wait.as_secs()) },
        };
        Try { via, sent_ms, ended_ms: self.clock.monotonic_ms(), told }
    }
}

/// The SKU of this number.
pub(super) fn sku(run: &str, number: u64) -> String {
    format!("{run}-{number}")
}

/// What is on sale.
pub(super) fn sale_sku(run: &str) -> String {
    format!("{run}-sale")
}

fn body_of(wish: &Wish, remote: bool) -> Bytes {
    let body = json!({
        "currency": "EUR",
        "lines": wish.lines,
        "shipping_address": {
            "name": "A. Shopper", "line1": "1 Main Street", "city": "Berlin",
            "postal_code": "10115", "country": "DE",
        },
        "payments": [{"method": "card", "token": wish.card}],
        "durability": if remote { "remote" } else { "local" },
    });
    Bytes::from(body.to_string())
}

fn told(answer: &Answer) -> Told {
    let (status, by) = (answer.status, answer.region);
    if answer.is_success() {
        return match answer.json::<Placed>() {
            Ok(placed) if placed.status == "cancelled" => {
                Told::Refused { status, code: placed.status, by }
            }
            Ok(placed) => Told::Acknowledged {
                confirmed: placed.status == "confirmed",
                order_id: placed.id,
                by,
            },
            Err(error) => Told::Refused { status, code: format!("unreadable: {error}"), by },
        };
    }
    let code = answer.problem().code;
    match status {
        429 | 502 | 503 | 504 => Told::Later { status, code },
        409 if code == "idempotency_in_flight" => Told::Later { status, code },
        _ => Told::Refused { status, code, by },
    }
}

/// The same number for the same serial in every run, and no pattern (`SplitMix64`).
fn scattered(serial: u64) -> u64 {
    let mut mixed = serial.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
