//! Ceilings without the other regions: what a test of something else sells under.

use std::collections::BTreeMap;

use entrepot::escrow::{Accept, KeyedSlot, Ledger, Voters};
use entrepot::ports::{RegisterStore, RightsStore};
use entrepot::types::{Actor, StockKey};

/// Lets a region sell all that it holds of a key, as if a majority had agreed.
pub(crate) async fn open(
    rows: &dyn RightsStore,
    registers: &dyn RegisterStore,
    own: Actor,
    key: &StockKey,
) {
    let rows = rows.rows(&[key.clone()].into()).await.unwrap();
    let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.owner, row.row)).collect();
    let ledger = Ledger::from_rows(own, rows);
    let (chosen, inflow) = (&ledger.own_row().chosen, ledger.inflow(own));
    let Some(value) = chosen.value.raised(inflow, inflow) else { return };
    let slot = chosen.followed_by(chosen.ballot, value);
    let slots = vec![KeyedSlot { key: key.clone(), slot }];
    registers.accept(&Accept { owner: own, slots: slots.clone() }).await.unwrap();
    registers.choose(own, &slots, &Voters::new()).await.unwrap();
}
