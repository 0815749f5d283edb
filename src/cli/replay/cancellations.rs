//! Which earlier sale a cancellation cancels. Pure.
//!
//! The file doesn't say: a `C` invoice carries no pointer. A cancelled line takes units from the latest
//! earlier sales of the same customer and stock code, those at the same price first.

use std::collections::BTreeMap;

use super::parse::Line;
use crate::types::CustomerId;

/// What the cancellations of a history cancel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Matches {
    /// Lines whose units were all sold to the customer before.
    pub(super) matched_lines: u64,
    /// Lines of which only some units were.
    pub(super) partly_matched_lines: u64,
    /// Lines without an earlier sale, or without a customer.
    pub(super) unmatched_lines: u64,
    /// Lines of service codes: discounts, postage given back.
    pub(super) service_lines: u64,
    /// Units that were matched.
    pub(super) matched_units: u64,
    /// Units that were not.
    pub(super) unmatched_units: u64,
}

#[derive(Debug)]
struct Sold {
    price_parts: i64,
    units_left: u32,
}

/// Reads sales and cancellations in order of time.
#[derive(Debug, Default)]
pub(super) struct Matcher<'a> {
    sold: BTreeMap<(&'a CustomerId, u32), Vec<Sold>>,
    /// The result so far.
    pub(super) matches: Matches,
}

impl<'a> Matcher<'a> {
    /// Takes note of a sold line.
    pub(super) fn sold(&mut self, customer: Option<&'a CustomerId>, line: &Line) {
        let Some(customer) = customer else { return };
        let units_left = line.quantity.unsigned_abs();
        let sold = Sold { price_parts: line.price_parts, units_left };
        self.sold.entry((customer, line.sku)).or_default().push(sold);
    }

    /// Finds what a line of a `C` invoice cancels. A positive quantity there cancels nothing.
    pub(super) fn cancelled(&mut self, customer: Option<&'a CustomerId>, line: &Line) {
        let wanted = if line.quantity < 0 { line.quantity.unsigned_abs() } else { 0 };
        let mut left = wanted;
        let earlier = customer.and_then(|customer| self.sold.get_mut(&(customer, line.sku)));
        if let Some(earlier) = earlier {
            for same_price in [true, false] {
                for sold in earlier.iter_mut().rev() {
                    if (sold.price_parts == line.price_parts) == same_price {
                        let taken = sold.units_left.min(left);
                        sold.units_left -= taken;
                        left -= taken;
                    }
                }
            }
            earlier.retain(|sold| sold.units_left > 0);
        }
        let matches = &mut self.matches;
        matches.matched_units += u64::from(wanted - left);
        matches.unmatched_units += u64::from(left);
        match (wanted - left, left) {
            (0, _) => matches.unmatched_lines += 1,
            (_, 0) => matches.matched_lines += 1,
            _ => matches.partly_matched_lines += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sku: u32, quantity: i32, price_parts: i64) -> Line {
        Line { sku, quantity, price_parts }
    }

    #[test]
    fn units_come_from_earlier_sales_of_the_same_customer_and_code() {
        let (ann, bob): (CustomerId, CustomerId) = ("1".parse().unwrap(), "2".parse().unwrap());
        let mut matcher = Matcher::default();
        matcher.sold(Some(&ann), &line(7, 10, 255));
        matcher.sold(Some(&ann), &line(7, 5, 300));
        matcher.cancelled(Some(&ann), &line(7, -8, 255));
        assert_eq!((matcher.matches.matched_lines, matcher.matches.matched_units), (1, 8));
        // Two are left at that price, and five at another.
        matcher.cancelled(Some(&ann), &line(7, -9, 255));
        assert_eq!(matcher.matches.partly_matched_lines, 1);
        assert_eq!((matcher.matches.matched_units, matcher.matches.unmatched_units), (15, 2));
        // Units are cancelled once; others' sales and other codes are not theirs.
        matcher.cancelled(Some(&ann), &line(7, -1, 255));
        matcher.cancelled(Some(&bob), &line(7, -1, 255));
        matcher.cancelled(Some(&ann), &line(8, -1, 255));
        matcher.cancelled(None, &line(7, -1, 255));
        matcher.cancelled(Some(&ann), &line(7, 1, 255));
        assert_eq!(matcher.matches.unmatched_lines, 5);
    }

    #[test]
    fn the_same_price_is_taken_before_a_later_sale() {
        let ann: CustomerId = "1".parse().unwrap();
        let mut matcher = Matcher::default();
        matcher.sold(Some(&ann), &line(7, 1, 255));
        matcher.sold(Some(&ann), &line(7, 1, 300));
        matcher.cancelled(Some(&ann), &line(7, -1, 255));
        let left = &matcher.sold[&(&ann, 7)];
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].price_parts, 300);
    }
}
