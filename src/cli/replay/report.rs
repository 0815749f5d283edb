//! The summary of a replay, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::drive::Results;
use super::parse::History;
use super::plan::Plan;

/// What `--json` prints. The first twelve fields are the command's contract.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Invoice numbers in the file: ordered, skipped and cancellations together.
    invoices: u64,
    /// Rows in the file: ordered, skipped and cancelled together.
    lines: u64,
    orders_confirmed: u64,
    /// By the server's code.
    orders_refused: BTreeMap<String, u64>,
    /// Invoices of which nothing is ordered, by reason.
    skipped: BTreeMap<&'static str, u64>,
    /// `C` invoices.
    cancellations: u64,
    /// The server's totals of the confirmed orders.
    revenue_minor: i64,
    /// The file's totals of the same orders.
    file_revenue_minor: i64,
    currency: &'static str,
    seconds: f64,
    p50_ms: u32,
    p99_ms: u32,
    /// Invoices that became orders.
    invoices_ordered: u64,
    /// Orders beyond one an invoice.
    split_orders: u64,
    /// Of the confirmed: taken by an earlier replay of the same file.
    orders_already_there: u64,
    /// Lines of the file that became lines of orders.
    lines_ordered: u64,
    /// Lines that were left out, by reason.
    lines_skipped: BTreeMap<&'static str, u64>,
    /// Lines of service codes that were left out, by code.
    service_codes: BTreeMap<String, u64>,
    /// Lines of `C` invoices, by what they cancel.
    cancelled_lines: CancelledLines,
    /// What the file adds up to, and where each part went.
    amounts_minor: Amounts,
    /// Calls that were repeated, by the answer that made it necessary.
    retries: BTreeMap<String, u64>,
    orders_per_second: u64,
}

#[derive(Debug, Serialize)]
struct CancelledLines {
    matched: u64,
    partly_matched: u64,
    unmatched: u64,
    service_code: u64,
    units_matched: u64,
    units_unmatched: u64,
}

#[derive(Debug, Serialize)]
struct Amounts {
    /// `ordered + cancelled + skipped`: quantity × price of every line, in whole pence a line.
    file_total: i64,
    /// What all lines together have below whole pence, in hundredths of a penny.
    file_total_hundredths: i64,
    ordered: i64,
    cancelled: i64,
    skipped: BTreeMap<&'static str, i64>,
}

/// Puts everything together.
pub(super) fn summary(
    history: &History,
    plan: &Plan,
    results: &mut Results,
    elapsed_ms: u64,
) -> Summary {
    let account = &plan.account;
    let matches = plan.matches;
    let orders: u64 = plan.jobs.iter().map(|job| job.orders.len() as u64).sum();
    let minor = |amount: i128| i64::try_from(amount).unwrap_or(i64::MAX);
    Summary {
        invoices: account.invoices,
        lines: history.lines,
        orders_confirmed: results.confirmed,
        orders_refused: results.refused.clone(),
        skipped: account.invoices_skipped.iter().map(|(why, n)| (why.code(), *n)).collect(),
        cancellations: account.cancellations,
        revenue_minor: results.revenue_minor,
        file_revenue_minor: results.file_revenue_minor,
        currency: "GBP",
        seconds: std::time::Duration::from_millis(elapsed_ms).as_secs_f64(),
        p50_ms: results.latencies.percentile(50),
        p99_ms: results.latencies.percentile(99),
        invoices_ordered: account.invoices_ordered,
        split_orders: orders - account.invoices_ordered,
        orders_already_there: results.confirmed_before,
        lines_ordered: account.ordered.lines,
        lines_skipped: account.skipped.iter().map(|(why, t)| (why.code(), t.lines)).collect(),
        service_codes: account.service_codes.clone(),
        cancelled_lines: CancelledLines {
            matched: matches.matched_lines,
            partly_matched: matches.partly_matched_lines,
            unmatched: matches.unmatched_lines,
            service_code: matches.service_lines,
            units_matched: matches.matched_units,
            units_unmatched: matches.unmatched_units,
        },
        amounts_minor: Amounts {
            file_total: minor(account.total_minor()),
            file_total_hundredths: minor(account.rest_parts),
            ordered: minor(account.ordered.minor),
            cancelled: minor(account.cancelled.minor),
            skipped: account
                .skipped
                .iter()
                .map(|(why, tally)| (why.code(), minor(tally.minor)))
                .collect(),
        },
        retries: results.retries.clone(),
        orders_per_second: results.confirmed * 1_000 / elapsed_ms.max(1),
    }
}

