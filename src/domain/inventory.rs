//! Where the units of an order come from, under the rights this region holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{NodeId, Sku, StockKey};

/// What this region may still sell of a SKU at one node without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStock {
    /// Where.
    pub node: NodeId,
    /// Units.
    pub spendable: u64,
}

/// The spendable stock that a group of decisions sees. Nodes stand in the order in which they are
/// preferred: this region's own first. Decisions of one group see what earlier ones took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StockView {
    by_sku: BTreeMap<Sku, Vec<NodeStock>>,
}

/// A demand that the rights held here can't meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// What.
    pub sku: Sku,
    /// The order's whole demand.
    pub wanted: u64,
    /// What could be sold here now: at the one node that serves most, if it must be one.
    pub available_here: u64,
    /// What this region holds over all nodes.
    pub held_here: u64,
}

/// Units of one node for one SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Where.
    pub node: NodeId,
    /// Units.
    pub quantity: u64,
}

impl StockView {
    /// Adds a node; call in the order of preference.
    pub fn add(&mut self, sku: Sku, stock: NodeStock) {
        self.by_sku.entry(sku).or_default().push(stock);
    }

    /// Units of a SKU over all nodes.
    pub fn available(&self, sku: &Sku) -> u64 {
        self.nodes(sku).iter().map(|stock| stock.spendable).sum()
    }

    /// The nodes of a SKU, preferred first.
    pub fn nodes(&self, sku: &Sku) -> &[NodeStock] {
        self.by_sku.get(sku).map_or(&[], Vec::as_slice)
    }

    /// Chooses nodes for the whole demand and takes the units out of this view, or takes nothing
    /// (I-02). One node for everything if there is one; else one node a SKU; else, where a split is
    /// allowed, several.
    pub fn allocate(
        &mut self,
        demand: &BTreeMap<Sku, u64>,
        allow_split: bool,
    ) -> Result<BTreeMap<Sku, Vec<Share>>, Vec<Shortage>> {
        let short: Vec<Shortage> = demand
            .iter()
            .map(|(sku, &wanted)| {
                let held_here = self.available(sku);
                Shortage { sku: sku.clone(), wanted, available_here: held_here, held_here }
            })
            .filter(|shortage| shortage.available_here < shortage.wanted)
            .collect();
        if !short.is_empty() {
            return Err(short);
        }
        let shares = match self.single_node(demand) {
            Some(node) => demand
                .iter()
                .map(|(sku, &quantity)| (sku.clone(), vec![Share { node: node.clone(), quantity }]))
                .collect(),
            None if allow_split => demand
                .iter()
                .map(|(sku, &quantity)| (sku.clone(), self.shares(sku, quantity)))
                .collect::<BTreeMap<_, _>>(),
            None => return Err(self.best_single_node_shortages(demand)),
        };
        for (sku, shares) in &shares {
            for share in shares {
                let key = StockKey { sku: sku.clone(), node: share.node.clone() };
                self.take(&key, share.quantity);
            }
        }
        Ok(shares)
    }

    /// Takes units of one key out of the view.
    pub fn take(&mut self, key: &StockKey, units: u64) {
        let nodes = self.by_sku.get_mut(&key.sku).into_iter().flatten();
        for stock in nodes.filter(|stock| stock.node == key.node) {
            stock.spendable = stock.spendable.saturating_sub(units);
        }
    }

    fn units(&self, sku: &Sku, node: &NodeId) -> u64 {
        let stock = self.nodes(sku).iter().find(|stock| stock.node == *node);
        stock.map_or(0, |stock| stock.spendable)
    }

    fn single_node(&self, demand: &BTreeMap<Sku, u64>) -> Option<NodeId> {
        let (first, _) = demand.first_key_value()?;
        let serves_all =
            |node: &NodeId| demand.iter().all(|(sku, &wanted)| self.units(sku, node) >= wanted);
        self.nodes(first).iter().map(|stock| &stock.node).find(|node| serves_all(node)).cloned()
    }

    fn shares(&self, sku: &Sku, wanted: u64) -> Vec<Share> {
        let nodes = self.nodes(sku);
        if let Some(stock) = nodes.iter().find(|stock| stock.spendable >= wanted) {
            return vec![Share { node: stock.node.clone(), quantity: wanted }];
        }
        let mut left = wanted;
        let mut shares = Vec::new();
        for stock in nodes {
            let quantity = left.min(stock.spendable);
            if quantity > 0 {
                shares.push(Share { node: stock.node.clone(), quantity });
                left -= quantity;
            }
        }
        debug_assert_eq!(left, 0, "the caller checked the sum");
        shares
    }

