//! What is done once two people have said that a region is gone for good.
//!
//! Done again it goes on, or takes what has come to be known since: every step finds what it did before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Retire, RetireError};
use crate::app::joining::{self, JoinError};
use crate::app::rights::Proposer;
use crate::escrow::{
    KeyedRow, KeyedSlot, Ledger, ROWS_PER_MESSAGE_MAX, Row, Unsold, executed_by, executor_of,
    retirement_key,
};
use crate::ports::{Buried, Ending, Needs};
use crate::replication::rejoin::{Answer, Ask, ITEMS_MAX, MARKS_MAX};
use crate::replication::retirement::{Retirement, RetirementOutcome};
use crate::types::{Actor, Epoch, OrderId, RegionId, StockKey};

/// A link that was just mended is known to be within some heartbeats, and a lease is renewed every 2 s.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// Between looks at who is there.
const LOOK: Duration = Duration::from_millis(100);

impl Retire {
    /// `retirement` is what was kept last, also when this is interrupted by an error after it was noted.
    pub(super) async fn carry_out(
        &self,
        retirement: &mut Retirement,
    ) -> Result<RetirementOutcome, RetireError> {
        let (region, ends) = (retirement.region, retirement.ends);
        let others = self.others(region).await?;
        let all_there = async {
            while self.not_there(&others).is_some() {
                tokio::time::sleep(LOOK).await;
            }
        };
        drop(tokio::time::timeout(HEARD_WITHIN, all_there).await);
        if retirement.noted && self.region.may_write() {
            self.tell_again(&others, retirement).await;
        }
        if let Some(error) = self.not_there(&others) {
            return Err(error);
        }
        self.adoption.fence(region, true).await?;
        let proposer = self.adoption.complete(region, &others).await?;
        retirement.fence = proposer.ballot();
        let owners = self.become_executor(&proposer, region, ends).await?;
        match self.records.note_retirement(retirement).await? {
            Ending::Noted => self.rights.note_incarnation(region, ends),
            Ending::BegunAnew(latest) => {
                self.rights.note_incarnation(region, latest);
                return Err(RetireError::BegunAnew(latest));
            }
            Ending::TakenBack => return Err(RetireError::Overtaken(region)),
        }
        retirement.noted = true;
        self.tell_all(&others, retirement).await?;
        // From now on nobody hears of anything more. What they have heard until then is asked for once more.
        self.adoption.complete(region, &others).await?;
        let units_uncovered = self.free(retirement, &owners, &others).await?;
        let lost = self.lost_orders(region).await;
        let (freed, payments) = (retirement.units_freed, lost.count);
        tracing::warn!(%region, %ends, freed, payments, "{region} is retired: {freed} units are free, {payments} payments are for orders that nobody knows");
        Ok(RetirementOutcome { done_at_ms: self.region.clock.wall_ms(), units_uncovered, lost })
    }

    /// Why it can't be carried out at this moment.
    fn not_there(&self, others: &[RegionId]) -> Option<RetireError> {
        let reachable = self.rights.reachability.reachable();
        let away = others.iter().copied().find(|peer| !reachable.contains(peer));
        let away = away.map(|away| JoinError::Unreachable(away).into());
        let may_act = self.region.holds_order_lease(0);
        away.or_else(|| (!may_act).then_some(RetireError::NoLease))
    }

    /// Everybody who may know something: all but those that are gone for good as well.
    pub(super) async fn others(&self, region: RegionId) -> Result<Vec<RegionId>, RetireError> {
        let mut others = Vec::new();
        for peer in self.bus.peers().into_iter().filter(|peer| *peer != region) {
            // Until its end is noted people may take their words back, and what it knows would be heard again.
            if !self.current(peer).await?.is_some_and(|it| it.has_ended()) {
                others.push(peer);
            }
        }
        Ok(others)
    }

