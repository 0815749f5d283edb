//! Rights of other regions, asked for when a refusal could be avoided.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::inventory::Shortage;
use crate::types::{Sku, StockKey};

/// What asking the peers brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obtained {
    /// Rights came in, here or at the same time for somebody else of this region: decide again.
    pub gained: bool,
    /// By SKU: what other regions still hold as far as is known, for the refusal's text.
    pub elsewhere: BTreeMap<Sku, u64>,
}

/// Asks peers for rights.
#[async_trait]
pub trait RightsSource: Send + Sync {
    /// Asks for what is missing and waits for it at most `patience`. Answers `gained: false` only when every
    /// reachable peer has answered that nothing is left, or none could be asked any more in the time. Rights that
    /// arrive are in this region's rows before it answers.
    async fn obtain(&self, shortages: &[Shortage], patience: Duration) -> Obtained;

    /// Units of a key came in: lets them be sold, as far as this region sells ahead.
    async fn open(&self, _key: &StockKey) {}

    /// Calls rights of one key back, until this region holds `wanted` units of it: stock that left the
    /// shelf has to be taken off the books at that very node. Answers whether anything came in; where
    /// there is nobody to ask, nothing does.
    async fn recall(&self, _key: &StockKey, _wanted: u64, _held: u64, _patience: Duration) -> bool {
        false
    }
}
