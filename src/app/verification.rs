//! Before anything is sold or voted after a start: does this region's database remember everything?
//!
//! A database that was set back goes on as if nothing had happened, and what it had sold since it would sell again.
//! So a server trusts it only
//!
//! - when a *marker*, kept outside of it, shows the same database at least as far as it was ever seen: then the region
//!   needs nobody else, also when it is cut off; or
//! - when every other region has told what it knows of it, and it knows that as well. One that is gone for good is not waited
//!   for, where the database remembers that ([`super::gone`]); or
//! - when an operator says so: [`Verification::trust`].
//!
//! Until then the region takes no orders, writes nothing, and has no vote. A database that knows less than somebody
//! else is set back ([`super::Stops`]).
//!
//! A server that finds its database on another history while it runs, because a standby took its place, is in doubt
//! again; one that finds it less far than it had seen it knows at once.
//!
//! What a marker can't tell: a copy of the database's files that is younger than the marker's last line, put back
//! without a new history (PostgreSQL begins a new timeline at every restore that ends, and at every promotion).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::gone::{self, Ended};
use super::rejoin::REJOIN;
use super::rights::{Rights, repair_from};
use super::{Region, Stops};
use crate::escrow::Voter;
use crate::ports::{Mark, Marker, RejoinStore, RetirementStore};
use crate::replication::Position;
use crate::replication::rejoin::{Answer, Ask};
use crate::types::RegionId;

/// How long a region that needs nobody waits for the others to be heard before it takes orders: five heartbeats.
const HEARD_WITHIN_MS: u64 = 1_000;

/// Between questions to one that has confirmed everything, while others have not.
const ASK_AGAIN_MS: u64 = 1_000;

/// A small question.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// See the module.
pub struct Verification {
    region: Arc<Region>,
    rights: Arc<Rights>,
    store: Arc<dyn RejoinStore>,
    retirements: Arc<dyn RetirementStore>,
    stops: Arc<Stops>,
    marker: Option<Arc<dyn Marker>>,
    /// The database belongs to a later incarnation than this process.
    on_over: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    marker_was_read: bool,
    /// Nobody else need be asked. The monotonic time at which that was known.
    proven_ms: Option<u64>,
    /// Who has told that it knows no more than the database, and which regions it says are gone for good.
    confirmed: BTreeMap<RegionId, Ended>,
    /// When they did.
    confirmed_ms: BTreeMap<RegionId, u64>,
    /// The last mark of a database that was trusted.
    kept: Option<Mark>,
}

impl Verification {
    /// From now on the region is in doubt. `on_over` ends the process.
    pub fn begin(
        region: Arc<Region>,
        rights: Arc<Rights>,
        store: Arc<dyn RejoinStore>,
        retirements: Arc<dyn RetirementStore>,
        stops: Arc<Stops>,
        marker: Option<Arc<dyn Marker>>,
        on_over: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        region.set_in_doubt(true);
        let state = Mutex::default();
        Self { region, rights, store, retirements, stops, marker, on_over, state }
    }

    /// Looks once at the database, and, where that is needed, asks the others. For a worker.
    pub async fn look(&self) {
        let mark = match self.store.mark().await {
            Ok(mark) => mark,
            Err(error) => {
                tracing::debug!(%error, "how far the database is can't be read: {error}");
                return;
            }
        };
        if mark.head.epoch > self.region.epoch {
            (self.on_over)();
            return;
        }
        if self.region.is_set_back() {
            return;
        }
        if !self.region.is_in_doubt() {
            return self.keep(mark).await;
        }
        if !self.with_state(|state| std::mem::replace(&mut state.marker_was_read, true)) {
            self.compare_with_marker(&mark).await;
        }
        match self.with_state(|state| state.proven_ms) {
            _ if self.region.is_set_back() => {}
            Some(proven_ms) => self.wait_for_peers(proven_ms),
            None => self.compare_with_peers(&mark).await,
        }
    }

    /// An operator says that the database remembers everything: the others can't be asked.
    pub fn trust(&self) {
        self.region.set_in_doubt(false);
    }

    /// A region that opens before it hears the others would refuse what they hold.
    fn wait_for_peers(&self, proven_ms: u64) {
        let (all, heard) =
            (self.rights.bus.peers().len(), self.rights.reachability.reachable().len());
        let waited_ms = self.region.clock.monotonic_ms().saturating_sub(proven_ms);
        if heard == all || waited_ms >= HEARD_WITHIN_MS {
            self.region.set_in_doubt(false);
        }
    }

    async fn compare_with_marker(&self, mark: &Mark) {
        let Some(marker) = &self.marker else { return };
        match marker.read().await {
            Ok(None) => tracing::info!("there is no marker yet: the other regions are asked"),
            Ok(Some(kept)) if self.is_behind(mark, &kept).await => {
                self.set_back("its server", &kept.head, kept.voter, mark);
            }
            Ok(Some(kept)) if kept.database == mark.database => {
                let now_ms = self.region.clock.monotonic_ms();
                self.with_state(|state| {
                    state.proven_ms = Some(now_ms);
                    state.kept = Some(kept);
                });
            }
            Ok(Some(_)) => tracing::warn!(
                "the database was restored or replaced since the last start: the other regions are asked what they know of it"
            ),
            Err(error) => tracing::error!(%error, "{error}: the other regions are asked"),
        }
    }

