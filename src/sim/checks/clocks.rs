//! Stamps: never back, also over a restart (I-17), and never further ahead than the region's own clock was.

use std::collections::BTreeMap;

use crate::ports::{ChangeSet, Stamp};
use crate::types::{HLC_DRIFT_MS_MAX, HlcTimestamp, InvariantId, RegionId};

use super::super::memory::Memory;
use super::{Checks, State};

/// What is remembered of the regions' clocks and stamps.
#[derive(Default)]
pub(super) struct Clocks {
    /// The highest stamp of an event of a region.
    stamped: BTreeMap<RegionId, HlcTimestamp>,
    /// What it was when the region's process started.
    floors: BTreeMap<RegionId, HlcTimestamp>,
    /// The latest that a region's wall clock ever showed.
    walls: BTreeMap<RegionId, u64>,
}

impl Checks {
    /// A process of a region starts: what its database holds is before everything it does.
    pub fn started(&self, region: RegionId) {
        let clocks = &mut self.state().clocks;
        if let Some(stamped) = clocks.stamped.get(&region) {
            clocks.floors.insert(region, *stamped);
        }
    }

    /// A region's wall clock showed this before it jumped.
    pub fn clock_showed(&self, region: RegionId, wall_ms: u64) {
        self.state().clocks.show(region, wall_ms);
    }

    /// What a region has acknowledged of the catalogue is in force there: the last writer has won.
    pub(super) fn own_changes_win(&self, memory: &Memory, changes: &ChangeSet) {
        let tables = memory.tables();
        let in_force = |(sku, product): (&_, &crate::domain::catalogue::Product)| {
            tables.products.get(sku).is_some_and(|stored| stored.hlc == product.hlc)
        };
        let lost = changes.products.iter().find(|change| !in_force(*change));
        if let Some((sku, product)) = lost {
            let (region, hlc) = (memory.region(), product.hlc);
            let what =
                format!("{region} changed {sku} at {hlc}, and an older value stays in force");
            drop(tables);
            self.broken(InvariantId::EventsGapless, what);
        }
    }
}

impl Clocks {
    /// A region begins a new incarnation: it goes on after what it knows to have stamped.
    pub(super) fn begins_again(&mut self, region: RegionId, stamped: Option<HlcTimestamp>) {
        self.floors.remove(&region);
        match stamped {
            Some(stamped) => self.stamped.insert(region, stamped),
            None => self.stamped.remove(&region),
        };
    }

    fn show(&mut self, region: RegionId, wall_ms: u64) {
        let latest = self.walls.entry(region).or_default();
        *latest = wall_ms.max(*latest);
    }
}

impl State {
    /// Looks at the stamps of a commit.
    pub(super) fn stamps_go_on(&mut self, region: RegionId, changes: &ChangeSet, stamp: Stamp) {
        self.clocks.show(region, stamp.now_ms);
        let latest_ms = self.clocks.walls.get(&region).copied().unwrap_or(0);
        let ahead_ms = stamp.hlc.wall_ms.saturating_sub(latest_ms);
        if ahead_ms > HLC_DRIFT_MS_MAX {
            let what = format!("{region} stamps {ahead_ms} ms ahead of what its clock ever showed");
            self.break_unnumbered(what);
        }
        let floor = self.clocks.floors.get(&region).copied();
        // What is done to an order that has moved bears a stamp after all that it bore, whose clock that may have been.
        let placed_here = changes.orders.values().filter(|it| it.record.order.moved.is_none());
        for event in placed_here.flat_map(|write| &write.events) {
            if floor.is_some_and(|floor| event.hlc <= floor) {
                let what = format!("{region} stamps {}, it had {floor:?} at its start", event.hlc);
                self.break_rule(InvariantId::EventsGapless, what);
            }
            let highest = self.clocks.stamped.entry(region).or_insert(event.hlc);
            *highest = event.hlc.max(*highest);
        }
    }
}
