//! Who this process is, and the stamps it makes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::domain::order::{Order, OrderStatus};
use crate::escrow::ORDER_LEASE_MARGIN_MS;
use crate::mutants::{Mutant, is_on};
use crate::ports::{Clock, Ids};
use crate::types::{ClockDrift, Epoch, Hlc, HlcTimestamp, OrderId, RegionId, RegionNumber};

/// This region, as every use case needs it.
pub struct Region {
    /// Its name.
    pub id: RegionId,
    /// Stands in the ids of its orders.
    pub number: RegionNumber,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Every region's number, this one's included.
    pub numbers: BTreeMap<RegionId, RegionNumber>,
    /// The one of them that votes and keeps copies, and sells nothing.
    pub witness: Option<RegionId>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Fresh ids.
    pub ids: Arc<dyn Ids>,
    hlc: Mutex<Hlc>,
    /// How often this process was told whether the region is drained, twice; and one where it is.
    draining: AtomicU64,
    set_back: AtomicBool,
    fenced: AtomicBool,
    in_doubt: AtomicBool,
    order_lease_ms: AtomicU64,
}

impl Region {
    /// `floor` is the highest stamp that this region's database holds.
    pub fn new(
        id: RegionId,
        numbers: BTreeMap<RegionId, RegionNumber>,
        epoch: Epoch,
        floor: HlcTimestamp,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        let number = *numbers.get(&id).expect("a region is one of its deployment's");
        let forgets = is_on(Mutant::StampsForgotten);
        let floor = if forgets { HlcTimestamp::origin(id) } else { floor };
        let floor = HlcTimestamp { region: id, ..floor };
        Self {
            id,
            number,
            epoch,
            numbers,
            witness: None,
            clock,
            ids,
            hlc: Mutex::new(Hlc::starting_after(floor)),
            draining: AtomicU64::new(0),
            set_back: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            in_doubt: AtomicBool::new(false),
            order_lease_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// One of the regions sells nothing.
    #[must_use]
    pub fn with_witness(self, witness: Option<RegionId>) -> Self {
        Self { witness, ..self }
    }

    /// This region sells nothing.
    pub fn is_witness(&self) -> bool {
        self.witness == Some(self.id)
    }

    /// The regions that sell.
    pub fn sellers(&self) -> impl Iterator<Item = RegionId> {
        self.numbers.keys().copied().filter(|region| self.witness != Some(*region))
    }

    /// It is one of the deployment's, and sells.
    pub fn is_seller(&self, region: RegionId) -> bool {
        self.numbers.contains_key(&region) && self.witness != Some(region)
    }

    /// The next stamp.
    pub fn tick(&self) -> HlcTimestamp {
        self.hlc.lock().expect("no panic while held").tick(self.clock.wall_ms())
    }

    /// Takes a peer's stamp into account.
    #[expect(clippy::unwrap_in_result, reason = "nothing panics while it holds the lock")]
    pub fn observe(&self, seen: HlcTimestamp) -> Result<(), ClockDrift> {
        self.hlc.lock().expect("no panic while held").observe(seen, self.clock.wall_ms())
    }

    /// A fresh id of an order whose home is here.
    pub fn order_id(&self) -> OrderId {
        OrderId::new(self.ids.uuid(), self.number)
    }

    /// Which region placed an order, read from its id; `None` for an id that no region of this deployment made.
    pub fn placed_in(&self, order: OrderId) -> Option<RegionId> {
        let home = order.home()?;
        self.numbers.iter().find(|(_, number)| **number == home).map(|(region, _)| *region)
    }

    /// No new orders are taken: an operator said so, the database was set back or may have been, the others have
    /// fenced this region, or it is the witness.
    pub fn is_draining(&self) -> bool {
        let is_stopped = self.is_drained() || self.is_witness();
        is_stopped || !self.may_write() || self.is_fenced()
    }

    /// The database remembers everything that it wrote, as far as is known.
    pub fn may_write(&self) -> bool {
        !self.is_set_back() && (!self.is_in_doubt() || is_on(Mutant::DoubtPassedOver))
    }

    /// A majority lets this region act on its orders for another `margin_ms` at least ([`crate::escrow::Stewardship`]).
    /// Where no other region exists, always.
    pub fn holds_order_lease(&self, margin_ms: u64) -> bool {
        let until_ms = self.order_lease_ms.load(Ordering::Acquire);
        self.clock.monotonic_ms().saturating_add(margin_ms) < until_ms
    }

    /// What [`super::OrderLease`] obtained, by the own clock.
    pub(super) fn set_order_lease(&self, until_ms: u64) {
        self.order_lease_ms.store(until_ms, Ordering::Release);
    }

    /// May this region do something about an order? Without a lease only about what it took alone, which
    /// nobody takes over before it is decided.
    pub fn may_act_on(&self, order: &Order) -> bool {
        let is_alone = order.alone && order.status() == OrderStatus::Pending;
        let may = is_alone
            || self.holds_order_lease(ORDER_LEASE_MARGIN_MS)
            || is_on(Mutant::OrderLeaseIgnored);
        order.home_region == self.id && may
    }

    /// Whether the database remembers everything is not known yet.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Relaxed)
    }

    /// What [`super::Verification`] knows.
    pub(super) fn set_in_doubt(&self, in_doubt: bool) {
        self.in_doubt.store(in_doubt, Ordering::Relaxed);
    }

    /// The database forgot what this region had written.
    pub fn is_set_back(&self) -> bool {
        self.set_back.load(Ordering::Relaxed)
    }

    /// The others have taken over what this incarnation had not sold: it is to rejoin.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// The others say that they have fenced this region, or agreed that it is back.
    pub fn set_fenced(&self, fenced: bool) {
        let was = self.fenced.swap(fenced, Ordering::Relaxed);
        if fenced && !was {
            let region = self.id;
            tracing::warn!(
                "the others have fenced this region and taken over what it had not sold: it takes no new orders \
                 until an operator has it rejoin (`entrepot region rejoin {region}`)"
            );
        }
    }

    /// An operator has drained it, as far as this process knows.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.load(Ordering::Relaxed) % 2 == 1
    }

