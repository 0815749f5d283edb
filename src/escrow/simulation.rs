//! Regions that trade and sell over a network that loses, repeats, delays and reorders; the rules of
//! the ledger are checked after every step, and that all copies are equal once everything arrived.
//!
//! The truth of a region is its own row. Crate `crdts` counts along as an oracle: its counters are an
//! independent implementation of the merged totals.

use std::collections::BTreeMap;

use crdts::{CmRDT, CvRDT, GCounter, PNCounter};
use proptest::prelude::*;

use super::{Digest, GiverDemand, Ledger, Row, decide_grant};
use crate::types::{Actor, Epoch, RegionId, StockKey};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One step. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
enum Op {
    Receive {
        at: usize,
        units: u64,
    },
    Spend {
        at: usize,
        units: u64,
    },
    Release {
        at: usize,
        units: u64,
    },
    Withdraw {
        at: usize,
        units: u64,
    },
    /// Sends a transfer request with a fresh id.
    Request {
        at: usize,
        to: usize,
        units: u64,
    },
    /// Sends a copy of some owner's row, as `at` has it, to a peer.
    Ship {
        at: usize,
        owner: usize,
        to: usize,
    },
    Deliver {
        message: usize,
    },
    Repeat {
        message: usize,
    },
    Lose {
        message: usize,
    },
}

#[derive(Debug, Clone)]
enum Message {
    Transfer { id: usize, asker: usize, giver: usize, units: u64 },
    Rows { to: usize, rows: BTreeMap<Actor, Row> },
}

struct World {
    regions: Vec<Ledger>,
    network: Vec<Message>,
    requests: usize,
    /// What each giver gave under each request id: part of a giver's durable state.
    given: BTreeMap<(usize, usize), u64>,
    /// Every row that an owner ever had, by version and the sequence of its chosen value.
    written: BTreeMap<(Actor, u64, u64), Row>,
    net_spent: Vec<PNCounter<RegionId>>,
    received: Vec<GCounter<RegionId>>,
}

impl World {
    fn new(count: usize) -> Self {
        let regions = (0..count).map(|index| Ledger::new(region(index), Epoch::FIRST)).collect();
        Self {
            regions,
            network: Vec::new(),
            requests: 0,
            given: BTreeMap::new(),
            written: BTreeMap::new(),
            net_spent: vec![PNCounter::new(); count],
            received: vec![GCounter::new(); count],
        }
    }

    fn apply(&mut self, op: &Op) {
        let count = self.regions.len();
        let index = |at: &usize| at % count;
        match op {
            Op::Receive { at, units } => {
                let at = index(at);
                self.regions[at].receive(*units).unwrap();
                self.regions[at].raise_alone();
                let counted = self.received[at].inc_many(region(at), *units);
                self.received[at].apply(counted);
            }
            Op::Spend { at, units } => {
                let at = index(at);
                if self.regions[at].spend(*units).is_ok() {
                    let counted = self.net_spent[at].inc_many(region(at), *units);
                    self.net_spent[at].apply(counted);
                }
            }
            Op::Release { at, units } => {
                let at = index(at);
                if self.regions[at].release(*units).is_ok() {
                    let counted = self.net_spent[at].dec_many(region(at), *units);
                    self.net_spent[at].apply(counted);
                }
            }
            Op::Withdraw { at, units } => drop(self.regions[index(at)].withdraw(*units)),
            Op::Request { at, to, units } => {
                let (asker, giver) = (index(at), index(to));
                if asker != giver {
                    self.requests += 1;
                    let id = self.requests;
                    self.network.push(Message::Transfer { id, asker, giver, units: *units });
                }
            }
            Op::Ship { at, owner, to } => {
                let owner = actor(index(owner));
                if let Some(row) = self.regions[index(at)].rows().get(&owner).cloned() {
                    let rows = BTreeMap::from([(owner, row)]);
                    self.network.push(Message::Rows { to: index(to), rows });
                }
            }
            Op::Deliver { message } => {
                if let Some(message) = self.take(*message) {
                    self.handle(message);
                }
            }
            Op::Repeat { message } => {
                if !self.network.is_empty() {
                    self.network.push(self.network[message % self.network.len()].clone());
                }
            }
            Op::Lose { message } => drop(self.take(*message)),
        }
        self.record();
    }

    fn record(&mut self) {
        for ledger in &self.regions {
            let row = ledger.own_row().clone();
            let written = self.written.entry(place(ledger.own(), &row)).or_insert(row.clone());
            assert_eq!(*written, row, "I-05: one version, one content");
        }
    }

