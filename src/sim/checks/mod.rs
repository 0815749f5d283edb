//! The rules, looked at after every step. Each is named by its invariant ([`InvariantId`]).
//!
//! A step is a commit, a batch applied, rights given or learned. Only what the step touched is looked
//! at, against the databases of all regions at once, which nobody inside the system can see. What only
//! holds at rest is in [`rest`].

mod clocks;
mod names;
mod panics;
mod rest;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use crate::domain::idempotency::IntentKey;
use crate::domain::order::{AllocationState, OrderRecord, OrderStatus};
use crate::replication::{Position, Watermark};
use crate::types::{Epoch, HlcTimestamp, InvariantId, OrderId, RegionId, Sku, StockKey};

use super::memory::Memory;
use super::shopper::Answer;
use super::time::WorldTime;

pub use names::granted;
pub use panics::catch_panics;
pub use rest::{are_equal, is_idle};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which; `None` for a panic, and for what has no number.
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
            None => f.write_str(&self.what),
        }
    }
}

/// Looks at every step of one world.
pub struct Checks {
    time: WorldTime,
    memories: Vec<Memory>,
    witness: Option<RegionId>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    violation: Option<Violation>,
    /// Units that the orders of a region hold.
    promised: BTreeMap<(RegionId, StockKey), u64>,
    orders: BTreeMap<OrderId, Seen>,
    /// Some of them have moved.
    has_moves: bool,
    /// How far each region has applied each origin.
    applied: BTreeMap<(RegionId, RegionId), Position>,
    /// What shoppers were told.
    answers: Vec<(IntentKey, Answer)>,
    /// Regions whose database was set back, and when they noticed. What they wrote is no measure of
    /// anything any more; the others must go on.
    forgot: BTreeMap<RegionId, Option<u64>>,
    /// Regions that have begun a new incarnation since they forgot. What they write is a measure again; what only
    /// they had known is lost.
    reborn: BTreeSet<RegionId>,
    /// Units that came, and those that were taken off a shelf: also where the region forgot it.
    came: BTreeMap<StockKey, (u64, u64)>,
    /// When rights moved last.
    moved_ms: u64,
    /// What they were told when they asked once more.
    last_answers: BTreeMap<IntentKey, Answer>,
    clocks: clocks::Clocks,
    names: names::Names,
}

/// An order as it was after its last commit.
#[derive(Clone)]
struct Seen {
    home: RegionId,
    version: u64,
    hlc: HlcTimestamp,
    held: BTreeMap<StockKey, u64>,
    ended: bool,
}

