//! The orders of this region, as it and the others know them.

use std::collections::BTreeSet;

use super::{Begun, Rejoin, RejoinError};
use crate::app::joining::{Joining, Taken};
use crate::replication::rejoin::HISTORIES_MAX;
use crate::types::{OrderId, RegionId};

/// Orders that were put off, because another one stood under their channel's reference, and who knows more of them.
type PutOff = Vec<(RegionId, OrderId)>;

/// What the others knew, put together.
#[derive(Default)]
struct Joined {
    to_tell: BTreeSet<OrderId>,
    learned: BTreeSet<OrderId>,
    parted: u64,
    put_off: PutOff,
}

impl Joined {
    fn add(&mut self, peer: RegionId, taken: Taken) {
        self.to_tell.extend(taken.we_know_more);
        self.learned.extend(taken.learned);
        self.parted += taken.parted;
        self.put_off.extend(taken.put_off.into_iter().map(|order| (peer, order)));
    }
}

impl Rejoin {
    /// Takes over what others know. Answers the orders that are to be told again: those of which somebody lacks something,
    /// and those that this region itself had forgotten, which its outbox lacks.
    pub(super) async fn join_orders(
        &self,
        peers: &[RegionId],
        begun: &mut Begun,
    ) -> Result<BTreeSet<OrderId>, RejoinError> {
        let (region, store, bus) = (&self.region, self.store.as_ref(), self.bus.as_ref());
        let joining = Joining { region, store, bus, of: region.id, at_once: HISTORIES_MAX };
        let mut joined = Joined::default();
        for peer in peers {
            let differences = joining.compare(*peer).await?;
            joined.to_tell.extend(differences.lacking);
            let mut rest = differences.differing.as_slice();
            while !rest.is_empty() {
                let taken = joining.take_over(*peer, rest, |_| true).await?;
                rest = &rest[taken.told..];
                joined.add(*peer, taken);
            }
        }
        take_over_put_off(&joining, &mut joined).await?;
        (begun.learned, begun.parted) = (joined.learned.len() as u64, joined.parted);
        let mut to_tell = joined.to_tell;
        // Also those that all others know: whoever is built again reads what this region wrote, and nothing else.
        to_tell.extend(joined.learned);
        Ok(to_tell)
    }
}

/// An order that stood under a reference may have been cancelled by what was learned since.
async fn take_over_put_off(joining: &Joining<'_>, joined: &mut Joined) -> Result<(), RejoinError> {
    while !joined.put_off.is_empty() {
        let put_off = std::mem::take(&mut joined.put_off);
        for (peer, order) in &put_off {
            let taken = joining.take_over(*peer, &[*order], |_| true).await?;
            joined.add(*peer, taken);
        }
        if joined.put_off.len() == put_off.len() {
            let ids = put_off.into_iter().map(|(_, order)| order).collect();
            return Err(RejoinError::References(ids));
        }
    }
    Ok(())
}