    /// What [`super::Stops`] has stored, or was told.
    pub(super) fn set_draining(&self, draining: bool) {
        let next = |told: u64| Some((told / 2 + 1) * 2 + u64::from(draining));
        let (order, word) = (Ordering::Relaxed, &self.draining);
        word.fetch_update(order, order, next).expect("there is always a next one");
    }

    /// For [`Self::was_refused`].
    pub(super) fn told_of_draining(&self) -> u64 {
        self.draining.load(Ordering::Relaxed)
    }

    /// The database refused an order, since the region is drained: that holds unless this process was told anything since
    /// it sent the order. An answer may be overtaken by the operator who resumes the region.
    pub(super) fn was_refused(&self, told: u64) {
        let drained = (told / 2 + 1) * 2 + 1;
        let (order, word) = (Ordering::Relaxed, &self.draining);
        let _overtaken = word.compare_exchange(told, drained, order, order);
    }

    /// For the rest of this process. `true` the first time.
    pub(super) fn stop_for_good(&self) -> bool {
        !self.set_back.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{RandomIds, SystemClock};

    fn region() -> Region {
        let id: RegionId = "a".parse().unwrap();
        let clock = SystemClock::new();
        Region::new(
            id,
            [(id, RegionNumber(std::num::NonZeroU8::MIN))].into(),
            Epoch::FIRST,
            HlcTimestamp::origin(id),
            Arc::new(clock),
            Arc::new(RandomIds::new(clock)),
        )
    }

    #[test]
    fn a_refusal_that_is_overtaken_by_an_operator_drains_nothing() {
        let region = region();
        let told = region.told_of_draining();
        region.set_draining(false);
        region.was_refused(told);
        assert!(!region.is_draining(), "it was resumed meanwhile");
        region.was_refused(region.told_of_draining());
        assert!(region.is_draining());
        region.set_draining(false);
        assert!(!region.is_draining());
        region.set_draining(true);
        assert!(region.is_draining());
    }

    #[test]
    fn a_region_in_doubt_takes_no_orders_and_writes_nothing() {
        let region = region();
        assert!(region.may_write() && !region.is_draining());
        region.set_in_doubt(true);
        assert!(!region.may_write() && region.is_draining());
        region.set_in_doubt(false);
        assert!(region.may_write() && !region.is_draining());
    }
}
