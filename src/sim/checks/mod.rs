//! The rules, looked at after every step. Each is named by its invariant ([`InvariantId`]).
//!
//! A step is a commit, a batch applied, rights given or learned. Only what the step touched is looked
//! at, against the databases of all regions at once, which nobody inside the system can see. What only
//! holds at rest is in [`rest`].

mod panics;
mod rest;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use crate::domain::idempotency::IntentKey;
use crate::replication::Position;
use crate::types::{HlcTimestamp, InvariantId, OrderId, RegionId, StockKey};

use super::memory::Memory;
use super::shopper::Answer;

pub use panics::catch_panics;
pub use rest::{are_equal, is_idle};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which; `None` for a panic.
    pub invariant: Option<InvariantId>,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.invariant {
            Some(invariant) => {
                write!(f, "{invariant}: {} Seen: {}", invariant.statement(), self.what)
            }
            None => write!(f, "a panic: {}", self.what),
        }
    }
}

/// Looks at every step of one world.
pub struct Checks {
    memories: Vec<Memory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    violation: Option<Violation>,
    /// Units that the orders of a region hold.
    promised: BTreeMap<(RegionId, StockKey), u64>,
    orders: BTreeMap<OrderId, Seen>,
    /// How far each region has applied each origin.
    applied: BTreeMap<(RegionId, RegionId), Position>,
    /// What shoppers were told.
    answers: Vec<(IntentKey, Answer)>,
    /// What they were told when they asked once more.
    last_answers: BTreeMap<IntentKey, Answer>,
}

/// An order as it was after its last commit.
#[derive(Clone)]
struct Seen {
    version: u64,
    hlc: HlcTimestamp,
    held: BTreeMap<StockKey, u64>,
    ended: bool,
}

impl Checks {
    /// Over the databases of all regions.
    pub fn new(memories: Vec<Memory>) -> Self {
        Self { memories, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<Violation> {
        let mut state = self.state();
        if state.violation.is_none() {
            let panic = panics::take();
            state.violation = panic.map(|what| Violation { invariant: None, what });
        }
        state.violation.clone()
    }

    /// A rule is broken; the first counts, later ones are its consequences.
    pub fn broken(&self, invariant: InvariantId, what: String) {
        self.state().break_rule(invariant, what);
    }

    /// A shopper was told something.
    pub fn answered(&self, intent: &IntentKey, answer: &Answer) {
        self.state().answers.push((intent.clone(), answer.clone()));
    }

    /// A shopper asked once more, after everything was healed.
    pub fn answered_at_last(&self, intent: &IntentKey, answer: &Answer) {
        self.answered(intent, answer);
        self.state().last_answers.insert(intent.clone(), answer.clone());
    }

    /// How many shoppers were told what.
    pub fn tally(&self) -> BTreeMap<String, u64> {
        let mut tally = BTreeMap::new();
        for (_, answer) in &self.state().answers {
            let name = match answer {
                Answer::Confirmed(_) => "confirmed".to_owned(),
                Answer::Taken(_) => "taken".to_owned(),
                Answer::Refused(_, why) => why.clone(),
                Answer::OutOfStock => "insufficient_stock".to_owned(),
                Answer::Nothing(why) => (*why).replace(' ', "_"),
            };
            *tally.entry(name).or_default() += 1;
        }
        tally
    }

    fn memory(&self, region: RegionId) -> Option<&Memory> {
        self.memories.iter().find(|memory| memory.region() == region)
    }

    fn keys(&self) -> BTreeSet<StockKey> {
        let keys =
            |memory: &Memory| memory.tables().rights.rows().keys().cloned().collect::<Vec<_>>();
        self.memories.iter().flat_map(keys).collect()
    }
}

impl State {
    fn break_rule(&mut self, invariant: InvariantId, what: String) {
        self.violation.get_or_insert(Violation { invariant: Some(invariant), what });
    }
}
