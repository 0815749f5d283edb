//! Waiting until what was seen at an origin must have arrived here.

use std::collections::{BTreeMap, BTreeSet};

use super::copies::{Entries, Stop, nonsense};
use super::{LOOK, Reconciler};
use crate::ports::{ReplicationError, StoreError};
use crate::reconcile::{Answer, Ask, Class, Entry, Flaw, Found, Kind, Report};
use crate::replication::Position;
use crate::types::{HlcTimestamp, RegionId};

/// Whether what an origin had written is applied here.
enum Caught {
    Up,
    /// It moves, and is not there yet.
    NotYet,
    /// Nothing has moved for as long as was waited.
    Still(Position),
}

impl Reconciler {
    /// Waits until what was seen at the origin must have arrived. `false`: it need not have.
    pub(super) async fn catch_up(
        &self,
        report: &mut Report,
        peer: RegionId,
        kind: Kind,
        theirs: &Entries,
        head: Position,
    ) -> Result<bool, Stop> {
        let mut heads = BTreeMap::new();
        match kind {
            Kind::Rights => return self.rows_arrive(peer, theirs).await,
            Kind::Orders | Kind::Envelopes => {
                heads.insert(peer, head);
            }
            Kind::Products | Kind::Nodes => {
                heads.insert(peer, head);
                let gone = self.gone().await?;
                for writer in writers(theirs).difference(&gone).copied() {
                    if writer != peer && writer != self.region.id {
                        heads.insert(writer, self.head_of(writer).await?);
                    }
                }
            }
        }
        for (origin, head) in heads {
            match self.applied(origin, head).await? {
                Caught::Up => {}
                Caught::NotYet => {
                    let why = format!("{}s of it are still arriving", kind.noun());
                    report.leave_out(self.region.id, origin.to_string(), why);
                    return Ok(false);
                }
                Caught::Still(at) => {
                    let (expected, found) = (format!("applied up to {head}"), at.to_string());
                    let flaw = Flaw { class: Class::ReplicationStandsStill, expected, found };
                    let subject = format!("envelopes of {origin}");
                    let known = report.differences.iter().any(|difference| {
                        difference.class == flaw.class && difference.subject == subject
                    });
                    if !known {
                        let found = Found { peer: Some(origin), subject, flaw };
                        report.add(self.region.id, found);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Where the outbox of a peer ends.
    pub(super) async fn head_of(&self, peer: RegionId) -> Result<Position, Stop> {
        let ask = Ask::EntriesOf { kind: Kind::Envelopes, owner: peer, keys: Vec::new() };
        let Answer::Entries { head, .. } = self.ask(peer, &ask).await? else {
            return Err(nonsense());
        };
        Ok(head)
    }

    /// Waits for the watermark.
    async fn applied(&self, origin: RegionId, head: Position) -> Result<Caught, Stop> {
        let started_ms = self.region.clock.monotonic_ms();
        let first = self.watermark(origin).await?;
        let mut at = first;
        loop {
            if at >= head {
                return Ok(Caught::Up);
            }
            if self.waited(started_ms) {
                return Ok(if at == first { Caught::Still(at) } else { Caught::NotYet });
            }
            tokio::time::sleep(LOOK).await;
            at = self.watermark(origin).await?;
        }
    }

    /// Rows travel by themselves and are repaired by digests: they are given the time of I-20.
    async fn rows_arrive(&self, peer: RegionId, theirs: &Entries) -> Result<bool, Stop> {
        let keys: Vec<String> = theirs.keys().cloned().collect();
        let started_ms = self.region.clock.monotonic_ms();
        loop {
            let ours = self.own_entries(Kind::Rights, peer, &keys).await?;
            let arrived = |(key, theirs): (&String, &Entry)| {
                ours.get(key).is_some_and(|ours| ours.stamp >= theirs.stamp)
            };
            if theirs.iter().all(arrived) || self.waited(started_ms) {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) fn waited(&self, started_ms: u64) -> bool {
        let waited_ms = self.region.clock.monotonic_ms().saturating_sub(started_ms);
        u128::from(waited_ms) >= self.times.catch_up.as_millis()
    }

    pub(super) async fn watermark(&self, origin: RegionId) -> Result<Position, StoreError> {
        let watermarks = self.replication.watermarks().await.map_err(store_error)?;
        Ok(watermarks.get(&origin).map_or(Position::START, |watermark| watermark.position))
    }
}

/// Who wrote these, by their stamps.
fn writers(entries: &Entries) -> BTreeSet<RegionId> {
    let stamps = entries.values().filter_map(|entry| entry.stamp.parse::<HlcTimestamp>().ok());
    stamps.map(|stamp| stamp.region).collect()
}

fn store_error(error: ReplicationError) -> StoreError {
    match error {
        ReplicationError::Unavailable(why) => StoreError::Unavailable(why),
        ReplicationError::CantApply { .. } | ReplicationError::Corrupt(_) => {
            StoreError::Broken(error.to_string())
        }
    }
}
