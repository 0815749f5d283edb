//! What a step does.

use std::collections::BTreeMap;

use entrepot::escrow::{Acceptance, Ballot, Value, answer_accept, answer_prepare, newest};

use crate::rules::Rule;
use crate::world::{Cells, Phase, Shot, State, Step, World, ballot, compact_ballot, region_id};

impl<const N: usize, const A: usize> World<N, A> {
    /// The state after a step; `None` where it changes nothing.
    pub(crate) fn after(&self, state: &State<N, A>, step: Step<A>) -> Option<State<N, A>> {
        let mut next = state.clone();
        match step {
            Step::Sell { region } => {
                let own = usize::from(state.own(region));
                let here = &mut next.regions[usize::from(region)];
                here.rows[own].spent += 1;
                here.live += 1;
            }
            Step::Release { region } => {
                let own = usize::from(state.own(region));
                let here = &mut next.regions[usize::from(region)];
                here.live -=
                    i8::from(here.live > 0 && here.rows[own].released < here.rows[own].spent);
                here.rows[own].released += 1;
                next.releases += 1;
            }
            Step::Grant { from, to } => {
                let own = usize::from(state.own(from));
                next.regions[usize::from(from)].rows[own].granted[usize::from(to)] += 1;
                next.grants += 1;
            }
            Step::CopyRow { owner, from, to } => {
                let row = state.regions[usize::from(from)].rows[usize::from(owner)];
                next.regions[usize::from(to)].rows[usize::from(owner)] = row;
            }
            Step::CopyChosen { owner, from, to } => {
                let shot = state.regions[usize::from(from)].chosen[usize::from(owner)];
                next.regions[usize::from(to)].chosen[usize::from(owner)] = shot;
            }
            Step::Raise { region, by } => self.raise(&mut next, region, by)?,
            Step::Prepare { region, owner } => self.prepare(&mut next, region, owner),
            Step::Promise { region, owner, acceptor, answer } => {
                self.promise(&mut next, region, owner, acceptor, answer)?;
            }
            Step::GoOn { region, owner } => self.go_on(&mut next, region, owner),
            Step::Accept { owner, shot, acceptor, answer } => {
                self.accept(&mut next, owner, shot, acceptor, answer);
            }
            Step::Choose { region, owner } => self.choose(&mut next, region, owner)?,
            Step::Crash { region } => {
                let here = &mut next.regions[usize::from(region)];
                here.phases = [Phase::Idle; A];
                if !self.is(Rule::StoreBeforeSending) {
                    here.held = None;
                }
                next.crashes += 1;
            }
            Step::LoseDatabase { region } => self.lose_database(&mut next, region),
            Step::Seed { region, from } => self.seed(&mut next, region, from),
        }
        (next != *state).then_some(next)
    }

    fn raise(&self, next: &mut State<N, A>, region: u8, by: u8) -> Option<()> {
        let own = next.own(region);
        let place = usize::from(own);
        let base = next.slot(&next.regions[usize::from(region)].stored[place]);
        let wanted = base.value.ceiling + u64::from(by);
        let inflow = u64::from(next.inflow(region, own));
        let value = if self.is(Rule::CreditsCountOnRaise) {
            let value = Value { ceiling: wanted, credits: base.value.credits.clone() };
            (wanted <= inflow).then_some(value)
        } else {
            base.value.raised(inflow, wanted)
        }?;
        let held = ballot(next.regions[usize::from(region)].held?);
        let shot = next.shot(&base.followed_by(held, value));
        self.send(next, region, own, shot);
        if self.is(Rule::ActivateWhenChosen) {
            next.regions[usize::from(region)].chosen[place] = shot;
        }
        Some(())
    }

