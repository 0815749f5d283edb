//! The registers of ceilings: this database as an acceptor.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::escrow::{
    Accept, Acceptance, Accepted, Ballot, KeyedSlot, Prepare, Promise, Promised, Row, Slot,
    Stewardship, Voted, Voter, Voters, answer_accept, order_register, steward_key,
};
use crate::ports::{RegisterStore, StoreError};
use crate::replication::rejoin::Votes;
use crate::types::{Actor, Epoch, RegionId, StockKey};

use super::MemoryRights;

/// What was promised and stored, by owner.
#[derive(Debug, Clone, Default)]
pub struct RegisterTables {
    owners: BTreeMap<Actor, Registers>,
    votes: u64,
    /// Of the others, as far as it was noted.
    voters: Voters,
    /// A person's word for the fence under this ballot.
    gone: BTreeMap<RegionId, Ballot>,
}

/// One owner's registers, as this acceptor holds them.
#[derive(Debug, Clone)]
struct Registers {
    promised: Promised,
    slots: BTreeMap<StockKey, Slot>,
}

impl RegisterTables {
    /// What is stored of a key.
    pub fn slot(&self, owner: Actor, key: &StockKey) -> Option<&Slot> {
        self.owners.get(&owner)?.slots.get(key)
    }

    /// The ballot promised of an owner.
    pub fn promised(&self, owner: Actor) -> Ballot {
        let birth = Ballot::birth(owner.region);
        self.owners.get(&owner).map_or(birth, |registers| registers.promised.ballot)
    }

    /// Owners whose raises a survivor has ended.
    pub fn fenced(&self) -> BTreeSet<Actor> {
        let fenced = self.owners.iter().filter(|(_, registers)| registers.promised.fenced);
        fenced.map(|(owner, _)| *owner).collect()
    }

    fn of(&mut self, owner: Actor) -> &mut Registers {
        self.owners.entry(owner).or_insert_with(|| Registers {
            promised: Promised::birth(owner.region),
            slots: BTreeMap::new(),
        })
    }

    /// Everything that was voted: slots after a key, and with the first of them the promises.
    pub(super) fn votes(&self, after: Option<&(Actor, StockKey)>, limit: usize) -> Votes {
        let promises = self.owners.iter().map(|(owner, registers)| (*owner, registers.promised));
        let slots = self.owners.iter().flat_map(|(owner, registers)| {
            registers.slots.iter().map(move |(key, slot)| {
                (*owner, KeyedSlot { key: key.clone(), slot: slot.clone() })
            })
        });
        let is_behind = |(owner, slot): &(Actor, KeyedSlot)| {
            after.is_none_or(|after| (*owner, &slot.key) > (after.0, &after.1))
        };
        Votes {
            promises: promises.filter(|_| after.is_none()).collect(),
            slots: slots.filter(is_behind).take(limit).collect(),
            ..Votes::default()
        }
    }

    /// A new incarnation goes on from what the other acceptors voted, and has not voted itself.
    pub(super) fn take_over(&mut self, own: RegionId, votes: &Votes) {
        for (owner, promised) in &votes.promises {
            let registers = self.of(*owner);
            registers.promised = registers.promised.later(*promised);
        }
        for (owner, KeyedSlot { key, slot }) in &votes.slots {
            let slots = &mut self.of(*owner).slots;
            if slots.get(key).is_none_or(|held| held.place() < slot.place()) {
                slots.insert(key.clone(), slot.clone());
            }
        }
        self.note(&votes.others(own));
        self.votes = 0;
    }

    /// How far the others had voted when it was noted last.
    pub fn voters(&self) -> &Voters {
        &self.voters
    }

    fn note(&mut self, voters: &Voters) {
        for (region, voter) in voters {
            let known = self.voters.entry(*region).or_insert(*voter);
            *known = voter.max(known).to_owned();
        }
    }

    /// How often this acceptor has voted.
    pub fn voted(&self) -> u64 {
        self.votes
    }

    fn count(&mut self, epoch: Epoch) -> Voter {
        self.votes += 1;
        Voter { epoch, votes: self.votes }
    }