impl Summary {
    /// Whether anything happened that the file doesn't explain.
    pub(super) fn is_good(&self) -> bool {
        self.orders_refused.is_empty() && self.revenue_minor == self.file_revenue_minor
    }

    /// Whether an earlier replay of the same file has placed everything.
    pub(super) fn all_were_there(&self) -> bool {
        self.orders_confirmed > 0 && self.orders_already_there == self.orders_confirmed
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let skipped: u64 = self.skipped.values().sum();
        let lines_skipped: u64 = self.lines_skipped.values().sum();
        let cancelled = &self.cancelled_lines;
        let cancelled_lines = cancelled.matched
            + cancelled.partly_matched
            + cancelled.unmatched
            + cancelled.service_code;
        writeln!(
            f,
            "Invoices   {} = {} ordered + {} cancellations + {skipped} skipped{}",
            self.invoices,
            self.invoices_ordered,
            self.cancellations,
            listed(&self.skipped)
        )?;
        writeln!(
            f,
            "Lines      {} = {} ordered + {cancelled_lines} cancelled + {lines_skipped} skipped{}",
            self.lines,
            self.lines_ordered,
            listed(&self.lines_skipped)
        )?;
        let refused: u64 = self.orders_refused.values().sum();
        writeln!(
            f,
            "Orders     {} = {} invoices + {} further parts; {} confirmed ({} of them by an earlier \
             replay), {refused} refused{}",
            self.invoices_ordered + self.split_orders,
            self.invoices_ordered,
            self.split_orders,
            self.orders_confirmed,
            self.orders_already_there,
            listed(&self.orders_refused)
        )?;
        writeln!(
            f,
            "Cancelled  {} lines: {} match an earlier sale, {} in part, {} don't, {} are service codes",
            cancelled_lines,
            cancelled.matched,
            cancelled.partly_matched,
            cancelled.unmatched,
            cancelled.service_code
        )?;
        let skipped_minor: i64 = self.amounts_minor.skipped.values().sum();
        writeln!(
            f,
            "File       {} = {} ordered {} cancelled {} skipped",
            pounds(self.amounts_minor.file_total),
            pounds(self.amounts_minor.ordered),
            signed(self.amounts_minor.cancelled),
            signed(skipped_minor)
        )?;
        let verdict =
            if self.revenue_minor == self.file_revenue_minor { "equal" } else { "DIFFERENT" };
        writeln!(
            f,
            "Revenue    {} at the server, {} in the file for the same orders: {verdict}",
            pounds(self.revenue_minor),
            pounds(self.file_revenue_minor)
        )?;
        write!(
            f,
            "Time       {:.1} s, {} orders/s; p50 {} ms, p99 {} ms; {} calls repeated{}",
            self.seconds,
            self.orders_per_second,
            self.p50_ms,
            self.p99_ms,
            self.retries.values().sum::<u64>(),
            listed(&self.retries)
        )
    }
}

fn listed<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let parts: Vec<String> = counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
    format!(" ({})", parts.join(", "))
}

fn pounds(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let magnitude = minor.unsigned_abs();
    format!("{sign}£{}.{:02}", magnitude / 100, magnitude % 100)
}

fn signed(minor: i64) -> String {
    if minor < 0 { format!("- {}", pounds(-minor)) } else { format!("+ {}", pounds(minor)) }
}
