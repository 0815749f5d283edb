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

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Ledger, MergeError, Row};
use crate::types::{Actor, NodeId, RegionId};

/// All rows of a SKU, by node and owner.
pub type SkuRows = BTreeMap<NodeId, BTreeMap<Actor, Row>>;

/// The state of one search for units of one SKU, at whatever node they are.
#[derive(Debug, Clone)]
pub struct Asking {
    own: Actor,
    ledgers: BTreeMap<NodeId, Ledger>,
    inflow_at_start: u64,
    need: u64,
    want: u64,
    peers: BTreeMap<RegionId, Peer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Not asked yet.
    Fresh,
    /// Asked, while `inflow` had flowed to it as far as we knew; its answer is awaited. A late one is not
    /// counted on any more.
    Asked { inflow: u64, late: bool },
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
    pub rows: SkuRows,
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
    /// Begins to look for `need` units, or better `want`, at the `reachable` peers. `ledgers` holds
    /// what is known of the SKU in region `own`, by node.
    pub fn new(
        own: Actor,
        ledgers: BTreeMap<NodeId, Ledger>,
        need: u64,
        want: u64,
        reachable: impl IntoIterator<Item = RegionId>,
    ) -> Self {
        let others = reachable.into_iter().filter(|&peer| peer != own.region);
        let peers = others.map(|peer| (peer, Peer::Fresh)).collect();
        let want = want.max(need);
        let mut asking = Self { own, ledgers, inflow_at_start: 0, need, want, peers };
        asking.inflow_at_start = asking.inflow(own.region);
        asking
    }

    /// How many units have arrived since the beginning, whoever sent them.
    pub fn obtained(&self) -> u64 {
        self.inflow(self.own.region) - self.inflow_at_start
    }

    /// What a region may still sell over all nodes, by the rows merged so far.
    pub fn rights(&self, region: RegionId) -> u64 {
        let rights = |ledger: &Ledger| ledger.rights(ledger.latest(region));
        self.ledgers.values().map(rights).fold(0, u64::saturating_add)
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
            .filter(|(_, peer)| matches!(peer, Peer::Asked { late: false, .. }))
            .map(|(&region, _)| self.rights(region))
            .fold(0, u64::saturating_add);
        let chosen = self.choose(missing.saturating_sub(under_way));
        if !chosen.is_empty() {
            return Step::Ask(chosen.into_iter().map(|to| self.request(to, missing)).collect());
        }
        if self.peers.values().any(|peer| matches!(peer, Peer::Asked { .. })) {
            return Step::Wait;
        }
        let busy = |(&region, peer): (&RegionId, &Peer)| {
            matches!(peer, Peer::Answered { busy: true, .. }) && self.rights(region) > 0
        };
        if self.peers.iter().any(busy) { Step::Pause } else { Step::Exhausted }
    }

    /// A peer answered: the rows it knows, and whether it kept units for orders of its own.
    pub fn answered(
        &mut self,
        from: RegionId,
        rows: &SkuRows,
        busy: bool,
    ) -> Result<(), MergeError> {
        if let Some(peer) = self.peers.get_mut(&from)
            && let Peer::Asked { inflow: told, .. } = *peer
        {
            let inflow = |rows: &BTreeMap<Actor, Row>| {
                let ledger = Ledger::from_rows(self.own, rows.clone());
                ledger.inflow(ledger.latest(from))
            };
            let knew = rows.values().map(inflow).fold(0, u64::saturating_add);
            *peer = Peer::Answered { inflow: knew.max(told), busy };
        }
        let own = self.own;
        for (node, rows) in rows {
            let fresh = || Ledger::from_rows(own, BTreeMap::new());
            let ledger = self.ledgers.entry(node.clone()).or_insert_with(fresh);
            // This search began with a snapshot. The region sells on meanwhile, and a peer may have
            // heard of that before: only the database can tell whether its own row is too old.
            for (&owner, row) in rows.iter().filter(|&(&owner, _)| owner != own) {
                ledger.merge(owner, row.clone())?;
            }
        }
        Ok(())
    }

