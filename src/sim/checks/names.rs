//! What has a name happens once: a movement of rights (I-04), the money of an intent (I-07). And what was
//! answered, or forbidden, in the meantime.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::idempotency::IntentKey;
use crate::ports::store::OrderWrite;
use crate::types::{Actor, InvariantId, OrderId, RegionId, Sku, TransferId};

use super::super::memory::Memory;
use super::{Checks, State, stands};

/// What was done under which name, and who was told to take no orders.
#[derive(Default)]
pub(super) struct Names {
    moved: BTreeSet<(RegionId, TransferId)>,
    /// Under which keys an intent's money is held.
    keys: BTreeMap<IntentKey, BTreeSet<String>>,
    /// Since when.
    drained: BTreeMap<RegionId, u64>,
}

/// What a region gave to somebody of one SKU, as its own rows say.
pub fn granted(memory: &Memory, sku: &Sku, to: Actor) -> u64 {
    let tables = memory.tables();
    let own = tables.actor(memory.region());
    let rows = tables.rights.known_rows(sku);
    rows.iter().filter(|known| known.owner == own).map(|known| known.row.granted_to(to)).sum()
}

impl Names {
    /// A region begins a new incarnation: what it moved before, it may have forgotten.
    pub(super) fn begins_again(&mut self, region: RegionId) {
        self.moved.retain(|(by, _)| *by != region);
    }
}

impl Checks {
    /// A region was asked to move rights under a name, and `units` have moved.
    pub fn moved_under(&self, region: RegionId, name: TransferId, units: u64) {
        let mut state = self.state();
        // A region that was set back forgot the names as well.
        if units == 0 || state.forgot.contains_key(&region) {
            return;
        }
        if !state.names.moved.insert((region, name)) {
            let what = format!("{region} moves {units} once more under {name:?}");
            state.break_rule(InvariantId::RightsConserved, what);
        }
    }

    /// A region is drained, or resumed.
    pub fn drained(&self, region: RegionId, draining: bool) {
        let now_ms = self.time.now_ms();
        let drained = &mut self.state().names.drained;
        if draining {
            drained.entry(region).or_insert(now_ms);
        } else {
            drained.remove(&region);
        }
    }

    /// Orders that other regions than `asked` took for this intent, and that stand.
    pub fn taken_elsewhere(&self, intent: &IntentKey, asked: RegionId) -> bool {
        self.memories.iter().filter(|memory| memory.region() != asked).any(|memory| {
            own_order(memory, intent).is_some_and(|id| {
                memory.tables().orders.get(&id).is_some_and(|record| stands(record))
            })
        })
    }

    /// An order was placed for an intent that another region had taken, which could have been asked.
    pub fn placed_twice(&self, intent: &IntentKey, order: OrderId) {
        let what = format!("{order} for {}, which another region had taken", intent.key);
        self.broken(InvariantId::OneKeyOneOrder, what);
    }

    /// A region answered that it doesn't know what became of an intent, although nothing hindered it to look.
    pub fn was_not_told(&self, region: RegionId, intent: &IntentKey) {
        let Some(memory) = self.memory(region) else { return };
        if let Some(order) = own_order(memory, intent) {
            let what = format!("{region} took {order} for {}, and answered an error", intent.key);
            self.state().break_unnumbered(what);
        }
    }
}

/// The order that this region took for an intent.
fn own_order(memory: &Memory, intent: &IntentKey) -> Option<OrderId> {
    let tables = memory.tables();
    let records = tables.intents.get(intent)?;
    records.iter().find(|record| record.region == memory.region())?.order_id
}

impl State {
    /// Looks at a new order: may it be taken, and is its money held under the keys of its intent?
    pub(super) fn order_taken(&mut self, region: RegionId, write: &OrderWrite, now_ms: u64) {
        let drained_ms = self.names.drained.get(&region);
        if drained_ms.is_some_and(|since| now_ms > *since) {
            self.break_unnumbered(format!("{region} takes orders, and is drained"));
        }
        let Some(intent) = &write.intent else { return };
        let payments = &write.record.order.payments;
        let keys: BTreeSet<String> = payments.iter().map(|it| it.provider_key.clone()).collect();
        let known = self.names.keys.entry(intent.intent.clone()).or_insert_with(|| keys.clone());
        if *known != keys {
            let what = format!("{} asks for its money again under other keys", intent.intent.key);
            self.break_rule(InvariantId::OneKeyOneOrder, what);
        }
    }
}
