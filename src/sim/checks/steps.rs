//! Safety: what must hold after each step.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::order::{AllocationState, Event, OrderRecord, OrderStatus};
use crate::escrow::{Slot, majority};
use crate::ports::store::OrderWrite;
use crate::ports::{ChangeSet, MergeReport, Stamp};
use crate::replication::{Envelope, Position};
use crate::types::{Actor, Epoch, InvariantId, OrderId, RegionId, StockKey};

use super::super::memory::Memory;
use super::{Checks, Seen, State};

/// What was decided before a region knew that it was set back may still be committed: a call to a slow
/// database takes so long at most.
const STOPPED_AFTER_MS: u64 = 3_000;

impl Checks {
    /// A region has committed. Answers the beginning of the hash of what it told the others.
    pub fn committed(&self, memory: &Memory, changes: &ChangeSet, stamp: Stamp) -> String {
        let region = memory.region();
        let (head, hash) = {
            let tables = memory.tables();
            let last = tables.outbox.last_key_value();
            let hash = last.map(|(_, envelope)| envelope.event_hash()).unwrap_or_default();
            (tables.head(), hash)
        };
        let mut keys: BTreeSet<StockKey> = changes.stock.keys().cloned().collect();
        {
            let mut state = self.state();
            for (key, delta) in &changes.stock {
                let (came, went) = state.came.entry(key.clone()).or_default();
                *came += delta.received;
                *went += delta.withdrawn;
            }
            if head.epoch != stamp.epoch {
                let what =
                    format!("{region} wrote in epoch {} and is in {}", stamp.epoch, head.epoch);
                state.break_rule(InvariantId::OneHome, what);
            }
            let noticed = state.forgot.get(&region).copied();
            if let Some(noticed_ms) = noticed {
                // Nothing that such a region writes is a measure, but new orders it must not take.
                let is_new = changes.orders.values().any(|write| write.expected_version == 0);
                let now_ms = self.time.now_ms();
                if is_new && noticed_ms.is_some_and(|at| now_ms > at + STOPPED_AFTER_MS) {
                    let what = format!("{region} takes orders, and knows that it was set back");
                    state.break_rule(InvariantId::NoOversell, what);
                }
                return hash.get(..8).unwrap_or_default().to_owned();
            }
            state.stamps_go_on(region, changes, stamp);
            for (id, write) in &changes.orders {
                if write.expected_version == 0 {
                    state.order_taken(region, write, self.time.now_ms());
                }
                state.order_written(region, *id, write, stamp);
                let owner = Actor { region, epoch: stamp.epoch };
                keys.extend(write.record.order.held_under(owner).into_keys());
            }
        }
        self.own_changes_win(memory, changes);
        for key in &keys {
            self.look_at(key);
        }
        hash.get(..8).unwrap_or_default().to_owned()
    }

    /// The rights to one key, in the databases of all regions.
    pub fn look_at(&self, key: &StockKey) {
        let (mut rows, mut buried) = (BTreeMap::new(), BTreeMap::new());
        for memory in &self.memories {
            let tables = memory.tables();
            let own = tables.actor(memory.region());
            for (owner, row) in tables.rights.rows().get(key).into_iter().flatten() {
                if *owner == own {
                    rows.insert(own, row.clone());
                } else if owner.region == own.region {
                    buried.insert(*owner, row.clone());
                }
            }
        }
        let chosen = self.newest_chosen(key);
        let place = format!("{} at {}", key.sku, key.node);
        let mut state = self.state();
        if !state.forgot.is_empty() {
            // What a region forgot it had received, given or sold is missing in every sum.
            return;
        }
        let sum = |cell: fn(&crate::escrow::Row) -> u64| -> u64 { rows.values().map(cell).sum() };
        if buried.is_empty() {
            let (received, out) =
                (sum(|row| row.received), sum(|row| row.net_spent() + row.withdrawn));
            if out > received {
                let what = format!("{out} of {received} units of {place} are promised or gone");
                state.break_rule(InvariantId::NoOversell, what);
            }
        } else {
            // What a region forgot counts as sold up to its ceiling, and must have come all the same.
            let ceilings: u64 = chosen.values().map(|slot| slot.value.ceiling).sum();
            let all = rows.values().chain(buried.values());
            let moved: u64 = all.map(crate::escrow::Row::granted_total).sum();
            let (came, _) = state.came.get(key).copied().unwrap_or_default();
            if ceilings > came + moved {
                let what = format!("{ceilings} of {place} may be sold, {came} came, {moved} moved");
                state.break_rule(InvariantId::NoOversell, what);
            }
        }
        for (owner, row) in &rows {
            let (region, active) = (owner.region, row.chosen.value.ceiling);
            if row.outflow() > active {
                let what = format!("{region} let {} of {active} go of {place}", row.outflow());
                state.break_rule(InvariantId::RightsNotNegative, what);
            }
            let all = rows.values().chain(buried.values());
            let granted: u64 = all.map(|row| row.granted_to(*owner)).sum();
            let credited: u64 = chosen.values().map(|slot| slot.value.credit_of(*owner)).sum();
            let lost = chosen.get(owner).map_or(0, |slot| slot.value.credited());
            let inflow = row.received + granted + credited;
            if active + lost > inflow {
                let what = format!(
                    "{region} counts {active} of {place} and others took {lost}, {inflow} came"
                );
                state.break_rule(InvariantId::RightsConserved, what);
            }
            let promised = state.promised.get(&(region, key.clone())).copied().unwrap_or(0);
            if promised != row.net_spent() {
                let spent = row.net_spent();
                let what =
                    format!("{region}: orders hold {promised} of {place}, {spent} are spent");
                state.break_rule(InvariantId::ReservationOnce, what);
            }
        }
    }

