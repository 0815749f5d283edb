//! Placing the orders: many invoices at once, the parts of one invoice in order.
//!
//! An order's idempotency key is made of the file's fingerprint and the order's reference. So a call
//! without an answer is repeated safely, also in another region after a fail-over, and a second
//! replay of the same file gets the first one's answers instead of placing anything twice.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hyper::Method;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;

use super::countries::country_named;
use super::parse::{History, Invoice};
use super::plan::{Job, Plan, PlannedOrder};
use crate::cli::client::{Answer, ApiClient, Call};
use crate::cli::latency::Latencies;
use crate::ports::Clock;

/// Tries of one placement. With the pauses between them they last 15 s: a load balancer needs 3 s to
/// send requests to another region, a killed server 10 s to be back.
const ATTEMPTS_MAX: u32 = 8;

/// The first pause; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longer pauses would only make the replay notice later that the region is back.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// For an order that was answered 202. A saga ends, or is on the stuck list, within five minutes; a
/// replay that waits that long for one order tells so instead.
const TERMINAL_WITHIN: Duration = Duration::from_mins(1);

/// How fast orders are sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As fast as the answers come.
    Free,
    /// Invoices a second.
    Rate(u64),
    /// So many times faster than the shop.
    Speed(u64),
}

/// What the sending needs to know of the deployment.
pub(super) struct Driver<'a> {
    /// Of the load balancer.
    pub(super) client: &'a ApiClient,
    /// A service token for each region, by index.
    pub(super) tokens: Vec<&'a str>,
    /// Measures.
    pub(super) clock: &'a dyn Clock,
    /// Moves with each invoice.
    pub(super) progress: &'a ProgressBar,
    /// Invoices on their way at once.
    pub(super) clients: usize,
    /// How fast.
    pub(super) pace: Pace,
}

/// Calls that were repeated, by the code of the answer that made it necessary.
pub(super) type Retries = BTreeMap<String, u64>;

/// What came of the orders.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Orders.
    pub(super) confirmed: u64,
    /// Of these: the first answer was an earlier replay's.
    pub(super) confirmed_before: u64,
    /// Orders by the server's code, or by what kept us from an answer.
    pub(super) refused: BTreeMap<String, u64>,
    /// The first few refusals, as sentences.
    pub(super) examples: Vec<String>,
    /// Calls that were repeated, by the answer that made it necessary.
    pub(super) retries: Retries,
    /// The server's totals of the confirmed orders.
    pub(super) revenue_minor: i64,
    /// The file's totals of the same orders.
    pub(super) file_revenue_minor: i64,
    /// Confirmed orders whose two totals differ.
    pub(super) differing: Vec<String>,
    /// From the first try to the confirmation.
    pub(super) latencies: Latencies,
}

/// Examples of refusals that are kept to be told.
const EXAMPLES_MAX: usize = 5;

/// What came of one order.
enum Outcome {
    Confirmed { total_minor: i64, before: bool },
    Refused { code: String, detail: String },
}

#[derive(Deserialize)]
struct OrderAnswer {
    id: String,
    status: String,
    total: Amount,
}

#[derive(Deserialize)]
struct Amount {
    amount: i64,
}

/// Places every order of a plan.
pub(super) async fn drive(driver: &Driver<'_>, history: &History, plan: &Plan) -> Results {
    let started_ms = driver.clock.monotonic_ms();
    let first_at = plan.jobs.first().map_or(0, |job| history.invoices[job.invoice].at);
    let done = futures::stream::iter(plan.jobs.iter().enumerate())
        .then(async |(index, job)| {
            let at = history.invoices[job.invoice].at;
            let due_ms = match driver.pace {
                Pace::Free => 0,
                Pace::Rate(rate) => index as u64 * 1_000 / rate,
                Pace::Speed(speed) => (at - first_at).unsigned_abs() * 1_000 / speed,
            };
            let elapsed_ms = driver.clock.monotonic_ms() - started_ms;
            if due_ms > elapsed_ms {
                tokio::time::sleep(Duration::from_millis(due_ms - elapsed_ms)).await;
            }
            job
        })
        .map(|job| place_invoice(driver, history, job))
        .buffer_unordered(driver.clients);
    let mut done = std::pin::pin!(done);
    let mut results = Results::default();
    while let Some(invoice) = done.next().await {
        for placed in invoice {
            results.add(placed);
        }
        driver.progress.inc(1);
    }
    results
}

struct Placed<'a> {
    order: &'a PlannedOrder,
    outcome: Outcome,
    retries: Retries,
    ms: u64,
}

async fn place_invoice<'a>(
    driver: &Driver<'_>,
    history: &History,
    job: &'a Job,
) -> Vec<Placed<'a>> {
    let mut placed = Vec::with_capacity(job.orders.len());
    for order in &job.orders {
        let started_ms = driver.clock.monotonic_ms();
        let mut retries = Retries::new();
        let outcome = place(driver, history, job, order, &mut retries).await;
        let ms = driver.clock.monotonic_ms() - started_ms;
        placed.push(Placed { order, outcome, retries, ms });
    }
    placed
}