    async fn compare_with_peers(&self, mark: &Mark) {
        let peers = self.rights.bus.peers();
        let reachable = self.rights.reachability.reachable();
        for peer in peers.iter().filter(|peer| reachable.contains(peer)) {
            // Who has confirmed as well: that a region is gone for good it may come to know later.
            let now_ms = self.region.clock.monotonic_ms();
            let asked_ms = self.with_state(|state| state.confirmed_ms.get(peer).copied());
            if asked_ms.is_some_and(|asked_ms| now_ms.saturating_sub(asked_ms) < ASK_AGAIN_MS) {
                continue;
            }
            let Some(ended) = self.knows_no_more(*peer, mark).await else { continue };
            let has_confirmed = self.with_state(|state| state.confirmed.contains_key(peer));
            if has_confirmed || self.has_no_newer_rows(*peer).await {
                self.with_state(|state| {
                    state.confirmed.insert(*peer, ended);
                    state.confirmed_ms.insert(*peer, now_ms);
                });
            }
        }
        let own = match gone::ended(self.retirements.as_ref()).await {
            Ok(own) => own,
            Err(error) => {
                tracing::debug!(%error, "who is gone for good can't be read: {error}");
                Ended::new()
            }
        };
        let (confirmed, is_last) = self.with_state(|state| {
            let gone = gone::remembered(&own, &state.confirmed);
            let is_heard = |peer| state.confirmed.contains_key(peer) || gone.contains_key(peer);
            (state.confirmed.len(), peers.iter().all(is_heard))
        });
        if is_last && !self.region.is_set_back() {
            tracing::info!(confirmed, "every other region confirms what the database remembers");
            self.region.set_in_doubt(false);
        }
    }

    /// Has a peer neither applied nor counted anything that the database forgot? What proves the contrary stops the region.
    /// Answers whom it knows to be gone for good.
    async fn knows_no_more(&self, peer: RegionId, mark: &Mark) -> Option<Ended> {
        let ask = Bytes::from(serde_json::to_vec(&Ask::Known).expect("it has a JSON form"));
        let answer = self.rights.bus.request(peer, REJOIN, ask, ANSWER_LIMIT).await;
        let read = answer.map_err(|error| error.to_string()).and_then(|answer| {
            serde_json::from_slice::<Answer>(&answer).map_err(|error| error.to_string())
        });
        let (head, voter, ended) = match read {
            Ok(Answer::Known { applied, voter, ended }) => (applied, voter, ended),
            Ok(Answer::Refused(why)) | Err(why) => {
                tracing::warn!(%peer, why, "{peer} does not tell yet what it knows: {why}");
                return None;
            }
            Ok(_) => return None,
        };
        let known = Mark { head, voter, ..mark.clone() };
        if self.is_behind(mark, &known).await {
            self.set_back(peer.as_str(), &head, voter, mark);
            return None;
        }
        Some(ended)
    }

    /// The same of rows of rights.
    async fn has_no_newer_rows(&self, peer: RegionId) -> bool {
        let compared = async {
            let ours = self.rights.digest(true).await?;
            repair_from(&self.rights, peer, &ours, None).await
        };
        match compared.await {
            Ok(_) => !self.region.is_set_back(),
            Err(error) => {
                tracing::warn!(%peer, %error, "rows can't be compared with {peer} yet: {error}");
                false
            }
        }
    }

    /// Does the database know less than somebody says that it did? It is looked at again, since another process of this
    /// region may have written meanwhile; where that can't be done, nothing is known.
    async fn is_behind(&self, mark: &Mark, known: &Mark) -> bool {
        let behind = |mark: &Mark| known.head > mark.head || known.voter > mark.voter;
        behind(mark) && self.store.mark().await.is_ok_and(|again| behind(&again))
    }

    fn set_back(&self, who: &str, head: &Position, voter: Voter, mark: &Mark) {
        self.stops.set_back(format!(
            "{who} knows of {head} and of vote {} of incarnation {}, the database only of {} and of vote {} of {}",
            voter.votes, voter.epoch, mark.head, mark.voter.votes, mark.voter.epoch
        ));
    }

    /// Keeps how far a trusted database is, where that has changed, unless it is another one by now.
    async fn keep(&self, mark: Mark) {
        let kept = self.with_state(|state| state.kept.clone());
        if kept.as_ref() == Some(&mark) {
            return;
        }
        if let Some(kept) = kept {
            if self.is_behind(&mark, &kept).await {
                return self.set_back("its server", &kept.head, kept.voter, &mark);
            }
            if kept.database != mark.database {
                tracing::warn!(
                    "the database was replaced: no orders are taken before the others confirm that it remembers everything"
                );
                self.region.set_in_doubt(true);
                return self.with_state(|state| {
                    state.proven_ms = None;
                    state.confirmed.clear();
                    state.kept = None;
                });
            }
        }
        if let Some(marker) = &self.marker
            && let Err(error) = marker.write(&mark).await
        {
            tracing::warn!(%error, "how far the database is could not be kept: {error}");
        }
        self.with_state(|state| state.kept = Some(mark));
    }

    fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic while held"))
    }
}
