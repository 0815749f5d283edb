//! What orders of this region are waiting for right now.
//!
//! A peer that asks for the same SKU gets what they leave. Rights that arrive for a waiting order are
//! not sold in the same instant: the order is decided again first. For that moment they stay set
//! aside, or two regions would take the last unit from each other until both orders are refused.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::types::Sku;

/// For how long units stay set aside after the search for them ended: the order that waited is decided
/// with the next commit group, some milliseconds later. A peer that waits for them learns of the sale
/// that much later at worst, a tenth of what a customer waits.
const SET_ASIDE_MS: u64 = 100;

/// Units by SKU, with the time from which they don't count any more; `None` while the search goes on.
type Claims = BTreeMap<Sku, BTreeMap<u64, (u64, Option<u64>)>>;

/// The waiting orders of one process.
#[derive(Debug, Default)]
pub struct Waiting {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    claims: Claims,
    next: u64,
}

/// Orders that wait; to be given back with [`Waiting::ended`].
#[derive(Debug)]
pub struct Claim {
    sku: Sku,
    number: u64,
}

impl Waiting {
    /// Orders begin to wait for `units` of a SKU in all.
    pub fn begin(&self, sku: &Sku, units: u64) -> Claim {
        let mut state = self.state.lock().expect("no panic while held");
        state.next += 1;
        let number = state.next;
        state.claims.entry(sku.clone()).or_default().insert(number, (units, None));
        Claim { sku: sku.clone(), number }
    }

    /// Their search is over. They are decided next, where it brought some; where it did not, nothing stays set aside: orders that
    /// come one after the other and can't be served would keep the last units from everybody.
    pub fn ended(&self, claim: &Claim, now_ms: u64, gained: bool) {
        let mut state = self.state.lock().expect("no panic while held");
        let claims = state.claims.get_mut(&claim.sku);
        if let Some((_, until)) = claims.and_then(|claims| claims.get_mut(&claim.number)) {
            *until = Some(if gained { now_ms + SET_ASIDE_MS } else { 0 });
        }
    }

    /// Units of a SKU that orders here wait for.
    pub fn units(&self, sku: &Sku, now_ms: u64) -> u64 {
        let mut state = self.state.lock().expect("no panic while held");
        let Some(claims) = state.claims.get_mut(sku) else { return 0 };
        claims.retain(|_, (_, until)| until.is_none_or(|until| now_ms < until));
        let units = claims.values().map(|&(units, _)| units).fold(0, u64::saturating_add);
        if claims.is_empty() {
            state.claims.remove(sku);
        }
        units
    }

    /// Forgets what is over; called now and then, so that a SKU nobody asks for leaves nothing behind.
    pub fn sweep(&self, now_ms: u64) {
        let mut state = self.state.lock().expect("no panic while held");
        for claims in state.claims.values_mut() {
            claims.retain(|_, (_, until)| until.is_none_or(|until| now_ms < until));
        }
        state.claims.retain(|_, claims| !claims.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_add_up_and_end_a_moment_after_the_search() {
        let (waiting, sku) = (Waiting::default(), "x".parse().unwrap());
        let first = waiting.begin(&sku, 2);
        let second = waiting.begin(&sku, 3);
        assert_eq!(waiting.units(&sku, 0), 5);
        waiting.ended(&first, 10, true);
        assert_eq!(waiting.units(&sku, 10 + SET_ASIDE_MS - 1), 5);
        assert_eq!(waiting.units(&sku, 10 + SET_ASIDE_MS), 3);
        waiting.sweep(u64::MAX);
        assert_eq!(waiting.units(&sku, u64::MAX), 3, "a search that goes on is not forgotten");
        waiting.ended(&second, 10, false);
        assert_eq!(waiting.units(&sku, 0), 0, "nothing came: nothing is set aside");
    }
}
