//! Beginning a new incarnation: the way back of a region whose database was set back.
//!
//! What such a database says may be half of the truth, so nothing it may have sold, given or promised is sold again:
//! the incarnation that forgot is over, and its whole ceiling counts as sold. The region asks every other one
//!
//! 1. to note that a new incarnation begins: from then on none of them applies anything older, and an old database
//!    that is put back has neither vote nor proposal;
//! 2. what it voted, and what it knows of the rows of the incarnations before: what this region's acceptor
//!    forgot is in there, since whoever was given a vote had stored what it was about, and the last rows are put
//!    together from all;
//! 3. what it knows of the orders whose home is here. Of two histories of one order that part, the others' stands,
//!    and ours is set aside for people. What they lack, and what this region had forgotten, the new incarnation tells
//!    again as the first it says, so that what it ever wrote can be read from its outbox.
//!
//! All of them must answer: who was left out might know an order that nobody else does. Only those that are gone for good are
//! not asked ([`super::gone`]). Then one transaction begins
//! the incarnation, and the process ends, so that nothing of it remembers the old one. What was interrupted is done
//! again from the beginning, under a later number; nothing of an attempt counts before its last transaction.

mod orders;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Region;
use super::gone::{self, Ended};
use super::joining;
use super::rights::Rights;
use crate::domain::change::{Change, OrderChange};
use crate::domain::order::fold_copy;
use crate::escrow::{KeyedRow, Row};
use crate::mutants::{Mutant, is_on};
use crate::ports::{
    Beginning, Bus, Reader, RejoinStore, ReplicationError, ReplicationStore, RetirementStore,
    StoreError,
};
use crate::replication::PAYLOAD_BYTES_MAX;
use crate::replication::rejoin::{Answer, Ask, DOCUMENTS_MAX, History, ITEMS_MAX, Votes};
use crate::saga::SagaRecord;
use crate::types::{Actor, Epoch, OrderId, RegionId, StockKey};

pub use super::joining::{JoinError, REJOIN};
pub use server::RejoinHandler;

/// A link that was just mended is known to be within some heartbeats.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// Between looks at who is heard.
const LOOK: Duration = Duration::from_millis(100);
/// How many numbers are tried. Each that is taken was claimed by an attempt before.
const NUMBERS_MAX: u32 = 8;
/// Orders that are read at once to be told.
const TOLD_AT_ONCE: usize = 200;
/// Where an envelope is closed and the next one begun. The largest change, an order of 200 lines or a node with all
/// its costs, takes some 100 KiB.
const ENVELOPE_BYTES: usize = PAYLOAD_BYTES_MAX / 4;

/// Why no incarnation began. The region stays out of traffic; done again, all of it is done again.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// Its database was not set back.
    #[error("this region's database was not set back")]
    NotSetBack,
    /// Somebody is at it.
    #[error("a new incarnation is being prepared already")]
    UnderWay,
    /// No number was free.
    #[error("other attempts to begin an incarnation go on at the same time")]
    Taken,
    /// Another process of this region wrote something, or has begun an incarnation.
    #[error("another process of this region wrote to its database meanwhile")]
    Moved,
    /// Both have forgotten what only the two of them had known, and may have been a majority.
    #[error(
        "{0} is gone for good, and this database is of before that was known here: what the two alone had sold, promised or \
         agreed on is known to nobody; put in place a database of this region that knows of the end of {0}"
    )]
    LostTogether(RegionId),
    /// Its outbox can't be read.
    #[error(transparent)]
    Log(#[from] ReplicationError),
    /// Orders whose references can't stand beside each other.
    #[error(
        "orders {0:?} can't be taken over: another order stands under their channel's reference"
    )]
    References(Vec<OrderId>),
    /// What the others know can't be put together.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the new incarnation begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub epoch: Epoch,
    /// Orders of which others knew more.
    pub learned: u64,
    /// Orders that it tells again: what it had forgotten, and what others lack.
    pub told: u64,
    /// Orders of which it knew something else, that was set aside.
    pub parted: u64,
}

