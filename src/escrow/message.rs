//! What regions say to each other about rights. JSON; readers take what they know, so fields only get
//! added. Every message may arrive twice, late, or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Ballot, BucketDigest, Preempted, Purpose, Row, SkuRows, Slot};
use crate::types::{Actor, Epoch, NodeId, RegionId, Sku, StockKey, TransferId};

/// Rows in one message. A row takes some 250 bytes, so that a message stays far below the 1 MiB that
/// NATS takes by default; more rows go into more messages.
pub const ROWS_PER_MESSAGE_MAX: usize = 1_000;

/// A row with its key and owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedRow {
    /// SKU and node.
    pub key: StockKey,
    /// Who wrote it.
    pub owner: Actor,
    /// Its cells.
    pub row: Row,
}

/// What is taken of rows when these are the latest incarnations of the regions that ever began anew or are gone for good: of an
/// earlier one only its last row, and what was chosen. What else is heard of it comes too late to be put together.
pub fn of_living<'a>(
    rows: &'a [KeyedRow],
    latest: &BTreeMap<RegionId, Epoch>,
) -> Cow<'a, [KeyedRow]> {
    let is_over = |KeyedRow { owner, row, .. }: &KeyedRow| {
        let latest = latest.get(&owner.region);
        latest.is_some_and(|latest| owner.epoch < *latest) && !row.is_buried()
    };
    if !rows.iter().any(is_over) {
        return Cow::Borrowed(rows);
    }
    let taken = |keyed: &KeyedRow| {
        let mut taken = keyed.clone();
        if is_over(keyed) {
            taken.row = keyed.row.chosen_only(keyed.owner);
        }
        taken
    };
    Cow::Owned(rows.iter().map(taken).collect())
}

/// Own rows that changed, newest values only; or rows that a peer pulled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rows {
    /// At most [`ROWS_PER_MESSAGE_MAX`].
    pub rows: Vec<KeyedRow>,
    /// There are more: ask again, after the last key.
    #[serde(default)]
    pub more: bool,
}

/// "Give me rights." Seen twice, grants once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// Names the request for ever.
    pub request: TransferId,
    /// Who asks: the incarnation that will hold what is given.
    pub asker: Actor,
    /// Of what.
    pub sku: Sku,
    /// Only at this node; without one, wherever the giver has units.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Units without which an order is refused.
    pub need: u64,
    /// Units that would be welcome, `need` included.
    pub want: u64,
    /// What the asker knows: credit that is under way to the giver may be in it.
    pub rows: SkuRows,
}

/// What the giver gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferAnswer {
    /// By node; the same again when the request is heard again.
    pub grants: BTreeMap<NodeId, NamedGrant>,
    /// Units were kept for orders under way here: it is worth asking again in a moment.
    pub busy: bool,
    /// Every row of the SKU that the giver knows, its own after the grant included.
    pub rows: SkuRows,
}

/// One movement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedGrant {
    /// Its id, the same in both regions' books.
    pub transfer: TransferId,
    /// Units.
    pub units: u64,
}

/// The answer to "what do you hold?".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DigestAnswer {
    /// Owner, bucket, and the sum of the rows in it.
    pub sums: Vec<(Actor, u8, BucketDigest)>,
}

/// "Send me these rows."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRows {
    /// Whose. Any region may be asked for any owner's rows.
    pub owner: Actor,
    /// Which bucket.
    pub bucket: u8,
    /// Only keys after this one: where the last answer ended.
    pub after: Option<StockKey>,
}

/// A value of one key's register, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedSlot {
    /// SKU and node.
    pub key: StockKey,
    /// What is proposed, stored or chosen.
    pub slot: Slot,
}

/// "Promise me the registers of `owner`, and tell what you have stored of these keys."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Whose registers.
    pub owner: Actor,
    /// Under which ballot values will be proposed.
    pub ballot: Ballot,
    /// What for.
    #[serde(default)]
    pub purpose: Purpose,
    /// At most [`ROWS_PER_MESSAGE_MAX`].
    pub keys: Vec<StockKey>,
}

/// The answer to [`Prepare`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Nothing under a lower ballot is stored here any more.
    Promised {
        /// A survivor has fenced the owner.
        fenced: bool,
        /// Somebody else than the owner has proposed for some key: what is stored must be looked at.
        contested: bool,
        /// What is stored of the keys asked for; of those that are missing, nothing is.
        slots: Vec<KeyedSlot>,
    },
    /// A higher ballot was promised.
    Refused {
        /// Which, and whether it was to fence the owner.
        preempted: Preempted,
        /// A survivor has fenced the owner.
        fenced: bool,
    },
}

/// "Store these values", all under one ballot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// Whose registers.
    pub owner: Actor,
    /// At most [`ROWS_PER_MESSAGE_MAX`].
    pub slots: Vec<KeyedSlot>,
}

/// The answer to [`Accept`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// Decided key by key.
    Answered {
        /// Stored now or before.
        stored: Vec<StockKey>,
        /// Another value stands under the same ballot and sequence: the proposer's database was set back, or
        /// another process of its region proposed at the same time.
        forked: Vec<StockKey>,
    },
    /// A higher ballot was promised. Nothing was stored.
    Refused {
        /// Which.
        preempted: Preempted,
        /// A survivor has fenced the owner.
        fenced: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn messages_are_read_as_they_were_written_and_unknown_fields_are_passed_over() {
        let actor = |name: &str| Actor { region: name.parse().unwrap(), epoch: Epoch(2) };
        let (a, b) = (actor("a"), actor("b"));
        let row = Row { granted: BTreeMap::from([(b, 3)]), version: 7, ..Row::new(a) };
        let node: NodeId = "n".parse().unwrap();
        let grant = NamedGrant { transfer: TransferId(uuid::Uuid::from_u128(7)), units: 3 };
        let answer = TransferAnswer {
            grants: BTreeMap::from([(node.clone(), grant)]),
            busy: true,
            rows: SkuRows::from([(node, BTreeMap::from([(a, row)]))]),
        };
        let text = serde_json::to_string(&answer).unwrap();
        let newer = text.replacen('{', "{\"unknown\":1,", 1);
        assert_eq!(serde_json::from_str::<TransferAnswer>(&newer).unwrap(), answer);
    }
}
