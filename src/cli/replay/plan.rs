//! From invoices to orders: what is placed, in which region, and what is left out for which reason. Pure.
//!
//! The rules, in the order in which they are asked of a line of a sale:
//!
//! 1. a service code (postage, discount, fee, voucher, test) is skipped: it names no goods
//! 2. a negative quantity is a write-off, zero is nothing, over [`UNITS_MAX`] is a mistake: skipped
//! 3. a negative price, or one that is no whole number of pence, is skipped
//! 4. a price of zero is a gift when a known customer pays for something else in the same order, and
//!    is skipped otherwise (most are corrections of stock)
//!
//! A line over [`LINE_UNITS_MAX`] becomes several lines, an invoice over [`ORDER_LINES_MAX`] lines
//! several orders: `536544`, `536544/2`, `536544/3`. Neither changes an amount.

use std::collections::BTreeMap;

use super::account::{Account, Skip};
use super::cancellations::{Matcher, Matches};
use super::homes::Homes;
use super::number::PARTS_PER_MINOR;
use super::parse::{History, Invoice, Kind, Line};
use crate::types::Sku;

/// Lines of one order, as the API allows.
const ORDER_LINES_MAX: usize = 200;

/// Units of one line, as the API allows.
const LINE_UNITS_MAX: u32 = 10_000;

/// Units of one line of the file. The largest known is 80,995; beyond a million it would become over
/// a hundred lines of one order, which no shopper meant.
const UNITS_MAX: u32 = 1_000_000;

/// Codes that name no goods, in capitals. See `docs/REPLAY.md`.
const SERVICE_CODES: &[&str] =
    &["AMAZONFEE", "B", "BANK CHARGES", "C2", "C3", "CRUK", "D", "DOT", "GIFT", "M", "POST", "S"];

/// How codes that name no goods begin, in capitals.
const SERVICE_PREFIXES: &[&str] = &["ADJUST", "GIFT_", "TEST"];

/// One line to be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedLine {
    /// Index into the history's stock codes.
    pub(super) sku: u32,
    /// 1 to [`LINE_UNITS_MAX`].
    pub(super) quantity: u32,
    /// Pence a unit.
    pub(super) price_minor: i64,
}

/// One order to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedOrder {
    /// The channel's reference: the invoice's number, and which part of it from the second on.
    pub(super) reference: String,
    /// At most [`ORDER_LINES_MAX`].
    pub(super) lines: Vec<PlannedLine>,
    /// What they add up to; more than nothing.
    pub(super) total_minor: i64,
}

/// The orders of one invoice, placed one after the other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Index into the history's invoices.
    pub(super) invoice: usize,
    /// Index into the homes' regions.
    pub(super) region: usize,
    /// At least one.
    pub(super) orders: Vec<PlannedOrder>,
}

/// Everything that a replay is going to do, and the account of what it is not.
#[derive(Debug)]
pub(super) struct Plan {
    /// In order of time.
    pub(super) jobs: Vec<Job>,
    /// Where every line went.
    pub(super) account: Account,
    /// What the cancellations cancel.
    pub(super) matches: Matches,
    /// Units that each region's orders need, by stock code.
    pub(super) demand: Vec<BTreeMap<u32, u64>>,
    /// Each ordered stock code's most common price, the lower among equals.
    pub(super) prices: BTreeMap<u32, i64>,
}

/// Sorts a whole history.
pub(super) fn plan(history: &History, homes: &Homes) -> Plan {
    let mut account = Account {
        invoices: history.invoices.len() as u64,
        lines: history.lines,
        ..Account::default()
    };
    for _ in 0..history.orphans {
        account.skip(Skip::Unreadable, 0);
    }
    let services: Vec<bool> = history.skus.iter().map(|code| is_service(&code.sku)).collect();
    let mut sorter = Sorter { history, services, account, matcher: Matcher::default() };
    let mut jobs = Vec::new();
    for (index, invoice) in history.invoices.iter().enumerate() {
        let orders = sorter.invoice(invoice);
        if !orders.is_empty() {
            jobs.push(Job { invoice: index, region: homes.of(invoice), orders });
        }
    }
    let (demand, prices) = demand_and_prices(&jobs, homes.regions.len());
    let Sorter { account, matcher, .. } = sorter;
    Plan { jobs, account, matches: matcher.matches, demand, prices }
}

fn is_service(code: &Sku) -> bool {
    let code = code.as_str().to_ascii_uppercase();
    SERVICE_CODES.contains(&code.as_str())
        || SERVICE_PREFIXES.iter().any(|prefix| code.starts_with(prefix))
}

struct Sorter<'a> {
    history: &'a History,
    services: Vec<bool>,
    account: Account,
    matcher: Matcher<'a>,
}

impl<'a> Sorter<'a> {
    /// Accounts for an invoice and answers its orders.
    fn invoice(&mut self, invoice: &'a Invoice) -> Vec<PlannedOrder> {
        for _ in 0..invoice.unreadable {
            self.account.skip(Skip::Unreadable, 0);
        }
        match invoice.kind {
            Kind::Sale => self.sale(invoice),
            Kind::Cancellation => {
                self.cancellation(invoice);
                Vec::new()
            }
            Kind::Adjustment => {
                for line in &invoice.lines {
                    let minor = self.account.amount_minor(line);
                    self.account.skip(Skip::BadDebtAdjustment, minor);
                }
                self.account.skip_invoice(Skip::BadDebtAdjustment);
                Vec::new()
            }
        }
    }

