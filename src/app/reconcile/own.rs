//! This region's own data, in one snapshot: orders and their events, reservations and rights.

use super::money::{CountedOn, Ledger};
use super::{Reconciler, Scope};
use crate::domain::order::{Order, OrderStatus, PaymentState};
use crate::ports::{Part, ScannedOrder, Snapshot, StoreError};
use crate::reconcile::{
    Balance, Class, Flaw, Found, Holdings, Report, RightsLine, StoredOrder, judge_document,
    judge_log, judge_rights,
};
use crate::types::{Actor, StockKey};

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

/// Orders and copies that a round folds from their events; the next round goes on behind them, and begins anew at the
/// end. Folding is by far the dearest check, and a round comes every few minutes: a large database is folded
/// within hours, and one that is asked for folds all of it.
const FOLDED_PER_ROUND: u64 = 50_000;

/// What one pass over the rows of rights came to.
#[derive(Default)]
struct Rows {
    own: u64,
    oversold: Vec<(StockKey, Flaw)>,
    flaws: Vec<(StockKey, Flaw)>,
}

impl Reconciler {
    /// Looks at every own order and every row of rights, and folds orders from their events. Answers the payments that
    /// orders count on and of which the provider's ledger said nothing.
    pub(super) async fn scan(
        &self,
        report: &mut Report,
        scope: Scope,
        ledger: &Ledger,
    ) -> Result<Vec<CountedOn>, StoreError> {
        let mut snapshot = self.store.snapshot().await?;
        let rows = self.read_rows(snapshot.as_mut(), |_| None).await?;
        report.checked.keys += rows.own;
        self.enter_stock(report, rows.flaws);
        let parts = Holdings::parts(rows.own, KEYS_PER_SCAN);
        let mut counted_on = Vec::new();
        for part in 0..parts {
            let mut holdings = Holdings::of_part(self.own(), part, parts);
            let readable = self
                .scan_orders(snapshot.as_mut(), |stored| {
                    if part == 0 && stored.home == self.region.id {
                        self.look_at_document(report, stored, ledger, &mut counted_on);
                    }
                    stored.document.iter().for_each(|order| holdings.add(order));
                })
                .await?;
            if !readable {
                let why = "an order can't be read, so what all of them hold is not known";
                report.leave_out(self.region.id, "reservations", why);
                break;
            }
            let settled =
                self.read_rows(snapshot.as_mut(), |line| holdings.settle(line)).await?.flaws;
            let settled =
                settled.into_iter().filter(|(_, flaw)| flaw.class == Class::ReservationNotInRights);
            self.enter_stock(report, settled);
            self.enter_stock(report, holdings.rest());
        }
        self.fold_orders(report, scope, snapshot.as_mut()).await?;
        drop(snapshot);
        self.confirm_oversold(report, rows.oversold).await?;
        Ok(counted_on)
    }

    fn own(&self) -> Actor {
        Actor { region: self.region.id, epoch: self.region.epoch }
    }

    /// Reads all own orders once. `false`: one can't be read.
    async fn scan_orders(
        &self,
        snapshot: &mut dyn Snapshot,
        mut look: impl FnMut(&StoredOrder) + Send,
    ) -> Result<bool, StoreError> {
        let (mut after, mut readable) = (None, true);
        loop {
            let page = snapshot.orders(after, Part::Own, ORDERS_PER_PAGE).await?;
            let is_last = page.len() < ORDERS_PER_PAGE as usize;
            after = page.last().map(|scanned| scanned.stored.id);
            for ScannedOrder { stored, .. } in &page {
                readable &= stored.document.is_ok();
                look(stored);
            }
            if is_last {
                return Ok(readable);
            }
        }
    }

    fn look_at_document(
        &self,
        report: &mut Report,
        stored: &StoredOrder,
        ledger: &Ledger,
        payments: &mut Vec<CountedOn>,
    ) {
        for flaw in judge_document(stored) {
            self.enter_order(report, stored, flaw);
        }
        if let Ok(order) = &stored.document
            && payments.len() < COUNTED_ON_MAX
        {
            payments.extend(counted_on(order).filter(|one| !ledger.has(&one.key)));
        }
    }

    /// Folds own orders and copies from their events: all of them, or in a round the next ones.
    async fn fold_orders(
        &self,
        report: &mut Report,
        scope: Scope,
        snapshot: &mut dyn Snapshot,
    ) -> Result<(), StoreError> {
        let mut left = match scope {
            Scope::Everything => u64::MAX,
            Scope::Round => FOLDED_PER_ROUND,
        };
        let mut after = match scope {
            Scope::Everything => None,
            Scope::Round => self.progress().folded,
        };
        while left > 0 {
            let page = snapshot.orders(after, Part::WithCopiesAndEvents, ORDERS_PER_PAGE).await?;
            let is_last = page.len() < ORDERS_PER_PAGE as usize;
            after = page.last().map(|scanned| scanned.stored.id).filter(|_| !is_last);
            left = left.saturating_sub(page.len() as u64);
            report.checked.orders += page.len() as u64;
            for ScannedOrder { stored, events } in &page {
                if let Some(flaw) = judge_log(self.region.id, stored, events) {
                    self.enter_order(report, stored, flaw);
                }
            }
            if is_last {
                break;
            }
        }
        if scope == Scope::Round {
            self.progress().folded = after;
        }
        Ok(())
    }

    fn enter_order(&self, report: &mut Report, stored: &StoredOrder, flaw: Flaw) {
        let subject = format!("order {}", stored.id);
        report.add(self.region.id, Found { peer: None, subject, flaw });
    }

    /// Reads all rows once. `settle` looks at each own one.
    async fn read_rows(
        &self,
        snapshot: &mut dyn Snapshot,
        mut settle: impl FnMut(&RightsLine) -> Option<Flaw> + Send,
    ) -> Result<Rows, StoreError> {
        let (mut rows, mut balance) = (Rows::default(), Balance::default());
        let mut after: Option<(StockKey, Actor)> = None;
        loop {
            let page = snapshot.rights(after.as_ref(), RIGHTS_PER_PAGE).await?;
            for line in &page {
                rows.oversold.extend(balance.add(line));
                if line.owner == self.own() {
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
    /// region can be heard that still has something to tell: the rows of one that is gone for good come from the others.
    async fn confirm_oversold(
        &self,
        report: &mut Report,
        mut oversold: Vec<(StockKey, Flaw)>,
    ) -> Result<(), StoreError> {
        let started_ms = self.region.clock.monotonic_ms();
        let gone = self.gone().await?;
        while !oversold.is_empty() {
            let reachable = self.reachability.reachable();
            let mut awaited = self.bus.peers().into_iter().filter(|peer| !gone.contains(peer));
            if let Some(away) = awaited.find(|peer| !reachable.contains(peer)) {
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
