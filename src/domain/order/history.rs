//! Two histories of one order: what an order's home has, and what another region has of it.
//!
//! A home whose database was set back learns from the others what it forgot, and tells them what they lack.
//! Histories are chains, so two of them are equal up to some event, and from there on one of them ends or
//! they part.

use super::event::Event;

/// How what another region has of an order is to what we have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same events.
    Same,
    /// They have ours, and more.
    TheyKnowMore,
    /// We have theirs, and more.
    WeKnowMore,
    /// Something else happened to the order there: one of the two was written by a database that forgot the
    /// other. People look at both.
    Parted,
}

/// Compares two histories, each oldest first from the first event on. Only as far as the chains of both are
/// intact; who takes a history over folds it.
pub fn relate(ours: &[Event], theirs: &[Event]) -> Relation {
    let common = ours.len().min(theirs.len());
    // The chain hash of an event stands for it and all before it.
    let last = common.checked_sub(1);
    let parted = last.is_some_and(|last| ours[last].chain_hash != theirs[last].chain_hash);
    match ours.len().cmp(&theirs.len()) {
        _ if parted => Relation::Parted,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Less => Relation::TheyKnowMore,
        std::cmp::Ordering::Greater => Relation::WeKnowMore,
    }
}
