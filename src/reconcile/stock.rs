//! Reservations against rights, and rights against what was received.

use std::collections::BTreeMap;

use crate::domain::order::Order;
use crate::escrow::{BUCKETS, bucket_of};
use crate::types::{Actor, StockKey};

use super::{Class, Flaw};

/// What a row of rights says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RightsLine {
    /// SKU and node.
    pub key: StockKey,
    /// Whose.
    pub owner: Actor,
    /// Units brought into being.
    pub received: i64,
    /// Reserved or sold, less what was given back.
    pub net_spent: i64,
    /// Taken off the shelf.
    pub withdrawn: i64,
    /// Given to others, as the row's total says.
    pub granted_total: i64,
    /// Given to others, summed up.
    pub granted_sum: i64,
    /// The ceiling of what may leave.
    pub ceiling: i64,
}

/// Judges a row of this region's own: I-04 and I-05.
pub fn judge_rights(line: &RightsLine) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    if line.granted_total != line.granted_sum {
        let (expected, found) = (line.granted_sum, line.granted_total);
        flaws.push(flaw(Class::RightsNotConserved, "granted", expected, found));
    }
    let outflow = line.net_spent + line.withdrawn + line.granted_total;
    if outflow > line.ceiling || line.net_spent < 0 {
        let (expected, found) =
            (format!("at most {} left", line.ceiling), format!("{outflow} left"));
        flaws.push(Flaw { class: Class::RightsOverdrawn, expected, found });
    }
    flaws
}

fn flaw(class: Class, what: &str, expected: i64, found: i64) -> Flaw {
    Flaw { class, expected: format!("{expected} {what}"), found: format!("{found} {what}") }
}

/// I-01: the rows of one key, added up as they come in order of keys.
#[derive(Debug, Default)]
pub struct Balance {
    open: Option<(StockKey, i64, i64)>,
}

impl Balance {
    /// Takes in the next row. Answers the key before it, if that is oversold.
    pub fn add(&mut self, line: &RightsLine) -> Option<(StockKey, Flaw)> {
        let promised = line.net_spent + line.withdrawn;
        match &mut self.open {
            Some((key, received, spent)) if *key == line.key => {
                *received += line.received;
                *spent += promised;
                None
            }
            Some(_) | None => {
                let next = (line.key.clone(), line.received, promised);
                Self { open: self.open.replace(next) }.finish()
            }
        }
    }

    /// After the last row.
    pub fn finish(self) -> Option<(StockKey, Flaw)> {
        let (key, received, promised) = self.open?;
        let (expected, found) =
            (format!("at most {received} promised"), format!("{promised} promised"));
        (promised > received).then_some((key, Flaw { class: Class::Oversold, expected, found }))
    }
}

/// I-03: units that orders of this region's present incarnation hold, by key: what an earlier one sold counts as sold for
/// ever, under a row that was put together. Takes in only the keys of some buckets, so that memory
/// has a bound: a scan of all orders is made for each part.
#[derive(Debug)]
pub struct Holdings {
    own: Actor,
    buckets: std::ops::Range<u8>,
    held: BTreeMap<StockKey, i64>,
}

impl Holdings {
    /// Part `part` of `parts`.
    pub fn of_part(own: Actor, part: u8, parts: u8) -> Self {
        let at = |part: u8| u16::from(part) * u16::from(BUCKETS) / u16::from(parts.max(1));
        let edge = |part: u8| u8::try_from(at(part)).unwrap_or(BUCKETS);
        Self { own, buckets: edge(part)..edge(part + 1), held: BTreeMap::new() }
    }

    /// Into how many parts so many keys are cut, if each part may have `keys_max`.
    pub fn parts(keys: u64, keys_max: u64) -> u8 {
        let parts = keys.div_ceil(keys_max.max(1)).clamp(1, u64::from(BUCKETS));
        u8::try_from(parts).unwrap_or(BUCKETS)
    }

    fn covers(&self, key: &StockKey) -> bool {
        self.buckets.contains(&bucket_of(key))
    }

    /// Takes in an order that this region placed: units stay held under its rights where the order has moved.
    pub fn add(&mut self, order: &Order) {
        for (key, units) in order.held_under(self.own) {
            if self.covers(&key) {
                *self.held.entry(key).or_default() += i64::try_from(units).unwrap_or(i64::MAX);
            }
        }
    }

    /// Compares with an own row of rights of the same snapshot.
    pub fn settle(&mut self, line: &RightsLine) -> Option<Flaw> {
        if line.owner != self.own || !self.covers(&line.key) {
            return None;
        }
        let held = self.held.remove(&line.key).unwrap_or(0);
        let class = Class::ReservationNotInRights;
        (held != line.net_spent).then(|| flaw(class, "promised", held, line.net_spent))
    }

