//! Sending orders and watching them until they are confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use crate::ports::Ids as _;
use crate::runtime::{RandomIds, SystemClock, spawn_named};

use super::PlaceArgs;
use super::connection::{Broken, Connection};
use super::cpu;
use super::histogram::Histogram;
use super::request::{Placement, bytes};
use super::target::Target;

/// How long we send before we measure: connections, pools, caches and statements are made by then.
const WARM_UP_US: u64 = 2_000_000;

/// How often an order that was answered with 202 is asked for.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// How long such an order may take before it counts as an error.
const CONFIRM_TIMEOUT_US: u64 = 30_000_000;

/// The rest after a connection failed, so that a dead server is not hammered.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What one client, or all together, saw.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// From the (intended) sending to the answer, of orders sent in the measured time.
    pub(super) answer_us: Histogram,
    /// From the (intended) sending to the confirmation.
    pub(super) confirmed_us: Histogram,
    /// Confirmations within the measured time.
    pub(super) confirmed: u64,
    /// Confirmations in all, also of the warm-up and after the end.
    pub(super) confirmed_total: u64,
    /// Orders that were still running when they were answered.
    pub(super) answered_running: u64,
    /// Orders not confirmed, by reason, in all.
    pub(super) errors: BTreeMap<String, u64>,
    /// CPU time in the measured time, by process.
    pub(super) cpu: cpu::Usage,
}

/// The plan that all clients share.
struct Plan {
    clock: SystemClock,
    started_us: u64,
    measure_from_us: u64,
    end_us: u64,
    rate: Option<u64>,
    skus: u64,
    serial: AtomicU64,
}

impl Plan {
    /// When to send the order of this number; none: not any more.
    fn due_us(&self, serial: u64) -> Option<u64> {
        let due = match self.rate {
            Some(rate) => self.started_us + serial * 1_000_000 / rate,
            None => self.clock.monotonic_us(),
        };
        (due < self.end_us).then_some(due)
    }
}

struct Client {
    plan: Arc<Plan>,
    target: Arc<Target>,
    connection: Connection,
    placement: Placement,
    measured: Measured,
    dice: u64,
}

/// What became of an order.
enum Outcome {
    Confirmed,
    Running(String),
    /// No answer, and so nothing known; with a name for the reason.
    Lost(&'static str),
    Error(String),
}

/// The part of an answer that we read.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    code: String,
}

/// Runs the load and adds up what the clients saw.
pub(super) async fn run(targets: &[Target], args: &PlaceArgs) -> anyhow::Result<Measured> {
    let clock = SystemClock::new();
    let started_us = clock.monotonic_us();
    let measure_from_us = started_us + WARM_UP_US;
    let end_us = measure_from_us + args.seconds * 1_000_000;
    let (rate, skus) = (args.rate, args.skus);
    let serial = AtomicU64::new(0);
    let plan = Plan { clock, started_us, measure_from_us, end_us, rate, skus, serial };
    let plan = Arc::new(plan);
    let run = format!("bench-{}", RandomIds::new(clock).uuid().simple());
    let targets: Vec<_> = targets.iter().map(|target| Arc::new(target.clone())).collect();
    let clients: Vec<_> = (0..args.clients)
        .zip(targets.iter().cycle())
        .map(|(number, target)| {
            let client = Client {
                plan: Arc::clone(&plan),
                target: Arc::clone(target),
                connection: Connection::new(&target.authority),
                placement: Placement::new(target, &run, args.lines),
                measured: Measured::default(),
                dice: number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            };
            spawn_named("bench client", client.run())
        })
        .collect();
    sleep_until(&plan, measure_from_us).await;
    let before = cpu::Snapshot::take();
    sleep_until(&plan, end_us).await;
    let cpu = cpu::Snapshot::take().since(&before);
    let mut sum = Measured { cpu, ..Measured::default() };
    for client in clients {
        sum.add(client.await.context("a client panicked")?);
    }
    Ok(sum)
}

async fn sleep_until(plan: &Plan, due_us: u64) {
    let left = due_us.saturating_sub(plan.clock.monotonic_us());
    if left > 0 {
        tokio::time::sleep(Duration::from_micros(left)).await;
    }
}

impl Client {
    async fn run(mut self) -> Measured {
        loop {
            let serial = self.plan.serial.fetch_add(1, Ordering::Relaxed);
            let Some(due_us) = self.plan.due_us(serial) else { return self.measured };
            sleep_until(&self.plan, due_us).await;
            self.place(serial, due_us).await;
        }
    }

