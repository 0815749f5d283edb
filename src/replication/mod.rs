//! The sans-IO replicator: what one region must know and decide so that every other region's
//! envelopes are applied here once each, in order, without a gap (I-18).
//!
//! Nothing in here reads a clock, a socket or a database: received envelopes, heard heartbeats and
//! monotonic milliseconds come in, batches to apply and ranges to ask for come out. The drivers are
//! in [`crate::workers`], the transport in [`crate::bus`], the truth in PostgreSQL.
//!
//! ```text
//!  origin                                                      here
//!  outbox ──► publisher ──► JetStream of the origin ──► Inbound ──► apply + watermark, one commit
//!     ▲                                                   │ gap
//!     └───────────────────── pull (request, answer) ◄─────┘
//!  heartbeat: head, stamp, watermarks, whom I hear ──► Peers ──► lag, freshness, who is reachable
//! ```
//!
//! * [`Envelope`]: one commit group of one region, and its form on the wire.
//! * [`Inbound`]: one origin's envelopes, from any order and any number of copies to a clean run.
//! * [`Heartbeat`] and [`Peers`]: who is heard, who hears us, how far behind every copy is.
//! * [`rejoin`]: what a region whose database was set back asks the others.
//! * [`PullRequest`] and [`PullAnswer`]: gap repair from the origin's outbox.

mod envelope;
mod heartbeat;
mod inbound;
mod peers;
mod pull;
pub mod rejoin;
pub mod retirement;

pub use envelope::{
    Envelope, EnvelopeError, NewEnvelope, PAYLOAD_BYTES_MAX, Position, SCHEMA_VERSION, event_hash,
};
pub use heartbeat::{Head, Hearing, Heartbeat, HeartbeatError, Watermark};
pub use inbound::{
    BATCH_BYTES_MAX, BATCH_ENVELOPES_MAX, Inbound, InboundCounts, PATIENCE_MS, PENDING_BYTES_MAX,
    PENDING_ENVELOPES_MAX, Receipt,
};
pub use peers::{LinkState, PeerView, Peers, ReplicatorState};
pub use pull::{PULL_ANSWER_BYTES_MAX, PULL_ENVELOPES_MAX, PullAnswer, PullError, PullRequest};