impl Checks {
    /// Over the databases of all regions, one of which may sell nothing.
    pub fn new(time: WorldTime, memories: Vec<Memory>, witness: Option<RegionId>) -> Self {
        Self { time, memories, witness, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<Violation> {
        let mut state = self.state();
        if state.violation.is_none() {
            let panic = panics::take();
            state.violation =
                panic.map(|what| Violation { invariant: None, what: format!("a panic: {what}") });
        }
        state.violation.clone()
    }

    /// A rule is broken; the first counts, later ones are its consequences.
    pub fn broken(&self, invariant: InvariantId, what: String) {
        self.state().break_rule(invariant, what);
    }

    /// Units of a SKU that nobody was promised, wherever the rights to them are.
    pub fn unpromised(&self, sku: &Sku) -> u64 {
        let of_region = |memory: &Memory| {
            let rows = memory.tables().rights.known_rows(sku);
            let own = rows.into_iter().filter(|known| known.owner.region == memory.region());
            own.fold((0, 0), |(came, went), known| {
                let row = known.row;
                (came + row.received, went + row.net_spent() + row.withdrawn)
            })
        };
        let sums = self.memories.iter().map(of_region);
        let (came, went) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        u64::saturating_sub(came, went)
    }

    /// A shopper was refused for want of stock, though there was plenty before and after. Nothing was
    /// broken in this world.
    pub fn refused_in_vain(&self, intent: &IntentKey, plenty: u64) {
        let what = format!("{} was refused while {plenty} units were to be had", intent.key);
        self.state().break_unnumbered(what);
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

    /// Rights moved from one region to another.
    pub fn moved(&self, key: &StockKey) {
        self.state().moved_ms = self.time.now_ms();
        self.look_at(key);
    }

    /// When rights moved last.
    pub fn moved_ms(&self) -> u64 {
        self.state().moved_ms
    }

    /// A region's database is set back.
    pub fn forgets(&self, region: RegionId) {
        self.state().forgot.insert(region, None);
    }

    /// A region goes on from earlier watermarks.
    pub fn applies_again(&self, region: RegionId, from: &BTreeMap<RegionId, Watermark>) {
        let mut state = self.state();
        state.applied.retain(|(by, _), _| *by != region);
        let positions = from.iter().map(|(origin, at)| ((region, *origin), at.position));
        state.applied.extend(positions);
    }

    /// A region took note that another one's incarnation begins.
    pub fn noted(&self, by: RegionId, region: RegionId, epoch: Epoch) {
        let mut state = self.state();
        let at = state.applied.entry((by, region)).or_insert(Position::START);
        *at = Position { epoch, sequence: 0 }.max(*at);
    }

    /// A region that forgot has begun a new incarnation. Its database is what it goes on from.
    pub fn reborn(&self, memory: &Memory) {
        let region = memory.region();
        let (orders, watermarks, stamped) = {
            let tables = memory.tables();
            let own = tables.orders.values().filter(|it| it.order.home_region == region);
            let orders: Vec<_> = own.cloned().collect();
            let stamped = orders.iter().map(|order| order.updated_hlc);
            let stamped = stamped.filter(|stamp| stamp.region == region).max();
            (orders, tables.watermarks.clone(), stamped)
        };
        let mut state = self.state();
        state.forgot.remove(&region);
        state.reborn.insert(region);
        state.promised.retain(|(of, _), _| *of != region);
        for (id, seen) in &mut state.orders {
            if self.placed_in(*id) == Some(region) {
                seen.held.clear();
            }
        }
        // What is held under another region's rights stays held there.
        let held = |state: &State, id| state.orders.get(&id).map(|seen| seen.held.clone());
        let orders: Vec<_> = orders
            .into_iter()
            .map(|order| {
                let ended = !holds(&order);
                let held = held(&state, order.order.id).unwrap_or_default();
                let (version, hlc) = (order.version, order.updated_hlc);
                (order.order.id, Seen { home: region, version, hlc, held, ended })
            })
            .collect();
        state.orders.retain(|_, seen| seen.home != region);
        for (id, seen) in orders {
            // What another one has taken over meanwhile is its own, and this region learns of that.
            state.orders.entry(id).or_insert(seen);
        }
        state.applied.retain(|(by, _), _| *by != region);
        let applied = watermarks.into_iter().map(|(origin, at)| ((region, origin), at.position));
        state.applied.extend(applied);
        state.clocks.begins_again(region, stamped);
        state.names.begins_again(region);
    }

    /// A region has noticed that its database was set back, and stored that.
    pub fn noticed(&self, region: RegionId) {
        let now_ms = self.time.now_ms();
        self.state().forgot.entry(region).or_default().get_or_insert(now_ms);
    }

    /// Regions whose database was set back.
    pub fn forgot(&self) -> BTreeSet<RegionId> {
        self.state().forgot.keys().copied().collect()
    }

    /// The databases that remember everything.
    pub fn sound(&self) -> Vec<Memory> {
        let forgot = self.forgot();
        let sound = |memory: &&Memory| !forgot.contains(&memory.region());
        self.memories.iter().filter(sound).cloned().collect()
    }

    fn placed_in(&self, id: OrderId) -> Option<RegionId> {
        let number = usize::from(id.home()?.0.get());
        Some(self.memories.get(number.checked_sub(1)?)?.region())
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

/// Units are held for the order.
fn holds(record: &OrderRecord) -> bool {
    let allocations = record.order.lines.iter().flat_map(|line| &line.allocations);
    allocations.into_iter().any(|it| it.state == AllocationState::Held)
}

/// The order was not cancelled.
fn stands(record: &OrderRecord) -> bool {
    record.order.status() != OrderStatus::Cancelled
}

impl State {
    fn break_rule(&mut self, invariant: InvariantId, what: String) {
        self.violation.get_or_insert(Violation { invariant: Some(invariant), what });
    }

    fn break_unnumbered(&mut self, what: String) {
        self.violation.get_or_insert(Violation { invariant: None, what });
    }
}
