//! What regions know of the orders of one of them, put together: when that one has forgotten some of it, or is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::Region;
use crate::domain::order::{Event, Take, fold_copy, take_whole};
use crate::ports::{Bus, BusError, Learned, Learning, RejoinStore, RequestKind, StoreError};
use crate::replication::rejoin::{Answer, Ask, HISTORIES_MAX, History, MARKS_MAX, OrderMark};
use crate::saga::SagaRecord;
use crate::types::{OrderId, RegionId};

/// A region asks what another one knows.
pub const REJOIN: RequestKind = RequestKind::named("rejoin");

/// An answer brings up to 2 MiB, and may read a table for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often one question is asked. A link that loses one message in ten loses four in a row once in ten thousand
/// questions, and the operator may repeat the whole.
const TRIES_MAX: u32 = 4;

/// How often orders are compared that change while they are. Each time somebody else has made progress with them (another process
/// of the region that takes over the same, or a peer's stream), and an order has a handful of changes in its life: one that
/// has changed so often in a row is not what is being waited for.
pub(crate) const COMPARISONS_MAX: u32 = 5;

/// Why it could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has to tell what it knows.
    #[error("{0} did not answer, and may know what nobody else does")]
    Unreachable(RegionId),
    /// It can't tell or note what it was asked, and says so.
    #[error("{peer} refuses: {why}")]
    Refused {
        /// Who.
        peer: RegionId,
        /// Its words.
        why: String,
    },
    /// Somebody else is at the same orders.
    #[error(
        "order {order} has changed here each of the {COMPARISONS_MAX} times that it was compared with what {peer} knows: that is not taken over yet, what was before it is; see that nobody else takes over the same orders"
    )]
    KeepsChanging {
        /// Whose knowledge.
        peer: RegionId,
        /// Which.
        order: OrderId,
    },
    /// An order's history does not fold.
    #[error("what {peer} knows of order {order} can't be taken over: {why}")]
    Unsound {
        /// Who told it.
        peer: RegionId,
        /// Which.
        order: OrderId,
        /// What is wrong.
        why: String,
    },
    /// The own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The orders of one region, as this one and a peer know them: those whose home it is, and those that it placed.
pub(crate) struct Joining<'a> {
    pub(crate) region: &'a Region,
    pub(crate) store: &'a dyn RejoinStore,
    pub(crate) bus: &'a dyn Bus,
    /// Whose orders.
    pub(crate) of: RegionId,
    /// How many are taken over in one transaction: none of them is written by others meanwhile.
    pub(crate) at_once: usize,
}

/// In what a peer's list differs.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// Orders that it does not know.
    pub(super) lacking: Vec<OrderId>,
    /// Orders of which it knows something else.
    pub(super) differing: Vec<OrderId>,
}

/// What a peer's histories bring.
#[derive(Debug, Default)]
struct News {
    /// What is to be taken over.
    learned: Vec<Learned>,
    /// Orders of which less is known there than here, or something that gives way to it.
    we_know_more: Vec<OrderId>,
}

/// What came of taking a peer's histories over.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many of the orders were told.
    pub(super) told: usize,
    /// Orders of which more is known here now.
    pub(crate) learned: BTreeSet<OrderId>,
    /// Orders of which what was known here is set aside.
    pub(super) parted: u64,
    /// Orders that another one keeps from being taken over, which stands under their channel's reference.
    pub(super) put_off: Vec<OrderId>,
    /// Orders of which less is known there than here, or something that gives way to it.
    pub(super) we_know_more: Vec<OrderId>,
}

