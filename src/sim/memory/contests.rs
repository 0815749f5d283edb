//! Intents and channel references that this region took and another one as well (I-07).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::idempotency::IntentKey;
use crate::domain::order::OrderRecord;
use crate::mutants::{Mutant, is_on};
use crate::types::{OrderId, RegionId};

use super::{Memory, Tables};

impl Tables {
    pub(super) fn find_all_contests(&mut self, own: RegionId) {
        let intents: Vec<IntentKey> = self.intents.keys().cloned().collect();
        let references: Vec<_> = self.references.keys().cloned().collect();
        self.find_contests(own, intents.iter(), references.iter());
    }

    /// Notes which of these this region took as well.
    pub(super) fn find_contests<'a>(
        &mut self,
        own: RegionId,
        intents: impl Iterator<Item = &'a IntentKey>,
        references: impl Iterator<Item = &'a (String, String)>,
    ) {
        let mut found: BTreeSet<(OrderId, OrderId)> = BTreeSet::new();
        for intent in intents {
            let records = self.intents.get(intent).into_iter().flatten();
            let ids: Vec<OrderId> = records.filter_map(|record| record.order_id).collect();
            self.pair(own, &ids, |_, _| true, &mut found);
        }
        for reference in references {
            let ids: Vec<OrderId> = self.standing(reference).map(|it| it.order.id).collect();
            let same = |one: &OrderRecord, other: Option<&Arc<OrderRecord>>| {
                other.is_some_and(|it| it.order.customer_id == one.order.customer_id)
            };
            self.pair(own, &ids, same, &mut found);
        }
        for pair in found.into_iter().filter(|_| !is_on(Mutant::ContestsPassedOver)) {
            self.contested.entry(pair).or_insert(false);
        }
    }
}

impl Tables {
    /// Each order whose home is here with each of the others.
    fn pair(
        &self,
        own: RegionId,
        ids: &[OrderId],
        counts: impl Fn(&OrderRecord, Option<&Arc<OrderRecord>>) -> bool,
        found: &mut BTreeSet<(OrderId, OrderId)>,
    ) {
        let ours = ids.iter().filter_map(|id| self.orders.get(id));
        for ours in ours.filter(|it| it.order.home_region == own) {
            let others = ids.iter().filter(|id| **id != ours.order.id);
            let others = others.filter(|id| counts(ours, self.orders.get(*id)));
            found.extend(others.map(|other| (ours.order.id, *other)));
        }
    }
}

impl Memory {
    pub(super) fn look_for_contests(&self) {
        self.tables().find_all_contests(self.own);
    }
}
