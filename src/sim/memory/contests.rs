//! Intents and channel references that this region took and another one as well (I-07).

use std::collections::BTreeSet;

use crate::domain::idempotency::IntentKey;
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
            let (ours, others): (Vec<_>, Vec<_>) = records
                .filter_map(|record| Some((record.region, record.order_id?)))
                .partition(|(region, _)| *region == own);
            for (_, ours) in ours {
                found.extend(others.iter().map(|(_, other)| (ours, *other)));
            }
        }
        for reference in references {
            let (ours, others): (Vec<_>, Vec<_>) =
                self.standing(reference).partition(|record| record.order.home_region == own);
            for ours in ours {
                let same =
                    others.iter().filter(|other| other.order.customer_id == ours.order.customer_id);
                found.extend(same.map(|other| (ours.order.id, other.order.id)));
            }
        }
        for pair in found.into_iter().filter(|_| !is_on(Mutant::ContestsPassedOver)) {
            self.contested.entry(pair).or_insert(false);
        }
    }
}

impl Memory {
    pub(super) fn look_for_contests(&self) {
        self.tables().find_all_contests(self.own);
    }
}
