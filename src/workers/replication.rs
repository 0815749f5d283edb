//! What replication runs: one publisher, one heart, and for each peer a listener and a replicator.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::app::{Region, Stops};
use crate::ports::{Bus, BusError, ReplicationStore, RequestKind};
use crate::replication::Peers;
use crate::runtime::TaskSet;

use super::heartbeat::{hear, heartbeat, watch_head};
use super::publisher::publisher;
use super::replicator::{PullServer, replicator};

/// What the replication workers share.
#[derive(Clone)]
pub struct Replication {
    /// This region: its clock and its stamps.
    pub region: Arc<Region>,
    /// Messages.
    pub bus: Arc<dyn Bus>,
    /// The truth.
    pub store: Arc<dyn ReplicationStore>,
    /// What is known of the others; kept up to date by these workers, read by everybody.
    pub peers: Arc<Mutex<Peers>>,
    /// Whom to tell that the database was set back.
    pub stops: Arc<Stops>,
}

impl Replication {
    /// Starts all workers. `outbox` wakes the publisher after a commit; `pause` lies between heartbeats.
    pub fn start(
        &self,
        tasks: &TaskSet,
        outbox: Arc<Notify>,
        pause: Duration,
    ) -> Result<(), BusError> {
        tasks.spawn("publisher", publisher(self.clone(), outbox, tasks.stopping()));
        tasks.spawn("heartbeat", heartbeat(self.clone(), pause, tasks.stopping()));
        tasks.spawn("own head", watch_head(self.clone(), pause, tasks.stopping()));
        for peer in self.bus.peers() {
            let beats = self.bus.heartbeats(peer)?;
            let envelopes = self.bus.envelopes(peer)?;
            tasks.spawn("listener", hear(self.clone(), beats, tasks.stopping()));
            tasks.spawn("replicator", replicator(self.clone(), peer, envelopes, tasks.stopping()));
        }
        let (bus, stop) = (Arc::clone(&self.bus), tasks.stopping());
        let server = Arc::new(PullServer { store: Arc::clone(&self.store) });
        tasks.spawn("pull server", async move {
            bus.serve(RequestKind::PULL_ENVELOPES, server, stop).await;
        });
        Ok(())
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().expect("no panic while held")
    }
}