    /// What was chosen last of each owner's register, as far as anybody knows.
    fn newest_chosen(&self, key: &StockKey) -> BTreeMap<Actor, Slot> {
        let mut chosen: BTreeMap<Actor, Slot> = BTreeMap::new();
        for memory in &self.memories {
            let tables = memory.tables();
            for (owner, row) in tables.rights.rows().get(key).into_iter().flatten() {
                let known = chosen.entry(*owner).or_insert_with(|| row.chosen.clone());
                if row.chosen.place() > known.place() {
                    known.clone_from(&row.chosen);
                }
            }
        }
        chosen
    }

    /// Has a majority stored this value of a register, or a later one?
    fn is_chosen(&self, owner: Actor, key: &StockKey, slot: &Slot) -> bool {
        let has_it = |memory: &&Memory| {
            let tables = memory.tables();
            let stored = tables.registers.slot(owner, key);
            stored.is_some_and(|stored| stored.place() >= slot.place())
        };
        slot.sequence == 0
            || self.memories.iter().filter(has_it).count() >= majority(self.memories.len())
    }

    /// A region took rows from a peer.
    pub fn learned(&self, memory: &Memory, report: &MergeReport) {
        if !self.forgot().is_empty() {
            return;
        }
        for keyed in &report.changed {
            let Some(owner) = self.memory(keyed.owner.region) else { continue };
            let written = {
                let tables = owner.tables();
                tables.rights.own_row(keyed.owner, &keyed.key).cloned()
            };
            let wrote = written.map_or(0, |row| row.version);
            if keyed.row.version > wrote
                || !self.is_chosen(keyed.owner, &keyed.key, &keyed.row.chosen)
            {
                let (by, owner) = (memory.region(), keyed.owner);
                let what =
                    format!("{by} has a row of {owner} that {owner} did not write: {keyed:?}");
                self.broken(InvariantId::RightsNotNegative, what);
            }
            self.look_at(&keyed.key);
        }
        for (key, error) in &report.refused {
            let (by, sku) = (memory.region(), &key.sku);
            self.broken(InvariantId::RightsNotNegative, format!("{by} refuses {sku}: {error}"));
        }
    }

    /// A region has applied a batch of another one's.
    pub fn applied(&self, memory: &Memory, after: Position, batch: &[Envelope]) {
        let Some(first) = batch.first() else { return };
        let region = memory.region();
        self.moved_orders_are_given_back(memory);
        let origin = first.origin;
        let written = self.memory(origin);
        let mut state = self.state();
        if state.forgot.contains_key(&region) || state.forgot.contains_key(&origin) {
            return;
        }
        let at = state.applied.entry((region, origin)).or_insert(Position::START);
        let before = *at;
        let mut problem =
            (before != after).then(|| format!("was at {before}, went on from {after}"));
        for envelope in batch {
            if envelope.position() != at.next() {
                problem.get_or_insert_with(|| format!("{} follows {at}", envelope.position()));
            }
            *at = envelope.position();
            let original = written.and_then(|memory| {
                let tables = memory.tables();
                tables.outbox.get(at).map(|original| original.payload == envelope.payload)
            });
            if original != Some(true) {
                problem.get_or_insert_with(|| format!("{at} is not what its origin wrote"));
            }
        }
        if let Some(problem) = problem {
            let what = format!("{region} applied {origin}: {problem}");
            state.break_rule(InvariantId::ReplicationComplete, what);
        }
    }

    /// Units of its own that moved orders held are given back with the copy that says so.
    fn moved_orders_are_given_back(&self, memory: &Memory) {
        if !self.state().has_moves {
            return;
        }
        let tables = memory.tables();
        let owner = tables.actor(memory.region());
        let moved = tables
            .orders
            .values()
            .filter(|it| it.order.moved.is_some_and(|moved| moved.placed_in == owner.region));
        let mut state = self.state();
        for record in moved {
            // What it gave back before it knew of the move it does not hold again.
            let nobody = Actor { epoch: Epoch::NONE, ..owner };
            let is_given_back = tables.is_given_back(record.order.id);
            state.holds_under(record, owner, if is_given_back { nobody } else { owner });
        }
    }