/// See the module.
pub struct Rejoin {
    /// This region.
    pub region: Arc<Region>,
    /// Its rights, and what is known of the others' incarnations.
    pub rights: Arc<Rights>,
    /// Its database.
    pub store: Arc<dyn RejoinStore>,
    /// The same, where it is kept who is gone for good.
    pub retirements: Arc<dyn RetirementStore>,
    /// What it wrote.
    pub log: Arc<dyn ReplicationStore>,
    /// The same, to read.
    pub reader: Arc<dyn Reader>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// One at a time.
    pub alone: tokio::sync::Mutex<()>,
    /// Ends the process: the next one is the new incarnation.
    pub on_begun: Box<dyn Fn() + Send + Sync>,
}

impl Rejoin {
    /// Begins a new incarnation.
    pub async fn begin(&self) -> Result<Begun, RejoinError> {
        let _alone = self.alone.try_lock().map_err(|_| RejoinError::UnderWay)?;
        if !self.region.is_set_back() {
            return Err(RejoinError::NotSetBack);
        }
        let follows = self.log.head().await?.position;
        if follows.epoch > self.region.epoch {
            // It has begun, and whoever began it was not told.
            (self.on_begun)();
            return Ok(Begun { epoch: follows.epoch, learned: 0, told: 0, parted: 0 });
        }
        let (peers, gone) = self.peers_to_ask().await?;
        let epoch = self.claim(&peers).await?;
        tracing::warn!(%epoch, "incarnation {epoch} of this region is being prepared");
        self.store.forget_telling().await?;
        let (mut votes, mut rows) = (Votes::default(), Copies::new());
        self.gather_own_rows(&mut rows).await?;
        for peer in &peers {
            self.gather_votes(*peer, &mut votes).await?;
            self.gather_rows(*peer, &mut rows).await?;
        }
        let mut begun = Begun { epoch, learned: 0, told: 0, parted: 0 };
        self.join_catalogue(&peers, epoch).await?;
        let mut to_tell = self.join_orders(&peers, &mut begun).await?;
        if is_on(Mutant::NotToldAgain) {
            to_tell.clear();
        }
        begun.told = to_tell.len() as u64;
        self.tell(epoch, to_tell).await?;
        // Also one that has nothing to tell: whoever did not note it, since it began anew itself, follows by what it reads.
        self.tell_envelope(epoch, Vec::new()).await?;
        self.take_up_sagas().await?;
        let before = |owner: &Actor| owner.epoch < epoch;
        let buried = rows
            .into_iter()
            .filter(|((_, owner), _)| before(owner))
            .map(|((key, owner), copies)| KeyedRow { key, owner, row: Row::buried(owner, copies) });
        let beginning = Beginning { epoch, follows, rows: buried.collect(), votes, gone };
        if !self.store.begin(&beginning).await? {
            return Err(RejoinError::Moved);
        }
        let Begun { learned, told, parted, .. } = begun;
        tracing::warn!(%epoch, learned, told, parted, "incarnation {epoch} of this region begins");
        (self.on_begun)();
        Ok(begun)
    }

