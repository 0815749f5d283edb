//! What becomes of a region that is gone for good, on the word of two people.
//!
//! What lies below its ceilings it may have sold without anybody knowing; so nobody sells it, for as long as the region
//! may come back. When its database can never be read again, all that can ever be known of its sales is what others have
//! heard. One region, the *executor*, puts that together and writes the last row of each of its keys: the units between
//! what is known to have left it and its ceiling are granted to the executor. So what has left the region is its ceiling, to
//! the unit, and both inequalities of the ledger go on to hold: nothing is lowered, and nothing new comes into being.
//!
//! There is one executor for ever, of one incarnation: two would grant the same units twice. It is a value in the register
//! that tells who acts for the region's orders ([`super::order_register`]).

use std::collections::BTreeMap;

use super::register::Value;
use crate::types::{Actor, Epoch, StockKey};

/// Under which key of [`super::order_register`] stands who gives away what one incarnation of the region had left.
pub fn retirement_key(incarnation: Epoch) -> StockKey {
    StockKey {
        sku: "retired".parse().expect("a short text"),
        node: incarnation.to_string().parse().expect("a short text"),
    }
}

/// The value that makes `executor` the one.
pub fn executed_by(executor: Actor) -> Value {
    Value { ceiling: 0, credits: BTreeMap::from([(executor, 1)]) }
}

/// Who is the one; the first that was stored.
pub fn executor_of(value: Option<&Value>) -> Option<Actor> {
    value?.credits.keys().next().copied()
}

#[cfg(test)]
mod tests {
    use super::super::{Retired, Row, Slot, Unsold};
    use super::*;
    use proptest::prelude::*;

    fn actor(name: &str) -> Actor {
        Actor { region: name.parse().unwrap(), epoch: Epoch::FIRST }
    }

    #[test]
    fn there_is_one_executor() {
        assert_eq!(executor_of(None), None);
        assert_eq!(executor_of(Some(&Value::default())), None);
        assert_eq!(executor_of(Some(&executed_by(actor("b")))), Some(actor("b")));
        assert_ne!(retirement_key(Epoch(2)), retirement_key(Epoch(3)));
    }

    #[test]
    fn an_order_whose_cancellation_nobody_saw_is_told() {
        let (owner, heir) = (actor("d"), actor("a"));
        let chosen = Slot {
            sequence: 1,
            value: Value { ceiling: 10, ..Value::default() },
            ..Slot::birth(owner.region)
        };
        let granted = BTreeMap::from([(actor("b"), 6)]);
        let row = Row { version: 3, spent: 10, released: 6, granted, chosen, ..Row::new(owner) };
        let Retired { row, freed, uncovered, .. } =
            Row::retired(owner, [row], Unsold { held: 10, withheld: 0 }, heir);
        assert_eq!((row.outflow(), freed, uncovered), (10, 0, 6));
    }

    proptest! {
        /// Of whatever is known of an honest owner: what leaves it in all is its ceiling, no unit is granted that orders
        /// are known to hold, and done again, nothing more comes of it.
        #[test]
        fn what_is_granted_is_what_lies_below_the_ceiling_and_is_not_known_to_be_sold(
            spent in 0_u64..40, released in 0_u64..40, given in 0_u64..20, ahead in 0_u64..30, seen in 0_u64..40,
            held in 0_u64..40, withheld in prop_oneof![Just(0_u64), 0_u64..20],
        ) {
            let (owner, heir) = (actor("d"), actor("a"));
            let released = released.min(spent);
            let granted = BTreeMap::from([(actor("b"), given)]);
            // Nothing ever left it beyond its ceiling, and a ceiling never goes down.
            let ceiling = (spent - released + given).max(seen.min(spent)) + ahead;
            let chosen = Slot { sequence: 1, value: Value { ceiling, ..Value::default() }, ..Slot::birth(owner.region) };
            let truth = Row { version: 9, spent, released, granted, chosen: chosen.clone(), ..Row::new(owner) };
            // An older copy; and the ceiling is known.
            let copy = Row { version: 4, spent: seen.min(spent), chosen, ..Row::new(owner) };
            // Orders hold at most what was truly spent.
            let held = held.min(truth.net_spent());
            let unsold = Unsold { held, withheld };
            let Retired { row: last, freed, uncovered, withheld } =
                Row::retired(owner, [copy.clone()], unsold, heir);
            prop_assert!(withheld <= unsold.withheld);
            prop_assert_eq!(last.outflow(), ceiling - withheld);
            prop_assert!(last.net_spent() >= held && uncovered == 0);
            prop_assert_eq!(freed, last.granted_to(heir));
            prop_assert!(last.is_buried() && last.check(owner).is_ok());
            let again = Row::retired(owner, [copy, last.clone()], unsold, heir);
            prop_assert_eq!((again.row.outflow(), again.freed), (ceiling - withheld, 0));
            // With all that is true known, exactly what was not sold is freed.
            let left = ceiling - truth.outflow();
            prop_assert_eq!(Row::retired(owner, [truth], Unsold::default(), heir).freed, left);
        }
    }
}