/// Asks a peer, some times.
pub(crate) async fn ask(bus: &dyn Bus, peer: RegionId, ask: &Ask) -> Result<Answer, JoinError> {
    let request = Bytes::from(serde_json::to_vec(ask).expect("our own types have a JSON form"));
    let mut last = JoinError::Unreachable(peer);
    for _ in 0..TRIES_MAX {
        let why = match bus.request(peer, REJOIN, request.clone(), ANSWER_LIMIT).await {
            Ok(answer) => match serde_json::from_slice(&answer) {
                Ok(Answer::Refused(why)) => return Err(JoinError::Refused { peer, why }),
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
            // Its database may be away for a moment.
            Err(BusError::Refused { reason, .. }) => {
                last = JoinError::Refused { peer, why: reason.clone() };
                reason
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(%peer, why, "{peer} was asked what it knows: {why}");
    }
    Err(last)
}

impl Joining<'_> {
    /// Compares the lists.
    pub(super) async fn compare(&self, peer: RegionId) -> Result<Differences, JoinError> {
        let (mut all, mut after) = (Differences::default(), None);
        loop {
            let question = Ask::Orders(self.of, after);
            let Answer::Orders(theirs) = ask(self.bus, peer, &question).await? else {
                return Err(JoinError::Unreachable(peer));
            };
            let upto = theirs.last().map(|mark| mark.id).filter(|_| theirs.len() >= MARKS_MAX);
            let ours = self.own_marks(after, upto).await?;
            let (lacking, differing) = compare(&ours, &theirs);
            all.differing.extend(differing);
            // What it does not list it may know under another home.
            for ids in lacking.chunks(MARKS_MAX) {
                let question = Ask::Marks(ids.to_vec());
                let Answer::Orders(elsewhere) = ask(self.bus, peer, &question).await? else {
                    return Err(JoinError::Unreachable(peer));
                };
                let ours: Vec<OrderMark> =
                    ours.iter().filter(|mark| ids.contains(&mark.id)).cloned().collect();
                let (lacking, differing) = compare(&ours, &elsewhere);
                all.lacking.extend(lacking);
                all.differing.extend(differing);
            }
            if upto.is_none() {
                // Histories are told in order of ids.
                all.differing.sort_unstable();
                return Ok(all);
            }
            after = upto;
        }
    }

    async fn own_marks(
        &self,
        mut after: Option<OrderId>,
        upto: Option<OrderId>,
    ) -> Result<Vec<OrderMark>, StoreError> {
        let mut marks: Vec<OrderMark> = Vec::new();
        let Some(number) = self.region.numbers.get(&self.of) else { return Ok(marks) };
        loop {
            let page = self.store.marks(self.of, *number, after, MARKS_MAX).await?;
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

    /// Takes over what a peer knows of some orders, as far as it is `wanted`: of the first of them, as many as one answer takes.
    pub(crate) async fn take_over(
        &self,
        peer: RegionId,
        ids: &[OrderId],
        wanted: impl Fn(&Learned) -> bool,
    ) -> Result<Taken, JoinError> {
        let mut taken = Taken::default();
        let mut changed = None;
        for _ in 0..COMPARISONS_MAX {
            let (told, mut news) = self.ask_histories(peer, ids).await?;
            news.learned.retain(&wanted);
            taken = Taken { told, we_know_more: news.we_know_more, put_off: Vec::new(), ..taken };
            changed = self.learn(&news.learned, &mut taken).await?;
            if changed.is_none() {
                return Ok(taken);
            }
        }
        let order = changed.expect("it was compared once at least");
        Err(JoinError::KeepsChanging { peer, order })
    }

    /// Answers an order that has changed meanwhile: what comes after it is not taken over yet.
    async fn learn(
        &self,
        news: &[Learned],
        taken: &mut Taken,
    ) -> Result<Option<OrderId>, StoreError> {
        for orders in news.chunks(self.at_once) {
            let mut learning = self.learn_at_once(orders, taken).await?;
            if learning == Learning::PutOff {
                for order in orders {
                    learning = self.learn_at_once(std::slice::from_ref(order), taken).await?;
                    match learning {
                        Learning::Done => {}
                        Learning::PutOff => taken.put_off.push(order.record.order.id),
                        Learning::Changed(_) => break,
                    }
                }
            }
            if let Learning::Changed(order) = learning {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    async fn learn_at_once(
        &self,
        orders: &[Learned],
        taken: &mut Taken,
    ) -> Result<Learning, StoreError> {
        let learning = self.store.learn(orders, self.region.clock.wall_ms()).await?;
        if learning == Learning::Done {
            taken.learned.extend(orders.iter().map(|learned| learned.record.order.id));
            taken.parted += orders.iter().filter(|learned| learned.replaces).count() as u64;
        }
        Ok(learning)
    }

    /// What a peer knows of some orders: of the first of them, as many as one answer takes. Answers how many these were.
    async fn ask_histories(
        &self,
        peer: RegionId,
        ids: &[OrderId],
    ) -> Result<(usize, News), JoinError> {
        let asked = &ids[..ids.len().min(HISTORIES_MAX)];
        let question = Ask::Histories(asked.to_vec());
        let Answer::Histories(theirs) = ask(self.bus, peer, &question).await? else {
            return Err(JoinError::Unreachable(peer));
        };
        // As many as fit, one at least, in the order asked: one passed over would be forgotten for good.
        let told = asked.get(..theirs.len()).unwrap_or_default();
        if told.is_empty() || !told.iter().eq(theirs.iter().map(|history| &history.id)) {
            let why = "it named the order and did not tell it".to_owned();
            return Err(JoinError::Unsound { peer, order: asked[0], why });
        }
        let ours = self.store.histories(None, told).await?;
        let mut ours: BTreeMap<OrderId, History> =
            ours.into_iter().map(|history| (history.id, history)).collect();
        let mut news = News::default();
        for history in theirs {
            let known = ours.remove(&history.id).map(|own| own.commits.concat());
            let known = known.unwrap_or_default();
            let theirs = history.commits.concat();
            match take_whole(&known, &theirs) {
                Take::Nothing if known.len() == theirs.len() => {}
                Take::Nothing => news.we_know_more.push(history.id),
                Take::Append => news.learned.push(self.learned(peer, &known, false, history)?),
                Take::Replace => news.learned.push(self.learned(peer, &known, true, history)?),
            }
        }
        Ok((told.len(), news))
    }

    fn learned(
        &self,
        peer: RegionId,
        known: &[Event],
        replaces: bool,
        history: History,
    ) -> Result<Learned, JoinError> {
        let unsound = |why: String| JoinError::Unsound { peer, order: history.id, why };
        let record = fold_copy(None, history.id, &history.commits.concat())
            .map_err(|error| unsound(error.to_string()))?
            .ok_or_else(|| unsound("it has no events".to_owned()))?;
        // The clock goes on after everything that this region is known to have stamped.
        if let Err(drift) = self.region.observe(record.updated_hlc) {
            tracing::warn!(peer.region = %peer, ahead_ms = drift.ahead_ms, "{drift}");
        }
        let is_ours = record.order.home_region == self.region.id;
        let now_ms = self.region.clock.wall_ms();
        let saga = is_ours.then(|| SagaRecord::taken_up(&record.order, now_ms));
        let mut commits = history.commits;
        for commit in &mut commits {
            commit.retain(|event| replaces || event.seq > known.len() as u64);
        }
        commits.retain(|commit| !commit.is_empty());
        let known = known.len() as u64;
        Ok(Learned { record, known, commits, replaces, intent: history.intent, saga })
    }
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
