//! What regions ask each other. JSON; every request may arrive twice and is answered by reading, but for
//! [`Ask::Start`], which names the run.

use serde::{Deserialize, Serialize};

use super::{Entry, Kind, Range, Report, Sum};
use crate::domain::order::Event;
use crate::replication::Position;
use crate::types::{OrderId, RegionId, ReportId};

/// Sums in one request: 16,000 entries are read for the answer, which takes a database a fraction of a second.
pub const RANGES_MAX: usize = 16;

/// Entries in one answer: two ranges; some 200 KiB.
pub const ENTRIES_MAX: usize = 2 * super::RANGE_ROWS;

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The sums of these ranges of your own truth.
    Sums(Vec<Range>),
    /// The entries of a range, at most [`ENTRIES_MAX`], in order of keys.
    Entries(Range),
    /// The entries of these keys, at most [`ENTRIES_MAX`].
    EntriesOf {
        /// Of what.
        kind: Kind,
        /// Whose.
        owner: RegionId,
        /// Which.
        keys: Vec<String>,
    },
    /// An order whose home you are.
    Order(OrderId),
    /// A product or a node, as its document.
    Document {
        /// [`Kind::Products`] or [`Kind::Nodes`].
        kind: Kind,
        /// Which.
        key: String,
    },
    /// Begin your part of a run.
    Start {
        /// The run's name.
        run: ReportId,
        /// Mend what is safe to mend.
        repair: bool,
        /// Who asked for it.
        asked_by: String,
    },
    /// How far is your part of this run?
    Part(ReportId),
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Sums`], in the order of the ranges.
    Sums(Vec<Sum>),
    /// To [`Ask::Entries`] and [`Ask::EntriesOf`].
    Entries {
        /// As asked.
        entries: Vec<Entry>,
        /// The end of the asked region's outbox, read after the entries.
        head: Position,
    },
    /// To [`Ask::Order`].
    Order(Option<CopiedOrder>),
    /// To [`Ask::Document`].
    Document(Option<serde_json::Value>),
    /// To [`Ask::Start`].
    Started,
    /// To [`Ask::Part`].
    Part(Option<Box<Report>>),
}

/// An order as it is copied: its events, commit by commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopiedOrder {
    /// In order, as they were committed together.
    pub commits: Vec<Vec<Event>>,
}
