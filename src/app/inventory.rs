//! Stock on the shelf: adjustments that can't take away what is promised, and the view of a SKU.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::idempotency::{IntentKey, IntentRecord, StoredAnswer};
use crate::domain::inventory::StockDelta;
use crate::escrow::{KeyedRow, Ledger, Row};
use crate::mutants::{Mutant, is_on};
use crate::ports::Needs;
use crate::types::{Actor, NodeId, RegionId, Sku, StockKey};

use super::{Command, Workspace};

/// What is to change at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// So many more, or less.
    By(i64),
    /// A stocktake found so many.
    To(u64),
}

/// Changes what is on the shelf at a node of this region.
pub struct AdjustStock {
    /// What and where.
    pub key: StockKey,
    /// What is to change.
    pub adjustment: Adjustment,
    /// `receipt`, `shrinkage`, `stocktake` or `return`; for the books.
    pub reason: String,
    /// Who asks, under which key, and the hash of the body.
    pub intent: Option<(IntentKey, String)>,
}

/// An adjustment that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjusted {
    /// What.
    pub sku: Sku,
    /// Where.
    pub node: NodeId,
    /// By how much.
    pub delta: i64,
    /// Why.
    pub reason: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdjustOutcome {
    /// Made.
    Done(Adjusted),
    /// The same request was carried out before.
    Replayed(Adjusted),
    /// The key was used for another request.
    KeyReused,
    /// The catalogue has no such SKU.
    UnknownSku,
    /// There is no such node.
    UnknownNode,
    /// The node belongs to another region, which must be asked.
    OtherRegion(RegionId),
    /// Stock that is promised can't be taken away.
    Promised {
        /// To be taken.
        wanted: u64,
        /// What could be, under the rights held here.
        removable: u64,
    },
    /// More than the books can hold.
    TooLarge,
}

/// The most units at one node: far above any warehouse, far below what overflows a sum of many.
pub(super) const ON_HAND_MAX: u64 = 1_000_000_000_000;

impl Command for AdjustStock {
    type Answer = AdjustOutcome;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.skus.insert(self.key.sku.clone());
        needs.nodes.insert(self.key.node.clone());
        needs.shelves.insert(self.key.clone());
        needs.intents.extend(self.intent.iter().map(|(intent, _)| intent.clone()));
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> AdjustOutcome {
        if let Some(known) = self.known(workspace) {
            return known;
        }
        let Some(node) = workspace.view.nodes.get(&self.key.node) else {
            return AdjustOutcome::UnknownNode;
        };
        if node.region != workspace.region.id {
            return AdjustOutcome::OtherRegion(node.region);
        }
        if !workspace.view.products.contains_key(&self.key.sku) {
            return AdjustOutcome::UnknownSku;
        }
        let shelf = workspace.view.shelves.get(&self.key).copied().unwrap_or_default();
        let delta = match self.adjustment {
            Adjustment::By(delta) => Some(delta),
            Adjustment::To(counted) => i64::try_from(counted)
                .ok()
                .zip(i64::try_from(shelf.on_hand).ok())
                .map(|(c, o)| c - o),
        };
        let Some(delta) = delta.filter(|delta| delta.unsigned_abs() <= ON_HAND_MAX) else {
            return AdjustOutcome::TooLarge;
        };
        let units = delta.unsigned_abs();
        if delta < 0 {
            let removable = shelf.spendable;
            if removable < units && !is_on(Mutant::PromisedIsTaken) {
                return AdjustOutcome::Promised { wanted: units, removable };
            }
            workspace.view.stock.take(&self.key, units);
        }
        let after = workspace.view.shelves.entry(self.key.clone()).or_default();
        after.on_hand = after.on_hand.saturating_add_signed(delta);
        after.spendable = after.spendable.saturating_add_signed(delta);
        let (received, withdrawn) = if delta < 0 { (0, units) } else { (units, 0) };
        let counted_from = match self.adjustment {
            Adjustment::To(_) => Some(workspace.on_hand_before(&self.key, shelf.on_hand)),
            Adjustment::By(_) => None,
        };
        let change = StockDelta { received, withdrawn, counted_from, ..StockDelta::default() };
        if delta != 0 {
            workspace.change_stock(self.key.clone(), change);
        }
        let StockKey { sku, node } = self.key.clone();
        let adjusted = Adjusted { sku, node, delta, reason: self.reason.clone() };
        self.keep(workspace, &adjusted);
        AdjustOutcome::Done(adjusted)
    }
}

