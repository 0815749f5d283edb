//! Raising this region's own ceilings: many keys in one proposal, one proposal at a time.
//!
//! Who only wants a ceiling to run ahead leaves its key here; who has an order that waits for it waits for the
//! end of the round that raises it, and goes first. A round that fails is a region that can't reach a majority: it
//! sells up to its ceilings, and the keys stay until it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};

use super::Rights;
use super::proposer::{ProposeError, Proposer, needed};
use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::escrow::{
    Autonomy, KeyedRow, KeyedSlot, Ledger, Purpose, ROWS_PER_MESSAGE_MAX, Row, Slot,
};
use crate::mutants::{Mutant, is_on};
use crate::types::{Actor, StockKey};

/// How many proposals a round makes for one key: one that brings a former value to its end, one of its own, and
/// some more where other processes of the region propose as well. What is still to do then is the next round's.
const STEPS_MAX: usize = 8;

/// Keys in one proposal, unless orders wait for more: one that is short meanwhile waits for its end.
const AHEAD_KEYS_MAX: usize = 200;

/// What is to be raised.
#[derive(Debug)]
pub struct Raises {
    /// How far ahead.
    autonomy: Autonomy,
    queue: Mutex<Queue>,
    woken: Notify,
    /// May propose for this region in this process: prepared before the first raise.
    proposer: tokio::sync::Mutex<Option<Proposer>>,
}

#[derive(Debug, Default)]
struct Queue {
    keys: BTreeMap<StockKey, Wish>,
}

/// What is wanted of one key.
#[derive(Debug, Default)]
struct Wish {
    /// How many units orders need to be open.
    need: u64,
    /// Who waits for this key, and perhaps for others: woken when the last of them lets go.
    waiters: Vec<Arc<oneshot::Sender<()>>>,
}

impl Raises {
    /// Nothing is to be raised yet. The first process of an incarnation needs no promises.
    pub fn new(own: Actor, autonomy: Autonomy, is_first_process: bool) -> Self {
        let proposer = is_first_process.then(|| Proposer::by_birth(own));
        Self {
            autonomy,
            queue: Mutex::default(),
            woken: Notify::new(),
            proposer: tokio::sync::Mutex::new(proposer),
        }
    }

    /// Asks for ceilings under which `need` units of each key can be sold, as far as there are any.
    pub fn want(&self, keys: impl IntoIterator<Item = (StockKey, u64)>) {
        self.enqueue(keys, None);
    }

    fn enqueue(
        &self,
        keys: impl IntoIterator<Item = (StockKey, u64)>,
        waiter: Option<oneshot::Sender<()>>,
    ) {
        let waiter = waiter.map(Arc::new);
        let mut queue = self.queue.lock().expect("no panic while held");
        for (key, need) in keys {
            let wish = queue.keys.entry(key).or_default();
            wish.need = need.max(wish.need);
            wish.waiters.extend(waiter.clone());
        }
        if !queue.keys.is_empty() {
            self.woken.notify_one();
        }
    }

    /// What the next round raises: all that somebody waits for, and beside it some of what is to run ahead, or
    /// orders would wait for each key in turn.
    fn next_round(&self) -> BTreeMap<StockKey, Wish> {
        let mut queue = self.queue.lock().expect("no panic while held");
        let (urgent, ahead): (Vec<_>, Vec<_>) =
            queue.keys.iter().partition(|(_, wish)| !wish.waiters.is_empty());
        let room = AHEAD_KEYS_MAX.saturating_sub(urgent.len());
        let chosen =
            urgent.into_iter().take(ROWS_PER_MESSAGE_MAX).chain(ahead.into_iter().take(room));
        let chosen: Vec<StockKey> = chosen.map(|(key, _)| key.clone()).collect();
        let take = |key| queue.keys.remove_entry(&key);
        let round = chosen.into_iter().filter_map(take).collect();
        if !queue.keys.is_empty() {
            self.woken.notify_one();
        }
        round
    }

    /// Waits until something is to be raised.
    pub async fn wanted(&self) {
        self.woken.notified().await;
    }
}

