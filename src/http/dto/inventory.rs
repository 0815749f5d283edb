//! Stock in requests and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::app::{Adjusted, InventoryView};
use crate::types::{HlcTimestamp, NodeId, RegionId, Sku, StockKey};

use super::super::problem::Problem;
use super::Faults;

/// The most units that one call moves: above any delivery.
const UNITS_MAX: i64 = 1_000_000_000;

/// Why stock changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Reason {
    /// Goods came in.
    Receipt,
    /// Lost or broken.
    Shrinkage,
    /// Somebody counted.
    Stocktake,
    /// A customer sent it back.
    Return,
}

impl Reason {
    /// For the books.
    pub(in crate::http) fn as_str(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            Self::Shrinkage => "shrinkage",
            Self::Stocktake => "stocktake",
            Self::Return => "return",
        }
    }
}

/// A change of what is on the shelf.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct AdjustmentBody {
    /// Where.
    node: String,
    /// So many more, or less.
    #[schema(example = 100)]
    delta: i64,
    /// Why.
    pub(in crate::http) reason: Reason,
}

/// A stocktake.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct StocktakeBody {
    /// Where.
    node: String,
    /// Counted.
    #[schema(example = 97)]
    on_hand: i64,
    /// Why; `stocktake` if absent.
    #[serde(default = "stocktake")]
    pub(in crate::http) reason: Reason,
}

fn stocktake() -> Reason {
    Reason::Stocktake
}

/// An operator moves budget to another region.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct TransferBody {
    /// Who gets it.
    #[schema(value_type = String)]
    pub(in crate::http) to_region: RegionId,
    /// How many units.
    #[schema(example = 10)]
    quantity: i64,
    /// Of which node's stock.
    node: String,
}

/// An operator keeps budget in a region.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PinBody {
    /// Which region.
    #[schema(value_type = String)]
    pub(in crate::http) region: RegionId,
    /// How many units are never given to another region; 0 ends it.
    #[schema(example = 50)]
    quantity: i64,
}

/// Budget that stays in a region.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RightsPin)]
pub(in crate::http) struct PinOut {
    /// What.
    #[schema(value_type = String)]
    pub(in crate::http) sku: Sku,
    /// Which region.
    #[schema(value_type = String)]
    pub(in crate::http) region: RegionId,
    /// How many units are never given to another region.
    pub(in crate::http) quantity: u64,
}

impl PinBody {
    /// How many.
    pub(in crate::http) fn check(&self) -> Result<u64, Problem> {
        let mut faults = Faults::default();
        let quantity = faults.within::<u64>("quantity", self.quantity, 0..=UNITS_MAX);
        faults.finish(quantity)
    }
}

impl AdjustmentBody {
    /// Where, and by how much.
    pub(in crate::http) fn check(&self, sku: Sku) -> Result<(StockKey, i64), Problem> {
        let mut faults = Faults::default();
        let node = faults.parse::<NodeId>("node", &self.node);
        let delta = faults.within::<i64>("delta", self.delta, -UNITS_MAX..=UNITS_MAX);
        if delta == Some(0) {
            faults.add("delta", "must not be zero");
        }
        if delta.is_some_and(|delta| delta < 0)
            && matches!(self.reason, Reason::Receipt | Reason::Return)
        {
            faults.add("delta", "a receipt or return adds units");
        }
        if delta.is_some_and(|delta| delta > 0) && self.reason == Reason::Shrinkage {
            faults.add("delta", "shrinkage takes units away");
        }
        faults.finish(node.zip(delta).map(|(node, delta)| (StockKey { sku, node }, delta)))
    }

    /// Identifies the request for its idempotency key.
    pub(in crate::http) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values")
    }
}

impl StocktakeBody {
    /// Where, and how many were counted.
    pub(in crate::http) fn check(&self, sku: Sku) -> Result<(StockKey, u64), Problem> {
        let mut faults = Faults::default();
        let node = faults.parse::<NodeId>("node", &self.node);
        let counted = faults.within::<u64>("on_hand", self.on_hand, 0..=UNITS_MAX);
        faults.finish(node.zip(counted).map(|(node, counted)| (StockKey { sku, node }, counted)))
    }

    /// Identifies the request for its idempotency key.
    pub(in crate::http) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values")
    }
}

