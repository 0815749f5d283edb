//! Whom a region asks for units it lacks, and when it may tell a customer that there are none.
//!
//! A state machine without input or output of its own: [`Asking::step`] says what to do, the driver
//! does it and reports [`Asking::answered`] or [`Asking::silent`].
//!
//! ```text
//!            step                     answered, silent
//!   need ──► Ask peer, Ask peer … ──► merge rows ──► step ──► Obtained
//!              ▲ a peer holds rights it had      │            Exhausted: nobody reachable holds a right
//!              └ not heard of, or was busy ◄─────┘            Pause: only busy peers hold some
//! ```
//!
//! Without a fault no order is refused for a unit that any region still holds. A unit can be on its
//! way: granted to a peer that does not know of it yet. So a request carries all rows the asker knows,
//! an answer carries all rows the giver knows, and a peer that had nothing is asked once more when
//! rows turn up by which more has flowed to it than when it was asked last. If, after all, no
//! reachable peer holds a right by the merged rows, there was none to have: a unit held by a peer at
//! the time of its answer would have been granted, and one that had left it stands in its row as a
//! grant to somebody who is then asked in turn.

use std::collections::BTreeMap;

use super::{Ledger, MergeError, Row};
use crate::types::RegionId;

/// The state of one search for units of one key.
#[derive(Debug, Clone)]
pub struct Asking {
    ledger: Ledger,
    inflow_at_start: u64,
    need: u64,
    want: u64,
    peers: BTreeMap<RegionId, Peer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Not asked yet.
    Fresh,
    /// Asked, while `inflow` had flowed to it as far as we knew; its answer is awaited.
    Asked { inflow: u64 },
    /// Answered, and knew then that `inflow` had flowed to it.
    Answered { inflow: u64, busy: bool },
    /// Does not answer: what it holds can't be had.
    Silent,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whom to ask.
    pub to: RegionId,
    /// Units without which an order is refused.
    pub need: u64,
    /// Units that would be welcome, `need` included.
    pub want: u64,
    /// All rows known here, so that the giver learns of credit that is still under way to it.
    pub rows: BTreeMap<RegionId, Row>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these requests, then wait for an answer.
    Ask(Vec<Request>),
    /// Wait for an answer to what was asked.
    Wait,
    /// Every peer that holds units needs them for orders under way. Call [`Asking::resume`] after a
    /// short pause.
    Pause,
    /// At least `need` units have arrived.
    Obtained,
    /// No reachable region holds a right. What arrived is less than the need; it may still serve some
    /// of the orders that were waiting.
    Exhausted,
}

impl Asking {
    /// Begins to look for `need` units, or better `want`, at the `reachable` peers.
    pub fn new(
        ledger: Ledger,
        need: u64,
        want: u64,
        reachable: impl IntoIterator<Item = RegionId>,
    ) -> Self {
        let own = ledger.own();
        let others = reachable.into_iter().filter(|&peer| peer != own);
        let peers = others.map(|peer| (peer, Peer::Fresh)).collect();
        let inflow_at_start = ledger.inflow(own);
        Self { ledger, inflow_at_start, need, want: want.max(need), peers }
    }

    /// How many units have arrived since the beginning, whoever sent them.
    pub fn obtained(&self) -> u64 {
        self.ledger.inflow(self.ledger.own()) - self.inflow_at_start
    }

