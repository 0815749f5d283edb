//! Units that nobody may sell, in answers.

use serde::Serialize;

use crate::app::stranded::{Reason, Stranded};
use crate::types::{Actor, Epoch, NodeId, RegionId, Sku};

/// Units of one SKU at one node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Stranded)]
pub(in crate::http) struct StrandedOut {
    /// Of what.
    #[schema(value_type = String)]
    sku: Sku,
    /// Where they lie.
    #[schema(value_type = String)]
    node: NodeId,
    /// Whose rights they are.
    #[schema(value_type = String)]
    region: RegionId,
    /// In which incarnation.
    #[schema(value_type = u32)]
    epoch: Epoch,
    /// How many it may have sold or not: `ceiling` less `known_outflow`.
    units: u64,
    /// What a majority let it sell and give away.
    ceiling: u64,
    /// What is known to have been sold, given away or taken off the shelf.
    known_outflow: u64,
    /// `fenced`: the region sells them when it is back. `set_back`: its database forgot what it had sold. `retired`: it is gone for good, and orders, or
    /// others that are gone, may hold them. Of the last two a stocktake puts right what was not sold.
    reason: &'static str,
}

impl From<Stranded> for StrandedOut {
    fn from(found: Stranded) -> Self {
        let Stranded { owner: Actor { region, epoch }, key, units, ceiling, known_outflow, reason } =
            found;
        let reason = match reason {
            Reason::Fenced => "fenced",
            Reason::SetBack => "set_back",
            Reason::Retired => "retired",
        };
        let (sku, node) = (key.sku, key.node);
        Self { sku, node, region, epoch, units, ceiling, known_outflow, reason }
    }
}