    /// Everybody who may know something. Once one of them has noted a new incarnation the old one is over: not before all of
    /// them answer.
    async fn peers_to_ask(&self) -> Result<(Vec<RegionId>, Ended), RejoinError> {
        let mut peers = self.bus.peers();
        drop(tokio::time::timeout(HEARD_WITHIN, self.hears_all(&peers)).await);
        let reachable = self.rights.reachability.reachable();
        let (mut told, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for peer in peers.iter().filter(|peer| reachable.contains(peer)) {
            match self.ask(*peer, &Ask::Known).await {
                Ok(Answer::Known { ended, .. }) => drop(told.insert(*peer, ended)),
                Ok(_) => {}
                Err(error) => drop(refused.insert(*peer, error)),
            }
        }
        let own = gone::ended(self.retirements.as_ref()).await?;
        let gone = gone::not_asked(&own, &told, peers.len() + 1);
        peers.retain(|peer| !gone.contains_key(peer));
        if let Some(away) = peers.iter().find(|peer| !told.contains_key(peer)) {
            let has_ended = told.values().any(|ended| ended.contains_key(away));
            let why = refused.remove(away).unwrap_or(JoinError::Unreachable(*away).into());
            let is_told = matches!(why, RejoinError::Join(JoinError::Refused { .. }));
            return Err(if has_ended && !is_told { RejoinError::LostTogether(*away) } else { why });
        }
        if !gone.is_empty() {
            tracing::warn!(?gone, "regions that are gone for good are not asked");
        }
        Ok((peers, gone))
    }

    async fn hears_all(&self, peers: &[RegionId]) {
        let hears_all = || {
            let reachable = self.rights.reachability.reachable();
            peers.iter().all(|peer| reachable.contains(peer))
        };
        while !hears_all() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Has every other region note a number that none of them knows.
    async fn claim(&self, peers: &[RegionId]) -> Result<Epoch, RejoinError> {
        let noted = self.store.incarnations().await?.remove(&self.region.id);
        let mut epoch = next(noted.unwrap_or(Epoch::FIRST).max(self.region.epoch));
        for _ in 0..NUMBERS_MAX {
            let mut latest = epoch;
            let mut is_ours = true;
            for peer in peers {
                let Answer::Noted { latest: at_peer, now } =
                    self.ask(*peer, &Ask::Begin(epoch)).await?
                else {
                    return Err(JoinError::Unreachable(*peer).into());
                };
                is_ours &= now;
                latest = latest.max(at_peer);
            }
            if is_ours {
                return Ok(epoch);
            }
            epoch = next(latest);
        }
        Err(RejoinError::Taken)
    }

    async fn gather_votes(&self, peer: RegionId, votes: &mut Votes) -> Result<(), RejoinError> {
        let mut after = None;
        loop {
            let Answer::Votes(page) = self.ask(peer, &Ask::Votes(after)).await? else {
                return Err(JoinError::Unreachable(peer).into());
            };
            let is_last = page.slots.len() < ITEMS_MAX;
            after = page.slots.last().map(|(owner, slot)| (*owner, slot.key.clone()));
            votes.promises.extend(page.promises);
            for (region, epoch) in page.incarnations {
                let known = votes.incarnations.entry(region).or_insert(epoch);
                *known = (*known).max(epoch);
            }
            for (region, voter) in page.voters {
                let known = votes.voters.entry(region).or_insert(voter);
                *known = voter.max(*known);
            }
            // One that was carried out from here may have moved orders that nobody has heard of: this database forgot that, and
            // must not take it for done.
            let by_others =
                page.retirements.into_iter().filter(|it| it.fence.region != self.region.id);
            votes.retirements.extend(by_others);
            votes.slots.extend(page.slots);
            if is_last {
                return Ok(());
            }
        }
    }

    async fn gather_rows(&self, peer: RegionId, rows: &mut Copies) -> Result<(), RejoinError> {
        let mut after = None;
        loop {
            let Answer::Rows(page) = self.ask(peer, &Ask::Rows(self.region.id, after)).await?
            else {
                return Err(JoinError::Unreachable(peer).into());
            };
            let is_last = page.len() < ITEMS_MAX;
            after = add(rows, page);
            if is_last {
                return Ok(());
            }
        }
    }

    async fn gather_own_rows(&self, rows: &mut Copies) -> Result<(), RejoinError> {
        let mut after = None;
        loop {
            let page = self.store.rows_of(self.region.id, after.as_ref(), ITEMS_MAX).await?;
            let is_last = page.len() < ITEMS_MAX;
            after = add(rows, page);
            if is_last {
                return Ok(());
            }
        }
    }

    /// Takes the products and nodes that others have newer, and prepares to tell those of its own that they lack: what
    /// other regions changed they tell themselves.
    async fn join_catalogue(&self, peers: &[RegionId], epoch: Epoch) -> Result<(), RejoinError> {
        let own = self.region.id;
        for peer in peers {
            let (mut after, mut is_last) = (None, false);
            while !is_last {
                let Answer::Products(page) = self.ask(*peer, &Ask::Products(after)).await? else {
                    return Err(JoinError::Unreachable(*peer).into());
                };
                is_last = page.len() < DOCUMENTS_MAX;
                after = page.last().map(|product| product.sku.clone());
                self.store.take_catalogue(&page, &[]).await?;
            }
            let (mut after, mut is_last) = (None, false);
            while !is_last {
                let Answer::Nodes(page) = self.ask(*peer, &Ask::Nodes(after)).await? else {
                    return Err(JoinError::Unreachable(*peer).into());
                };
                is_last = page.len() < DOCUMENTS_MAX;
                after = page.last().map(|node| node.id.clone());
                self.store.take_catalogue(&[], &page).await?;
            }
        }
        let limit = u32::try_from(DOCUMENTS_MAX).unwrap_or(u32::MAX);
        let mut changes = Vec::new();
        let (mut after, mut is_last) = (None, false);
        while !is_last {
            let page = self.reader.nodes(after.as_ref(), limit).await?;
            is_last = page.len() < DOCUMENTS_MAX;
            after = page.last().map(|node| node.id.clone());
            let ours = page.into_iter().filter(|node| node.hlc.region == own);
            changes.extend(ours.map(Change::Node));
        }
        let (mut after, mut is_last) = (None, false);
        while !is_last {
            let page = self.reader.products(after.as_ref(), limit).await?;
            is_last = page.len() < DOCUMENTS_MAX;
            after = page.last().map(|product| product.sku.clone());
            let ours = page.into_iter().filter(|product| product.hlc.region == own);
            changes.extend(ours.map(Change::Product));
            self.tell_changes(epoch, std::mem::take(&mut changes)).await?;
        }
        Ok(())
    }

    async fn tell(&self, epoch: Epoch, orders: BTreeSet<OrderId>) -> Result<(), RejoinError> {
        let orders: Vec<OrderId> = orders.into_iter().collect();
        for ids in orders.chunks(TOLD_AT_ONCE) {
            // Those that have moved are told by their home, once it has written something of them.
            let histories = self.store.histories(None, ids).await?;
            let ours = histories.into_iter().filter(|history| self.is_to_tell(history));
            let told = ours.map(|history| {
                Change::Order(OrderChange::retelling(history.id, history.intent, &history.commits))
            });
            self.tell_changes(epoch, told.collect()).await?;
        }
        Ok(())
    }

    /// An order that this region moved away is known to nobody before its envelope has arrived; whoever has not got that
    /// never will.
    fn is_to_tell(&self, history: &History) -> bool {
        let (own, events) = (self.region.id, history.commits.concat());
        let record = fold_copy(None, history.id, &events).ok().flatten();
        let is_home = record.is_some_and(|record| record.order.home_region == own);
        is_home || events.last().is_some_and(|last| last.region == own)
    }

    async fn tell_changes(&self, epoch: Epoch, changes: Vec<Change>) -> Result<(), RejoinError> {
        let (mut open, mut bytes) = (Vec::new(), 0);
        for change in changes {
            bytes += serde_json::to_vec(&change).expect("our own types have a JSON form").len();
            open.push(change);
            if bytes >= ENVELOPE_BYTES {
                self.tell_envelope(epoch, std::mem::take(&mut open)).await?;
                bytes = 0;
            }
        }
        if open.is_empty() { Ok(()) } else { self.tell_envelope(epoch, open).await }
    }

    async fn tell_envelope(&self, epoch: Epoch, changes: Vec<Change>) -> Result<(), RejoinError> {
        let (hlc, now_ms) = (self.region.tick(), self.region.clock.wall_ms());
        Ok(self.store.tell(epoch, changes, hlc, now_ms).await?)
    }

    /// Every order that is not decided has a saga: one that nobody else told about lost it with the database.
    async fn take_up_sagas(&self) -> Result<(), RejoinError> {
        loop {
            let page = self.store.abandoned(None, ITEMS_MAX).await?;
            let now_ms = self.region.clock.wall_ms();
            let sagas: Vec<SagaRecord> =
                page.iter().map(|record| SagaRecord::taken_up(&record.order, now_ms)).collect();
            if sagas.is_empty() {
                return Ok(());
            }
            self.store.add_sagas(&sagas).await?;
        }
    }

    async fn ask(&self, peer: RegionId, question: &Ask) -> Result<Answer, RejoinError> {
        Ok(joining::ask(self.bus.as_ref(), peer, question).await?)
    }
}

/// Rows of this region's incarnations, as they are known in several places.
type Copies = BTreeMap<(StockKey, Actor), Vec<Row>>;

/// Answers the last key.
fn add(rows: &mut Copies, page: Vec<KeyedRow>) -> Option<(StockKey, Epoch)> {
    let last = page.last().map(|row| (row.key.clone(), row.owner.epoch));
    for KeyedRow { key, owner, row } in page {
        rows.entry((key, owner)).or_default().push(row);
    }
    last
}

fn next(epoch: Epoch) -> Epoch {
    Epoch(epoch.0.saturating_add(1))
}