    fn sale(&mut self, invoice: &'a Invoice) -> Vec<PlannedOrder> {
        let mut reasons = Vec::new();
        if invoice.unreadable > 0 {
            reasons.push(Skip::Unreadable);
        }
        let mut kept = Vec::new();
        for line in &invoice.lines {
            match self.reason_to_skip(invoice, line) {
                None => kept.push(*line),
                Some(reason) => self.skip_line(line, reason, &mut reasons),
            }
        }
        let mut orders = Vec::new();
        for part in parts_of(&kept) {
            let planned: Vec<PlannedLine> = part.iter().flat_map(pieces_of).collect();
            let total_minor: i64 =
                planned.iter().map(|line| i64::from(line.quantity) * line.price_minor).sum();
            if total_minor == 0 {
                for line in part {
                    self.skip_line(line, Skip::ZeroPrice, &mut reasons);
                }
                continue;
            }
            for line in part {
                self.account.ordered.minor += self.account.amount_minor(line);
                self.account.ordered.lines += 1;
                self.matcher.sold(invoice.customer.as_ref(), line);
            }
            let reference = match orders.len() {
                0 => invoice.number.to_string(),
                earlier => format!("{}/{}", invoice.number, earlier + 1),
            };
            orders.push(PlannedOrder { reference, lines: planned, total_minor });
        }
        if orders.is_empty() {
            reasons.dedup();
            let reason = if let [reason] = reasons[..] { reason } else { Skip::SeveralReasons };
            self.account.skip_invoice(reason);
        } else {
            self.account.invoices_ordered += 1;
        }
        orders
    }

    fn reason_to_skip(&self, invoice: &Invoice, line: &Line) -> Option<Skip> {
        let units = u32::try_from(line.quantity);
        if self.services[line.sku as usize] {
            Some(Skip::ServiceCode)
        } else if line.quantity < 0 {
            Some(Skip::WriteOff)
        } else if line.quantity == 0 {
            Some(Skip::ZeroQuantity)
        } else if units.is_ok_and(|units| units > UNITS_MAX) {
            Some(Skip::QuantityTooLarge)
        } else if line.price_parts < 0 {
            Some(Skip::NegativePrice)
        } else if line.price_parts % PARTS_PER_MINOR != 0 {
            Some(Skip::SubPennyPrice)
        } else if line.price_parts == 0 && invoice.customer.is_none() {
            Some(Skip::ZeroPrice)
        } else {
            None
        }
    }

    fn skip_line(&mut self, line: &Line, reason: Skip, reasons: &mut Vec<Skip>) {
        let minor = self.account.amount_minor(line);
        self.account.skip(reason, minor);
        reasons.push(reason);
        if reason == Skip::ServiceCode {
            let code = self.history.skus[line.sku as usize].sku.to_string();
            *self.account.service_codes.entry(code).or_default() += 1;
        }
    }

    fn cancellation(&mut self, invoice: &'a Invoice) {
        self.account.cancellations += 1;
        for line in &invoice.lines {
            self.account.cancelled.minor += self.account.amount_minor(line);
            self.account.cancelled.lines += 1;
            if self.services[line.sku as usize] {
                self.matcher.matches.service_lines += 1;
            } else {
                self.matcher.cancelled(invoice.customer.as_ref(), line);
            }
        }
    }
}

/// Cuts the lines of an invoice into orders, so that each order's pieces stay within the limit.
fn parts_of(lines: &[Line]) -> Vec<&[Line]> {
    let pieces = |line: &Line| line.quantity.unsigned_abs().div_ceil(LINE_UNITS_MAX) as usize;
    let (mut parts, mut start, mut count) = (Vec::new(), 0, 0);
    for (index, line) in lines.iter().enumerate() {
        if count > 0 && count + pieces(line) > ORDER_LINES_MAX {
            parts.push(&lines[start..index]);
            (start, count) = (index, 0);
        }
        count += pieces(line);
    }
    if start < lines.len() {
        parts.push(&lines[start..]);
    }
    parts
}

/// A line, or several when it has more units than one may have.
fn pieces_of(line: &Line) -> Vec<PlannedLine> {
    let price_minor = line.price_parts / PARTS_PER_MINOR;
    let mut left = line.quantity.unsigned_abs();
    let mut pieces = Vec::with_capacity(1);
    while left > 0 {
        let quantity = left.min(LINE_UNITS_MAX);
        pieces.push(PlannedLine { sku: line.sku, quantity, price_minor });
        left -= quantity;
    }
    pieces
}

fn demand_and_prices(
    jobs: &[Job],
    regions: usize,
) -> (Vec<BTreeMap<u32, u64>>, BTreeMap<u32, i64>) {
    let mut demand = vec![BTreeMap::new(); regions];
    let mut seen: BTreeMap<u32, BTreeMap<i64, u64>> = BTreeMap::new();
    for job in jobs {
        for line in job.orders.iter().flat_map(|order| &order.lines) {
            *demand[job.region].entry(line.sku).or_default() += u64::from(line.quantity);
            *seen.entry(line.sku).or_default().entry(line.price_minor).or_default() += 1;
        }
    }
    let most_common = |prices: BTreeMap<i64, u64>| {
        let priced = prices.into_iter().filter(|&(price, _)| price > 0);
        priced.max_by_key(|&(price, count)| (count, std::cmp::Reverse(price))).map(|found| found.0)
    };
    let prices =
        seen.into_iter().map(|(sku, prices)| (sku, most_common(prices).unwrap_or(0))).collect();
    (demand, prices)
}

#[cfg(test)]
mod tests;
