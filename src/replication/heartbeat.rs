//! What a region says of itself, several times a second, to every peer.
//!
//! One message answers four questions at once: are you there, do you hear me, what is the newest you
//! wrote, and how far have you applied what others wrote. JSON, since it is small, and readers take
//! what they know: fields only get added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope::Position;
use crate::types::{HlcTimestamp, RegionId};

/// The end of what a region wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its last envelope.
    pub position: Position,
    /// Nothing that the region writes after `position` has a stamp at or before this one. It goes on
    /// while the region is idle, so that copies elsewhere can be told to be fresh.
    pub hlc: HlcTimestamp,
}

/// How far a region has applied what another one wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The last envelope applied; none is missing below it.
    pub position: Position,
    /// That envelope's stamp.
    pub hlc: HlcTimestamp,
}

/// "I hear you": the last heartbeat of a peer, as its receiver tells it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// The peer's own [`Heartbeat::sent_ms`].
    pub echo_ms: u64,
    /// How long ago it arrived, on the receiver's clock.
    pub held_ms: u64,
}

/// One region's state, as it tells its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who speaks.
    pub region: RegionId,
    /// The sender's monotonic clock. Only the sender can make sense of it, when a peer echoes it.
    pub sent_ms: u64,
    /// What it wrote last.
    pub head: Head,
    /// What it has applied of others.
    pub watermarks: BTreeMap<RegionId, Position>,
    /// Whom it hears. A region that is missing here, or was heard long ago, is not heard.
    pub hearing: BTreeMap<RegionId, Hearing>,
    /// It takes no new orders.
    #[serde(default)]
    pub draining: bool,
}

/// Bytes that are no heartbeat.
#[derive(Debug, thiserror::Error)]
#[error("not a heartbeat: {0}")]
pub struct HeartbeatError(#[from] serde_json::Error);

impl Heartbeat {
    /// The form on the wire.
    pub fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self).expect("maps with text keys serialize").into()
    }

    /// Reads a peer's heartbeat.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeartbeatError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn a_reader_takes_what_it_knows() {
        let region: RegionId = "us-east".parse().unwrap();
        let beat = Heartbeat {
            region,
            sent_ms: 5,
            head: Head {
                position: Position { epoch: Epoch(2), sequence: 9 },
                hlc: HlcTimestamp { wall_ms: 1, logical: 2, region },
            },
            watermarks: [("eu-west".parse().unwrap(), Position::START)].into(),
            hearing: [("eu-west".parse().unwrap(), Hearing { echo_ms: 1, held_ms: 2 })].into(),
            draining: true,
        };
        assert_eq!(Heartbeat::decode(&beat.encode()).unwrap(), beat);

        let mut newer: serde_json::Value = serde_json::from_slice(&beat.encode()).unwrap();
        newer["mood"] = "good".into();
        let read = Heartbeat::decode(newer.to_string().as_bytes()).unwrap();
        assert_eq!(read, beat);
        assert!(Heartbeat::decode(b"{}").is_err());
    }
}
