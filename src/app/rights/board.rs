//! What sells how fast, here and elsewhere: the rebalancer's picture of the world.
//!
//! Only keys that sell *here* are on the board, since only for those does this region ask ahead of
//! demand and raise ceilings ahead of sales; a key leaves the board when its sales have faded. All of it is
//! belief, rebuilt after a restart from the next rows; nothing is decided by it but whom to ask for how much,
//! and how far to raise.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use crate::escrow::{
    KeyedRow, Ledger, PROTECTED_ROUND_MS, Row, SkuRows, SpendRate, Standing, Wish, own_share,
    plan_rebalance,
};
use crate::types::{Actor, NodeId, RegionId, Sku, StockKey};

/// SKUs on the board. With two nodes each, at some 500 bytes a key, they take 50 MB; what sells beyond them is
/// served on demand.
const SKUS_MAX: usize = 50_000;

/// SKUs in one look: some 6 ms. Five looks a second see ten thousand.
const LOOKS_MAX: usize = 2_000;

/// Wishes in one look. Each is one message to a peer and one transaction there, so that a region which
/// wakes up with thousands of keys out of balance evens them out over some seconds.
const WISHES_MAX: usize = 32;

/// Over how many milliseconds the rate is averaged that ceilings run ahead by: they look an hour ahead. A key
/// that was not sold for so long leaves the board; before that the time between two sales is its rate.
const STEADY_MS: u64 = 600_000;

/// How long a key counts as seen at least: its first order is not the demand of an hour, but a region that is cut
/// off soon after a sale has begun must go on selling.
const STEADY_FIRST_MS: u64 = 120_000;

/// The rates of one region.
#[derive(Debug)]
pub struct Board {
    own: Actor,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    skus: BTreeMap<Sku, BTreeMap<NodeId, Entry>>,
    /// Where the last look ended.
    looked_at: Option<Sku>,
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
    /// Averaged over [`STEADY_MS`], or as long as the key is seen.
    steady: SpendRate,
    since_ms: u64,
    at_ms: u64,
    changed_ms: u64,
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
        let StockKey { sku, node } = &row.key;
        let has_room = keys.skus.len() < SKUS_MAX || keys.skus.contains_key(sku);
        if row.owner == self.own && has_room {
            keys.skus.entry(sku.clone()).or_default().entry(node.clone()).or_default();
        }
        let entry = keys.skus.get_mut(sku).and_then(|nodes| nodes.get_mut(node));
        let Some(entry) = entry else { return };
        let (rate, steady) = (SpendRate::default(), SpendRate::default());
        let (since_ms, at_ms, changed_ms) = (now_ms, now_ms, now_ms);
        let unseen = || Seen { row: row.row.clone(), rate, steady, since_ms, at_ms, changed_ms };
        entry.actors.entry(row.owner).or_insert_with(unseen).update(&row.row, now_ms);
    }

    /// Is the key on the board? If not, all its rows should be shown when one is.
    pub fn knows(&self, key: &StockKey) -> bool {
        self.keys.lock().expect("no panic while held").entry(key).is_some()
    }

    /// How fast this region sells a key, over the last minutes.
    pub fn steady_rate(&self, key: &StockKey) -> SpendRate {
        let keys = self.keys.lock().expect("no panic while held");
        let own = keys.entry(key).and_then(|entry| entry.actors.get(&self.own));
        own.map(|seen| seen.steady).unwrap_or_default()
    }

    /// Units of a SKU that this region expects to sell within a round.
    pub fn expected(&self, sku: &Sku) -> u64 {
        let keys = self.keys.lock().expect("no panic while held");
        let entries = keys.skus.get(sku).into_iter().flat_map(BTreeMap::values);
        let own = entries.filter_map(|entry| entry.actors.get(&self.own));
        own.map(|seen| seen.rate.units_within(PROTECTED_ROUND_MS)).fold(0, u64::saturating_add)
    }

    /// This region's share of a SKU, at one node or at all, as it sees the shares: what it keeps when a peer
    /// would like more.
    pub fn share(&self, sku: &Sku, node: Option<&NodeId>, reachable: &[RegionId]) -> u64 {
        let keys = self.keys.lock().expect("no panic while held");
        let entries = keys.skus.get(sku).into_iter().flatten();
        let shares = entries
            .filter(|(at, _)| node.is_none_or(|node| node == *at))
            .map(|(_, entry)| own_share(self.own.region, &entry.standings(self.own, reachable)));
        shares.fold(0, u64::saturating_add)
    }

    /// What to ask for now, the keys that run out first before the others. Whoever is asked is left
    /// alone with that key for `interval_ms`. Each call looks at [`LOOKS_MAX`] SKUs, and the next one at those
    /// behind them.
    pub fn wishes(&self, reachable: &[RegionId], now_ms: u64, interval_ms: u64) -> Vec<KeyWish> {
        let mut keys = self.keys.lock().expect("no panic while held");
        let mut wishes = Vec::new();
        for sku in keys.next_look() {
            let Some(nodes) = keys.skus.get_mut(&sku) else { continue };
            nodes.retain(|_, entry| entry.goes_on(self.own, now_ms));
            for (node, entry) in &*nodes {
                if let Some((lasts_ms, wish)) = entry.wish(self.own, reachable, now_ms) {
                    wishes.push((
                        lasts_ms,
                        StockKey { sku: sku.clone(), node: node.clone() },
                        wish,
                    ));
                }
            }
            if nodes.is_empty() {
                keys.skus.remove(&sku);
            }
        }
        wishes.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        wishes.truncate(WISHES_MAX);
        let mut asked = Vec::new();
        for (_, key, Wish { from, units }) in wishes {
            let entry = keys.skus.get_mut(&key.sku).and_then(|nodes| nodes.get_mut(&key.node));
            let entry = entry.expect("just planned");
            entry.quiet_until_ms.insert(from, now_ms + interval_ms);
            let rows = SkuRows::from([(key.node.clone(), entry.rows())]);
            asked.push(KeyWish { key, from, units, rows });
        }
        asked
    }
}

