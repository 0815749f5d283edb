//! Two histories of one order: what an order's home has, and what another region has of it.
//!
//! A home whose database was set back learns from the others what it forgot, and tells them what they lack.
//! Histories are chains, so two of them are equal up to some event, and from there on one of them ends or
//! they part.

use std::collections::BTreeMap;

use super::event::Event;
use super::model::OrderRecord;
use crate::types::{Actor, RegionId, StockKey};

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

/// What becomes of what another region tells of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Nothing: it is known, or who tells it is not the order's home any more.
    Nothing,
    /// The events that are not known here are added.
    Append,
    /// Another history than ours, which is set aside for people: ours was written by a database that forgot this one, or
    /// by a home that did not know that the order had moved.
    Replace,
}

/// Decides what becomes of new events of an order, told by `origin`. Only the home tells them, but for a home that
/// does not know yet that the order has moved.
pub fn take_new(copy: Option<&OrderRecord>, origin: RegionId) -> Take {
    let is_over =
        |copy: &OrderRecord| copy.order.moved.is_some() && copy.order.home_region != origin;
    if copy.is_some_and(is_over) { Take::Nothing } else { Take::Append }
}

/// Decides what becomes of a whole history, told again. Of two that part the one with more moves stands; of as many, the
/// one that moved last, so that everybody keeps the same; and the one that is told where they part behind that.
pub fn take_whole(ours: &[Event], theirs: &[Event]) -> Take {
    let moves = |events: &[Event]| {
        let moves = events.iter().filter(|event| event.is_move());
        moves.fold((0_usize, None), |(count, _), last| (count + 1, Some(last.hlc)))
    };
    match relate(ours, theirs) {
        Relation::Same | Relation::WeKnowMore => Take::Nothing,
        Relation::TheyKnowMore => Take::Append,
        Relation::Parted if moves(ours) > moves(theirs) => Take::Nothing,
        Relation::Parted => Take::Replace,
    }
}

/// Units that an order held under an incarnation's rights before, and holds no more after.
pub fn released(
    before: Option<&OrderRecord>,
    after: &OrderRecord,
    owner: Actor,
) -> BTreeMap<StockKey, u64> {
    let mut held = before.map(|before| before.order.held_under(owner)).unwrap_or_default();
    for (key, units) in after.order.held_under(owner) {
        let left = held.entry(key).or_default();
        *left = left.saturating_sub(units);
    }
    held.retain(|_, units| *units > 0);
    held
}
