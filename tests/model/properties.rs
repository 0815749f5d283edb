//! What must hold in every state, and what must be reachable so that the check means something.

use stateright::{Model, Property};

use crate::world::{Shot, State, Step, World};

impl<const N: usize, const A: usize> Model for World<N, A> {
    type State = State<N, A>;
    type Action = Step<A>;

    fn init_states(&self) -> Vec<Self::State> {
        vec![self.first()]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>) {
        self.steps(state, actions);
    }

    fn next_state(&self, state: &Self::State, step: Self::Action) -> Option<Self::State> {
        self.after(state, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no oversell", |_, state| no_oversell(state)),
            Property::always("outflow within a chosen ceiling", |_, state| within_ceiling(state)),
            Property::always("chosen values are covered by inflow", |_, state| covered(state)),
            Property::always("chosen values never go down", |_, state| monotone(state)),
            Property::always("one value a ballot and sequence", |_, state| unique(state)),
            Property::always("what is counted was chosen", |_, state| counted(state)),
            Property::always("nothing is stored below a promise", |_, state| promises(state)),
            Property::sometimes("an heir counts what it took over", |_, state| heir_counts(state)),
            Property::sometimes("a raise, then a take-over", |_, state| raised_then_taken(state)),
            Property::sometimes("an owner comes back", |_, state| came_back(state)),
        ]
    }
}

/// In the worst case: every region sells all that it may, and what it holds is held.
fn no_oversell<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    let received: i16 = (0..A as u8).map(|owner| i16::from(state.truth(owner).received)).sum();
    let dead = state.lost.as_ref().map_or(0, |(.., live)| i16::from(*live));
    let dead = if A > N { dead } else { 0 };
    let held: i16 = (0..N as u8)
        .map(|region| {
            let own = usize::from(state.own(region));
            let here = &state.regions[usize::from(region)];
            let open = i16::from(here.chosen[own].ceiling) - here.rows[own].outflow();
            i16::from(here.live) + open.max(0)
        })
        .sum();
    dead + held <= received
}

fn within_ceiling<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    (0..N as u8).all(|region| {
        let own = state.own(region);
        let here = &state.regions[usize::from(region)];
        let active = here.chosen[usize::from(own)].ceiling;
        let chosen = decided(state, own).map(|shot| shot.ceiling).max().unwrap_or(0);
        here.rows[usize::from(own)].outflow() <= i16::from(active) && active <= chosen
    })
}

fn covered<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    (0..A as u8).all(|owner| {
        let to = usize::from(owner);
        let mut inflow = i16::from(state.truth(owner).received);
        for giver in 0..A as u8 {
            inflow += i16::from(state.truth(giver).granted[to]);
            let credit = decided(state, giver).map(|shot| shot.credits[to]).max().unwrap_or(0);
            inflow += i16::from(credit);
        }
        decided(state, owner).all(|shot| {
            let credits: i16 = shot.credits.iter().map(|&units| i16::from(units)).sum();
            i16::from(shot.ceiling) + credits <= inflow
        })
    })
}

fn monotone<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    (0..A as u8).all(|owner| {
        let chain: Vec<&Shot<A>> = decided(state, owner).collect();
        chain.windows(2).all(|pair| {
            let credits = pair[0].credits.iter().zip(&pair[1].credits);
            pair[0].ceiling <= pair[1].ceiling && credits.into_iter().all(|(a, b)| a <= b)
        })
    })
}

fn unique<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    (0..A as u8).all(|owner| {
        let chain: Vec<&Shot<A>> = decided(state, owner).collect();
        let place = |shot: &Shot<A>| (shot.ballot, shot.sequence);
        chain.windows(2).all(|pair| place(pair[0]) != place(pair[1]))
    })
}

fn counted<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    state.regions.iter().all(|region| {
        (0..A as u8).all(|owner| {
            let known = region.chosen[usize::from(owner)];
            (0..A).all(|heir| {
                let chosen = decided(state, owner).map(|shot| shot.credits[heir]).max();
                known.credits[heir] <= chosen.unwrap_or(0)
            })
        })
    })
}

fn promises<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    let kept = |region: &crate::world::Region<A>| {
        region.stored.iter().zip(&region.promised).all(|(shot, promise)| shot.ballot <= *promise)
    };
    state.regions.iter().all(kept)
}

fn heir_counts<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    (0..N as u8).any(|region| {
        let own = usize::from(state.own(region));
        state.regions[usize::from(region)].chosen.iter().any(|shot| shot.credits[own] > 0)
    })
}

fn raised_then_taken<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    decided(state, 0).any(|shot| shot.ceiling > 1 && shot.credits != [0; A])
}

/// Its own value, decided after a take-over, has the credits in it.
fn came_back<const N: usize, const A: usize>(state: &State<N, A>) -> bool {
    decided(state, 0).any(|shot| shot.ballot.0 > 0 && shot.ballot.1 == 0 && shot.credits != [0; A])
}

/// In the order of ballots and sequences.
pub(crate) fn decided<const N: usize, const A: usize>(
    state: &State<N, A>,
    owner: u8,
) -> impl Iterator<Item = &Shot<A>> {
    state.decided.iter().filter(move |(of, _)| *of == owner).map(|(_, shot)| shot)
}