    async fn place(&mut self, serial: u64, due_us: u64) {
        let first = self.roll();
        let request = self.placement.order(serial, first, self.plan.skus);
        let mut outcome = outcome(self.connection.exchange(request).await);
        let counts = due_us >= self.plan.measure_from_us;
        if counts {
            self.measured.answer_us.record(self.plan.clock.monotonic_us() - due_us);
        }
        if let Outcome::Running(id) = outcome {
            self.measured.answered_running += 1;
            outcome = self.await_confirmation(&id).await;
        }
        let now_us = self.plan.clock.monotonic_us();
        match outcome {
            Outcome::Confirmed => {
                self.measured.confirmed_total += 1;
                if (self.plan.measure_from_us..self.plan.end_us).contains(&now_us) {
                    self.measured.confirmed += 1;
                }
                if counts {
                    self.measured.confirmed_us.record(now_us - due_us);
                }
            }
            Outcome::Running(_) => self.measured.error("not_confirmed_in_time"),
            Outcome::Error(reason) => self.measured.error(&reason),
            Outcome::Lost(reason) => {
                self.measured.error(reason);
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    async fn await_confirmation(&mut self, id: &str) -> Outcome {
        let request = bytes(&self.target, "GET", &format!("/api/v1/orders/{id}"), "", "");
        let deadline_us = self.plan.clock.monotonic_us() + CONFIRM_TIMEOUT_US;
        loop {
            tokio::time::sleep(POLL_PAUSE).await;
            let outcome = outcome(self.connection.exchange(&request).await);
            let waiting = matches!(outcome, Outcome::Running(_) | Outcome::Lost(_));
            if !waiting || self.plan.clock.monotonic_us() >= deadline_us {
                return outcome;
            }
        }
    }

    /// The next SKU to begin with (xorshift: good enough to spread, and free).
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 16) % self.plan.skus
    }
}

/// Reads an answer. Bodies are parsed only where the status leaves a question.
fn outcome(answer: Result<(u16, &[u8]), Broken>) -> Outcome {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(broken) => return Outcome::Lost(broken.kind()),
    };
    if status == 201 {
        return Outcome::Confirmed;
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Outcome::Error(format!("http_{status}"));
    };
    match (status, answer.status.as_str()) {
        (200 | 202, "pending") => Outcome::Running(answer.id),
        (200 | 202, "cancelled") => Outcome::Error("cancelled".to_owned()),
        (200 | 202, status) if !status.is_empty() => Outcome::Confirmed,
        _ if !answer.code.is_empty() => Outcome::Error(answer.code),
        _ => Outcome::Error(format!("http_{status}")),
    }
}

impl Measured {
    fn error(&mut self, reason: &str) {
        *self.errors.entry(reason.to_owned()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.answer_us.merge(&other.answer_us);
        self.confirmed_us.merge(&other.confirmed_us);
        self.confirmed += other.confirmed;
        self.confirmed_total += other.confirmed_total;
        self.answered_running += other.answered_running;
        for (reason, count) in other.errors {
            *self.errors.entry(reason).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    /// Confirms most orders, answers some with 202 first, refuses one in a hundred, and now and then
    /// sends an answer in pieces or closes a connection.
    async fn region(listener: TcpListener) {
        let orders = Arc::new(AtomicU64::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            spawn_named("fake connection", connection(stream, Arc::clone(&orders)));
        }
    }

    async fn connection(mut stream: TcpStream, orders: Arc<AtomicU64>) {
        stream.set_nodelay(true).unwrap();
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let number = orders.fetch_add(1, Ordering::Relaxed);
            let (status, body) = match number % 100 {
                _ if buffer[..read].starts_with(b"GET") => ("200 OK", r#"{"status":"confirmed"}"#),
                7 => ("409 Conflict", r#"{"code":"insufficient_stock"}"#),
                8 => ("202 Accepted", r#"{"id":"x","status":"pending"}"#),
                9 => return,
                _ => ("201 Created", "{}"),
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let (first, rest) = answer.as_bytes().split_at(answer.len() / 2);
            stream.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(rest).await.unwrap();
        }
    }

    async fn measured(rate: Option<u64>) -> Measured {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        spawn_named("fake region", region(listener));
        let target = Target { region: "r".to_owned(), authority, token: "t".to_owned() };
        let args = PlaceArgs {
            seconds: 1,
            clients: 8,
            rate,
            skus: 10,
            lines: 2,
            region: None,
            json: true,
            data_dir: "unused".into(),
            target: None,
            token: None,
        };
        run(&[target], &args).await.unwrap()
    }

    #[tokio::test]
    async fn every_order_is_counted_once_with_its_reason() {
        let measured = measured(Some(1000)).await;
        let sent = 3000;
        assert_eq!(measured.confirmed_total + measured.errors.values().sum::<u64>(), sent);
        // Requests are orders and the polls of some: 1 of 100 each is refused or loses its connection.
        for reason in ["insufficient_stock", "connection_broke"] {
            let count = measured.errors[reason];
            assert!((20..=40).contains(&count), "{reason}: {count}");
        }
        assert!((20..=40).contains(&measured.answered_running));
        assert!(measured.confirmed_us.max() >= 50_000, "polled later");
        assert!(measured.confirmed < measured.confirmed_total, "the warm-up does not count");
    }

    #[tokio::test]
    async fn without_a_rate_clients_send_as_fast_as_they_are_answered() {
        let measured = measured(None).await;
        assert!(measured.confirmed > 100, "{}", measured.confirmed);
    }
}
