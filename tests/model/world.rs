//! The regions, their databases and the messages under way, as a state machine.
//!
//! Small numbers, so that states are compact; every decision of the protocol is made by the program's own
//! code in `entrepot::escrow`, on values translated from them.

use std::collections::BTreeSet;

use entrepot::escrow::{Ballot, Slot, Value};
use entrepot::types::{Actor, Epoch, RegionId};

use crate::rules::Rule;

/// A ballot: round and region.
pub(crate) type Bal = (u8, u8);

/// One proposal, with `A` actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shot<const A: usize> {
    pub(crate) ballot: Bal,
    pub(crate) sequence: u8,
    pub(crate) ceiling: u8,
    pub(crate) credits: [u8; A],
}

/// The cells of one actor's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Cells<const A: usize> {
    pub(crate) received: u8,
    pub(crate) spent: u8,
    pub(crate) released: u8,
    pub(crate) granted: [u8; A],
}

/// What a region does as the proposer of one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase<const A: usize> {
    Idle,
    /// Asking for promises: who gave one, and the newest value any of them had stored.
    Preparing {
        ballot: Bal,
        promised: u8,
        best: Shot<A>,
    },
    /// Asking to store a value: who has.
    Writing {
        shot: Shot<A>,
        stored: u8,
    },
}

/// One region: its database, and what its process has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Region<const A: usize> {
    /// The own row and copies of the others', by actor.
    pub(crate) rows: [Cells<A>; A],
    /// Chosen values, as far as known here, by owner. The own ceiling is what may be sold up to.
    pub(crate) chosen: [Shot<A>; A],
    /// As an acceptor: what was promised and stored, by owner.
    pub(crate) promised: [Bal; A],
    pub(crate) stored: [Shot<A>; A],
    /// As an acceptor that lost its database: whom it has still to hear before it speaks.
    pub(crate) unheard: u8,
    /// Units that orders hold: the truth, which no message carries.
    pub(crate) live: i8,
    /// In memory: proposals under way, by owner, and the ballot under which own raises may go out at once.
    pub(crate) phases: [Phase<A>; A],
    pub(crate) held: Option<Bal>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State<const N: usize, const A: usize> {
    pub(crate) regions: [Region<A>; N],
    /// Every proposal that was ever sent, by owner: it may arrive at any time, any number of times.
    pub(crate) sent: BTreeSet<(u8, Shot<A>)>,
    /// Every value that its proposer found to be chosen.
    pub(crate) decided: BTreeSet<(u8, Shot<A>)>,
    /// The region that lost its database, and what its old incarnation had written.
    pub(crate) lost: Option<(u8, Cells<A>, i8)>,
    pub(crate) crashes: u8,
    pub(crate) fences: u8,
    pub(crate) grants: u8,
    pub(crate) releases: u8,
}

/// One step. Requests and their answers are one step or, with `answer: false`, an answer that got lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step<const A: usize> {
    Sell { region: u8 },
    Release { region: u8 },
    Grant { from: u8, to: u8 },
    CopyRow { owner: u8, from: u8, to: u8 },
    CopyChosen { owner: u8, from: u8, to: u8 },
    Raise { region: u8, by: u8 },
    Prepare { region: u8, owner: u8 },
    Promise { region: u8, owner: u8, acceptor: u8, answer: bool },
    GoOn { region: u8, owner: u8 },
    Accept { owner: u8, shot: Shot<A>, acceptor: u8, answer: bool },
    Choose { region: u8, owner: u8 },
    Crash { region: u8 },
    LoseDatabase { region: u8 },
    Seed { region: u8, from: u8 },
}

/// How large a world is looked at, and which rule is dropped from it.
#[derive(Debug, Clone)]
pub(crate) struct World<const N: usize, const A: usize> {
    pub(crate) dropped: Option<Rule>,
    /// Units received by each region at the beginning, and its ceiling then; known everywhere.
    pub(crate) stock: [(u8, u8); N],
    pub(crate) rounds: u8,
    pub(crate) crashes: u8,
    /// Take-overs begun, and who may be taken over.
    pub(crate) fences: u8,
    pub(crate) fenced: u8,
    /// Who may take over, and who raises its own ceiling.
    pub(crate) fencers: u8,
    pub(crate) raisers: u8,
    /// Who may crash.
    pub(crate) crashers: u8,
    pub(crate) grants: u8,
    pub(crate) releases: u8,
    /// Do sales matter (they never decide a message, so most worlds leave them out)?
    pub(crate) sells: bool,
    pub(crate) loses_database: bool,
    /// Highest ceiling that an owner asks for by itself.
    pub(crate) ceiling_max: u8,
}

pub(crate) fn region_id(region: u8) -> RegionId {
    ["a", "b", "c", "d", "e"][usize::from(region)].parse().expect("a name")
}

pub(crate) fn ballot(of: Bal) -> Ballot {
    Ballot { round: u32::from(of.0), region: region_id(of.1) }
}

pub(crate) fn compact_ballot(of: Ballot) -> Bal {
    let name = of.region.as_str().as_bytes()[0];
    (u8::try_from(of.round).expect("few rounds"), name - b'a')
}