async fn place(
    driver: &Driver<'_>,
    history: &History,
    job: &Job,
    order: &PlannedOrder,
    retries: &mut Retries,
) -> Outcome {
    let token = driver.tokens[job.region];
    let key = format!("replay-{}-{}", &history.fingerprint[..16], order.reference);
    let body = body_of(history, &history.invoices[job.invoice], order);
    let call = Call {
        method: Method::POST,
        path: "/api/v1/orders",
        token,
        idempotency_key: Some(&key),
        body,
    };
    let answer = match send(driver, call, retries).await {
        Ok(answer) => answer,
        Err(outcome) => return outcome,
    };
    if !answer.is_success() {
        let problem = answer.problem();
        return Outcome::Refused { detail: problem.to_string(), code: problem.code };
    }
    // After a repeated call the first answer may be our own lost one.
    let before = answer.replayed && retries.is_empty();
    match answer.json::<OrderAnswer>() {
        Ok(first) => terminal(driver, token, first, before, retries).await,
        Err(error) => refused("unreadable_answer", error.to_string()),
    }
}

/// Sends a call until it has an answer that stands.
async fn send(
    driver: &Driver<'_>,
    call: Call<'_>,
    retries: &mut Retries,
) -> Result<Answer, Outcome> {
    let mut pause = PAUSE_MIN;
    let mut attempt = 1;
    loop {
        let (why, wait, last) = match driver.client.send(call.clone()).await {
            Ok(answer) if !may_be_repeated(&answer) => return Ok(answer),
            Ok(answer) => (answer.problem().code, answer.retry_after.unwrap_or(pause), Ok(answer)),
            Err(error) => {
                ("no_answer".to_owned(), pause, Err(refused("no_answer", error.to_string())))
            }
        };
        if attempt == ATTEMPTS_MAX {
            return last;
        }
        attempt += 1;
        *retries.entry(why).or_default() += 1;
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a later try under the same key may be answered better.
fn may_be_repeated(answer: &Answer) -> bool {
    match answer.status {
        429 | 502 | 503 | 504 => true,
        409 => answer.problem().code == "idempotency_in_flight",
        _ => false,
    }
}

/// Waits for an order's saga to end.
async fn terminal(
    driver: &Driver<'_>,
    token: &str,
    mut order: OrderAnswer,
    before: bool,
    retries: &mut Retries,
) -> Outcome {
    let deadline_ms =
        driver.clock.monotonic_ms() + u64::try_from(TERMINAL_WITHIN.as_millis()).unwrap_or(0);
    let mut pause = PAUSE_MIN;
    while order.status == "pending" {
        if driver.clock.monotonic_ms() > deadline_ms {
            return refused("still_running", format!("order {} is still pending", order.id));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let path = format!("/api/v1/orders/{}?consistency=strong", order.id);
        let call = Call {
            method: Method::GET,
            path: &path,
            token,
            idempotency_key: None,
            body: Bytes::new(),
        };
        match send(driver, call, retries).await {
            Ok(answer) => match answer.expect(&path) {
                Ok(now) => order = now,
                Err(error) => return refused("unreadable_answer", error.to_string()),
            },
            Err(outcome) => return outcome,
        }
    }
    if order.status == "cancelled" {
        return refused("cancelled", format!("order {} was cancelled", order.id));
    }
    Outcome::Confirmed { total_minor: order.total.amount, before }
}

fn refused(code: &str, detail: String) -> Outcome {
    Outcome::Refused { code: code.to_owned(), detail }
}

fn body_of(history: &History, invoice: &Invoice, order: &PlannedOrder) -> Bytes {
    let country = country_named(&invoice.country);
    let lines: Vec<serde_json::Value> = order
        .lines
        .iter()
        .map(|line| {
            json!({
                "sku": history.skus[line.sku as usize].sku,
                "quantity": line.quantity,
                "unit_price": {"amount": line.price_minor, "currency": "GBP"},
            })
        })
        .collect();
    let name = match &invoice.customer {
        Some(customer) => format!("Customer {customer}"),
        None => format!("Guest of invoice {}", invoice.number),
    };
    let body = json!({
        "channel": "marketplace:online-retail",
        "channel_order_ref": order.reference,
        "customer_id": invoice.customer,
        "currency": "GBP",
        "lines": lines,
        "shipping_option": "standard",
        "shipping_address": {
            "name": name,
            "line1": "1 Market Street",
            "city": country.city,
            "postal_code": country.postal_code,
            "country": country.code,
        },
        "payments": [{"method": "card", "token": "tok_ok"}],
        "allow_split": true,
    });
    Bytes::from(body.to_string())
}

impl Results {
    fn add(&mut self, placed: Placed<'_>) {
        let order = placed.order;
        for (why, count) in placed.retries {
            *self.retries.entry(why).or_default() += count;
        }
        match placed.outcome {
            Outcome::Confirmed { total_minor, before } => {
                self.confirmed += 1;
                self.confirmed_before += u64::from(before);
                self.revenue_minor += total_minor;
                self.file_revenue_minor += order.total_minor;
                self.latencies.add(placed.ms);
                if total_minor != order.total_minor && self.differing.len() < EXAMPLES_MAX {
                    self.differing.push(format!(
                        "{} costs {total_minor} at the server and {} in the file",
                        order.reference, order.total_minor
                    ));
                }
            }
            Outcome::Refused { code, detail } => {
                if self.examples.len() < EXAMPLES_MAX {
                    self.examples.push(format!("{}: {detail}", order.reference));
                }
                *self.refused.entry(code).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