    /// The proposer stores its proposal first, then sends it. Its own database is an acceptor like the
    /// others: where it has promised a higher ballot meanwhile, the proposal is given up.
    fn send(&self, next: &mut State<N, A>, region: u8, owner: u8, shot: Shot<A>) {
        let here = &mut next.regions[usize::from(region)];
        let place = usize::from(owner);
        if here.promised[place] > shot.ballot && !self.is(Rule::OwnVoteObeysPromise) {
            here.phases[place] = Phase::Idle;
            return;
        }
        here.promised[place] = here.promised[place].max(shot.ballot);
        if !self.is(Rule::StoreBeforeSending) {
            here.stored[place] = shot;
        }
        here.phases[place] = Phase::Writing { shot, stored: 1 << region };
        next.sent.insert((owner, shot));
    }

    fn prepare(&self, next: &mut State<N, A>, region: u8, owner: u8) {
        let own = owner == next.own(region);
        let here = &mut next.regions[usize::from(region)];
        let place = usize::from(owner);
        let is_new = matches!(here.phases[place], Phase::Idle) && !own;
        let ballot = compact_ballot(ballot(here.promised[place]).above(region_id(region)));
        here.promised[place] = ballot;
        here.phases[place] =
            Phase::Preparing { ballot, promised: 1 << region, best: here.stored[place] };
        if own {
            here.held = None;
        }
        next.fences += u8::from(is_new);
    }

    fn promise(
        &self,
        next: &mut State<N, A>,
        region: u8,
        owner: u8,
        acceptor: u8,
        answer: bool,
    ) -> Option<()> {
        let place = usize::from(owner);
        let Phase::Preparing { ballot: asked, promised, best } =
            next.regions[usize::from(region)].phases[place]
        else {
            return None;
        };
        let there = &mut next.regions[usize::from(acceptor)];
        let promise = answer_prepare(ballot(there.promised[place]), ballot(asked)).ok()?;
        there.promised[place] = compact_ballot(promise);
        let stored = there.stored[place];
        if answer {
            let (best, stored) = (next.slot(&best), next.slot(&stored));
            let best = newest([&best, &stored]).expect("two of them");
            let best = next.shot(best);
            let promised = promised | 1 << acceptor;
            next.regions[usize::from(region)].phases[place] =
                Phase::Preparing { ballot: asked, promised, best };
        }
        Some(())
    }

    fn go_on(&self, next: &mut State<N, A>, region: u8, owner: u8) {
        let place = usize::from(owner);
        let own = next.own(region);
        let here = &next.regions[usize::from(region)];
        let Phase::Preparing { ballot: under, best, .. } = here.phases[place] else { return };
        let adopted = if self.is(Rule::AdoptTheNewest) { here.stored[place] } else { best };
        let adopted = next.slot(&adopted);
        let mut value = adopted.value.clone();
        if owner != own {
            let inflow = u64::from(next.inflow(region, owner));
            let outflow = u64::try_from(here.rows[place].outflow()).unwrap_or(0);
            let dead = next.lost.as_ref().is_some_and(|lost| lost.0 == owner);
            let mut basis = value.clone();
            if self.is(Rule::CeilingCountsAsSold) || dead && self.is(Rule::DeadCeilingCountsAsSold)
            {
                basis.ceiling = outflow;
            }
            if self.is(Rule::CreditsAreAdopted) {
                basis.credits = BTreeMap::new();
                value.credits = BTreeMap::new();
            }
            let heirs = BTreeMap::from([(next.actor(own), 1)]);
            if let Some(taken) = basis.taken_over(inflow, &heirs) {
                value = Value { ceiling: value.ceiling, credits: taken.credits };
            }
        }
        let shot = next.shot(&adopted.followed_by(ballot(under), value));
        self.send(next, region, owner, shot);
        if self.is(Rule::CountWhenChosen) {
            next.regions[usize::from(region)].chosen[place] = shot;
        }
    }

