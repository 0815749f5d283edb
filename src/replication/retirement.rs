//! That a region is gone for good, as the others tell each other and keep it.

use serde::{Deserialize, Serialize};

use crate::escrow::Ballot;
use crate::types::{Epoch, Money, OrderId, RegionId};

/// How many payments a report names. Beyond it they are counted.
pub const NAMED_MAX: usize = 1_000;

/// That a region is gone for good: on whose word, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// Which.
    pub region: RegionId,
    /// All incarnations before this one are over.
    pub ends: Epoch,
    /// Under which the region was fenced when it was asked for: once the region has returned, both words are over.
    pub fence: Ballot,
    /// The first person.
    pub asked_by: String,
    /// When, in milliseconds since 1970.
    pub asked_at_ms: u64,
    /// The second person; another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at_ms: Option<u64>,
    /// The executor has noted that the incarnations before are over: the number is its own.
    #[serde(default)]
    pub noted: bool,
    /// Units below the region's ceilings that may be sold again, by all attempts: kept with the rows that free them.
    #[serde(default)]
    pub units_freed: u64,
    /// Who took it back before it was confirmed; or the region itself, when it turned out to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<String>,
    /// What came of it, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RetirementOutcome>,
}

impl Retirement {
    /// Both are states of one attempt.
    pub fn is_attempt_of(&self, other: &Self) -> bool {
        let name = |it: &Self| (it.region, it.ends, it.asked_at_ms);
        name(self) == name(other)
    }

    /// As `kept` by now, or as it was read where nothing is; with these units as well.
    #[must_use]
    pub fn freeing(&self, kept: Option<Self>, units: u64) -> Self {
        let mut freed = kept.unwrap_or_else(|| self.clone());
        freed.units_freed += units;
        freed
    }

    /// Every incarnation of the region that was known is over here: nothing more of it is heard.
    pub fn has_ended(&self) -> bool {
        self.noted && self.withdrawn_by.is_none()
    }

    /// What the region had left is given away, and all that is known of it is known to whoever did that.
    pub fn is_done(&self) -> bool {
        self.has_ended() && self.outcome.is_some()
    }

    /// It was neither taken back nor done.
    pub fn is_open(&self) -> bool {
        self.withdrawn_by.is_none() && self.outcome.is_none()
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetirementOutcome {
    /// When, in milliseconds since 1970.
    pub done_at_ms: u64,
    /// Units that orders hold and nobody has: the region had cancelled them, and nobody saw it.
    pub units_uncovered: u64,
    /// Payments for orders that nobody knows.
    pub lost: LostOrders,
}

/// What the payment provider knows of orders that the region had acknowledged and no other region has heard of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostOrders {
    /// How many payments are held for such orders.
    pub count: u64,
    /// The first [`NAMED_MAX`] of them.
    pub named: Vec<LostOrder>,
    /// Why the provider's ledger, or the orders that may stand on the same holds, could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_read: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostOrder {
    /// Which.
    pub order: OrderId,
    /// The provider's key.
    pub provider_key: String,
    /// What is held, where the provider says so; `None` also while it has not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Money>,
    /// The client has placed the same intent again elsewhere, and this order stands on the same hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_again_as: Option<OrderId>,
}
