//! What is printed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::PlaceArgs;
use super::cpu;
use super::load::Measured;
use super::target::{Target, names};

/// The result of a run. The first five names are part of the public contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Confirmed within the measured time.
    orders_per_second: u64,
    p50_ms: f64,
    p99_ms: f64,
    confirmed_p99_ms: f64,
    /// Orders that were not confirmed, over the whole run.
    pub(super) errors: u64,
    confirmed_p50_ms: f64,
    max_ms: f64,
    orders_confirmed: u64,
    /// With the warm-up and what was confirmed after the end: what the region's books must show.
    orders_confirmed_total: u64,
    answered_while_running: u64,
    errors_by_reason: BTreeMap<String, u64>,
    regions: String,
    seconds: u64,
    clients: u64,
    rate: Option<u64>,
    skus: u64,
    lines: u64,
    cores: u64,
    /// Of all cores, over the measured time.
    cpu_percent: BTreeMap<String, u64>,
    cpu_us_per_order: BTreeMap<String, u64>,
}

impl Report {
    pub(super) fn new(args: &PlaceArgs, targets: &[Target], measured: &Measured) -> Self {
        let cores = cpu::cores();
        let available_us = (args.seconds * 1_000_000 * cores).max(1);
        let per_order = |us: &u64| us / measured.confirmed.max(1);
        let by_process = |share: &dyn Fn(&u64) -> u64| {
            let shares = measured.cpu.iter().map(|(name, us)| (name.clone(), share(us)));
            shares.filter(|(_, share)| *share > 0).collect::<BTreeMap<_, _>>()
        };
        Self {
            orders_per_second: measured.confirmed / args.seconds,
            p50_ms: milliseconds(measured.answer_us.quantile(500)),
            p99_ms: milliseconds(measured.answer_us.quantile(990)),
            confirmed_p99_ms: milliseconds(measured.confirmed_us.quantile(990)),
            errors: measured.errors.values().sum(),
            confirmed_p50_ms: milliseconds(measured.confirmed_us.quantile(500)),
            max_ms: milliseconds(measured.confirmed_us.max()),
            orders_confirmed: measured.confirmed,
            orders_confirmed_total: measured.confirmed_total,
            answered_while_running: measured.answered_running,
            errors_by_reason: measured.errors.clone(),
            regions: names(targets),
            seconds: args.seconds,
            clients: args.clients,
            rate: args.rate,
            skus: args.skus,
            lines: args.lines,
            cores,
            cpu_percent: by_process(&|us| us * 100 / available_us),
            cpu_us_per_order: by_process(&per_order),
        }
    }
}

/// Microseconds as milliseconds with three digits, without arithmetic on floats.
fn milliseconds(us: u64) -> f64 {
    format!("{}.{:03}", us / 1000, us % 1000).parse().expect("digits and a point")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} orders/s confirmed in {}", self.orders_per_second, self.regions)?;
        writeln!(f, "  answered   p50 {} ms, p99 {} ms", self.p50_ms, self.p99_ms)?;
        writeln!(
            f,
            "  confirmed  p50 {} ms, p99 {} ms, slowest {} ms",
            self.confirmed_p50_ms, self.confirmed_p99_ms, self.max_ms
        )?;
        writeln!(
            f,
            "  {} confirmed in all, {} answered 202 first, {} errors",
            self.orders_confirmed_total, self.answered_while_running, self.errors
        )?;
        for (reason, count) in &self.errors_by_reason {
            writeln!(f, "    {count} {reason}")?;
        }
        writeln!(f, "  CPU of {} cores, and microseconds an order:", self.cores)?;
        for (name, us) in &self.cpu_us_per_order {
            let percent = self.cpu_percent.get(name).copied().unwrap_or(0);
            writeln!(f, "    {percent:>3} % {us:>6} µs  {name}")?;
        }
        Ok(())
    }
}
