//! What regions know of the orders of one of them, put together: when that one has forgotten some of it, or is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::Region;
use crate::domain::order::{Event, Take, fold_copy, take_whole};
use crate::ports::{Bus, Learned, RejoinStore, RequestKind, StoreError};
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

/// Why it could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has to tell what it knows.
    #[error("{0} did not answer, and may know what nobody else does")]
    Unreachable(RegionId),
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
pub(super) struct Joining<'a> {
    pub(super) region: &'a Region,
    pub(super) store: &'a dyn RejoinStore,
    pub(super) bus: &'a dyn Bus,
    /// Whose orders.
    pub(super) of: RegionId,
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
pub(super) struct News {
    /// What is to be taken over.
    pub(super) learned: Vec<Learned>,
    /// Orders of which less is known there than here, or something that gives way to it.
    pub(super) we_know_more: Vec<OrderId>,
}

/// Asks a peer, some times.
pub(super) async fn ask(bus: &dyn Bus, peer: RegionId, ask: &Ask) -> Result<Answer, JoinError> {
    let request = Bytes::from(serde_json::to_vec(ask).expect("our own types have a JSON form"));
    for _ in 0..TRIES_MAX {
        let answer = bus.request(peer, REJOIN, request.clone(), ANSWER_LIMIT).await;
        let read = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| serde_json::from_slice(&answer).map_err(|error| error.to_string()));
        match read {
            Ok(answer) => return Ok(answer),
            Err(why) => tracing::warn!(%peer, why, "{peer} was asked what it knows: {why}"),
        }
    }
    Err(JoinError::Unreachable(peer))
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

    /// What a peer knows of some orders: of the first of them, as many as one answer takes. Answers how many these were.
    pub(super) async fn ask_histories(
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