impl Keys {
    fn entry(&self, key: &StockKey) -> Option<&Entry> {
        self.skus.get(&key.sku)?.get(&key.node)
    }

    /// The SKUs behind those of the last look, and round to the first ones again.
    fn next_look(&mut self) -> Vec<Sku> {
        let behind = match &self.looked_at {
            Some(last) => (Bound::Excluded(last.clone()), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let mut look: Vec<Sku> =
            self.skus.range(behind).take(LOOKS_MAX).map(|(sku, _)| sku.clone()).collect();
        if look.len() < LOOKS_MAX
            && let Some(last) = &self.looked_at
        {
            let first_ones = self.skus.range(..=last.clone()).take(LOOKS_MAX - look.len());
            look.extend(first_ones.map(|(sku, _)| sku.clone()));
        }
        self.looked_at = look.last().cloned();
        look
    }
}

impl Entry {
    fn rows(&self) -> BTreeMap<Actor, Row> {
        self.actors.iter().map(|(&actor, seen)| (actor, seen.row.clone())).collect()
    }

    /// Still sells, or did a while ago.
    fn goes_on(&mut self, own: Actor, now_ms: u64) -> bool {
        self.fade(now_ms);
        self.actors.get(&own).is_some_and(|seen| {
            let idle_ms = now_ms.saturating_sub(seen.changed_ms);
            seen.steady.micros_per_s() > 0 || idle_ms < STEADY_MS
        })
    }

    /// What to ask for of a key that sells here, and for how long it lasts without.
    fn wish(&self, own: Actor, reachable: &[RegionId], now_ms: u64) -> Option<(u128, Wish)> {
        let rate = self.actors.get(&own)?.rate.micros_per_s();
        if rate == 0 {
            return None;
        }
        let standings = self.standings(own, reachable);
        let wish = plan_rebalance(own.region, &standings)?;
        if self.quiet_until_ms.get(&wish.from).is_some_and(|&until| now_ms < until) {
            return None;
        }
        let rights = standings.get(&own.region)?.rights;
        Some((u128::from(rights) * 1_000_000_000 / u128::from(rate), wish))
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
            if now_ms.saturating_sub(seen.at_ms) >= PROTECTED_ROUND_MS {
                seen.observe(0, now_ms);
            }
        }
    }
}

impl Seen {
    fn observe(&mut self, units: u64, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms).max(1);
        let seen_ms = self.at_ms.saturating_sub(self.since_ms);
        self.rate.observe(units, elapsed_ms);
        self.steady.observe_over(seen_ms.clamp(STEADY_FIRST_MS, STEADY_MS), units, elapsed_ms);
        self.at_ms = now_ms;
    }

    fn update(&mut self, row: &Row, now_ms: u64) {
        if !row.supersedes(&self.row) {
            return;
        }
        let sold = row.net_spent().saturating_sub(self.row.net_spent());
        self.observe(sold, now_ms);
        self.row = row.clone();
        self.changed_ms = now_ms;
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

    #[test]
    fn a_key_that_sells_less_often_than_it_is_looked_at_has_a_rate_all_the_same() {
        let board = Board::new(actor("a"));
        for sale in 0..100 {
            let now_ms = sale * 60_000;
            board.saw(&row("x", "a", sale + 1, 10_000, sale * 6), now_ms);
            for look in 1..300 {
                board.wishes(&[], now_ms + look * 200, 1_000);
            }
        }
        let an_hour = board.steady_rate(&key("x")).units_within(3_600_000);
        assert!((300..=400).contains(&an_hour), "6 a minute are 360 an hour, not {an_hour}");
    }

    #[test]
    fn a_sale_that_has_just_begun_is_no_hours_demand_and_not_nothing() {
        let an_hour = |orders: u64| {
            let board = Board::new(actor("a"));
            for order in 0..=orders {
                board.saw(&row("x", "a", order + 1, 10_000, order * 2), order * 1_000);
            }
            board.steady_rate(&key("x")).units_within(3_600_000)
        };
        assert!((50..=60).contains(&an_hour(1)), "two units in two minutes: {}", an_hour(1));
        assert!((550..=650).contains(&an_hour(10)), "two a second for 10 s: {}", an_hour(10));
        assert!((6_500..=7_200).contains(&an_hour(600)), "for ten minutes: {}", an_hour(600));
    }

    #[test]
    fn every_key_is_looked_at_in_turn() {
        let board = Board::new(actor("a"));
        let peers = [region("b")];
        let name = |number: usize| format!("k{number:05}");
        for number in 0..LOOKS_MAX * 2 + 7 {
            board.saw(&row(&name(number), "a", 1, 10, 0), 0);
        }
        let last = name(LOOKS_MAX * 2 + 6);
        board.saw(&row(&last, "b", 1, 100, 0), 0);
        board.saw(&row(&last, "a", 2, 10, 5), 500);
        let looks: Vec<usize> = (0..6).map(|_| board.wishes(&peers, 600, 0).len()).collect();
        assert_eq!(looks, [0, 0, 1, 0, 1, 0]);
    }
}