    /// Becomes the one who gives away what the region's incarnations had left. Answers of which of them it is.
    async fn become_executor(
        &self,
        proposer: &Proposer,
        region: RegionId,
        ends: Epoch,
    ) -> Result<BTreeSet<Actor>, RetireError> {
        let owners = (1..ends.0).map(|epoch| Actor { region, epoch: Epoch(epoch) });
        let keys: BTreeMap<StockKey, Actor> =
            owners.map(|owner| (retirement_key(owner.epoch), owner)).collect();
        let mut values = proposer.values(&self.rights, &keys.keys().cloned().collect()).await?;
        let (mut slots, mut first) = (Vec::new(), None);
        for key in keys.keys() {
            let from = values.remove(key);
            let executor = executor_of(from.as_ref().map(|slot| &slot.value));
            first = first.or(executor.filter(|executor| *executor != self.rights.own));
            let value = executed_by(executor.unwrap_or(self.rights.own));
            slots.push(KeyedSlot { key: key.clone(), slot: proposer.follow(from.as_ref(), value) });
        }
        let mut ours = BTreeSet::new();
        for page in slots.chunks(ROWS_PER_MESSAGE_MAX) {
            for KeyedSlot { key, slot } in proposer.propose(&self.rights, page.to_vec()).await? {
                if executor_of(Some(&slot.value)) == Some(self.rights.own) {
                    ours.extend(keys.get(&key).copied());
                }
            }
        }
        match first {
            Some(executor) if ours.is_empty() => Err(RetireError::Taken(executor)),
            Some(_) | None => Ok(ours),
        }
    }

    /// One that has heard of the end and is in doubt since waits for all others to say so, and until then neither tells what it
    /// knows nor votes for a lease of this region. So whoever is there is told before either is needed; who does not hear it now
    /// has to later.
    async fn tell_again(&self, others: &[RegionId], retirement: &Retirement) {
        let reachable = self.rights.reachability.reachable();
        let there: Vec<RegionId> =
            others.iter().copied().filter(|peer| reachable.contains(peer)).collect();
        drop(self.tell_all(&there, retirement).await);
    }

    /// Also those behind one that does not answer; but where it is not so, nobody else is to believe it.
    async fn tell_all(
        &self,
        peers: &[RegionId],
        retirement: &Retirement,
    ) -> Result<(), RetireError> {
        let mut all = Ok(());
        for peer in peers {
            match self.tell(*peer, retirement).await {
                Err(error @ RetireError::BegunAnew(_)) => return Err(error),
                told => all = all.and(told),
            }
        }
        all
    }

    pub(super) async fn tell(
        &self,
        peer: RegionId,
        retirement: &Retirement,
    ) -> Result<(), RetireError> {
        let ask = Ask::Retire(Box::new(retirement.clone()));
        let Answer::Noted { latest, now } = joining::ask(self.bus.as_ref(), peer, &ask).await?
        else {
            return Err(JoinError::Unreachable(peer).into());
        };
        if now { Ok(()) } else { Err(RetireError::BegunAnew(latest)) }
    }

    /// Puts the last rows of the region together, and takes what is left in them. Answers how many units orders hold that
    /// nobody has.
    async fn free(
        &self,
        retirement: &mut Retirement,
        owners: &BTreeSet<Actor>,
        others: &[RegionId],
    ) -> Result<u64, RetireError> {
        let region = retirement.region;
        let (copies, own) = self.copies(region, others).await?;
        let mut held = self.held(owners).await?;
        let keys = copies.keys().map(|(key, _)| key.clone()).collect();
        let mut withheld = self.unexplained(keys, region, others).await?;
        let (mut rows, mut uncovered) = (Vec::new(), 0);
        for ((key, owner), copies) in copies.into_iter().filter(|((_, it), _)| owners.contains(it))
        {
            let left = withheld.entry(key.clone()).or_default();
            let held = held.remove(&(owner, key.clone())).unwrap_or(0);
            let retired =
                Row::retired(owner, copies, Unsold { held, withheld: *left }, self.rights.own);
            *left = left.saturating_sub(retired.withheld);
            uncovered += retired.uncovered;
            // What was put together before stands.
            let is_done = own.contains(&(key.clone(), owner)) && retired.freed == 0;
            if !is_done {
                rows.push(KeyedRow { key, owner, row: retired.row });
            }
        }
        uncovered += held.into_values().sum::<u64>();
        for page in rows.chunks(ROWS_PER_MESSAGE_MAX) {
            // Whoever begins anew asks for these rows once it has taken a later number: from then on none is written.
            let Some(buried) = self.records.bury(retirement, page).await? else {
                return Err(RetireError::BegunAnew(self.latest(region).await?));
            };
            let Buried { report, retirement: kept } = buried;
            *retirement = kept;
            self.rights.take_note(&report);
            let refused = report.refused.len();
            self.rights.tell_rows(report.changed).await?;
            if refused > 0 {
                return Err(RetireError::Refused(refused));
            }
        }
        Ok(uncovered)
    }

