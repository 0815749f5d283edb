//! Messages between regions.
//!
//! Each region has a broker of its own. It publishes there, serves requests there, and is an ordinary
//! client of every peer's broker, over the one link between the two. So there is one path from A to B
//! for each direction, it can be cut in a test, and no broker waits for another one.
//!
//! What the bus promises is little: it reconnects by itself for ever, bounds every wait, and never
//! blocks one peer's traffic on another's. It may lose, double, delay and reorder; what is built on
//! it must not mind ([`crate::replication`], [`crate::escrow`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::replication::{Envelope, Heartbeat, Position};
use crate::types::RegionId;

/// What a request is about: a part of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind(&'static str);

impl RequestKind {
    /// A run of the origin's outbox ([`crate::replication::PullRequest`]).
    pub const PULL_ENVELOPES: Self = Self::named("pull-envelopes");

    /// A kind of one's own. The name is one token of a NATS subject: `a-z`, `0-9` and `-`.
    pub const fn named(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty(), "a request kind needs a name");
        let mut index = 0;
        while index < bytes.len() {
            let byte = bytes[index];
            let legal = byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(legal, "a request kind is made of a-z, 0-9 and -");
            index += 1;
        }
        Self(name)
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Why a message was not sent, or not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// It certainly did not arrive: there is no connection, or nobody serves this kind there.
    #[error("{peer} can't be reached: {reason}")]
    Unreachable {
        /// Who.
        peer: RegionId,
        /// What is known of the cause.
        reason: String,
    },
    /// It may have arrived and have been acted upon. Ask again with the same request id.
    #[error("{peer} did not answer in time")]
    NoAnswer {
        /// Who.
        peer: RegionId,
    },
    /// The peer answered that it can't do that, and did not.
    #[error("{peer} refuses: {reason}")]
    Refused {
        /// Who.
        peer: RegionId,
        /// Its words.
        reason: String,
    },
    /// The own broker did not confirm what was published: it may be there or not. Publish it again;
    /// receivers know copies by their sequence.
    #[error("the broker of this region did not confirm: {0}")]
    NotConfirmed(String),
    /// Not one of the configured peers.
    #[error("{0} is not a peer of this region")]
    NotAPeer(RegionId),
}

impl BusError {
    /// May the peer have acted upon it?
    pub fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::NotConfirmed(_) => true,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::NotAPeer(_) => false,
        }
    }
}

/// An envelope from a peer's stream.
pub struct Delivery {
    /// What came.
    pub envelope: Envelope,
    /// Tells the peer's broker that it need not come again.
    pub ack: Box<dyn Acknowledge>,
}

/// The other half of a delivery.
#[async_trait]
pub trait Acknowledge: Send + Sync {
    /// Best effort and never for long: an acknowledgement that gets lost brings a copy, which the
    /// watermark knows.
    async fn acknowledge(&self);
}

/// Answers the peers' requests of one kind.
#[async_trait]
pub trait RequestHandler: Send + Sync {
    /// The answer, or why there is none: a sentence that the asker's operator can read. Must be
    /// idempotent (a request may arrive twice) and bounded in time.
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String>;
}

/// One region's access to the messages between regions.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Whose.
    fn region(&self) -> RegionId;

    /// Everybody else, in order of names.
    fn peers(&self) -> Vec<RegionId>;

    /// Appends to this region's stream, in order, and returns once the broker has confirmed all.
    async fn publish(&self, envelopes: &[Envelope]) -> Result<(), BusError>;

    /// The last envelope in this region's stream: where publishing goes on after a restart. `None`
    /// when the stream is empty, for instance because the broker lost its disk.
    async fn published(&self) -> Result<Option<Position>, BusError>;

    /// Sends rows of rights to all peers. Newest value wins, and digests repair what got lost, so
    /// nobody waits for a confirmation.
    async fn publish_rows(&self, rows: Bytes) -> Result<(), BusError>;

    /// Tells all peers that this region is there.
    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), BusError>;

    /// What a peer writes, in the order of its stream, each one again until it is acknowledged.
    /// Reconnects by itself; never ends. For one reader.
    fn envelopes(&self, peer: RegionId) -> Result<BoxStream<'static, Delivery>, BusError>;

    /// Rows from a peer, as far as they come through. Never ends.
    fn rows(&self, peer: RegionId) -> Result<BoxStream<'static, Bytes>, BusError>;

    /// Heartbeats of a peer. Never ends.
    fn heartbeats(&self, peer: RegionId) -> Result<BoxStream<'static, Heartbeat>, BusError>;

    /// Asks a peer and waits for its answer, at most `limit`.
    async fn request(
        &self,
        peer: RegionId,
        kind: RequestKind,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, BusError>;

    /// Answers requests of one kind until `stop` is done, then finishes those under way. A bounded
    /// number at once; what comes on top waits in the broker until its asker gives up.
    async fn serve(
        &self,
        kind: RequestKind,
        handler: Arc<dyn RequestHandler>,
        stop: tokio_util::sync::CancellationToken,
    );
}
