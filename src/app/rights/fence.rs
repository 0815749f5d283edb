//! Taking over what a lost region had not sold.
//!
//! A majority's promises end its raises; then everything above its ceilings goes to the regions that live. No
//! clock, lease or knowledge of what it sold takes part: its ceilings count as sold, and what it really left
//! unsold below them is stranded until it comes back.

use std::collections::{BTreeMap, BTreeSet};

use super::Rights;
use super::proposer::{ProposeError, Proposer};
use crate::escrow::{KeyedRow, KeyedSlot, Purpose, ROWS_PER_MESSAGE_MAX, Row, Rows, Slot};
use crate::ports::{BusError, StoreError};
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// What a take-over came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver {
    /// Whose rights.
    pub owner: Actor,
    /// Keys of which something was taken.
    pub keys: u64,
    /// Units that others may sell now.
    pub units: u64,
    /// Units that the owner may have sold without anybody knowing: nobody sells them before it is back.
    pub stranded: u64,
}

/// Why a region was not fenced, or not everything taken over. Asked again, the same is done again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// It is this region, or none of the deployment.
    #[error("a region is fenced by another region of the deployment")]
    NotAPeer,
    /// The witness has nothing that could be taken over, and takes over from nobody.
    #[error("{0} is the witness: it sells nothing, so it is neither fenced nor does it fence")]
    Witness(RegionId),
    /// A person says that it is gone for good, and it is heard.
    #[error(
        "{0} is heard, here or by another region: it is not gone. Fence it without that word, or end its processes first and repeat it when it is silent"
    )]
    Heard(RegionId),
    /// The registers could not be written.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The own broker can't be reached. The rest of the regions learn it from comparisons.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Rights {
    /// Fences every incarnation of a region that is known here, and takes over what it had not sold.
    pub async fn fence(&self, region: RegionId) -> Result<TakenOver, FenceError> {
        if !self.bus.peers().contains(&region) {
            return Err(FenceError::NotAPeer);
        }
        if let Some(witness) = self.witness.filter(|it| [region, self.own.region].contains(it)) {
            return Err(FenceError::Witness(witness));
        }
        let heard = self.reachability.epoch_of(region);
        let latest = self.registers.latest(region).await.map_err(ProposeError::from)?;
        let latest = heard.map_or(latest, |heard| heard.max(latest));
        let mut sum =
            TakenOver { owner: Actor { region, epoch: latest }, keys: 0, units: 0, stranded: 0 };
        // An incarnation that was noted may never have begun, and one before it may never have been buried.
        for epoch in (1..=latest.0).map(Epoch) {
            let owner = Actor { region, epoch };
            if epoch < latest && self.is_fenced(owner) {
                continue;
            }
            let proposer = Proposer::prepare(self, owner, Purpose::Fence).await?;
            self.note_fenced(owner, true);
            self.fences.lock().expect("no panic while held").insert(owner, proposer.clone());
            tracing::warn!(%owner, round = proposer.ballot().round, "{owner} is fenced: what it had not sold is taken over");
            let taken = self.take_over(owner, &proposer).await?;
            sum.keys += taken.keys;
            sum.units += taken.units;
            sum.stranded += taken.stranded;
        }
        Ok(sum)
    }

    /// Takes over what has come to be known to have flowed to the regions that this one fenced, and tells those
    /// of it that did not hear of it. For a worker, now and then.
    pub async fn take_over_late(&self) -> Result<(), FenceError> {
        self.bury_own().await?;
        self.resume_fences().await?;
        let fences = self.fences.lock().expect("no panic while held").clone();
        for (owner, proposer) in fences {
            match self.take_over_again(owner, &proposer).await {
                // Whoever outbid this region takes over what is left.
                Err(FenceError::Propose(
                    ProposeError::Preempted { .. } | ProposeError::Fenced { .. },
                )) => {
                    self.fences.lock().expect("no panic while held").remove(&owner);
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// This region's earlier incarnations are fenced by the one that began after them, unless somebody else has done
    /// it: what they had not sold is taken over like any lost region's.
    async fn bury_own(&self) -> Result<(), FenceError> {
        for epoch in (1..self.own.epoch.0).map(Epoch) {
            let owner = Actor { epoch, ..self.own };
            if !self.is_fenced(owner) {
                let proposer = Proposer::prepare(self, owner, Purpose::Fence).await?;
                self.note_fenced(owner, true);
                self.fences.lock().expect("no panic while held").insert(owner, proposer);
            }
        }
        Ok(())
    }

    /// After a restart this region goes on with what it had fenced before.
    async fn resume_fences(&self) -> Result<(), FenceError> {
        let fenced = self.fenced.lock().expect("no panic while held").clone();
        let is_lost = |owner: &Actor| *owner != self.own && owner.epoch != Epoch::NONE;
        for owner in fenced.into_iter().filter(is_lost) {
            if self.fences.lock().expect("no panic while held").contains_key(&owner) {
                continue;
            }
            let ballot = self.registers.promised(owner).await.map_err(ProposeError::from)?;
            if ballot.region == self.own.region {
                let proposer = Proposer::resume(owner, ballot);
                self.fences.lock().expect("no panic while held").insert(owner, proposer);
            }
        }
        Ok(())
    }

    async fn take_over_again(
        &self,
        owner: Actor,
        proposer: &Proposer,
    ) -> Result<TakenOver, FenceError> {
        proposer.tell(self, Purpose::Fence).await?;
        self.take_over(owner, proposer).await
    }

    async fn take_over(&self, owner: Actor, proposer: &Proposer) -> Result<TakenOver, FenceError> {
        let mut sum = TakenOver { owner, keys: 0, units: 0, stranded: 0 };
        let mut after: Option<StockKey> = None;
        loop {
            let page = self.store.held_by(owner, after.as_ref(), ROWS_PER_MESSAGE_MAX).await;
            let page = page.map_err(ProposeError::from)?;
            let Some(last) = page.last().cloned() else { break };
            let (units, keys, stranded) = self.take_over_page(owner, proposer, &page).await?;
            sum.units += units;
            sum.keys += keys;
            sum.stranded += stranded;
            after = Some(last);
        }
        if sum.keys > 0 {
            tracing::warn!(%owner, units = sum.units, keys = sum.keys, stranded = sum.stranded, "taken over");
        }
        Ok(sum)
    }

    /// Answers units and keys taken, and units stranded.
    async fn take_over_page(
        &self,
        owner: Actor,
        proposer: &Proposer,
        page: &[StockKey],
    ) -> Result<(u64, u64, u64), FenceError> {
        let keys: BTreeSet<StockKey> = page.iter().cloned().collect();
        let rows = self.store.rows(&keys).await.map_err(ProposeError::from)?;
        let ledgers = self.ledgers_by_key(&rows);
        let known = |key: &StockKey| ledgers.get(key)?.rows().get(&owner).map(|row| &row.chosen);
        // What was chosen only grows: where all that flowed in is in it by now, nothing is left to take.
        let may_have_left = |key: &&StockKey| {
            let held = known(key).map_or(0, |slot| slot.value.ceiling + slot.value.credited());
            ledgers.get(*key).is_some_and(|ledger| ledger.inflow(owner) > held)
        };
        let open: BTreeSet<StockKey> = keys.iter().filter(may_have_left).cloned().collect();
        let mut stranded: u64 = 0;
        for (key, ledger) in &ledgers {
            let ceiling = known(key).map_or(0, |slot| slot.value.ceiling);
            stranded += ceiling.saturating_sub(ledger.outflow(owner));
        }
        if open.is_empty() {
            return Ok((0, 0, stranded));
        }
        let stored = proposer.values(self, &open).await?;
        let heirs = self.heirs();
        let (mut slots, mut units) = (Vec::new(), BTreeMap::new());
        for key in open {
            let from = stored.get(&key);
            let value = from.map(|slot| slot.value.clone()).unwrap_or_default();
            let inflow = ledgers.get(&key).map_or(0, |ledger| ledger.inflow(owner));
            let is_news = from.map(Slot::place) > known(&key).map(Slot::place);
            let taken = match value.taken_over(inflow, &heirs) {
                Some(taken) => taken,
                // The owner did not come to tell of its last raise: it is chosen now, so that everybody knows the ceiling.
                None if is_news => value.clone(),
                None => continue,
            };
            units.insert(key.clone(), taken.credited() - value.credited());
            slots.push(KeyedSlot { key, slot: proposer.follow(from, taken) });
        }
        if slots.is_empty() {
            return Ok((0, 0, stranded));
        }
        let chosen = proposer.propose(self, slots).await?;
        let taken = chosen.iter().filter_map(|keyed| units.get(&keyed.key)).sum();
        let count = u64::try_from(chosen.len()).unwrap_or(u64::MAX);
        self.tell_taken(owner, chosen.into_iter().map(|keyed| keyed.key).collect()).await?;
        Ok((taken, count, stranded))
    }

    /// Units of a region's incarnations that it may have sold without anybody knowing, as far as they are counted until then; and
    /// whether there may be more.
    pub async fn stranded(
        &self,
        region: RegionId,
        until_ms: u64,
    ) -> Result<(u64, bool), StoreError> {
        let (mut stranded, latest) = (0, self.registers.latest(region).await?);
        for owner in (1..=latest.0).map(|epoch| Actor { region, epoch: Epoch(epoch) }) {
            let mut after: Option<StockKey> = None;
            loop {
                if self.clock.monotonic_ms() >= until_ms {
                    return Ok((stranded, true));
                }
                let page = self.store.held_by(owner, after.as_ref(), ROWS_PER_MESSAGE_MAX).await?;
                let Some(last) = page.last().cloned() else { break };
                let rows = self.store.rows(&page.into_iter().collect()).await?;
                let of_owner = rows.iter().filter(|row| row.owner == owner).map(|row| &row.row);
                let below = |row: &Row| row.chosen.value.ceiling.saturating_sub(row.outflow());
                stranded += of_owner.map(below).sum::<u64>();
                after = Some(last);
            }
        }
        Ok((stranded, false))
    }

    /// What was chosen of another owner's register is news for everybody.
    async fn tell_taken(&self, owner: Actor, keys: BTreeSet<StockKey>) -> Result<(), FenceError> {
        self.raises.want(keys.iter().map(|key| (key.clone(), 0)));
        let mut rows = self.store.rows(&keys).await.map_err(ProposeError::from)?;
        rows.retain(|row| row.owner == owner);
        self.tell_rows(rows).await
    }

    /// Rows that are news for everybody.
    pub(in crate::app) async fn tell_rows(&self, rows: Vec<KeyedRow>) -> Result<(), FenceError> {
        let rows = Rows { rows, more: false };
        let message = serde_json::to_vec(&rows).expect("rows have a JSON form");
        self.bus.publish_rows(message.into()).await?;
        Ok(())
    }

    /// Who gets what is taken over: every region that lives, in equal shares. Rebalancing moves it on to where
    /// it sells.
    fn heirs(&self) -> BTreeMap<Actor, u64> {
        let peers = self.sellers().into_iter().filter_map(|region| {
            let epoch = self.reachability.epoch_of(region)?;
            Some(Actor { region, epoch })
        });
        peers
            .chain((self.witness != Some(self.own.region)).then_some(self.own))
            .filter(|actor| !self.is_fenced(*actor))
            .map(|actor| (actor, 1))
            .collect()
    }
}
