//! What sells how fast, here and elsewhere: the rebalancer's picture of the world.
//!
//! Only keys that sell *here* are on the board, since only for those does this region ask ahead of
//! demand; a key leaves the board when its sales have faded. All of it is belief, rebuilt after a
//! restart from the next rows; nothing is decided by it but whom to ask for how much.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::escrow::{
    KeyedRow, Ledger, PROTECTED_ROUND_MS, Row, SkuRows, SpendRate, Standing, own_share,
    plan_rebalance,
};
use crate::types::{Actor, NodeId, RegionId, Sku, StockKey};

/// Keys on the board. At some 500 bytes each, a hundred thousand take 50 MB; what sells beyond them is
/// served on demand.
const KEYS_MAX: usize = 100_000;

/// Wishes in one look. Each is one message to a peer and one transaction there, so that a region which
/// wakes up with thousands of keys out of balance evens them out over some seconds.
const WISHES_MAX: usize = 32;

/// Over how many milliseconds the rate is averaged that ceilings run ahead by: they look an hour ahead.
const STEADY_MS: u64 = 600_000;

/// The rates of one region.
#[derive(Debug)]
pub struct Board {
    own: Actor,
    keys: Mutex<BTreeMap<StockKey, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    actors: BTreeMap<Actor, Seen>,
    /// When a peer may be asked again for this key.
    quiet_until_ms: BTreeMap<RegionId, u64>,
}

#[derive(Debug)]
struct Seen {
    row: Row,
    rate: SpendRate,
    /// Averaged over [`STEADY_MS`].
    steady: SpendRate,
    at_ms: u64,
}

/// A request ahead of demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWish {
    /// Of what.
    pub key: StockKey,
    /// Whom to ask.
    pub from: RegionId,
    /// For how many.
    pub units: u64,
    /// What is known of the key.
    pub rows: SkuRows,
}

impl Board {
    /// An empty board of `own`.
    pub fn new(own: Actor) -> Self {
        Self { own, keys: Mutex::default() }
    }

    /// Notes a row of this region or a peer. A row of this region puts its key on the board.
    pub fn saw(&self, row: &KeyedRow, now_ms: u64) {
        let mut keys = self.keys.lock().expect("no panic while held");
        if row.owner == self.own && keys.len() < KEYS_MAX {
            keys.entry(row.key.clone()).or_default();
        }
        let Some(entry) = keys.get_mut(&row.key) else { return };
        let (rate, steady) = (SpendRate::default(), SpendRate::default());
        let unseen = || Seen { row: row.row.clone(), rate, steady, at_ms: now_ms };
        entry.actors.entry(row.owner).or_insert_with(unseen).update(&row.row, now_ms);
    }

    /// Is the key on the board? If not, all its rows should be shown when one is.
    pub fn knows(&self, key: &StockKey) -> bool {
        self.keys.lock().expect("no panic while held").contains_key(key)
    }

    /// How fast this region sells a key, over the last minutes.
    pub fn steady_rate(&self, key: &StockKey) -> SpendRate {
        let keys = self.keys.lock().expect("no panic while held");
        let own = keys.get(key).and_then(|entry| entry.actors.get(&self.own));
        own.map(|seen| seen.steady).unwrap_or_default()
    }

    /// Units of a SKU that this region expects to sell within a round.
    pub fn expected(&self, sku: &Sku) -> u64 {
        let keys = self.keys.lock().expect("no panic while held");
        let of_sku = keys.iter().filter(|(key, _)| key.sku == *sku);
        let own = of_sku.filter_map(|(_, entry)| entry.actors.get(&self.own));
        own.map(|seen| seen.rate.units_within(PROTECTED_ROUND_MS)).fold(0, u64::saturating_add)
    }

    /// This region's share of a SKU, at one node or at all, as it sees the shares: what it keeps when a peer
    /// would like more.
    pub fn share(&self, sku: &Sku, node: Option<&NodeId>, reachable: &[RegionId]) -> u64 {
        let keys = self.keys.lock().expect("no panic while held");
        let wanted = |key: &StockKey| key.sku == *sku && node.is_none_or(|node| *node == key.node);
        let shares = keys
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, entry)| own_share(self.own.region, &entry.standings(self.own, reachable)));
        shares.fold(0, u64::saturating_add)
    }

    /// What to ask for now, the keys that run out first before the others. Whoever is asked is left
    /// alone with that key for `interval_ms`.
    pub fn wishes(&self, reachable: &[RegionId], now_ms: u64, interval_ms: u64) -> Vec<KeyWish> {
        let mut keys = self.keys.lock().expect("no panic while held");
        let mut wishes = Vec::new();
        keys.retain(|_, entry| {
            entry.fade(now_ms);
            entry.actors.get(&self.own).is_some_and(|seen| seen.rate.micros_per_s() > 0)
        });
        for (key, entry) in keys.iter() {
            let standings = entry.standings(self.own, reachable);
            let Some(wish) = plan_rebalance(self.own.region, &standings) else { continue };
            if entry.quiet_until_ms.get(&wish.from).is_some_and(|&until| now_ms < until) {
                continue;
            }
            let own = standings.get(&self.own.region).copied().unwrap_or_default();
            let lasts_ms =
                u128::from(own.rights) * 1_000_000_000 / u128::from(own.rate.micros_per_s().max(1));
            wishes.push((lasts_ms, key.clone(), wish));
        }
        wishes.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        wishes.truncate(WISHES_MAX);
        let mut asked = Vec::new();
        for (_, key, wish) in wishes {
            let entry = keys.get_mut(&key).expect("just planned");
            entry.quiet_until_ms.insert(wish.from, now_ms + interval_ms);
            let rows = SkuRows::from([(key.node.clone(), entry.rows())]);
            asked.push(KeyWish { key, from: wish.from, units: wish.units, rows });
        }
        asked
    }
}

