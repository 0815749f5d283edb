//! What is sold and from where. Replicated everywhere; the last writer wins by HLC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Currency, HlcTimestamp, NodeId, RegionId, Sku};

/// A product of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// The sellable unit.
    pub sku: Sku,
    /// What people call it.
    pub name: String,
    /// A longer text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A category of the shop's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// Names the tax rule; `standard` unless said otherwise.
    pub tax_class: String,
    /// For shipping.
    pub weight_grams: u32,
    /// Minor units a currency.
    pub prices: BTreeMap<Currency, i64>,
    /// RFC 3339; before it the product is only pre-ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preorder_release_at: Option<String>,
    /// Of the last write.
    pub hlc: HlcTimestamp,
}

/// The kinds of fulfillment nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A warehouse of our own.
    Warehouse,
    /// A shop that ships.
    Store,
    /// Somebody else's warehouse.
    ThirdParty,
    /// A supplier that ships for us.
    Dropship,
}

/// A place that holds stock and fulfills. Its owner region writes what is received there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in stock keys and allocations.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// What kind of place.
    pub kind: NodeKind,
    /// The owner.
    pub region: RegionId,
    /// ISO 3166 alpha-2.
    pub country: String,
    /// Millionths of a degree, north positive.
    pub latitude_e6: i32,
    /// Millionths of a degree, east positive.
    pub longitude_e6: i32,
    /// Shipments it can send a day.
    pub capacity_per_day: u32,
    /// Shipments that wait there.
    pub backlog: u32,
    /// Who collects there.
    pub carriers: Vec<String>,
    /// Shipping cost in minor units by `<carrier>/<country>`, as the shop keeps it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<String, i64>,
    /// Takes part in allocation.
    pub active: bool,
    /// Of the last write.
    pub hlc: HlcTimestamp,
}