fn small(units: u64) -> u8 {
    u8::try_from(units).expect("few units")
}

impl<const A: usize> Cells<A> {
    pub(crate) fn outflow(&self) -> i16 {
        i16::from(self.spent) - i16::from(self.released) + self.granted_total()
    }

    pub(crate) fn granted_total(&self) -> i16 {
        self.granted.iter().map(|&units| i16::from(units)).sum()
    }

    /// Every change adds one unit to one cell.
    pub(crate) fn version(&self) -> u16 {
        let granted: u16 = self.granted.iter().map(|&units| u16::from(units)).sum();
        u16::from(self.received) + u16::from(self.spent) + u16::from(self.released) + granted
    }
}

impl<const N: usize, const A: usize> State<N, A> {
    /// Region and incarnation of an actor: the first `N` are the first incarnations, the one after them
    /// the second of the region that lost its database.
    pub(crate) fn actor(&self, index: u8) -> Actor {
        if usize::from(index) < N {
            Actor { region: region_id(index), epoch: Epoch(1) }
        } else {
            let region = self.lost.as_ref().map_or(0, |lost| lost.0);
            Actor { region: region_id(region), epoch: Epoch(2) }
        }
    }

    /// The actor that a region is now.
    pub(crate) fn own(&self, region: u8) -> u8 {
        match self.lost {
            Some((lost, ..)) if lost == region && A > N => u8::try_from(N).expect("few regions"),
            _ => region,
        }
    }

    fn index(&self, actor: Actor) -> usize {
        (0..A).find(|&index| self.actor(index as u8) == actor).expect("an actor of this world")
    }

    pub(crate) fn slot(&self, shot: &Shot<A>) -> Slot {
        let credit = |(index, &units): (usize, &u8)| (self.actor(index as u8), u64::from(units));
        let credits = shot.credits.iter().enumerate().filter(|(_, units)| **units > 0).map(credit);
        let value = Value { ceiling: shot.ceiling.into(), credits: credits.collect() };
        Slot { ballot: ballot(shot.ballot), sequence: shot.sequence.into(), value }
    }

    pub(crate) fn shot(&self, slot: &Slot) -> Shot<A> {
        let mut credits = [0; A];
        for (&actor, &units) in &slot.value.credits {
            credits[self.index(actor)] = small(units);
        }
        Shot {
            ballot: compact_ballot(slot.ballot),
            sequence: small(slot.sequence),
            ceiling: small(slot.value.ceiling),
            credits,
        }
    }

    /// What flowed to an owner, as `region` knows it.
    pub(crate) fn inflow(&self, region: u8, owner: u8) -> u8 {
        let here = &self.regions[usize::from(region)];
        let granted: u8 = here.rows.iter().map(|row| row.granted[usize::from(owner)]).sum();
        let credits: u8 = here.chosen.iter().map(|shot| shot.credits[usize::from(owner)]).sum();
        here.rows[usize::from(owner)].received + granted + credits
    }

    /// The row as its owner has it now, or had it when its database was lost.
    pub(crate) fn truth(&self, owner: u8) -> Cells<A> {
        match &self.lost {
            Some((region, cells, _)) if *region == owner && A > N => *cells,
            Some((region, ..)) if usize::from(owner) >= N => {
                self.regions[usize::from(*region)].rows[usize::from(owner)]
            }
            _ if usize::from(owner) >= N => Cells::default(),
            _ => self.regions[usize::from(owner)].rows[usize::from(owner)],
        }
    }
}

impl<const A: usize> Default for Cells<A> {
    fn default() -> Self {
        Self { received: 0, spent: 0, released: 0, granted: [0; A] }
    }
}

impl<const N: usize, const A: usize> World<N, A> {
    pub(crate) fn is(&self, rule: Rule) -> bool {
        self.dropped == Some(rule)
    }

    pub(crate) fn birth(&self, owner: usize) -> Shot<A> {
        let ceiling = self.stock.get(owner).map_or(0, |stock| stock.1);
        Shot { ballot: (0, owner as u8), sequence: 0, ceiling, credits: [0; A] }
    }

    pub(crate) fn blank(&self) -> Region<A> {
        Region {
            rows: std::array::from_fn(|owner| Cells {
                received: self.stock.get(owner).map_or(0, |stock| stock.0),
                ..Cells::default()
            }),
            chosen: std::array::from_fn(|owner| self.birth(owner)),
            promised: std::array::from_fn(|owner| (0, owner as u8)),
            stored: std::array::from_fn(|owner| self.birth(owner)),
            unheard: 0,
            live: 0,
            phases: [Phase::Idle; A],
            held: None,
        }
    }

    pub(crate) fn first(&self) -> State<N, A> {
        let regions =
            std::array::from_fn(|region| Region { held: Some((0, region as u8)), ..self.blank() });
        let decided = (0..A).map(|owner| (owner as u8, self.birth(owner))).collect();
        State {
            regions,
            sent: BTreeSet::new(),
            decided,
            lost: None,
            crashes: 0,
            fences: 0,
            grants: 0,
            releases: 0,
        }
    }
}
