//! What regions say to each other about rights. JSON; readers take what they know, so fields only get
//! added. Every message may arrive twice, late, or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BucketDigest, Row, SkuRows};
use crate::types::{Actor, NodeId, Sku, StockKey, TransferId};

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
