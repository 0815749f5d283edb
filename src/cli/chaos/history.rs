//! What shoppers were told: every try and its answer. The checks are made on this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde::Serialize;

use crate::types::RegionId;

/// Units of a SKU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) sku: String,
    pub(super) quantity: u64,
}

/// One shopper's wish, under one idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Wish {
    pub(super) key: String,
    /// Where the shopper is at home, and the first try goes.
    pub(super) home: RegionId,
    pub(super) lines: Vec<Line>,
    pub(super) card: String,
    /// It is for the thing on sale.
    pub(super) on_sale: bool,
    pub(super) tries: Vec<Try>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Try {
    /// The region that it was meant for.
    pub(super) via: RegionId,
    /// Since the load began.
    pub(super) sent_ms: u64,
    pub(super) ended_ms: u64,
    pub(super) told: Told,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// The order is taken.
    Acknowledged {
        order_id: String,
        /// Confirmed, and not only under way.
        confirmed: bool,
        by: Option<RegionId>,
    },
    /// There is no order.
    Refused { status: u16, code: String, by: Option<RegionId> },
    /// Ask again.
    Later { status: u16, code: String },
    /// Whatever happened there.
    NoAnswer { why: String },
    /// The shopper didn't wait.
    HungUp,
}

impl Try {
    /// The order that was acknowledged.
    pub(super) fn order(&self) -> Option<&str> {
        match &self.told {
            Told::Acknowledged { order_id, .. } => Some(order_id),
            Told::Refused { .. } | Told::Later { .. } | Told::NoAnswer { .. } | Told::HungUp => {
                None
            }
        }
    }

    /// The shopper was told that there is no more of it.
    pub(super) fn tells_sold_out(&self) -> bool {
        matches!(&self.told, Told::Refused { code, .. } if code == "insufficient_stock")
    }

    /// The region that told what became of the order.
    pub(super) fn by(&self) -> Option<RegionId> {
        match self.told {
            Told::Acknowledged { by, .. } | Told::Refused { by, .. } => by,
            Told::Later { .. } | Told::NoAnswer { .. } | Told::HungUp => None,
        }
    }
}

impl Wish {
    /// Units of all lines.
    pub(super) fn units(&self) -> i64 {
        let units: u64 = self.lines.iter().map(|line| line.quantity).sum();
        i64::try_from(units).unwrap_or(i64::MAX)
    }

    /// The first answer that told what became of it.
    pub(super) fn outcome(&self) -> Option<&Try> {
        let ends =
            |one: &&Try| matches!(one.told, Told::Acknowledged { .. } | Told::Refused { .. });
        self.tries.iter().find(ends)
    }

    /// Every order that any answer named.
    pub(super) fn orders(&self) -> BTreeSet<&str> {
        self.tries.iter().filter_map(Try::order).collect()
    }

    /// The order that was acknowledged, whether as confirmed, by whom and when.
    pub(super) fn acknowledged(&self) -> Option<Acknowledged<'_>> {
        self.outcome().and_then(|last| match &last.told {
            Told::Acknowledged { order_id, confirmed, by } => Some(Acknowledged {
                order_id,
                confirmed: *confirmed,
                by: *by,
                sent_ms: last.sent_ms,
                at_ms: last.ended_ms,
            }),
            Told::Refused { .. } | Told::Later { .. } | Told::NoAnswer { .. } | Told::HungUp => {
                None
            }
        })
    }
}

/// An order that somebody counts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged<'a> {
    pub(super) order_id: &'a str,
    pub(super) confirmed: bool,
    pub(super) by: Option<RegionId>,
    pub(super) sent_ms: u64,
    pub(super) at_ms: u64,
}

/// Takes down what happens, and can be looked at while it happens.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    wishes: Mutex<Vec<Wish>>,
    acknowledged: Mutex<BTreeMap<RegionId, u64>>,
}

impl Recorder {
    /// A shopper has done with it.
    pub(super) fn add(&self, wish: Wish) {
        if let Some(by) = wish.acknowledged().and_then(|told| told.by) {
            *self.acknowledged.lock().expect("no panic while held").entry(by).or_default() += 1;
        }
        self.wishes.lock().expect("no panic while held").push(wish);
    }

    /// Orders that each region acknowledged so far.
    pub(super) fn acknowledged(&self) -> BTreeMap<RegionId, u64> {
        self.acknowledged.lock().expect("no panic while held").clone()
    }

    /// Everything, in the order of the first tries.
    pub(super) fn history(&self) -> Vec<Wish> {
        let mut wishes = self.wishes.lock().expect("no panic while held").clone();
        wishes.sort_by_key(|wish| wish.tries.first().map(|first| first.sent_ms));
        wishes
    }
}
