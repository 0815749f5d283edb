//! The orders of this region, as it and the others know them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Begun, Rejoin, RejoinError};
use crate::domain::order::{Event, Relation, fold_copy, relate};
use crate::ports::Learned;
use crate::replication::rejoin::{Answer, Ask, HISTORIES_MAX, History, MARKS_MAX, OrderMark};
use crate::saga::SagaRecord;
use crate::types::{OrderId, RegionId};

/// Orders that were put off, because another one stood under their channel's reference.
type PutOff = Vec<Learned>;

impl Rejoin {
    /// Takes over what others know. Answers the orders that are to be told again: those of which somebody lacks something,
    /// and those that this region itself had forgotten, which its outbox lacks.
    pub(super) async fn join_orders(
        &self,
        peers: &[RegionId],
        begun: &mut Begun,
    ) -> Result<BTreeSet<OrderId>, RejoinError> {
        let (mut to_tell, mut learned) = (BTreeSet::new(), BTreeSet::new());
        let mut put_off = PutOff::new();
        for peer in peers {
            let mut after = None;
            loop {
                let Answer::Orders(theirs) = self.ask(*peer, &Ask::Orders(after)).await? else {
                    return Err(RejoinError::Unreachable(*peer));
                };
                let upto = theirs.last().map(|mark| mark.id).filter(|_| theirs.len() >= MARKS_MAX);
                let ours = self.own_marks(after, upto).await?;
                let (lacking, differing) = compare(&ours, &theirs);
                to_tell.extend(lacking);
                let news = self.learn_from(*peer, &differing, &mut put_off, begun).await?;
                to_tell.extend(news.we_know_more);
                learned.extend(news.learned);
                if upto.is_none() {
                    break;
                }
                after = upto;
            }
        }
        self.learn_put_off(put_off).await?;
        begun.learned = learned.len() as u64;
        // Also those that all others know: whoever is built again reads what this region wrote, and nothing else.
        to_tell.extend(learned);
        Ok(to_tell)
    }

    async fn own_marks(
        &self,
        mut after: Option<OrderId>,
        upto: Option<OrderId>,
    ) -> Result<Vec<OrderMark>, RejoinError> {
        let mut marks: Vec<OrderMark> = Vec::new();
        loop {
            let page = self.store.marks(self.region.id, after, MARKS_MAX).await?;
            let is_last = page.len() < MARKS_MAX;
            after = page.last().map(|mark| mark.id);
            let is_behind = |mark: &OrderMark| upto.is_some_and(|upto| mark.id > upto);
            let is_over = page.last().is_some_and(is_behind);
            marks.extend(page.into_iter().filter(|mark| !is_behind(mark)));
            if is_last || is_over {
                return Ok(marks);
            }
        }
    }

    async fn learn_from(
        &self,
        peer: RegionId,
        ids: &[OrderId],
        put_off: &mut PutOff,
        begun: &mut Begun,
    ) -> Result<News, RejoinError> {
        let mut news = News::default();
        let mut rest = ids;
        while !rest.is_empty() {
            let asked = &rest[..rest.len().min(HISTORIES_MAX)];
            let ask = Ask::Histories(asked.to_vec());
            let Answer::Histories(theirs) = self.ask(peer, &ask).await? else {
                return Err(RejoinError::Unreachable(peer));
            };
            // As many as fit, one at least, in the order asked: one passed over would be forgotten for good.
            let told = asked.get(..theirs.len()).unwrap_or_default();
            if told.is_empty() || !told.iter().eq(theirs.iter().map(|history| &history.id)) {
                let why = "it named the order and did not tell it".to_owned();
                return Err(RejoinError::Unsound { peer, order: asked[0], why });
            }
            rest = &rest[told.len()..];
            let ours = self.store.histories(self.region.id, told).await?;
            let mut ours: BTreeMap<OrderId, History> =
                ours.into_iter().map(|history| (history.id, history)).collect();
            let mut orders = Vec::new();
            for history in theirs {
                let id = history.id;
                let known = ours.remove(&id).map(|own| own.commits.concat()).unwrap_or_default();
                match relate(&known, &history.commits.concat()) {
                    Relation::Same => continue,
                    Relation::WeKnowMore => {
                        news.we_know_more.push(id);
                        continue;
                    }
                    Relation::TheyKnowMore => {}
                    Relation::Parted => begun.parted += 1,
                }
                news.learned.push(id);
                orders.push(self.learned(peer, &known, history)?);
            }
            self.take_over(orders, put_off).await?;
        }
        Ok(news)
    }

    fn learned(
        &self,
        peer: RegionId,
        known: &[Event],
        history: History,
    ) -> Result<Learned, RejoinError> {
        let unsound = |why: String| RejoinError::Unsound { peer, order: history.id, why };
        let theirs = history.commits.concat();
        let replaces = relate(known, &theirs) == Relation::Parted;
        let record = fold_copy(None, history.id, &theirs)
            .map_err(|error| unsound(error.to_string()))?
            .ok_or_else(|| unsound("it has no events".to_owned()))?;
        let known = if replaces { 0 } else { known.len() as u64 };
        // The clock goes on after everything that this region is known to have stamped.
        if let Err(drift) = self.region.observe(record.updated_hlc) {
            tracing::warn!(peer.region = %peer, ahead_ms = drift.ahead_ms, "{drift}");
        }
        let saga = SagaRecord::taken_up(&record.order, self.region.clock.wall_ms());
        let mut commits = history.commits;
        for commit in &mut commits {
            commit.retain(|event| event.seq > known);
        }
        commits.retain(|commit| !commit.is_empty());
        Ok(Learned { record, commits, replaces, intent: history.intent, saga })
    }

    async fn take_over(
        &self,
        orders: Vec<Learned>,
        put_off: &mut PutOff,
    ) -> Result<(), RejoinError> {
        if orders.is_empty() || self.store.learn(&orders).await? {
            return Ok(());
        }
        for order in orders {
            if !self.store.learn(std::slice::from_ref(&order)).await? {
                put_off.push(order);
            }
        }
        Ok(())
    }

    /// An order that stood under a reference may have been cancelled by what was learned since.
    async fn learn_put_off(&self, mut put_off: PutOff) -> Result<(), RejoinError> {
        while !put_off.is_empty() {
            let before = put_off.len();
            let mut still = PutOff::new();
            for order in put_off {
                if !self.store.learn(std::slice::from_ref(&order)).await? {
                    still.push(order);
                }
            }
            if still.len() == before {
                let ids = still.iter().map(|order| order.record.order.id).collect();
                return Err(RejoinError::References(ids));
            }
            put_off = still;
        }
        Ok(())
    }
}

/// What a peer's histories brought.
#[derive(Default)]
struct News {
    learned: Vec<OrderId>,
    we_know_more: Vec<OrderId>,
}

/// Of two lists in order of ids: those that theirs lacks, and those that theirs has and that differ.
fn compare(ours: &[OrderMark], theirs: &[OrderMark]) -> (Vec<OrderId>, Vec<OrderId>) {
    let known: BTreeMap<OrderId, &OrderMark> = ours.iter().map(|mark| (mark.id, mark)).collect();
    let told: BTreeSet<OrderId> = theirs.iter().map(|mark| mark.id).collect();
    let lacking = known.keys().copied().filter(|id| !told.contains(id)).collect();
    let differs = |mark: &&OrderMark| known.get(&mark.id) != Some(mark);
    let differing = theirs.iter().filter(differs).map(|mark| mark.id).collect();
    (lacking, differing)
}
