//! Rows into invoices. Pure.
//!
//! Rows of one invoice need not be neighbors, and an invoice may hold rows of two minutes: it stands
//! at its earliest.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::bail;
use csv::ByteRecord;

use super::date::DateOrder;
use super::number::Marks;
use super::parse::{History, Invoice, Kind, Line, StockCode, decoded};
use crate::types::{CustomerId, Sku, check_text};

/// Examples of unreadable lines that are kept to be told. The rest is only counted.
const UNREADABLE_EXAMPLES_MAX: usize = 5;

/// The longest invoice number, in bytes: it becomes a channel's order reference and part of keys.
const INVOICE_BYTES_MAX: usize = 48;

/// What makes a row unreadable: the column, and why.
struct Unreadable(&'static str, &'static str);

/// The rows read so far.
pub(super) struct Rows {
    positions: [usize; 8],
    marks: Marks,
    order: DateOrder,
    invoices: Vec<Invoice>,
    invoice_of: BTreeMap<Box<str>, usize>,
    skus: Vec<StockCode>,
    sku_of: BTreeMap<Box<str>, u32>,
    lines: u64,
    orphans: u64,
    examples: Vec<String>,
}

impl Rows {
    /// Nothing read yet.
    pub(super) fn new(positions: [usize; 8], marks: Marks, order: DateOrder) -> Self {
        Self {
            positions,
            marks,
            order,
            invoices: Vec::new(),
            invoice_of: BTreeMap::new(),
            skus: Vec::new(),
            sku_of: BTreeMap::new(),
            lines: 0,
            orphans: 0,
            examples: Vec::new(),
        }
    }

    /// Reads one row; what can't be read is counted.
    pub(super) fn add(&mut self, record: &ByteRecord) {
        self.lines += 1;
        let fields: [Cow<'_, str>; 8] =
            self.positions.map(|position| decoded(record.get(position).unwrap_or_default()));
        let number = fields[0].trim();
        if check_text(number, INVOICE_BYTES_MAX).is_err() {
            self.orphans += 1;
            self.explain(record, &Unreadable("InvoiceNo", "empty or too long"));
            return;
        }
        let index = self.invoice(number);
        match self.line(&fields) {
            Ok((line, at, customer)) => {
                let invoice = &mut self.invoices[index];
                if invoice.lines.is_empty() {
                    invoice.at = at;
                    invoice.customer = customer;
                    invoice.country = fields[7].trim().into();
                }
                invoice.at = invoice.at.min(at);
                invoice.lines.push(line);
            }
            Err(why) => {
                self.invoices[index].unreadable += 1;
                self.explain(record, &why);
            }
        }
    }

    /// The index of an invoice, which is made when it is new.
    fn invoice(&mut self, number: &str) -> usize {
        if let Some(last) = self.invoices.last()
            && &*last.number == number
        {
            return self.invoices.len() - 1;
        }
        if let Some(&index) = self.invoice_of.get(number) {
            return index;
        }
        let index = self.invoices.len();
        self.invoice_of.insert(number.into(), index);
        self.invoices.push(Invoice {
            number: number.into(),
            kind: kind_of(number),
            at: i64::MAX,
            customer: None,
            country: "".into(),
            lines: Vec::new(),
            unreadable: 0,
        });
        index
    }

    fn line(
        &mut self,
        fields: &[Cow<'_, str>; 8],
    ) -> Result<(Line, i64, Option<CustomerId>), Unreadable> {
        let [_, code, name, quantity, at, price, customer, _] = fields;
        let quantity =
            self.marks.whole(quantity).ok_or(Unreadable("Quantity", "not a whole number"))?;
        let price_parts = self
            .marks
            .parts(price)
            .ok_or(Unreadable("UnitPrice", "not an amount with at most four decimals"))?;
        let at = self.order.seconds(at).ok_or(Unreadable("InvoiceDate", "not a date and time"))?;
        let customer = customer_of(customer)?;
        let sku = self.sku(code.trim(), name.trim(), price_parts > 0)?;
        Ok((Line { sku, quantity, price_parts }, at, customer))
    }

    fn sku(&mut self, code: &str, name: &str, has_price: bool) -> Result<u32, Unreadable> {
        let index = if let Some(&index) = self.sku_of.get(code) {
            index
        } else {
            let sku: Sku =
                code.parse().map_err(|_| Unreadable("StockCode", "empty or too long"))?;
            let index = u32::try_from(self.skus.len())
                .map_err(|_| Unreadable("StockCode", "one code more than can be counted"))?;
            self.sku_of.insert(code.into(), index);
            self.skus.push(StockCode { sku, name: "".into(), name_has_price: false });
            index
        };
        let known = &mut self.skus[index as usize];
        if !name.is_empty() && (known.name.is_empty() || (has_price && !known.name_has_price)) {
            known.name = name.into();
            known.name_has_price = has_price;
        }
        Ok(index)
    }

    fn explain(&mut self, record: &ByteRecord, why: &Unreadable) {
        if self.examples.len() < UNREADABLE_EXAMPLES_MAX {
            let line = record.position().map_or(0, csv::Position::line);
            self.examples.push(format!("line {line}: {} is {}", why.0, why.1));
        }
    }

    /// All rows are read.
    pub(super) fn finish(mut self, fingerprint: String) -> anyhow::Result<History> {
        let unreadable: u64 =
            self.invoices.iter().map(|invoice| invoice.unreadable).sum::<u64>() + self.orphans;
        if self.lines > 0 && unreadable == self.lines {
            bail!("no line of the file can be read, e.g. {}", self.examples.join("; "));
        }
        self.invoices.sort_by_key(|invoice| invoice.at);
        for invoice in &mut self.invoices {
            invoice.lines.shrink_to_fit();
        }
        Ok(History {
            invoices: self.invoices,
            skus: self.skus,
            lines: self.lines,
            orphans: self.orphans,
            examples: self.examples,
            fingerprint,
        })
    }
}

fn kind_of(number: &str) -> Kind {
    let digits_behind_a_letter =
        number.len() > 1 && number.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    match number.bytes().next() {
        Some(b'C' | b'c') if digits_behind_a_letter => Kind::Cancellation,
        Some(b'A' | b'a') if digits_behind_a_letter => Kind::Adjustment,
        _ => Kind::Sale,
    }
}

/// `17850.0` and `17850` are the same customer.
fn customer_of(text: &str) -> Result<Option<CustomerId>, Unreadable> {
    let text = text.trim();
    let all = |text: &str, legal: fn(&u8) -> bool| text.bytes().all(|byte| legal(&byte));
    let plain = match text.split_once(['.', ',']) {
        Some((whole, zeros)) if all(whole, u8::is_ascii_digit) && all(zeros, |b| *b == b'0') => {
            whole
        }
        _ => text,
    };
    if plain.is_empty() || plain.eq_ignore_ascii_case("nan") {
        return Ok(None);
    }
    plain.parse().map(Some).map_err(|_| Unreadable("CustomerID", "too long"))
}
