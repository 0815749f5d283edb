//! What may happen in a state.

use entrepot::escrow::majority;

use crate::rules::Rule;
use crate::world::{Bal, Phase, Region, State, Step, World, ballot, region_id};

impl<const N: usize, const A: usize> World<N, A> {
    /// What may happen next.
    pub(crate) fn steps(&self, state: &State<N, A>, steps: &mut Vec<Step<A>>) {
        for region in 0..N as u8 {
            self.local_steps(state, region, steps);
            for owner in 0..A as u8 {
                self.proposer_steps(state, region, owner, steps);
                self.copy_steps(state, region, owner, steps);
            }
        }
        for &(owner, shot) in &state.sent {
            for acceptor in (0..N as u8).filter(|&acceptor| acceptor != shot.ballot.1) {
                for answer in [true, false] {
                    steps.push(Step::Accept { owner, shot, acceptor, answer });
                }
            }
        }
    }

    fn local_steps(&self, state: &State<N, A>, region: u8, steps: &mut Vec<Step<A>>) {
        let own = state.own(region);
        let here = &state.regions[usize::from(region)];
        let row = &here.rows[usize::from(own)];
        if self.sells && self.may_flow(here, own) {
            steps.push(Step::Sell { region });
        }
        let may_release = row.spent > row.released || self.is(Rule::ReleaseOnce) && row.spent > 0;
        if state.releases < self.releases && may_release {
            steps.push(Step::Release { region });
        }
        let covered = if self.is(Rule::GrantWithinCeiling) {
            row.outflow() < i16::from(state.inflow(region, own))
        } else {
            self.may_flow(here, own)
        };
        if state.grants < self.grants && covered {
            let others = (0..N as u8).filter(|&to| to != region);
            steps.extend(others.map(|to| Step::Grant { from: region, to }));
        }
        let base = here.stored[usize::from(own)];
        let is_free = here.phases[usize::from(own)] == Phase::Idle;
        let raises = self.raisers & (1 << region) != 0;
        if raises
            && is_free
            && here.unheard == 0
            && here.held == Some(here.promised[usize::from(own)])
        {
            let by = if self.is(Rule::StoreBeforeSending) { 2 } else { 1 };
            for by in 1..=by {
                if base.ceiling + by <= self.ceiling_max {
                    steps.push(Step::Raise { region, by });
                }
            }
        }
        let busy = here.held.is_some() || here.phases.iter().any(|phase| *phase != Phase::Idle);
        let crashes = self.crashers & (1 << region) != 0;
        if crashes && state.crashes < self.crashes && busy {
            steps.push(Step::Crash { region });
        }
        if self.loses_database && state.lost.is_none() {
            steps.push(Step::LoseDatabase { region });
        }
        let unheard = (0..N as u8).filter(|from| here.unheard & (1 << from) != 0);
        let speaks = unheard.filter(|&from| state.regions[usize::from(from)].unheard == 0);
        steps.extend(speaks.map(|from| Step::Seed { region, from }));
    }

    fn may_flow(&self, here: &Region<A>, own: u8) -> bool {
        let row = &here.rows[usize::from(own)];
        let outflow = if self.is(Rule::GrantWithinCeiling) {
            row.outflow() - row.granted_total()
        } else {
            row.outflow()
        };
        outflow < i16::from(here.chosen[usize::from(own)].ceiling)
    }

    fn proposer_steps(&self, state: &State<N, A>, region: u8, owner: u8, steps: &mut Vec<Step<A>>) {
        let here = &state.regions[usize::from(region)];
        if here.unheard != 0 {
            return;
        }
        let place = usize::from(owner);
        let own = owner == state.own(region);
        let above = |ballot: Bal| state.regions.iter().any(|other| other.promised[place] > ballot);
        let begins = match here.phases[place] {
            Phase::Idle if own => {
                self.raisers & (1 << region) != 0 && here.held != Some(here.promised[place])
            }
            Phase::Idle => {
                let exists = usize::from(owner) < N || state.lost.is_some();
                let may = self.fenced & (1 << owner) != 0 && self.fencers & (1 << region) != 0;
                exists && may && state.fences < self.fences
            }
            Phase::Preparing { ballot, .. } => above(ballot),
            Phase::Writing { shot, .. } => above(shot.ballot),
        };
        let next = ballot(here.promised[place]).above(region_id(region));
        if begins && next.round <= u32::from(self.rounds) {
            steps.push(Step::Prepare { region, owner });
        }
        match here.phases[place] {
            Phase::Idle => {}
            Phase::Preparing { ballot, promised, .. } => {
                for acceptor in (0..N as u8).filter(|&acceptor| acceptor != region) {
                    let there = &state.regions[usize::from(acceptor)];
                    let asked = promised & (1 << acceptor) == 0 && there.promised[place] <= ballot;
                    if asked && there.unheard == 0 {
                        for answer in [true, false] {
                            steps.push(Step::Promise { region, owner, acceptor, answer });
                        }
                    }
                }
                if promised.count_ones() as usize >= self.majority(own) {
                    steps.push(Step::GoOn { region, owner });
                }
            }
            Phase::Writing { stored, .. } => {
                if stored.count_ones() as usize >= self.majority(own) {
                    steps.push(Step::Choose { region, owner });
                }
            }
        }
    }

    fn majority(&self, own: bool) -> usize {
        if self.is(Rule::MajorityDecides) && !own { 1 } else { majority(N) }
    }

    /// Copies that can make a difference. What a region knows decides its own inflow, the inflow of whom it
    /// may take over, and its own ceiling; other copies change no later step.
    fn copy_steps(&self, state: &State<N, A>, from: u8, owner: u8, steps: &mut Vec<Step<A>>) {
        let here = &state.regions[usize::from(from)];
        let place = usize::from(owner);
        for to in (0..N as u8).filter(|&to| to != from) {
            let there = &state.regions[usize::from(to)];
            let own = state.own(to);
            let matters = |actor: usize| {
                actor == usize::from(own)
                    || self.fenced & (1 << actor) != 0 && self.fencers & (1 << to) != 0
            };
            let (row, known) = (&here.rows[place], &there.rows[place]);
            if owner != own && row.version() > known.version() {
                let flows =
                    (0..A).any(|actor| matters(actor) && row.granted[actor] > known.granted[actor]);
                let is_new = row.received > known.received || self.reads_spends();
                if flows || is_new && matters(place) {
                    steps.push(Step::CopyRow { owner, from, to });
                }
            }
            let (shot, known) = (&here.chosen[place], &there.chosen[place]);
            if (shot.ballot, shot.sequence) > (known.ballot, known.sequence) {
                let flows = (0..A)
                    .any(|actor| matters(actor) && shot.credits[actor] > known.credits[actor]);
                if flows || owner == own {
                    steps.push(Step::CopyChosen { owner, from, to });
                }
            }
        }
    }

    /// Only where a rule is dropped does anybody look at what a copy says was spent.
    fn reads_spends(&self) -> bool {
        self.is(Rule::CeilingCountsAsSold) || self.is(Rule::DeadCeilingCountsAsSold)
    }
}