impl Rights {
    /// This region was fenced and is back: it goes on from what the others have chosen meanwhile. What it sold
    /// while alone was within its ceilings, so there is nothing to undo.
    pub async fn come_back(&self) -> Result<(), ProposeError> {
        let mut kept = self.raises.proposer.lock().await;
        let proposer = Proposer::prepare(self, self.own, Purpose::Return).await?;
        tracing::warn!(
            round = proposer.ballot().round,
            "this region is back: its ceilings are raised again"
        );
        *kept = Some(proposer);
        drop(kept);
        self.note_fenced(self.own, false);
        Ok(())
    }

    /// Wants ceilings raised and waits for it, at most as long as a peer may take. Does not wait where no
    /// majority is in reach: then there is nothing to wait for.
    pub async fn raise(&self, keys: impl IntoIterator<Item = (StockKey, u64)>) {
        let (done, ended) = oneshot::channel();
        self.raises.enqueue(keys, Some(done));
        if self.may_raise() {
            // Late or never: who waits looks at the ceilings anyway.
            drop(tokio::time::timeout(self.request_timeout, ended).await);
        }
    }

    /// A majority is in reach.
    pub(super) fn may_raise(&self) -> bool {
        self.reachability.reachable().len() + 1 >= needed(self)
    }

    /// Leaves those keys to be raised whose ceilings no longer run far enough ahead. `rows` are all that is
    /// known of some keys.
    pub fn look_ahead(&self, rows: &[KeyedRow]) {
        let low = |(key, ledger): (StockKey, Ledger)| {
            let rate = self.board.steady_rate(&key);
            self.raises.autonomy.wanted(&ledger, rate, 0).map(|_| (key, 0))
        };
        self.raises.want(self.ledgers_by_key(rows).into_iter().filter_map(low));
    }

    /// One round: raises a part of what is wanted by now. An error leaves it to a later round.
    pub async fn raise_round(&self) -> Result<(), ProposeError> {
        let round = self.raises.next_round();
        let mut waiters = Vec::new();
        let mut left = BTreeMap::new();
        for (key, wish) in round {
            left.insert(key, wish.need);
            waiters.extend(wish.waiters);
        }
        let mut outcome = Ok(());
        for _ in 0..STEPS_MAX {
            if outcome.is_err() || left.is_empty() {
                break;
            }
            match self.raise_chunk(&left).await {
                Ok(again) => left = again,
                Err(error) => outcome = Err(error),
            }
        }
        // Orders that needed more are told now; what stays is that ceilings run ahead.
        self.raises.want(left.into_keys().map(|key| (key, 0)));
        // Wakes them: who waits for a ceiling looks at it, whatever became of the round.
        drop(waiters);
        outcome
    }

    /// Answers the keys to go on with: of which a former value had to be brought to its end first, or another
    /// process of this region had something to say.
    async fn raise_chunk(
        &self,
        wanted: &BTreeMap<StockKey, u64>,
    ) -> Result<BTreeMap<StockKey, u64>, ProposeError> {
        let mut kept = self.raises.proposer.lock().await;
        let proposer = if let Some(proposer) = kept.as_ref() {
            proposer.clone()
        } else {
            let proposer = Proposer::prepare(self, self.own, Purpose::Propose).await?;
            let round = proposer.ballot().round;
            tracing::info!(round, "ceilings are raised under a new ballot");
            kept.insert(proposer).clone()
        };
        match self.raise_with(&proposer, wanted).await {
            // Two processes of one region share its ballots: outbidding each other, neither would raise anything.
            Err(ProposeError::Preempted { by }) if by.region == self.own.region => {
                *kept = Some(Proposer::resume(self.own, by));
                Ok(wanted.clone())
            }
            Err(ProposeError::Preempted { by }) => {
                *kept = None;
                Err(ProposeError::Preempted { by })
            }
            outcome => outcome,
        }
    }