    /// The rows as merged so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What to do now.
    pub fn step(&mut self) -> Step {
        let missing = self.need.saturating_sub(self.obtained());
        if missing == 0 {
            return Step::Obtained;
        }
        let under_way: u64 = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer, Peer::Asked { .. }))
            .map(|(&region, _)| self.ledger.rights(region))
            .fold(0, u64::saturating_add);
        let chosen = self.choose(missing.saturating_sub(under_way));
        if !chosen.is_empty() {
            return Step::Ask(chosen.into_iter().map(|to| self.request(to, missing)).collect());
        }
        if self.peers.values().any(|peer| matches!(peer, Peer::Asked { .. })) {
            return Step::Wait;
        }
        let busy = |(&region, peer): (&RegionId, &Peer)| {
            matches!(peer, Peer::Answered { busy: true, .. }) && self.ledger.rights(region) > 0
        };
        if self.peers.iter().any(busy) { Step::Pause } else { Step::Exhausted }
    }

    /// A peer answered: the rows it knows, and whether it kept units for orders of its own.
    pub fn answered(
        &mut self,
        from: RegionId,
        rows: BTreeMap<RegionId, Row>,
        busy: bool,
    ) -> Result<(), MergeError> {
        if let Some(peer) = self.peers.get_mut(&from)
            && let Peer::Asked { inflow: told } = *peer
        {
            let received = rows.get(&from).map_or(0, |row| row.received);
            let granted = rows.values().map(|row| row.granted_to(from));
            let inflow = granted.fold(received, u64::saturating_add).max(told);
            *peer = Peer::Answered { inflow, busy };
        }
        for (owner, row) in rows {
            self.ledger.merge(owner, row)?;
        }
        Ok(())
    }

    /// A peer did not answer in time, or its answer was unusable.
    pub fn silent(&mut self, peer: RegionId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            *state = Peer::Silent;
        }
    }

    /// The pause is over: busy peers may be asked again.
    pub fn resume(&mut self) {
        for peer in self.peers.values_mut() {
            if let Peer::Answered { busy: true, .. } = peer {
                *peer = Peer::Fresh;
            }
        }
    }

    /// The peers to ask for `missing` units: the biggest believed surplus first, as few as are believed
    /// to hold enough. When too little is believed to be left, everybody who has not been asked: our
    /// copies may be old.
    fn choose(&self, missing: u64) -> Vec<RegionId> {
        if missing == 0 {
            return Vec::new();
        }
        let mut candidates: Vec<(u64, RegionId)> = self
            .peers
            .iter()
            .filter(|(region, peer)| self.may_have_more(**region, **peer))
            .map(|(&region, _)| (self.ledger.rights(region), region))
            .collect();
        candidates.sort_by_key(|&(rights, region)| (std::cmp::Reverse(rights), region));
        let mut believed: u64 = 0;
        let mut chosen = Vec::new();
        for (rights, region) in candidates {
            if believed >= missing {
                break;
            }
            believed = believed.saturating_add(rights);
            chosen.push(region);
        }
        chosen
    }

    fn may_have_more(&self, region: RegionId, peer: Peer) -> bool {
        match peer {
            Peer::Fresh => true,
            Peer::Answered { inflow, .. } => {
                self.ledger.inflow(region) > inflow && self.ledger.rights(region) > 0
            }
            Peer::Asked { .. } | Peer::Silent => false,
        }
    }

    fn request(&mut self, to: RegionId, need: u64) -> Request {
        let inflow = self.ledger.inflow(to);
        self.peers.insert(to, Peer::Asked { inflow });
        let want = self.want.saturating_sub(self.obtained()).max(need);
        Request { to, need, want, rows: self.ledger.rows().clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GiverDemand, decide_grant};
    use super::*;
    use crate::types::Epoch;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn region(index: usize) -> RegionId {
        NAMES[index].parse().unwrap()
    }

    /// Regions that know nothing of each other but what moves told them.
    fn regions(received: &[u64]) -> Vec<Ledger> {
        let mut ledgers = Vec::new();
        for (index, &units) in received.iter().enumerate() {
            let mut ledger = Ledger::new(region(index), Epoch::FIRST);
            ledger.receive(units).unwrap();
            ledgers.push(ledger);
        }
        ledgers
    }

    /// A giver handles a request: learns, then gives.
    fn serve(giver: &mut Ledger, asker: RegionId, request: &Request) -> BTreeMap<RegionId, Row> {
        for (&owner, row) in &request.rows {
            giver.merge(owner, row.clone()).unwrap();
        }
        let grant = decide_grant(giver, asker, request.need, request.want, GiverDemand::default());
        giver.grant(asker, grant.units).unwrap();
        giver.rows().clone()
    }

    /// Drives `asker` to an end while other grants go on between the peers.
    fn drive(
        ledgers: &mut [Ledger],
        need: u64,
        moves: &[(usize, usize, u64, bool)],
    ) -> (Step, u64) {
        let all: Vec<RegionId> = (0..ledgers.len()).map(region).collect();
        let mut asking = Asking::new(ledgers[0].clone(), need, need, all);
        let mut moves = moves.iter();
        let mut in_flight: Vec<Request> = Vec::new();
        for _ in 0..10_000 {
            match asking.step() {
                Step::Ask(requests) => in_flight.extend(requests),
                Step::Wait => {}
                Step::Pause => panic!("nobody is busy here"),
                end @ (Step::Obtained | Step::Exhausted) => return (end, asking.obtained()),
            }
            if let Some(&(from, to, units, told)) = moves.next() {
                let (from, to) = (1 + from % (ledgers.len() - 1), 1 + to % (ledgers.len() - 1));
                if from != to {
                    ledgers[from].grant(region(to), units).unwrap();
                    let row = ledgers[from].own_row().clone();
                    if told {
                        ledgers[to].merge(region(from), row).unwrap();
                    }
                }
            }
            let next = in_flight.remove(0);
            let index = NAMES.iter().position(|&name| name == next.to.as_str()).unwrap();
            let rows = serve(&mut ledgers[index], region(0), &next);
            asking.answered(next.to, rows, false).unwrap();
        }
        panic!("asking does not come to an end");
    }

    #[test]
    fn the_biggest_believed_surplus_is_asked_first_and_alone_if_it_is_enough() {
        let mut ledgers = regions(&[0, 5, 9]);
        let rows: Vec<Row> = ledgers.iter().map(|ledger| ledger.own_row().clone()).collect();
        ledgers[0].merge(region(1), rows[1].clone()).unwrap();
        ledgers[0].merge(region(2), rows[2].clone()).unwrap();
        let asked = |need: u64| {
            let mut asking = Asking::new(ledgers[0].clone(), need, need, [region(1), region(2)]);
            let Step::Ask(requests) = asking.step() else { panic!("has to ask") };
            assert_eq!(asking.step(), Step::Wait);
            requests.iter().map(|request| request.to).collect::<Vec<_>>()
        };
        assert_eq!(asked(9), [region(2)]);
        assert_eq!(asked(10), [region(2), region(1)]);
    }

    #[test]
    fn a_holder_learns_from_the_request_that_it_holds_something() {
        let mut ledgers = regions(&[0, 1, 0]);
        ledgers[1].grant(region(2), 1).unwrap();
        assert_eq!(drive(&mut ledgers, 1, &[]), (Step::Obtained, 1));
    }

    #[test]
    fn silent_peers_are_not_waited_for() {
        let ledgers = regions(&[0, 5, 9]);
        let mut asking = Asking::new(ledgers[0].clone(), 1, 1, [region(1), region(2)]);
        assert!(matches!(asking.step(), Step::Ask(requests) if requests.len() == 2));
        asking.silent(region(1));
        assert_eq!(asking.step(), Step::Wait);
        asking.silent(region(2));
        assert_eq!(asking.step(), Step::Exhausted);
    }

    #[test]
    fn a_busy_peer_is_asked_again_after_a_pause_and_not_once_it_has_sold() {
        let mut ledgers = regions(&[0, 1]);
        let mut asking = Asking::new(ledgers[0].clone(), 1, 1, [region(1)]);
        assert!(matches!(asking.step(), Step::Ask(_)));
        asking.answered(region(1), ledgers[1].rows().clone(), true).unwrap();
        assert_eq!(asking.step(), Step::Pause);
        asking.resume();
        assert!(matches!(asking.step(), Step::Ask(_)));
        ledgers[1].spend(1).unwrap();
        asking.answered(region(1), ledgers[1].rows().clone(), false).unwrap();
        assert_eq!(asking.step(), Step::Exhausted);
    }

    proptest! {
        /// While nothing is sold, whatever is granted between peers meanwhile, told or not: all that
        /// exists is found, and "exhausted" is said only when less than the need exists.
        #[test]
        fn no_refusal_while_any_region_holds_a_unit(
            received in prop::collection::vec(0u64..4, 2..=5),
            before in prop::collection::vec((0usize..4, 0usize..4, 0u64..3, any::<bool>()), 0..12),
            during in prop::collection::vec((0usize..4, 0usize..4, 0u64..3, any::<bool>()), 0..12),
            need in 1u64..14,
        ) {
            let mut ledgers = regions(&received);
            let count = ledgers.len() - 1;
            for &(from, to, units, told) in &before {
                let (from, to) = (1 + from % count, 1 + to % count);
                if from != to {
                    ledgers[from].grant(region(to), units).unwrap();
                    let row = ledgers[from].own_row().clone();
                    if told { ledgers[to].merge(region(from), row).unwrap(); }
                }
            }
            let elsewhere: u64 = received[1..].iter().sum();
            let (end, obtained) = drive(&mut ledgers, need, &during);
            prop_assert_eq!(end == Step::Obtained, elsewhere >= need);
            prop_assert!(obtained >= need.min(elsewhere));
        }
    }
}