    /// After the last row: what is held under no row at all.
    pub fn rest(self) -> impl Iterator<Item = (StockKey, Flaw)> {
        let class = Class::ReservationNotInRights;
        let held = self.held.into_iter().filter(|(_, units)| *units != 0);
        held.map(move |(key, units)| (key, flaw(class, "promised", units, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;
    use proptest::prelude::*;

    fn key(n: u8) -> StockKey {
        StockKey { sku: format!("s{n:03}").parse().unwrap(), node: "n".parse().unwrap() }
    }

    fn line(key: StockKey, owner: &str, received: i64, net_spent: i64) -> RightsLine {
        let owner = Actor { region: owner.parse().unwrap(), epoch: Epoch::FIRST };
        let (withdrawn, granted_total, granted_sum) = (0, 0, 0);
        let ceiling = received;
        RightsLine {
            key,
            owner,
            received,
            net_spent,
            withdrawn,
            granted_total,
            granted_sum,
            ceiling,
        }
    }

    fn order(units: &[(u8, u32)]) -> Order {
        let id = uuid::Uuid::nil();
        let lines = units.iter().map(|(n, quantity)| serde_json::json!({
            "id": id, "sku": key(*n).sku, "quantity": quantity, "unit_minor": 1, "allocations": [
                {"reservation_id": id, "node": "n", "quantity": quantity, "state": "held"},
                {"reservation_id": id, "node": "n", "quantity": 7, "state": "released"}],
        }));
        serde_json::from_value(serde_json::json!({
            "id": id, "number": "1", "home_region": "a", "channel": "web", "currency": "EUR",
            "lines": lines.collect::<Vec<_>>(), "shipping_option": "standard", "payments": [],
            "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
            "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
        }))
        .unwrap()
    }

    #[test]
    fn rows_are_judged() {
        let good = line(key(1), "a", 5, 5);
        assert_eq!(judge_rights(&good), []);
        let class = |line: &RightsLine| judge_rights(line)[0].class;
        assert_eq!(
            class(&RightsLine { granted_sum: 1, ..good.clone() }),
            Class::RightsNotConserved
        );
        assert_eq!(class(&RightsLine { withdrawn: 1, ..good.clone() }), Class::RightsOverdrawn);
        assert_eq!(class(&RightsLine { net_spent: -1, ..good }), Class::RightsOverdrawn);
    }

    proptest! {
        /// I-01: exactly the keys of which more is promised than received, whoever promised.
        #[test]
        fn oversold_keys_are_found(rows in prop::collection::btree_map((0u8..4, 0u8..3), (0i64..5, 0i64..5), 0..12)) {
            let mut balance = Balance::default();
            let (mut found, mut sums) = (Vec::new(), BTreeMap::<u8, i64>::new());
            for ((n, owner), (received, spent)) in rows {
                let owner = ["a", "b", "c"][usize::from(owner)];
                found.extend(balance.add(&line(key(n), owner, received, spent)));
                *sums.entry(n).or_default() += received - spent;
            }
            found.extend(balance.finish());
            let found: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
            let expected = sums.into_iter().filter(|(_, left)| *left < 0).map(|(n, _)| key(n));
            prop_assert_eq!(found, expected.collect::<Vec<_>>());
        }

        /// I-03: the differences are the same into however many parts the keys are cut.
        #[test]
        fn parts_see_every_key_once(
            orders in prop::collection::vec(prop::collection::vec((0u8..20, 1u32..4), 1..4), 0..8),
            spent in prop::collection::btree_map(0u8..20, 0i64..6, 0..20), parts in 1u8..=64,
        ) {
            let mut expected = BTreeMap::<StockKey, i64>::new();
            for (n, quantity) in orders.iter().flatten() {
                *expected.entry(key(*n)).or_default() += i64::from(*quantity);
            }
            for (n, units) in &spent {
                *expected.entry(key(*n)).or_default() -= units;
            }
            expected.retain(|_, difference| *difference != 0);
            let mut found = Vec::new();
            for part in 0..parts {
                let mut holdings = Holdings::of_part(line(key(0), "a", 0, 0).owner, part, parts);
                for units in &orders {
                    holdings.add(&order(units));
                }
                for (n, units) in &spent {
                    let line = line(key(*n), "a", 100, *units);
                    found.extend(holdings.settle(&line).map(|_| line.key));
                }
                found.extend(holdings.rest().map(|(key, _)| key));
            }
            found.sort();
            prop_assert_eq!(found, expected.into_keys().collect::<Vec<_>>());
        }
    }
}