    /// What is missing at the node that could serve most, when a split is not allowed.
    fn best_single_node_shortages(&self, demand: &BTreeMap<Sku, u64>) -> Vec<Shortage> {
        let nodes = demand.keys().flat_map(|sku| self.nodes(sku)).map(|stock| &stock.node);
        let served = |node: &NodeId| -> u64 {
            demand.iter().map(|(sku, &wanted)| self.units(sku, node).min(wanted)).sum()
        };
        let Some(best) = nodes.max_by_key(|node| served(node)) else { return Vec::new() };
        demand
            .iter()
            .map(|(sku, &wanted)| Shortage {
                sku: sku.clone(),
                wanted,
                available_here: self.units(sku, best),
                held_here: self.available(sku),
            })
            .filter(|shortage| shortage.available_here < shortage.wanted)
            .collect()
    }
}

/// A change of the own row of one key, added up over a group of decisions. Every part only grows a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StockDelta {
    /// Received at a node of this region.
    pub received: u64,
    /// Reserved for orders.
    pub spent: u64,
    /// Given back by orders.
    pub released: u64,
    /// Shrinkage.
    pub withdrawn: u64,
    /// The units on the shelf before this group of decisions, if a change was computed from them: it is
    /// not written when there are others by then.
    pub counted_from: Option<u64>,
}

impl StockDelta {
    /// Adds another change.
    pub fn add(&mut self, other: Self) {
        self.received += other.received;
        self.spent += other.spent;
        self.released += other.released;
        self.withdrawn += other.withdrawn;
        self.counted_from = self.counted_from.or(other.counted_from);
    }
}

/// Changes by key, in key order: the one order in which rows are locked.
pub type StockDeltas = BTreeMap<StockKey, StockDelta>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(rows: &[(&str, &str, u64)]) -> StockView {
        let mut view = StockView::default();
        for (sku, node, spendable) in rows {
            let stock = NodeStock { node: node.parse().unwrap(), spendable: *spendable };
            view.add(sku.parse().unwrap(), stock);
        }
        view
    }

    fn demand(rows: &[(&str, u64)]) -> BTreeMap<Sku, u64> {
        rows.iter().map(|(sku, quantity)| (sku.parse().unwrap(), *quantity)).collect()
    }

    #[test]
    fn one_node_is_preferred_even_when_it_is_not_the_first() {
        let mut view = view(&[("a", "n1", 5), ("a", "n2", 9), ("b", "n2", 9)]);
        let shares = view.allocate(&demand(&[("a", 4), ("b", 1)]), true).unwrap();
        assert!(shares.values().flatten().all(|share| share.node.as_str() == "n2"));
    }

    #[test]
    fn without_a_split_one_node_must_serve_all() {
        let mut view = view(&[("a", "n1", 5), ("b", "n2", 9)]);
        let short = view.allocate(&demand(&[("a", 4), ("b", 1)]), false).unwrap_err();
        assert_eq!(short.len(), 1);
        assert_eq!((short[0].available_here, short[0].held_here), (0, 9));
    }

    proptest! {
        /// I-01 and I-02 in one decision: all of the demand or none of it, and never more than there is.
        #[test]
        fn all_or_nothing(
            stock in prop::collection::vec((0u8..3, 0u8..4, 0u64..20), 0..12),
            wanted in prop::collection::btree_map(0u8..3, 1u64..30, 1..3),
            allow_split: bool,
        ) {
            let mut seen = std::collections::BTreeSet::new();
            let mut view = StockView::default();
            for (sku, node, spendable) in stock {
                if seen.insert((sku, node)) {
                    view.add(format!("s{sku}").parse().unwrap(), NodeStock { node: format!("n{node}").parse().unwrap(), spendable });
                }
            }
            let demand: BTreeMap<Sku, u64> = wanted.iter().map(|(sku, q)| (format!("s{sku}").parse().unwrap(), *q)).collect();
            let before = view.clone();
            match view.allocate(&demand, allow_split) {
                Ok(shares) => for (sku, wanted) in &demand {
                    prop_assert_eq!(shares[sku].iter().map(|share| share.quantity).sum::<u64>(), *wanted);
                    prop_assert_eq!(before.available(sku) - view.available(sku), *wanted);
                },
                Err(short) => {
                    prop_assert_eq!(&before, &view);
                    if allow_split {
                        prop_assert!(short.iter().all(|short| before.available(&short.sku) < short.wanted));
                        prop_assert!(!short.is_empty());
                    }
                }
            }
        }
    }
}