    fn accept(&self, next: &mut State<N, A>, owner: u8, shot: Shot<A>, acceptor: u8, answer: bool) {
        let place = usize::from(owner);
        let there = &next.regions[usize::from(acceptor)];
        if there.unheard != 0 {
            return;
        }
        let (stored, proposed) = (next.slot(&there.stored[place]), next.slot(&shot));
        let promised = if self.is(Rule::PromisesHold) {
            Ballot::birth(region_id(0))
        } else {
            ballot(there.promised[place])
        };
        let mut acceptance = answer_accept(promised, &stored, &proposed);
        let is_late = acceptance == Acceptance::Replaced && self.is(Rule::PromisesHold);
        if is_late || acceptance == Acceptance::Forked && self.is(Rule::StoreBeforeSending) {
            acceptance = Acceptance::Store;
        }
        match acceptance {
            Acceptance::Store => {
                let there = &mut next.regions[usize::from(acceptor)];
                there.promised[place] = there.promised[place].max(shot.ballot);
                there.stored[place] = shot;
                if self.is(Rule::LearnWhatWasChosen) {
                    there.chosen[place] = there.chosen[place].max(shot);
                }
            }
            Acceptance::Stored => {}
            Acceptance::Replaced | Acceptance::Forked | Acceptance::Preempted(_) => return,
        }
        if answer {
            let phase = &mut next.regions[usize::from(shot.ballot.1)].phases[place];
            if let Phase::Writing { shot: written, stored } = phase
                && *written == shot
            {
                *stored |= 1 << acceptor;
            }
        }
    }

    fn choose(&self, next: &mut State<N, A>, region: u8, owner: u8) -> Option<()> {
        let place = usize::from(owner);
        let own = owner == next.own(region);
        let here = &mut next.regions[usize::from(region)];
        let Phase::Writing { shot, .. } = here.phases[place] else { return None };
        here.phases[place] = Phase::Idle;
        here.chosen[place] = here.chosen[place].max(shot);
        if self.is(Rule::StoreBeforeSending) {
            here.stored[place] = here.stored[place].max(shot);
        }
        if own {
            here.held = Some(shot.ballot);
        }
        next.decided.insert((owner, shot));
        Some(())
    }

    fn lose_database(&self, next: &mut State<N, A>, region: u8) {
        let place = usize::from(region);
        let here = &next.regions[place];
        let (old, live) = (here.rows[place], here.live);
        next.lost = Some((region, old, live));
        let others = ((1 << N) - 1) & !(1 << region);
        let stock = self.blank();
        let blank = &mut next.regions[place];
        let kept = (blank.promised, blank.stored);
        *blank = stock;
        if self.is(Rule::NoticeAmnesia) {
            // A restored old image, and nobody looks: it goes on as who it was.
            blank.live = live;
            (blank.promised, blank.stored) = kept;
            return;
        }
        for (owner, row) in blank.rows.iter_mut().enumerate() {
            *row = Cells::default();
            blank.chosen[owner] = Shot { ceiling: 0, ..self.birth(owner) };
            blank.stored[owner] = Shot { ceiling: 0, ..self.birth(owner) };
        }
        blank.held = Some((0, region));
        blank.promised[A - 1] = (0, region);
        for other in &mut next.regions {
            other.promised[A - 1] = (0, region);
            other.stored[A - 1].ballot = (0, region);
            other.chosen[A - 1].ballot = (0, region);
        }
        let born = next.regions[place].chosen[A - 1];
        next.decided.insert(((A - 1) as u8, born));
        next.regions[place].unheard = if self.is(Rule::SilentUntilSeeded) { 0 } else { others };
    }

    fn seed(&self, next: &mut State<N, A>, region: u8, from: u8) {
        for owner in 0..A {
            let there = &mut next.regions[usize::from(from)];
            if !self.is(Rule::SeedingPrepares) {
                let barrier = ballot(there.promised[owner]).above(region_id(region));
                there.promised[owner] = compact_ballot(barrier);
            }
            let (promised, stored) = (there.promised[owner], there.stored[owner]);
            let here = &mut next.regions[usize::from(region)];
            here.promised[owner] = here.promised[owner].max(promised);
            let place = |shot: &Shot<A>| (shot.ballot, shot.sequence);
            if place(&stored) > place(&here.stored[owner])
                || here.stored[owner].sequence == 0 && stored.sequence == 0
            {
                here.stored[owner] = stored;
            }
        }
        next.regions[usize::from(region)].unheard &= !(1 << from);
    }
}