    /// A peer takes long to answer. It may still, and is waited for when nobody else has the units; but
    /// the others are asked now.
    pub fn late(&mut self, peer: RegionId) {
        if let Some(Peer::Asked { late, .. }) = self.peers.get_mut(&peer) {
            *late = true;
        }
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
            .map(|(&region, _)| (self.rights(region), region))
            .collect();
        candidates.sort_by_key(|&(rights, region)| (Reverse(rights), region));
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
                self.inflow(region) > inflow && self.rights(region) > 0
            }
            Peer::Asked { .. } | Peer::Silent => false,
        }
    }

    fn request(&mut self, to: RegionId, need: u64) -> Request {
        let inflow = self.inflow(to);
        self.peers.insert(to, Peer::Asked { inflow, late: false });
        let want = self.want.saturating_sub(self.obtained()).max(need);
        let rows = |(node, ledger): (&NodeId, &Ledger)| (node.clone(), ledger.rows().clone());
        Request { to, need, want, rows: self.ledgers.iter().map(rows).collect() }
    }

    fn inflow(&self, region: RegionId) -> u64 {
        let inflow = |ledger: &Ledger| ledger.inflow(ledger.latest(region));
        self.ledgers.values().map(inflow).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GiverDemand, decide_grant, spread};
    use super::*;
    use crate::types::Epoch;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn region(index: usize) -> RegionId {
        NAMES[index].parse().unwrap()
    }

    fn actor(index: usize) -> Actor {
        Actor { region: region(index), epoch: Epoch::FIRST }
    }

    /// One region's ledgers of the SKU, by node.
    type Ledgers = BTreeMap<NodeId, Ledger>;

    const NODES: [&str; 2] = ["n", "o"];

    fn node(index: usize) -> NodeId {
        NODES[index % NODES.len()].parse().unwrap()
    }

    /// Regions that know nothing of each other but what moves told them. The stock of region `i` is at
    /// node `i % 2`.
    fn regions(received: &[u64]) -> Vec<Ledgers> {
        let mut regions = Vec::new();
        for (index, &units) in received.iter().enumerate() {
            let fresh = || Ledger::new(region(index), Epoch::FIRST);
            let mut ledgers = Ledgers::from([(node(0), fresh()), (node(1), fresh())]);
            let ledger = ledgers.get_mut(&node(index)).unwrap();
            ledger.receive(units).unwrap();
            ledger.raise_alone();
            regions.push(ledgers);
        }
        regions
    }

    fn rows_of(ledgers: &Ledgers) -> SkuRows {
        ledgers.iter().map(|(node, ledger)| (node.clone(), ledger.rows().clone())).collect()
    }

    fn learn(ledgers: &mut Ledgers, rows: &SkuRows) {
        for (node, rows) in rows {
            for (&owner, row) in rows {
                let ledger = ledgers.get_mut(node).unwrap();
                ledger.merge(owner, row.clone()).unwrap();
                ledger.raise_alone();
            }
        }
    }

    fn give(giver: &mut Ledgers, to: Actor, units: u64) {
        let held: BTreeMap<NodeId, u64> =
            giver.iter().map(|(node, ledger)| (node.clone(), ledger.spendable())).collect();
        let units = units.min(held.values().sum());
        for (node, units) in spread(units, &held) {
            giver.get_mut(&node).unwrap().grant(to, units).unwrap();
        }
    }

    fn asking(ledgers: &Ledgers, need: u64, peers: &[usize]) -> Asking {
        let peers = peers.iter().map(|&peer| region(peer));
        Asking::new(actor(0), ledgers.clone(), need, need, peers)
    }

    /// A giver handles a request: learns, then gives.
    fn serve(giver: &mut Ledgers, own: RegionId, asker: Actor, request: &Request) -> SkuRows {
        learn(giver, &request.rows);
        let held = giver.values().map(Ledger::spendable).sum();
        let demand = GiverDemand::default();
        let grant = decide_grant(own, held, asker.region, request.need, request.want, demand);
        give(giver, asker, grant.units);
        rows_of(giver)
    }

    /// Grants among the peers of region 0: from, to, units, and whether the receiver is told.
    type Move = (usize, usize, u64, bool);

    fn apply(world: &mut [Ledgers], &(from, to, units, told): &Move) {
        let count = world.len() - 1;
        let (from, to) = (1 + from % count, 1 + to % count);
        if from != to {
            give(&mut world[from], actor(to), units);
            if told {
                let rows = rows_of(&world[from]);
                learn(&mut world[to], &rows);
            }
        }
    }

    /// Drives region 0 to an end while other grants go on between its peers.
    fn drive(world: &mut [Ledgers], need: u64, moves: &[Move]) -> (Step, u64) {
        let all: Vec<usize> = (0..world.len()).collect();
        let mut asking = asking(&world[0], need, &all);
        let mut moves = moves.iter();
        let mut in_flight: Vec<Request> = Vec::new();
        for _ in 0..10_000 {
            match asking.step() {
                Step::Ask(requests) => in_flight.extend(requests),
                Step::Wait => {}
                Step::Pause => panic!("nobody is busy here"),
                end @ (Step::Obtained | Step::Exhausted) => return (end, asking.obtained()),
            }
            if let Some(moved) = moves.next() {
                apply(world, moved);
            }
            let next = in_flight.remove(0);
            let index = NAMES.iter().position(|&name| name == next.to.as_str()).unwrap();
            let rows = serve(&mut world[index], next.to, actor(0), &next);
            asking.answered(next.to, &rows, false).unwrap();
        }
        panic!("asking does not come to an end");
    }

    #[test]
    fn the_biggest_believed_surplus_is_asked_first_and_alone_if_it_is_enough() {
        let mut world = regions(&[0, 5, 9]);
        for peer in [1, 2] {
            let rows = rows_of(&world[peer]);
            learn(&mut world[0], &rows);
        }
        let asked = |need: u64| {
            let mut asking = asking(&world[0], need, &[1, 2]);
            let Step::Ask(requests) = asking.step() else { panic!("has to ask") };
            assert_eq!(asking.step(), Step::Wait);
            requests.iter().map(|request| request.to).collect::<Vec<_>>()
        };
        assert_eq!(asked(9), [region(2)]);
        assert_eq!(asked(10), [region(2), region(1)]);
    }

    #[test]
    fn a_holder_learns_from_the_request_that_it_holds_something() {
        let mut world = regions(&[0, 1, 0]);
        give(&mut world[1], actor(2), 1);
        assert_eq!(drive(&mut world, 1, &[]), (Step::Obtained, 1));
    }

    #[test]
    fn silent_peers_are_not_waited_for() {
        let mut asking = asking(&regions(&[0, 5, 9])[0], 1, &[1, 2]);
        assert!(matches!(asking.step(), Step::Ask(requests) if requests.len() == 2));
        asking.silent(region(1));
        assert_eq!(asking.step(), Step::Wait);
        asking.silent(region(2));
        assert_eq!(asking.step(), Step::Exhausted);
    }

    #[test]
    fn while_a_peer_is_late_the_others_are_asked() {
        let mut world = regions(&[0, 9, 5]);
        for peer in [1, 2] {
            let rows = rows_of(&world[peer]);
            learn(&mut world[0], &rows);
        }
        let mut asking = asking(&world[0], 1, &[1, 2]);
        assert!(matches!(asking.step(), Step::Ask(asked) if asked[0].to == region(1)));
        assert_eq!(asking.step(), Step::Wait);
        asking.late(region(1));
        let Step::Ask(requests) = asking.step() else { panic!("the other one has units too") };
        let [request] = &requests[..] else { panic!("the late one is not asked twice") };
        let rows = serve(&mut world[2], region(2), actor(0), request);
        asking.answered(region(2), &rows, false).unwrap();
        assert_eq!(asking.step(), Step::Obtained);
    }

    #[test]
    fn a_late_peer_is_waited_for_when_nobody_else_has_units() {
        let mut world = regions(&[0, 9, 0]);
        let mut asking = asking(&world[0], 1, &[1, 2]);
        let Step::Ask(requests) = asking.step() else { panic!("has to ask") };
        asking.late(region(1));
        asking.answered(region(2), &rows_of(&world[2]), false).unwrap();
        assert_eq!(asking.step(), Step::Wait);
        let to_late = requests.iter().find(|request| request.to == region(1)).unwrap();
        let rows = serve(&mut world[1], region(1), actor(0), to_late);
        asking.answered(region(1), &rows, false).unwrap();
        assert_eq!(asking.step(), Step::Obtained);
    }

    #[test]
    fn a_region_that_sells_on_during_its_search_does_not_suspect_itself() {
        let mut world = regions(&[3, 5]);
        let mut asking = asking(&world[0], 4, &[1]);
        assert!(matches!(asking.step(), Step::Ask(_)));
        world[0].get_mut(&node(0)).unwrap().spend(1).unwrap();
        let rows = rows_of(&world[0]);
        learn(&mut world[1], &rows);
        asking.answered(region(1), &rows_of(&world[1]), false).unwrap();
    }

    #[test]
    fn a_busy_peer_is_asked_again_after_a_pause_and_not_once_it_has_sold() {
        let mut world = regions(&[0, 1]);
        let mut asking = asking(&world[0], 1, &[1]);
        assert!(matches!(asking.step(), Step::Ask(_)));
        asking.answered(region(1), &rows_of(&world[1]), true).unwrap();
        assert_eq!(asking.step(), Step::Pause);
        asking.resume();
        assert!(matches!(asking.step(), Step::Ask(_)));
        world[1].get_mut(&node(1)).unwrap().spend(1).unwrap();
        asking.answered(region(1), &rows_of(&world[1]), false).unwrap();
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
            let mut world = regions(&received);
            for moved in &before {
                apply(&mut world, moved);
            }
            let elsewhere: u64 = received[1..].iter().sum();
            let (end, obtained) = drive(&mut world, need, &during);
            prop_assert_eq!(end == Step::Obtained, elsewhere >= need);
            prop_assert!(obtained >= need.min(elsewhere));
        }
    }
}