    /// A region can't apply an envelope. Nothing here is newer than the program that reads it.
    pub fn parked(&self, region: RegionId, envelope: &Envelope, reason: &str) {
        if self.forgot().contains(&envelope.origin) || self.forgot().contains(&region) {
            return;
        }
        let what = format!(
            "{region} can't apply {} of {}: {reason}",
            envelope.position(),
            envelope.origin
        );
        self.broken(InvariantId::ReplicationComplete, what);
    }
}

impl State {
    fn order_written(&mut self, region: RegionId, id: OrderId, write: &OrderWrite, stamp: Stamp) {
        let record = &write.record;
        let before = self.orders.get(&id).cloned();
        let home = record.order.home_region;
        let foreign = |event: &Event| event.region != region || event.epoch != stamp.epoch;
        let (comes, goes) = match (write.events.first(), write.events.last()) {
            (Some(first), Some(last)) => (first.is_move(), last.is_move()),
            _ => (false, false),
        };
        // Who takes an order over may not know that it had been given to him.
        let takes_over = comes && home == region;
        let was_elsewhere = takes_over || before.as_ref().is_some_and(|seen| seen.home != region);
        self.has_moves |= comes || goes;
        let is_foreign = home != region && !goes || was_elsewhere && !comes;
        if is_foreign || write.events.iter().any(foreign) {
            self.break_rule(InvariantId::OneHome, format!("{region} wrote {id} of {home}"));
        }
        // Who takes an order over goes on from what is known of it, and its home may have known more.
        let known = before.as_ref().map(|seen| (seen.version, seen.hlc));
        let known = known.filter(|_| !was_elsewhere || write.expected_version == 0);
        let mut seq = known.map_or(write.expected_version, |(version, _)| version);
        let mut hlc = known.map(|(_, hlc)| hlc);
        for event in &write.events {
            seq += 1;
            if event.seq != seq || hlc.is_some_and(|hlc| hlc >= event.hlc) {
                let what = format!("{id}: event {} at {} after {hlc:?}", event.seq, event.hlc);
                self.break_rule(InvariantId::EventsGapless, what);
            }
            hlc = Some(event.hlc);
            if !is_legal(event) {
                let what = format!("{id}: {:?} to {}", event.from_status, event.to_status);
                self.break_rule(InvariantId::LegalTransitions, what);
            }
        }
        if !is_all_or_none(record) {
            self.break_rule(InvariantId::AllLinesOrNone, format!("{id} of {region}"));
        }
        let ended = !super::holds(record);
        if before.as_ref().is_some_and(|seen| seen.ended) && !ended && !was_elsewhere {
            self.break_rule(
                InvariantId::ReservationOnce,
                format!("{id} holds again what it gave back"),
            );
        }
        let held = before.map(|seen| seen.held).unwrap_or_default();
        let hlc = hlc.unwrap_or(record.updated_hlc);
        self.orders.insert(id, Seen { home, version: record.version, hlc, held, ended });
        if record.order.placed_in() == region {
            self.holds(record, Actor { region, epoch: stamp.epoch });
        }
    }

    /// What an order holds under the rights of who placed it, as that region knows it now.
    fn holds(&mut self, record: &OrderRecord, owner: Actor) {
        self.holds_under(record, owner, owner);
    }

    fn holds_under(&mut self, record: &OrderRecord, owner: Actor, counted: Actor) {
        let Some(seen) = self.orders.get_mut(&record.order.id) else { return };
        let region = owner.region;
        let held = std::mem::replace(&mut seen.held, record.order.held_under(counted));
        for (key, units) in &seen.held {
            *self.promised.entry((region, key.clone())).or_default() += units;
        }
        for (key, units) in held {
            *self.promised.entry((region, key)).or_default() -= units;
        }
    }
}

fn is_all_or_none(record: &OrderRecord) -> bool {
    let held = |line: &crate::domain::order::Line| -> u32 {
        let open = line.allocations.iter().filter(|it| it.state == AllocationState::Held);
        open.map(|allocation| allocation.quantity).sum()
    };
    if record.order.status() == OrderStatus::Cancelled {
        record.order.lines.iter().all(|line| held(line) == 0)
    } else {
        record.order.lines.iter().all(|line| held(line) == line.quantity)
    }
}

fn is_legal(event: &Event) -> bool {
    let status = |text: &str| OrderStatus::ALL.iter().find(|status| status.as_str() == text);
    let Some(to) = status(&event.to_status) else { return false };
    match event.from_status.as_deref().map(status) {
        None => event.seq == 1,
        Some(from) => from.is_some_and(|from| from.may_become(*to)),
    }
}
