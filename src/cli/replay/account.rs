//! Where every invoice and every line of a file went, so that the figures add up to the file's own.
//!
//! Each line is in exactly one tally: ordered, skipped for one reason, or cancelled. Amounts are whole
//! minor units a line; what a line's amount has below a minor unit is kept apart, for the file as a
//! whole, so that nothing is rounded away.

use std::collections::BTreeMap;

use super::number::PARTS_PER_MINOR;
use super::parse::Line;

/// Why a line, or an invoice of which no line is left, is not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skip {
    /// A field can't be read.
    Unreadable,
    /// Postage, discount, fee, voucher, test …: a code that names no goods.
    ServiceCode,
    /// A negative quantity outside of a cancellation: damaged, lost or counted again.
    WriteOff,
    /// No unit at all.
    ZeroQuantity,
    /// More units than one order may hold in the replay.
    QuantityTooLarge,
    /// A price below zero.
    NegativePrice,
    /// A price that is no whole number of minor units.
    SubPennyPrice,
    /// Nothing to pay, and no sale of a known customer that it would be a gift in.
    ZeroPrice,
    /// An `A` invoice.
    BadDebtAdjustment,
    /// Only of invoices: their lines were skipped for several reasons.
    SeveralReasons,
}

impl Skip {
    /// The name in the summary.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::ServiceCode => "service_code",
            Self::WriteOff => "write_off",
            Self::ZeroQuantity => "zero_quantity",
            Self::QuantityTooLarge => "quantity_too_large",
            Self::NegativePrice => "negative_price",
            Self::SubPennyPrice => "sub_penny_price",
            Self::ZeroPrice => "zero_price",
            Self::BadDebtAdjustment => "bad_debt_adjustment",
            Self::SeveralReasons => "several_reasons",
        }
    }
}

/// Lines and what they add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) lines: u64,
    pub(super) minor: i128,
}

/// The whole file, sorted into tallies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Invoice numbers in the file.
    pub(super) invoices: u64,
    /// Rows in the file.
    pub(super) lines: u64,
    /// Invoices that become orders.
    pub(super) invoices_ordered: u64,
    /// Invoices of which nothing is ordered.
    pub(super) invoices_skipped: BTreeMap<Skip, u64>,
    /// `C` invoices.
    pub(super) cancellations: u64,
    /// Lines that become lines of orders.
    pub(super) ordered: Tally,
    /// Lines that are not ordered.
    pub(super) skipped: BTreeMap<Skip, Tally>,
    /// Lines of `C` invoices.
    pub(super) cancelled: Tally,
    /// The skipped lines of each service code.
    pub(super) service_codes: BTreeMap<String, u64>,
    /// What all lines' amounts have below a minor unit, in hundredths of it.
    pub(super) rest_parts: i128,
}

impl Account {
    /// The whole minor units of a line's amount; what is below goes into the rest.
    pub(super) fn amount_minor(&mut self, line: &Line) -> i128 {
        let parts = i128::from(line.quantity) * i128::from(line.price_parts);
        self.rest_parts += parts % i128::from(PARTS_PER_MINOR);
        parts / i128::from(PARTS_PER_MINOR)
    }

    /// Counts a skipped line.
    pub(super) fn skip(&mut self, reason: Skip, minor: i128) {
        let tally = self.skipped.entry(reason).or_default();
        tally.lines += 1;
        tally.minor += minor;
    }

    /// Counts an invoice of which nothing is ordered.
    pub(super) fn skip_invoice(&mut self, reason: Skip) {
        *self.invoices_skipped.entry(reason).or_default() += 1;
    }

    /// What the tallies add up to. With the rest it is the file's total.
    pub(super) fn total_minor(&self) -> i128 {
        let skipped: i128 = self.skipped.values().map(|tally| tally.minor).sum();
        self.ordered.minor + self.cancelled.minor + skipped
    }

    /// Whether each invoice and each line is in exactly one place.
    pub(super) fn adds_up(&self) -> bool {
        let invoices = self.invoices_ordered
            + self.cancellations
            + self.invoices_skipped.values().sum::<u64>();
        let lines = self.ordered.lines
            + self.cancelled.lines
            + self.skipped.values().map(|tally| tally.lines).sum::<u64>();
        invoices == self.invoices && lines == self.lines
    }
}