    fn prepare(&mut self, request: &Prepare) -> Promise {
        let registers = self.of(request.owner);
        let known = registers.promised;
        match known.answer(request.owner.region, request.ballot, request.purpose) {
            Ok(promised) => registers.promised = promised,
            Err(preempted) => return Promise::Refused { preempted, fenced: known.fenced },
        }
        let of_others = |slot: &Slot| slot.ballot.region != request.owner.region;
        let keyed = |key: &StockKey| {
            let slot = registers.slots.get(key)?.clone();
            Some(KeyedSlot { key: key.clone(), slot })
        };
        Promise::Promised {
            fenced: registers.promised.fenced,
            contested: registers.slots.values().any(of_others),
            slots: request.keys.iter().filter_map(keyed).collect(),
        }
    }

    fn accept(&mut self, request: &Accept) -> Accepted {
        let registers = self.of(request.owner);
        let birth = Slot::birth(request.owner.region);
        let (mut stored, mut forked, mut newer) = (Vec::new(), Vec::new(), Vec::new());
        for proposed in &request.slots {
            let held = registers.slots.get(&proposed.key).unwrap_or(&birth);
            match answer_accept(registers.promised.ballot, held, &proposed.slot) {
                Acceptance::Store => {
                    newer.push(proposed);
                    stored.push(proposed.key.clone());
                }
                Acceptance::Stored => stored.push(proposed.key.clone()),
                Acceptance::Replaced => {}
                Acceptance::Forked => forked.push(proposed.key.clone()),
                Acceptance::Preempted(preempted) => {
                    return Accepted::Refused { preempted, fenced: registers.promised.fenced };
                }
            }
        }
        for KeyedSlot { key, slot } in newer {
            registers.promised = registers.promised.stored(request.owner.region, slot.ballot);
            registers.slots.insert(key.clone(), slot.clone());
        }
        Accepted::Answered { stored, forked }
    }
}

#[async_trait]
impl RegisterStore for MemoryRights {
    async fn promised(&self, owner: Actor) -> Result<Ballot, StoreError> {
        Ok(self.database.tables().registers.promised(owner))
    }

    async fn prepare(&self, request: &Prepare) -> Result<Voted<Promise>, StoreError> {
        let mut tables = self.database.tables();
        let answer = tables.registers.prepare(request);
        Ok(Voted { voter: tables.registers.count(self.own.epoch), answer })
    }

    async fn accept(&self, request: &Accept) -> Result<Voted<Accepted>, StoreError> {
        let mut tables = self.database.tables();
        let answer = tables.registers.accept(request);
        Ok(Voted { voter: tables.registers.count(self.own.epoch), answer })
    }

    async fn choose(
        &self,
        owner: Actor,
        chosen: &[KeyedSlot],
        voters: &Voters,
    ) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        tables.registers.note(voters);
        for KeyedSlot { key, slot } in chosen {
            let row = Row { chosen: slot.clone(), ..Row::new(owner) };
            tables.rights.join(key, owner, row);
        }
        Ok(())
    }

    async fn note_voters(&self, voters: &Voters) -> Result<(), StoreError> {
        self.database.tables().registers.note(voters);
        Ok(())
    }

    async fn voters(&self) -> Result<Voters, StoreError> {
        Ok(self.database.tables().registers.voters.clone())
    }

    async fn latest(&self, region: RegionId) -> Result<Epoch, StoreError> {
        let tables = self.database.tables();
        let promised = tables.registers.owners.keys().filter(|owner| owner.region == region);
        let promised = promised.map(|owner| owner.epoch).filter(|epoch| *epoch > Epoch::NONE);
        let applied = tables.watermarks.get(&region).map(|mark| mark.position.epoch);
        let noted = tables.incarnations.get(&region).copied();
        Ok(promised.chain(applied).chain(noted).max().unwrap_or(Epoch::FIRST))
    }

    async fn stewardship(&self, region: RegionId) -> Result<Stewardship, StoreError> {
        let owner = order_register(region);
        let tables = self.database.tables();
        let registers = tables.registers.owners.get(&owner);
        let promised = registers.map_or(Promised::birth(region), |registers| registers.promised);
        let slot = registers.and_then(|registers| registers.slots.get(&steward_key()));
        Ok(Stewardship { promised, slot: slot.cloned() })
    }

    async fn fenced(&self) -> Result<BTreeSet<Actor>, StoreError> {
        Ok(self.database.tables().registers.fenced())
    }

    async fn keep_gone(&self, region: RegionId, ballot: Ballot) -> Result<(), StoreError> {
        self.database.tables().registers.gone.insert(region, ballot);
        Ok(())
    }

    async fn is_gone(&self, region: RegionId, ballot: Ballot) -> Result<bool, StoreError> {
        Ok(self.database.tables().registers.gone.get(&region) == Some(&ballot))
    }
}