impl AdjustStock {
    fn known(&self, workspace: &Workspace<'_>) -> Option<AdjustOutcome> {
        let (intent, body_hash) = self.intent.as_ref()?;
        let record = workspace.view.intents.get(intent)?.first()?;
        Some(match &record.answer {
            Some(StoredAnswer::Done(value)) if record.body_hash == *body_hash => {
                match serde_json::from_value(value.clone()) {
                    Ok(adjusted) => AdjustOutcome::Replayed(adjusted),
                    Err(_) => AdjustOutcome::KeyReused,
                }
            }
            _ => AdjustOutcome::KeyReused,
        })
    }

    fn keep(&self, workspace: &mut Workspace<'_>, adjusted: &Adjusted) {
        let Some((intent, body_hash)) = &self.intent else { return };
        let answer = serde_json::to_value(adjusted).expect("our own type always serializes");
        let record = IntentRecord {
            intent: intent.clone(),
            region: workspace.region.id,
            body_hash: body_hash.clone(),
            order_id: None,
            answer: Some(StoredAnswer::Done(answer)),
            first_at_ms: workspace.now_ms,
        };
        workspace.write_intent(record);
    }
}

/// A SKU as this region knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InventoryView {
    /// By node.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// By region, over all nodes.
    pub regions: BTreeMap<RegionId, RegionView>,
    /// What this region holds; it may sell it once a majority agrees, where that lies above its ceiling.
    pub available_here: u64,
}

/// A SKU at one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Units on the shelf.
    pub on_hand: u64,
    /// Of which promised to orders.
    pub reserved: u64,
    /// Of which nobody was promised any.
    pub available: u64,
}

/// A SKU in one region's ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionView {
    /// Spendable there now.
    pub rights: u64,
    /// Promised by that region, what was given back taken off.
    pub spent: u64,
    /// The most it may have sold.
    pub ceiling: u64,
}

/// Sums up the rows of one SKU. Every one of `regions` is shown, also where it holds nothing.
pub fn inventory_view(
    own: Actor,
    regions: impl IntoIterator<Item = RegionId>,
    rows: Vec<KeyedRow>,
) -> InventoryView {
    let mut by_node: BTreeMap<NodeId, BTreeMap<Actor, Row>> = BTreeMap::new();
    for KeyedRow { key, owner, row } in rows {
        by_node.entry(key.node).or_default().insert(owner, row);
    }
    let regions = regions.into_iter().map(|region| (region, RegionView::default())).collect();
    let mut view = InventoryView { regions, ..InventoryView::default() };
    for (node, rows) in by_node {
        let received: u64 = rows.values().map(|row| row.received).sum();
        let withdrawn: u64 = rows.values().map(|row| row.withdrawn).sum();
        let reserved: u64 = rows.values().map(Row::net_spent).sum();
        let ledger = Ledger::from_rows(own, rows);
        // Who was granted units and has done nothing with them yet has no row of its own to show.
        for actor in ledger.actors() {
            let row = ledger.rows().get(&actor);
            let region = view.regions.entry(actor.region).or_default();
            region.rights += ledger.rights(actor);
            region.spent += row.map_or(0, Row::net_spent);
            region.ceiling += row.map_or(0, |row| row.chosen.value.ceiling);
        }
        view.available_here += ledger.rights(own);
        let on_hand = received.saturating_sub(withdrawn);
        let available = on_hand.saturating_sub(reserved);
        view.nodes.insert(node, NodeView { on_hand, reserved, available });
    }
    view
}
