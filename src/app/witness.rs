//! What keeps a region from becoming the witness: it holds nothing, since it can't give anything up and nobody can take
//! it over (ADR 85).

use super::rights::ledgers_by_key;
use crate::ports::{Reader, RightsStore, StoreError};
use crate::types::Actor;

/// Keys of rights, and nodes, in one look: a small answer each.
const AT_ONCE: u32 = 200;

/// What a region has that a witness must not have, in words; `None` of one that is empty.
///
/// # Errors
/// The database could not be read.
pub async fn held(
    reader: &dyn Reader,
    rights: &dyn RightsStore,
    own: Actor,
) -> Result<Option<&'static str>, StoreError> {
    if holds_units(rights, own).await? {
        return Ok(Some("units to sell"));
    }
    if !reader.standing(own.region, None, 1).await?.is_empty() {
        return Ok(Some("orders"));
    }
    let mut after = None;
    loop {
        let nodes = reader.nodes(after.as_ref(), AT_ONCE).await?;
        if nodes.iter().any(|node| node.region == own.region && node.active) {
            return Ok(Some("nodes"));
        }
        let Some(last) = nodes.last() else { return Ok(None) };
        after = Some(last.id.clone());
    }
}

/// Also above the ceilings: what is not open now is once a majority can be asked.
async fn holds_units(rights: &dyn RightsStore, own: Actor) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let keys = rights.held_by(own, after.as_ref(), AT_ONCE as usize).await?;
        let Some(last) = keys.last().cloned() else { return Ok(false) };
        let rows = rights.rows(&keys.into_iter().collect()).await?;
        if ledgers_by_key(own, &rows).values().any(|ledger| ledger.rights(own) > 0) {
            return Ok(true);
        }
        after = Some(last);
    }
}