    /// What everybody knows of the region's rows, and which of them are put together here already.
    async fn copies(
        &self,
        region: RegionId,
        others: &[RegionId],
    ) -> Result<(Copies, BTreeSet<(StockKey, Actor)>), RetireError> {
        let (mut copies, mut buried) = (Copies::new(), BTreeSet::new());
        for teller in others.iter().map(Some).chain([None]) {
            let (mut after, mut is_last) = (None, false);
            while !is_last {
                let page = match teller {
                    Some(peer) => self.ask_rows(*peer, region, after).await?,
                    None => self.known.rows_of(region, after.as_ref(), ITEMS_MAX).await?,
                };
                is_last = page.len() < ITEMS_MAX;
                after = page.last().map(|row| (row.key.clone(), row.owner.epoch));
                for KeyedRow { key, owner, row } in page {
                    if teller.is_none() && row.is_buried() {
                        buried.insert((key.clone(), owner));
                    }
                    copies.entry((key, owner)).or_default().push(row);
                }
            }
        }
        Ok((copies, buried))
    }

    async fn ask_rows(
        &self,
        peer: RegionId,
        of: RegionId,
        after: Option<(StockKey, Epoch)>,
    ) -> Result<Vec<KeyedRow>, RetireError> {
        let ask = Ask::Rows(of, after);
        let Answer::Rows(page) = joining::ask(self.bus.as_ref(), peer, &ask).await? else {
            return Err(JoinError::Unreachable(peer).into());
        };
        Ok(page)
    }

    /// Units that other regions which are gone as well may sell, and that nobody knows where they had them from: perhaps
    /// from this one, which gave them without anybody else hearing of it.
    async fn unexplained(
        &self,
        keys: BTreeSet<StockKey>,
        region: RegionId,
        others: &[RegionId],
    ) -> Result<BTreeMap<StockKey, u64>, RetireError> {
        let own = self.rights.own;
        let is_gone = |of: RegionId| of != region && of != own.region && !others.contains(&of);
        let mut unexplained = BTreeMap::new();
        if !self.bus.peers().into_iter().any(is_gone) {
            return Ok(unexplained);
        }
        let keys: Vec<StockKey> = keys.into_iter().collect();
        for page in keys.chunks(ROWS_PER_MESSAGE_MAX) {
            let mut by_key: BTreeMap<StockKey, BTreeMap<Actor, Row>> = BTreeMap::new();
            for KeyedRow { key, owner, row } in
                self.rights.store.rows(&page.iter().cloned().collect()).await?
            {
                by_key.entry(key).or_default().insert(owner, row);
            }
            for (key, rows) in by_key {
                let ledger = Ledger::from_rows(own, rows);
                let beyond = |(owner, row): (&Actor, &Row)| {
                    let value = &row.chosen.value;
                    let held = value.ceiling.saturating_add(value.credited());
                    held.saturating_sub(ledger.inflow(*owner))
                };
                let gone = ledger.rows().iter().filter(|(owner, _)| is_gone(owner.region));
                unexplained.insert(key, gone.map(beyond).sum());
            }
        }
        Ok(unexplained)
    }

    /// Units that orders hold of these owners.
    async fn held(
        &self,
        owners: &BTreeSet<Actor>,
    ) -> Result<BTreeMap<(Actor, StockKey), u64>, RetireError> {
        let mut held = BTreeMap::new();
        let Some(region) = owners.first().map(|owner| owner.region) else { return Ok(held) };
        let Some(number) = self.region.numbers.get(&region) else { return Ok(held) };
        let mut after = None;
        loop {
            let marks = self.known.marks(region, *number, after, MARKS_MAX).await?;
            let Some(last) = marks.last().map(|mark| mark.id) else { return Ok(held) };
            let orders: BTreeSet<OrderId> = marks.iter().map(|mark| mark.id).collect();
            let view = self.store.load(&Needs { orders, ..Needs::default() }).await?;
            for record in view.orders.values() {
                for owner in owners {
                    for (key, units) in record.order.held_under(*owner) {
                        *held.entry((*owner, key)).or_default() += units;
                    }
                }
            }
            after = Some(last);
        }
    }
}

/// Rows of a region's incarnations, as they are known in several places.
type Copies = BTreeMap<(StockKey, Actor), Vec<Row>>;
