//! The registers of ceilings: this database as an acceptor.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::escrow::{
    Accept, Acceptance, Accepted, Ballot, KeyedSlot, Prepare, Promise, Promised, Row, Slot,
    answer_accept,
};
use crate::ports::{RegisterStore, StoreError};
use crate::types::{Actor, Epoch, RegionId, StockKey};

use super::MemoryRights;

/// What was promised and stored, by owner.
#[derive(Debug, Clone, Default)]
pub struct RegisterTables {
    owners: BTreeMap<Actor, Registers>,
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

    async fn prepare(&self, request: &Prepare) -> Result<Promise, StoreError> {
        Ok(self.database.tables().registers.prepare(request))
    }

    async fn accept(&self, request: &Accept) -> Result<Accepted, StoreError> {
        Ok(self.database.tables().registers.accept(request))
    }

    async fn choose(&self, owner: Actor, chosen: &[KeyedSlot]) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        for KeyedSlot { key, slot } in chosen {
            let row = Row { chosen: slot.clone(), ..Row::new(owner) };
            tables.rights.join(key, owner, row);
        }
        Ok(())
    }

    async fn latest(&self, region: RegionId) -> Result<Epoch, StoreError> {
        let tables = self.database.tables();
        let promised = tables.registers.owners.keys().filter(|owner| owner.region == region);
        let promised = promised.map(|owner| owner.epoch);
        let applied = tables.watermarks.get(&region).map(|mark| mark.position.epoch);
        Ok(promised.chain(applied).max().unwrap_or(Epoch::FIRST))
    }

    async fn fenced(&self) -> Result<BTreeSet<Actor>, StoreError> {
        Ok(self.database.tables().registers.fenced())
    }
}