impl TransferBody {
    /// What, and how much.
    pub(in crate::http) fn check(&self, sku: Sku) -> Result<(StockKey, u64), Problem> {
        let mut faults = Faults::default();
        let node = faults.parse::<NodeId>("node", &self.node);
        let quantity = faults.within::<u64>("quantity", self.quantity, 1..=UNITS_MAX);
        faults.finish(node.zip(quantity).map(|(node, quantity)| (StockKey { sku, node }, quantity)))
    }
}

/// An adjustment that was made.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Adjustment)]
pub(in crate::http) struct AdjustedOut {
    /// What.
    #[schema(value_type = String)]
    sku: Sku,
    /// Where.
    #[schema(value_type = String)]
    node: NodeId,
    /// By how much.
    delta: i64,
    /// Why.
    reason: String,
}

impl From<Adjusted> for AdjustedOut {
    fn from(Adjusted { sku, node, delta, reason }: Adjusted) -> Self {
        Self { sku, node, delta, reason }
    }
}

/// Budget that was moved.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RightsTransfer)]
pub(in crate::http) struct TransferOut {
    /// Names it.
    #[schema(value_type = uuid::Uuid)]
    pub(in crate::http) transfer_id: crate::types::TransferId,
    /// What.
    #[schema(value_type = String)]
    pub(in crate::http) sku: Sku,
    /// Of which node's stock.
    #[schema(value_type = String)]
    pub(in crate::http) node: NodeId,
    /// Who gave.
    #[schema(value_type = String)]
    pub(in crate::http) from_region: RegionId,
    /// Who got it.
    #[schema(value_type = String)]
    pub(in crate::http) to_region: RegionId,
    /// How many units.
    pub(in crate::http) quantity: u64,
}

/// A SKU as this region knows it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Inventory)]
pub(in crate::http) struct InventoryOut<'a> {
    /// What.
    #[schema(value_type = String)]
    sku: &'a Sku,
    /// Units on all shelves.
    on_hand: u64,
    /// Of which promised to orders.
    reserved: u64,
    /// Of which nobody was promised any.
    available: u64,
    /// By node.
    nodes: Vec<NodeStockOut<'a>>,
    /// By region.
    regions: Vec<RegionStockOut>,
    /// What this region may sell without asking anybody.
    available_here: u64,
    /// What an operator keeps in this region: it is never given to another one.
    pinned_here: u64,
    /// Up to which stamp of each region this is known.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    as_of: BTreeMap<RegionId, HlcTimestamp>,
}

/// A SKU at a node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = NodeStock)]
struct NodeStockOut<'a> {
    /// Where.
    #[schema(value_type = String)]
    node: &'a NodeId,
    /// Units on the shelf.
    on_hand: u64,
    /// Of which promised to orders.
    reserved: u64,
    /// Of which nobody was promised any.
    available: u64,
}

/// A SKU in one region's hands.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RegionStock)]
struct RegionStockOut {
    /// Whose.
    #[schema(value_type = String)]
    region: RegionId,
    /// What it may still sell. Of one that is `fenced` this is stranded: nobody sells it before the region is back.
    rights: u64,
    /// What it has promised to orders.
    spent: u64,
    /// The most it may have promised.
    ceiling: u64,
    /// How this region sees it, in the words of `GET /admin/regions`.
    status: String,
}

impl<'a> InventoryOut<'a> {
    /// The view as an answer. `status` and `as_of` are what is known of the regions.
    pub(in crate::http) fn of(
        sku: &'a Sku,
        view: &'a InventoryView,
        status: impl Fn(RegionId) -> String,
        as_of: BTreeMap<RegionId, HlcTimestamp>,
        pinned_here: u64,
    ) -> Self {
        let sum = |part: fn(&crate::app::NodeView) -> u64| view.nodes.values().map(part).sum();
        Self {
            sku,
            on_hand: sum(|node| node.on_hand),
            reserved: sum(|node| node.reserved),
            available: sum(|node| node.available),
            nodes: view
                .nodes
                .iter()
                .map(|(node, stock)| NodeStockOut {
                    node,
                    on_hand: stock.on_hand,
                    reserved: stock.reserved,
                    available: stock.available,
                })
                .collect(),
            regions: view
                .regions
                .iter()
                .map(|(region, stock)| RegionStockOut {
                    region: *region,
                    rights: stock.rights,
                    spent: stock.spent,
                    ceiling: stock.ceiling,
                    status: status(*region),
                })
                .collect(),
            available_here: view.available_here,
            pinned_here,
            as_of,
        }
    }
}