    async fn raise_with(
        &self,
        proposer: &Proposer,
        wanted: &BTreeMap<StockKey, u64>,
    ) -> Result<BTreeMap<StockKey, u64>, ProposeError> {
        let keys: BTreeSet<StockKey> = wanted.keys().cloned().collect();
        let rows = self.store.rows(&keys).await?;
        let stored = proposer.values(self, &keys).await?;
        let mut slots = Vec::new();
        let mut again = BTreeMap::new();
        for (key, ledger) in self.ledgers_by_key(&rows) {
            let need = wanted.get(&key).copied().unwrap_or(0);
            let from = stored.get(&key);
            if let Some(under_way) =
                from.filter(|slot| slot.place() > ledger.own_row().chosen.place())
            {
                // One value of a key at a time: this one is brought to its end first.
                let slot = if under_way.ballot == proposer.ballot() {
                    under_way.clone()
                } else {
                    proposer.follow(Some(under_way), under_way.value.clone())
                };
                again.insert(key.clone(), need);
                slots.push(KeyedSlot { key, slot });
                continue;
            }
            if let Some(slot) = self.next_value(proposer, from, &ledger, &key, need) {
                slots.push(KeyedSlot { key, slot });
            }
        }
        if slots.is_empty() {
            return Ok(again);
        }
        let asked: Vec<StockKey> = slots.iter().map(|keyed| keyed.key.clone()).collect();
        let chosen = proposer.propose(self, slots).await?;
        let chosen: BTreeSet<StockKey> = chosen.into_iter().map(|keyed| keyed.key).collect();
        // Of the others another process of this region proposed first.
        let others = asked.into_iter().filter(|key| !chosen.contains(key));
        again.extend(others.map(|key| (key.clone(), wanted.get(&key).copied().unwrap_or(0))));
        self.ship(chosen.into_iter());
        Ok(again)
    }

    fn next_value(
        &self,
        proposer: &Proposer,
        from: Option<&Slot>,
        ledger: &Ledger,
        key: &StockKey,
        need: u64,
    ) -> Option<Slot> {
        let wanted = self.raises.autonomy.wanted(ledger, self.board.steady_rate(key), need)?;
        let value = from.map(|slot| slot.value.clone()).unwrap_or_default();
        let beyond = u64::from(is_on(Mutant::CeilingBeyondInflow));
        let value = value.raised(ledger.inflow(self.own) + beyond, wanted + beyond)?;
        Some(proposer.follow(from, value))
    }

    /// Lets the peers know of these own rows.
    fn ship(&self, keys: impl Iterator<Item = StockKey>) {
        self.dirty.mark(&keys.map(|key| (key, StockDelta::default())).collect::<StockDeltas>());
    }

    /// Rows put together by key.
    pub fn ledgers_by_key(&self, rows: &[KeyedRow]) -> BTreeMap<StockKey, Ledger> {
        ledgers_by_key(self.own, rows)
    }
}

/// Rows put together by key, as `own` sees them.
pub fn ledgers_by_key(own: Actor, rows: &[KeyedRow]) -> BTreeMap<StockKey, Ledger> {
    let mut by_key: BTreeMap<&StockKey, BTreeMap<Actor, Row>> = BTreeMap::new();
    for KeyedRow { key, owner, row } in rows {
        by_key.entry(key).or_default().insert(*owner, row.clone());
    }
    let ledger = |rows| Ledger::from_rows(own, rows);
    by_key.into_iter().map(|(key, rows)| (key.clone(), ledger(rows))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn key(name: &str) -> StockKey {
        StockKey { sku: name.parse().unwrap(), node: "n".parse().unwrap() }
    }

    #[test]
    fn what_somebody_waits_for_goes_first_and_wakes_who_waits_for_all_of_it() {
        let own = Actor { region: "a".parse().unwrap(), epoch: Epoch::FIRST };
        let raises = Raises::new(own, Autonomy { units_least: 1, time_ms: 1 }, true);
        let names: Vec<String> = (0..AHEAD_KEYS_MAX + 5).map(|name| format!("k{name}")).collect();
        raises.want(names.iter().map(|name| (key(name), 0)));
        let (done, mut ended) = oneshot::channel();
        raises.enqueue([(key("k3"), 7), (key("z"), 0)], Some(done));
        let mut round = raises.next_round();
        assert_eq!(round.len(), AHEAD_KEYS_MAX, "a bounded part at a time");
        assert_eq!(round[&key("k3")].need, 7);
        drop(round.remove(&key("z")).unwrap());
        assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(round);
        assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(raises.next_round().len(), 6);
        assert!(raises.next_round().is_empty());
    }
}
