//! NATS JetStream: carries envelopes, rows, heartbeats and requests between regions; the truth stays
//! in PostgreSQL.
//!
//! A region publishes into streams of its own broker and is an ordinary client of every peer's broker
//! through the link between the two. Mirrors, sources, leaf nodes and gateways are left out: each of
//! them was seen to skip messages, to loop, or to make one region wait for another.
//!
//! ```text
//!   region A                    link A–B                      region B
//!   broker A  ◄── own ── A      B's control and bulk ──────►  reads A's stream, heartbeats, asks A
//!   A's control and bulk ─────► broker B ◄── own ── B
//! ```
//!
//! There are two connections to each peer: `bulk` for envelopes, and `control` for heartbeats, rows
//! and requests, so that catching up after a cut doesn't make heartbeats late or time requests out.
//! Both reconnect for ever, at once or after at most a second. A black hole, over which TCP would
//! keep a connection for minutes, is found by asking the broker whenever heartbeats stay out
//! ([`link`]).

mod incoming;
mod link;
mod names;
mod outgoing;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::config::NatsAddress;
use crate::ports::{Bus, BusError, Delivery, RequestHandler, RequestKind};
use crate::replication::{Envelope, Heartbeat, Position};
use crate::types::RegionId;

use link::Link;
use outgoing::OwnBroker;

/// The brokers of a region and its peers.
#[derive(Debug, Clone)]
pub struct NatsAddresses {
    /// This region.
    pub region: RegionId,
    /// Its own broker.
    pub own: NatsAddress,
    /// Every peer's broker, as it is reached over the link.
    pub peers: BTreeMap<RegionId, NatsAddress>,
}

/// [`Bus`] over NATS.
pub struct NatsBus {
    region: RegionId,
    own: OwnBroker,
    links: BTreeMap<RegionId, Arc<Link>>,
}

/// The bus can't begin.
#[derive(Debug, thiserror::Error)]
#[error("the broker of {of} can't be used as configured: {reason}")]
pub struct BadAddress {
    of: RegionId,
    reason: String,
}

impl NatsBus {
    /// Begins to connect, and goes on doing so in the background: no broker need be up for this.
    pub async fn connect(addresses: NatsAddresses) -> Result<Self, BadAddress> {
        let NatsAddresses { region, own, peers } = addresses;
        let own = OwnBroker::connect(region, &own).await?;
        let mut links = BTreeMap::new();
        for (peer, address) in peers {
            if peer != region {
                links.insert(peer, Arc::new(Link::connect(region, peer, &address).await?));
            }
        }
        Ok(Self { region, own, links })
    }

    fn link(&self, peer: RegionId) -> Result<&Arc<Link>, BusError> {
        self.links.get(&peer).ok_or(BusError::NotAPeer(peer))
    }
}

#[async_trait]
impl Bus for NatsBus {
    fn region(&self) -> RegionId {
        self.region
    }

    fn peers(&self) -> Vec<RegionId> {
        self.links.keys().copied().collect()
    }

    async fn publish(&self, envelopes: &[Envelope]) -> Result<(), BusError> {
        self.own.publish(envelopes).await
    }

    async fn published(&self) -> Result<Option<Position>, BusError> {
        self.own.published().await
    }

    async fn publish_rows(&self, rows: Bytes) -> Result<(), BusError> {
        self.own.send(names::rows_subject(self.region), rows).await
    }

    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), BusError> {
        self.own.send(names::heartbeat_subject(self.region), heartbeat.encode()).await
    }

    fn envelopes(&self, peer: RegionId) -> Result<BoxStream<'static, Delivery>, BusError> {
        Ok(incoming::envelopes(self.region, peer, self.link(peer)?))
    }

    fn rows(&self, peer: RegionId) -> Result<BoxStream<'static, Bytes>, BusError> {
        Ok(incoming::rows(self.region, peer, self.link(peer)?))
    }

    fn heartbeats(&self, peer: RegionId) -> Result<BoxStream<'static, Heartbeat>, BusError> {
        Ok(link::heartbeats(peer, self.link(peer)?.clone()))
    }

    async fn request(
        &self,
        peer: RegionId,
        kind: RequestKind,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, BusError> {
        let link = self.link(peer)?;
        requests::ask(&link.control, self.region, peer, kind, request, limit).await
    }

    async fn serve(
        &self,
        kind: RequestKind,
        handler: Arc<dyn RequestHandler>,
        stop: CancellationToken,
    ) {
        requests::serve(&self.own.client, self.region, kind, handler, stop).await;
    }
}
