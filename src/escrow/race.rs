//! Several regions look for the last units at the same time: givers with waiting orders of their own,
//! answers and shipped rows in any order. All units sell, and nobody refuses while a unit is left.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Asking, GiverDemand, Ledger, Request, Row, SkuRows, Step, decide_grant};
use crate::types::{Actor, Epoch, NodeId, RegionId};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// More steps than any race of these sizes takes; reaching it means that regions wait for each other.
const STEPS_MAX: usize = 20_000;

struct Region {
    ledger: Ledger,
    /// Orders of one unit each that are neither served nor refused.
    orders: u64,
    search: Option<Asking>,
    refused: u64,
}

enum Message {
    Ask { from: usize, request: Request },
    Answer { to: usize, from: usize, rows: BTreeMap<Actor, Row>, busy: bool },
}

struct Race {
    regions: Vec<Region>,
    network: Vec<Message>,
}

impl Race {
    fn new(stock: &[u64], orders: &[u64]) -> Self {
        let mut regions = Vec::new();
        for (index, (&units, &orders)) in stock.iter().zip(orders).enumerate() {
            let mut ledger = Ledger::new(region(index), Epoch::FIRST);
            ledger.receive(units).unwrap();
            ledger.raise_alone();
            regions.push(Region { ledger, orders, search: None, refused: 0 });
        }
        Self { regions, network: Vec::new() }
    }

    /// Sells what can be sold, looks for the rest, and refuses what a search that found nothing leaves.
    fn act(&mut self, index: usize) {
        let all = (0..self.regions.len()).map(region);
        let here = &mut self.regions[index];
        let Some(search) = here.search.as_mut() else {
            let sold = here.orders.min(here.ledger.spendable());
            here.ledger.spend(sold).unwrap();
            here.orders -= sold;
            if here.orders > 0 {
                let ledgers = BTreeMap::from([(node(), here.ledger.clone())]);
                let (own, need) = (actor(index), here.orders);
                here.search = Some(Asking::new(own, ledgers, need, need, all));
            }
            return;
        };
        match search.step() {
            Step::Ask(requests) => {
                let ask = |request| Message::Ask { from: index, request };
                self.network.extend(requests.into_iter().map(ask));
            }
            Step::Wait => {}
            Step::Pause => search.resume(),
            Step::Obtained | Step::Exhausted => {
                let gained = search.obtained() > 0 || here.ledger.spendable() > 0;
                here.search = None;
                if !gained {
                    here.refused += here.orders;
                    here.orders = 0;
                }
            }
        }
    }

    fn deliver(&mut self, message: usize) {
        if self.network.is_empty() {
            return;
        }
        let message = message % self.network.len();
        match self.network.swap_remove(message) {
            Message::Ask { from, request } => {
                let to = NAMES.iter().position(|&name| name == request.to.as_str()).unwrap();
                let giver = &mut self.regions[to];
                learn(&mut giver.ledger, &request.rows[&node()]);
                let demand = GiverDemand { waiting: giver.orders, ..GiverDemand::default() };
                let (held, asker) = (giver.ledger.spendable(), region(from));
                let (need, want) = (request.need, request.want);
                let grant = decide_grant(region(to), held, asker, need, want, demand);
                giver.ledger.grant(actor(from), grant.units).unwrap();
                let rows = giver.ledger.rows().clone();
                self.network.push(Message::Answer { to: from, from: to, rows, busy: grant.busy });
            }
            Message::Answer { to, from, rows, busy } => {
                let asker = &mut self.regions[to];
                learn(&mut asker.ledger, &rows);
                if let Some(search) = &mut asker.search {
                    let rows = SkuRows::from([(node(), rows)]);
                    search.answered(region(from), &rows, busy).unwrap();
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let over = |region: &Region| region.orders == 0 && region.search.is_none();
        self.network.is_empty() && self.regions.iter().all(over)
    }
}

fn region(index: usize) -> RegionId {
    NAMES[index].parse().unwrap()
}

fn actor(index: usize) -> Actor {
    Actor { region: region(index), epoch: Epoch::FIRST }
}

fn node() -> NodeId {
    "n".parse().unwrap()
}

fn learn(ledger: &mut Ledger, rows: &BTreeMap<Actor, Row>) {
    for (&owner, row) in rows {
        ledger.merge(owner, row.clone()).unwrap();
        ledger.raise_alone();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn all_units_sell_and_nobody_waits_for_ever(
        places in prop::collection::vec((0u64..4, 0u64..6), 2..=4),
        schedule in prop::collection::vec((any::<bool>(), 0usize..64), 40..200),
    ) {
        let (stock, orders): (Vec<u64>, Vec<u64>) = places.into_iter().unzip();
        let (units, wanted): (u64, u64) = (stock.iter().sum(), orders.iter().sum());
        let mut race = Race::new(&stock, &orders);
        let mut steps = 0;
        // Any schedule at first, then a fair one: everybody's turn, and every message arrives.
        let fair = (0..).map(|turn| (turn % 2 == 0, turn / 2));
        for (act, choice) in schedule.into_iter().chain(fair) {
            if act { race.act(choice % stock.len()) } else { race.deliver(choice) }
            steps += 1;
            if race.is_over() { break }
            prop_assert!(steps < STEPS_MAX, "regions wait for each other");
        }
        let sold: u64 = race.regions.iter().map(|region| region.ledger.own_row().net_spent()).sum();
        prop_assert_eq!(sold, units.min(wanted), "stock {:?}, orders {:?}", stock, orders);
        let refused: u64 = race.regions.iter().map(|region| region.refused).sum();
        prop_assert_eq!(sold + refused, wanted, "every order has an answer");
    }
}
