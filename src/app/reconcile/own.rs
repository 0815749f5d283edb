//! This region's own data, in one snapshot: orders and their events, reservations and rights.

use super::Reconciler;
use super::money::{CountedOn, Ledger};
use crate::domain::order::{Order, OrderStatus, PaymentState};
use crate::ports::{Snapshot, StoreError};
use crate::reconcile::{
    Balance, Flaw, Found, Holdings, Report, RightsLine, judge_order, judge_rights,
};
use crate::types::{RegionId, StockKey};

/// Orders in one page, with their events some 5 KiB each, at most 200: a page stays below 40 MiB even if every order
/// has 200 lines.
const ORDERS_PER_PAGE: u32 = 200;

/// Rows of rights in one page.
const RIGHTS_PER_PAGE: u32 = 5_000;

/// Keys whose reservations are added up in one scan of the orders: some 20 MiB. With more keys the orders are
/// read several times.
const KEYS_PER_SCAN: u64 = 100_000;

/// Payments that orders count on and the ledger has not named that are kept for a closer look: some 10 MiB. Those
/// of orders that were placed meanwhile drop out again.
const COUNTED_ON_MAX: usize = 100_000;

/// What one pass over the rows of rights came to.
#[derive(Default)]
struct Rows {
    own: u64,
    oversold: Vec<(StockKey, Flaw)>,
    flaws: Vec<(StockKey, Flaw)>,
}

impl Reconciler {
    /// Looks at every order and every row of rights. Answers the payments that orders count on and of which the
    /// provider's ledger said nothing.
    pub(super) async fn scan(
        &self,
        report: &mut Report,
        money: &Ledger,
    ) -> Result<Vec<CountedOn>, StoreError> {
        let mut snapshot = self.store.snapshot().await?;
        let rows = self.read_rows(snapshot.as_mut(), |_| None).await?;
        report.checked.keys += rows.own;
        self.enter_stock(report, rows.flaws);
        let parts = Holdings::parts(rows.own, KEYS_PER_SCAN);
        let mut counted_on = Vec::new();
        for part in 0..parts {
            let mut holdings = Holdings::of_part(part, parts);
            let payments = (part == 0).then_some(&mut counted_on);
            let readable =
                self.scan_orders(report, snapshot.as_mut(), &mut holdings, money, payments).await?;
            if !readable {
                let why = "an order can't be read, so what all of them hold is not known";
                report.leave_out(self.region.id, "reservations", why);
                break;
            }
            let settled =
                self.read_rows(snapshot.as_mut(), |line| holdings.settle(line)).await?.flaws;
            let settled = settled
                .into_iter()
                .filter(|(_, flaw)| flaw.class == crate::reconcile::Class::ReservationNotInRights);
            self.enter_stock(report, settled);
            self.enter_stock(report, holdings.rest());
        }
        drop(snapshot);
        self.confirm_oversold(report, rows.oversold).await?;
        Ok(counted_on)
    }

    /// Reads all orders once. `false`: one of this region can't be read.
    async fn scan_orders(
        &self,
        report: &mut Report,
        snapshot: &mut dyn Snapshot,
        holdings: &mut Holdings,
        money: &Ledger,
        mut payments: Option<&mut Vec<CountedOn>>,
    ) -> Result<bool, StoreError> {
        // The first scan looks at everything, the others only add up.
        let is_first = payments.is_some();
        let (mut after, mut readable) = (None, true);
        loop {
            let page = snapshot.orders(after, !is_first, is_first, ORDERS_PER_PAGE).await?;
            let is_last = page.len() < ORDERS_PER_PAGE as usize;
            after = page.last().map(|scanned| scanned.stored.id);
            for scanned in page {
                let (stored, events) = (&scanned.stored, scanned.events.as_ref());
                if is_first {
                    report.checked.orders += 1;
                    for flaw in judge_order(self.region.id, stored, events) {
                        let subject = format!("order {}", stored.id);
                        report.add(self.region.id, Found { peer: None, subject, flaw });
                    }
                }
                if stored.home != self.region.id {
                    continue;
                }
                readable &= stored.document.is_ok();
                if let Ok(order) = &stored.document {
                    holdings.add(order);
                    if let Some(payments) =
                        payments.as_mut().filter(|payments| payments.len() < COUNTED_ON_MAX)
                    {
                        payments.extend(counted_on(order).filter(|one| !money.has(&one.key)));
                    }
                }
            }
            if is_last {
                return Ok(readable);
            }
        }
    }

    /// Reads all rows once. `settle` looks at each own one.
    async fn read_rows(
        &self,
        snapshot: &mut dyn Snapshot,
        mut settle: impl FnMut(&RightsLine) -> Option<Flaw> + Send,
    ) -> Result<Rows, StoreError> {
        let (mut rows, mut balance) = (Rows::default(), Balance::default());
        let mut after: Option<(StockKey, RegionId)> = None;
        loop {
            let page = snapshot.rights(after.as_ref(), RIGHTS_PER_PAGE).await?;
            for line in &page {
                rows.oversold.extend(balance.add(line));
                if line.owner == self.region.id {
                    rows.own += 1;
                    let flaws = judge_rights(line).into_iter().chain(settle(line));
                    rows.flaws.extend(flaws.map(|flaw| (line.key.clone(), flaw)));
                }
            }
            if page.len() < RIGHTS_PER_PAGE as usize {
                rows.oversold.extend(balance.finish());
                return Ok(rows);
            }
            after = page.into_iter().next_back().map(|line| (line.key, line.owner));
        }
    }

    fn enter_stock(&self, report: &mut Report, flaws: impl IntoIterator<Item = (StockKey, Flaw)>) {
        for (key, flaw) in flaws {
            let subject = format!("{} at {}", key.sku, key.node);
            report.add(self.region.id, Found { peer: None, subject, flaw });
        }
    }

    /// Copies of other regions' rows come one by one, so what was sold may be known before what it was sold from. A
    /// key counts as oversold when it is at every look until every row must have arrived, and only while every
    /// region can be heard.
    async fn confirm_oversold(
        &self,
        report: &mut Report,
        mut oversold: Vec<(StockKey, Flaw)>,
    ) -> Result<(), StoreError> {
        let started_ms = self.region.clock.monotonic_ms();
        while !oversold.is_empty() {
            let reachable = self.reachability.reachable();
            if let Some(away) = self.bus.peers().iter().find(|peer| !reachable.contains(peer)) {
                let why = "it can't be reached: whether keys it holds are oversold is not known";
                report.leave_out(self.region.id, away.to_string(), why);
                return Ok(());
            }
            if self.waited(started_ms) {
                self.enter_stock(report, oversold);
                return Ok(());
            }
            tokio::time::sleep(super::LOOK * 5).await;
            let mut snapshot = self.store.snapshot().await?;
            let now = self.read_rows(snapshot.as_mut(), |_| None).await?.oversold;
            oversold =
                now.into_iter().filter(|(key, _)| oversold.iter().any(|(k, _)| k == key)).collect();
        }
        Ok(())
    }
}

/// The payments that a confirmed order counts on.
fn counted_on(order: &Order) -> impl Iterator<Item = CountedOn> {
    let confirmed = order.status() == OrderStatus::Confirmed;
    let payments = order
        .payments
        .iter()
        .filter(move |payment| confirmed && payment.state == PaymentState::Authorized);
    payments.map(|payment| CountedOn {
        order: order.id,
        key: payment.provider_key.clone(),
        amount: None,
    })
}
