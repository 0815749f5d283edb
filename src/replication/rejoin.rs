//! What a region asks the others when its database was set back and it begins a new incarnation. JSON; every request
//! may arrive twice. All but [`Ask::Begin`] and [`Ask::Retire`] only read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Position;
use super::retirement::Retirement;
use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::IntentRecord;
use crate::domain::order::Event;
use crate::escrow::{KeyedRow, KeyedSlot, Promised, Voter, Voters};
use crate::types::{Actor, Epoch, NodeId, OrderId, RegionId, Sku, StockKey};

/// Orders named in one answer: 150 bytes each.
pub const MARKS_MAX: usize = 4_000;
/// Orders told in one answer: a few KiB each, 100 KiB for the largest; what does not fit comes with the next question.
pub const HISTORIES_MAX: usize = 200;
/// Bytes of histories after which an answer takes no further one.
pub const HISTORIES_BYTES: usize = 2 * 1024 * 1024;
/// Rows or votes in one answer: some 300 bytes each.
pub const ITEMS_MAX: usize = 1_000;
/// Products or nodes in one answer: 40 KiB each at the most.
pub const DOCUMENTS_MAX: usize = 100;

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// My incarnation `epoch` begins: apply nothing older of mine from now on, and let no older one vote.
    Begin(Epoch),
    /// What you know of me. Unlike the others asked at every start, not only to begin anew.
    Known,
    /// What you have promised and stored of everybody's registers, after a key.
    Votes(Option<(Actor, StockKey)>),
    /// The rows of a region's incarnations, after a key.
    Rows(RegionId, Option<(StockKey, Epoch)>),
    /// The orders whose home a region is, or that it placed, after an id, at most [`MARKS_MAX`].
    Orders(RegionId, Option<OrderId>),
    /// How far you know these orders, at most [`MARKS_MAX`]; those that you don't know are left out.
    Marks(Vec<OrderId>),
    /// All that you know of these orders, at most [`HISTORIES_MAX`].
    Histories(Vec<OrderId>),
    /// A region is gone for good, on the word of two people: apply nothing more of it, and let no incarnation of it vote
    /// that is known by now.
    Retire(Box<Retirement>),
    /// The products, after one.
    Products(Option<Sku>),
    /// The nodes, after one.
    Nodes(Option<NodeId>),
}

/// An answer. A list that is not full is the last one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Begin`] and [`Ask::Retire`].
    Noted {
        /// The latest incarnation that is noted.
        latest: Epoch,
        /// It is the one asked for, and was not known before.
        now: bool,
    },
    /// To [`Ask::Known`].
    Known {
        /// How far its outbox was applied.
        applied: Position,
        /// How often it is known to have voted.
        voter: Voter,
        /// Regions that are gone for good, each with the incarnation that ends it.
        #[serde(default)]
        ended: BTreeMap<RegionId, Epoch>,
    },
    /// To [`Ask::Votes`], in order of keys.
    Votes(Votes),
    /// To [`Ask::Rows`], in order of keys.
    Rows(Vec<KeyedRow>),
    /// To [`Ask::Orders`] and [`Ask::Marks`], in order of ids.
    Orders(Vec<OrderMark>),
    /// To [`Ask::Histories`]: from the first of those asked for on, as many as fit.
    Histories(Vec<History>),
    /// To [`Ask::Products`].
    Products(Vec<Product>),
    /// To [`Ask::Nodes`].
    Nodes(Vec<Node>),
    /// To any: a sentence that tells why not. Asked again, it says the same until a person does something.
    Refused(String),
}

/// How far an order is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderMark {
    /// Which.
    pub id: OrderId,
    /// Events.
    pub version: u64,
    /// Of the last event; stands for all of them.
    pub chain_hash: String,
}

/// All that is known of an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct History {
    /// Which.
    pub id: OrderId,
    /// What placed it.
    pub intent: Option<IntentRecord>,
    /// Its events, commit by commit, oldest first.
    pub commits: Vec<Vec<Event>>,
}

/// What an acceptor has voted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Votes {
    /// What it promised of each owner: all of them, with the first page.
    pub promises: Vec<(Actor, Promised)>,
    /// The incarnations that it noted: with the first page.
    #[serde(default)]
    pub incarnations: BTreeMap<RegionId, Epoch>,
    /// How far it has voted itself, and knows others to have: with the first page.
    #[serde(default)]
    pub voters: Voters,
    /// What was done about regions that are gone for good, as far as nothing is left to do: with the first page.
    #[serde(default)]
    pub retirements: Vec<Retirement>,
    /// What it stored of each key.
    pub slots: Vec<(Actor, KeyedSlot)>,
}

impl Votes {
    /// How far the acceptors but one are known to have voted.
    pub fn others(&self, but: RegionId) -> Voters {
        let others = self.voters.iter().filter(|(region, _)| **region != but);
        others.map(|(region, voter)| (*region, *voter)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_of_an_older_version_voted_is_read() {
        let text = r#"{"votes":{"promises":[],"slots":[]}}"#;
        let Answer::Votes(votes) = serde_json::from_str(text).unwrap() else { unreachable!() };
        assert!(votes.retirements.is_empty() && votes.incarnations.is_empty());
    }
}