impl Entry {
    fn rows(&self) -> BTreeMap<Actor, Row> {
        self.actors.iter().map(|(&actor, seen)| (actor, seen.row.clone())).collect()
    }

    /// Of the latest incarnations only: an earlier one sells no more and gives nothing.
    fn standings(&self, own: Actor, reachable: &[RegionId]) -> BTreeMap<RegionId, Standing> {
        let ledger = Ledger::from_rows(own, self.rows());
        let counts = |actor: Actor| {
            let in_reach = actor.region == own.region || reachable.contains(&actor.region);
            in_reach && ledger.latest(actor.region) == actor
        };
        let seen = self.actors.iter().filter(|(actor, _)| counts(**actor));
        let standing = |(&actor, seen): (&Actor, &Seen)| {
            (actor.region, Standing { rights: ledger.rights(actor), rate: seen.rate })
        };
        seen.map(standing).collect()
    }

    /// Where nothing was heard of for a round, nothing was sold.
    fn fade(&mut self, now_ms: u64) {
        for seen in self.actors.values_mut() {
            let silent_ms = now_ms.saturating_sub(seen.at_ms);
            if silent_ms >= PROTECTED_ROUND_MS {
                seen.observe(0, silent_ms);
                seen.at_ms = now_ms;
            }
        }
    }
}

impl Seen {
    fn observe(&mut self, units: u64, elapsed_ms: u64) {
        self.rate.observe(units, elapsed_ms);
        self.steady.observe_over(STEADY_MS, units, elapsed_ms);
    }

    fn update(&mut self, row: &Row, now_ms: u64) {
        if !row.supersedes(&self.row) {
            return;
        }
        let sold = row.net_spent().saturating_sub(self.row.net_spent());
        self.observe(sold, now_ms.saturating_sub(self.at_ms).max(1));
        self.row = row.clone();
        self.at_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn actor(name: &str) -> Actor {
        Actor { region: region(name), epoch: Epoch::FIRST }
    }

    fn key(sku: &str) -> StockKey {
        StockKey { sku: sku.parse().unwrap(), node: "n".parse().unwrap() }
    }

    fn row(sku: &str, owner: &str, version: u64, received: u64, spent: u64) -> KeyedRow {
        let row = Row { version, received, spent, ..Row::new(actor(owner)) };
        KeyedRow { key: key(sku), owner: actor(owner), row }
    }

    #[test]
    fn a_key_that_sells_here_and_lies_elsewhere_is_wished_for_once_an_interval() {
        let board = Board::new(actor("a"));
        board.saw(&row("x", "b", 1, 100, 0), 0);
        assert!(!board.knows(&key("x")), "keys that only peers know of are not on the board");
        board.saw(&row("x", "a", 1, 10, 0), 0);
        board.saw(&row("x", "b", 1, 100, 0), 0);
        board.saw(&row("x", "a", 2, 10, 5), 500);
        let peers = [region("b")];
        let wishes = board.wishes(&peers, 500, 1_000);
        assert_eq!(wishes.len(), 1);
        assert_eq!((wishes[0].from, wishes[0].units), (region("b"), 100));
        assert!(wishes[0].rows.values().all(|rows| rows.len() == 2));
        assert_eq!(board.wishes(&peers, 1_499, 1_000), []);
        assert_eq!(board.wishes(&peers, 1_500, 1_000).len(), 1);
        assert_eq!(board.wishes(&[], 3_000, 1_000), [], "nobody in reach, nothing to ask for");
        assert!(board.expected(&"x".parse().unwrap()) > 0);
    }

    #[test]
    fn a_key_that_stopped_selling_leaves_the_board() {
        let board = Board::new(actor("a"));
        board.saw(&row("x", "a", 1, 10, 0), 0);
        board.saw(&row("x", "a", 2, 10, 5), 500);
        for second in 1..3_600 {
            board.wishes(&[], second * 1_000, 1_000);
        }
        assert!(!board.knows(&key("x")));
    }
}
