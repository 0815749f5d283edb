//! Units that nobody may sell, one by one, with the reason.
//!
//! They lie below the ceilings of an incarnation that others have taken over from, which may have sold them without anybody
//! knowing. At rest every unit that was received is somebody's right, sold, withdrawn, or in this list.

use super::rights::Rights;
use crate::escrow::KeyedRow;
use crate::ports::{RejoinStore, RetirementStore, StoreError};
use crate::replication::retirement::Retirement;
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// Rows that are read at a time.
const ROWS_PER_LOOK: usize = 500;
/// Rows that one call reads: of a region with a million keys of which none is stranded, a page is empty and has a next one.
const ROWS_MAX: usize = 10_000;

/// Why nobody sells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The region is fenced. It sells them when it is back.
    Fenced,
    /// The region's database forgot what that incarnation had sold. Its whole ceiling counts as sold: a stocktake puts right what was not.
    SetBack,
    /// The region was retired, and orders, or others that are gone, may hold them: a stocktake puts right what is not so.
    Retired,
}

/// Units of one key and one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// Whose rights they are.
    pub owner: Actor,
    /// Of what.
    pub key: StockKey,
    /// How many it may have sold or not.
    pub units: u64,
    /// What a majority let it sell and give away.
    pub ceiling: u64,
    /// What is known to have been sold, given away or taken off the shelf.
    pub known_outflow: u64,
    /// Why.
    pub reason: Reason,
}

/// Where a page ends.
pub type Place = (StockKey, Epoch);

/// Those of a region in order of keys, after a place, at most `limit`; and where the next page begins, if there is one.
pub async fn stranded(
    rights: &Rights,
    rows: &dyn RejoinStore,
    records: &dyn RetirementStore,
    region: RegionId,
    mut after: Option<Place>,
    limit: usize,
) -> Result<(Vec<Stranded>, Option<Place>), StoreError> {
    let latest = rights.registers.latest(region).await?;
    let retired = records.retirement(region).await?.filter(Retirement::has_ended);
    let ended = retired.map_or(Epoch::NONE, |retired| retired.ends);
    let reason = |owner: Actor| {
        let is_over = owner.epoch < latest;
        match () {
            () if owner.epoch < ended => Some(Reason::Retired),
            () if is_over => Some(Reason::SetBack),
            () => rights.is_fenced(owner).then_some(Reason::Fenced),
        }
    };
    let (mut found, mut read) = (Vec::new(), 0);
    loop {
        let page = rows.rows_of(region, after.as_ref(), ROWS_PER_LOOK).await?;
        let is_last = page.len() < ROWS_PER_LOOK;
        for keyed in page {
            if found.len() == limit {
                return Ok((found, after));
            }
            after = Some((keyed.key.clone(), keyed.owner.epoch));
            found.extend(reason(keyed.owner).and_then(|reason| of_row(keyed, reason)));
            read += 1;
        }
        if is_last {
            return Ok((found, None));
        }
        if read >= ROWS_MAX {
            return Ok((found, after));
        }
    }
}

fn of_row(KeyedRow { key, owner, row }: KeyedRow, reason: Reason) -> Option<Stranded> {
    let (ceiling, known_outflow) = (row.chosen.value.ceiling, row.outflow());
    let units = ceiling.checked_sub(known_outflow).filter(|units| *units > 0)?;
    Some(Stranded { owner, key, units, ceiling, known_outflow, reason })
}