    fn take(&mut self, message: usize) -> Option<Message> {
        let count = self.network.len();
        (count > 0).then(|| self.network.swap_remove(message % count))
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Transfer { id, asker, giver, units } => {
                let ledger = &mut self.regions[giver];
                self.given.entry((giver, id)).or_insert_with(|| {
                    let to = actor(asker);
                    let demand = GiverDemand { waiting: units % 2, ..GiverDemand::default() };
                    let (own, held) = (ledger.own(), ledger.spendable());
                    let grant = decide_grant(own.region, held, to.region, units, units + 1, demand);
                    let granted = ledger.grant(to, grant.units).unwrap();
                    assert_eq!(granted, grant.units, "a decided grant is covered");
                    granted
                });
                let rows = ledger.rows().clone();
                self.network.push(Message::Rows { to: asker, rows });
            }
            Message::Rows { to, rows } => {
                for (owner, row) in rows {
                    self.regions[to].merge(owner, row).unwrap();
                    self.regions[to].raise_alone();
                }
            }
        }
    }

    /// What holds at any time, whatever is under way.
    fn check_anytime(&self) {
        let own = |cell: fn(&Row) -> u64| -> u64 {
            self.regions.iter().map(|ledger| cell(ledger.own_row())).sum()
        };
        let received = own(|row| row.received);
        let net_spent = own(Row::net_spent);
        let withdrawn = own(|row| row.withdrawn);
        let spendable: u64 = self.regions.iter().map(Ledger::spendable).sum();
        assert!(net_spent <= received, "I-01: {net_spent} promised of {received}");
        assert!(
            net_spent + withdrawn + spendable <= received,
            "I-01, worst case: every region sells all it may"
        );
        let mut in_flight = 0;
        for ledger in &self.regions {
            let row = ledger.own_row();
            assert!(row.outflow() <= ledger.active(), "I-05: outflow within the ceiling");
            assert!(ledger.active() <= self.true_inflow(ledger.own()), "I-05: ceiling covered");
            in_flight += self.true_inflow(ledger.own()) - ledger.inflow(ledger.own());
            for (&owner, copy) in ledger.rows() {
                let original = self.written.get(&place(owner, copy));
                assert!(
                    copy.is_blank() || original == Some(copy),
                    "I-05: a copy of {owner}'s row is one that {owner} wrote"
                );
            }
        }
        let rights: u64 = self.regions.iter().map(|ledger| ledger.rights(ledger.own())).sum();
        assert_eq!(rights + in_flight + net_spent + withdrawn, received, "I-04: conserved");
        for giver in 0..self.regions.len() {
            let under_ids = self.given.iter().filter(|((by, _), _)| *by == giver);
            let given: u64 = under_ids.map(|(_, units)| units).sum();
            let debited = self.regions[giver].own_row().granted_total();
            assert_eq!(debited, given, "I-04: one debit per transfer");
        }
    }

    fn true_inflow(&self, of: Actor) -> u64 {
        self.regions
            .iter()
            .map(|ledger| {
                let row = ledger.own_row();
                let received = if ledger.own() == of { row.received } else { 0 };
                received + row.granted_to(of)
            })
            .sum()
    }

    /// Heals the network: digests are compared and what differs is pulled, from any peer.
    fn heal(&mut self) {
        let count = self.regions.len();
        let key = StockKey { sku: "sku".parse().unwrap(), node: "node".parse().unwrap() };
        for _ in 0..count {
            for at in 0..count {
                for from in 0..count {
                    let (ours, theirs) =
                        (digest(&key, &self.regions[at]), digest(&key, &self.regions[from]));
                    for (owner, _) in ours.differences(actor(at), &theirs).pull {
                        let row = self.regions[from].rows()[&owner].clone();
                        self.regions[at].merge(owner, row).unwrap();
                        self.regions[at].raise_alone();
                        self.record();
                    }
                }
            }
        }
        for at in 0..count {
            for from in 0..count {
                let (net_spent, received) =
                    (self.net_spent[from].clone(), self.received[from].clone());
                self.net_spent[at].merge(net_spent);
                self.received[at].merge(received);
            }
        }
    }

    /// What holds once everything arrived.
    fn check_at_rest(&self) {
        let written = |ledger: &Ledger| -> BTreeMap<Actor, Row> {
            let rows = ledger.rows().clone();
            rows.into_iter().filter(|(_, row)| !row.is_blank()).collect()
        };
        let first = written(&self.regions[0]);
        for (index, ledger) in self.regions.iter().enumerate() {
            assert_eq!(written(ledger), first, "I-20: every copy of every row is equal");
            assert_eq!(
                ledger.spendable(),
                ledger.rights(ledger.own()),
                "nothing is stranded at rest"
            );
            let net_spent: u64 = first.values().map(Row::net_spent).sum();
            let received: u64 = first.values().map(|row| row.received).sum();
            assert_eq!(self.net_spent[index].read(), net_spent.into(), "the oracle agrees");
            assert_eq!(self.received[index].read(), received.into(), "the oracle agrees");
        }
    }
}

fn region(index: usize) -> RegionId {
    NAMES[index].parse().unwrap()
}

fn actor(index: usize) -> Actor {
    Actor { region: region(index), epoch: Epoch::FIRST }
}

fn place(owner: Actor, row: &Row) -> (Actor, u64, u64) {
    (owner, row.version, row.chosen.sequence)
}

fn digest(key: &StockKey, ledger: &Ledger) -> Digest {
    let mut digest = Digest::default();
    for (&owner, row) in ledger.rows() {
        digest.add(key, owner, row);
    }
    digest
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..NAMES.len();
    let message = || 0usize..64;
    prop_oneof![
        1 => (at(), 0u64..30).prop_map(|(at, units)| Op::Receive { at, units }),
        4 => (at(), 0u64..6).prop_map(|(at, units)| Op::Spend { at, units }),
        2 => (at(), 0u64..6).prop_map(|(at, units)| Op::Release { at, units }),
        1 => (at(), 0u64..6).prop_map(|(at, units)| Op::Withdraw { at, units }),
        4 => (at(), at(), 0u64..8).prop_map(|(at, to, units)| Op::Request { at, to, units }),
        4 => (at(), at(), at()).prop_map(|(at, owner, to)| Op::Ship { at, owner, to }),
        8 => message().prop_map(|message| Op::Deliver { message }),
        2 => message().prop_map(|message| Op::Repeat { message }),
        1 => message().prop_map(|message| Op::Lose { message }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// I-01, I-04, I-05 at any time and I-20 at rest, whatever the network does.
    #[test]
    fn no_sequence_of_operations_and_faults_breaks_the_ledger(
        count in 3usize..=5,
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut world = World::new(count);
        for op in &ops {
            world.apply(op);
            world.check_anytime();
        }
        world.heal();
        world.check_anytime();
        world.check_at_rest();
    }
}
