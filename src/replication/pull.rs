//! Gap repair: asking the origin for a run of its outbox, and its answer.
//!
//! The broker may lose what it acknowledged, be wiped, or have discarded what a peer that was away
//! for hours still needs. The outbox has it. An answer may hold fewer envelopes than asked for:
//! the asker sees from the sequences what is still missing and asks again.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::envelope::{Envelope, EnvelopeError, PAYLOAD_BYTES_MAX, Position};

/// The most envelopes asked for at once. Enough that a round trip of 200 ms brings 64 commit groups
/// (16,000 orders under load), few enough that one answer doesn't hold the origin's outbox for long.
pub const PULL_ENVELOPES_MAX: u32 = 64;

/// The most bytes of an answer, one envelope of any size excepted: below NATS's 8 MiB together with
/// the headers, and short enough on a 100 Mbit/s link (half a second) to leave requests a chance.
pub const PULL_ANSWER_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 1024;

/// Asks an origin for the envelopes `from ..= from.sequence + count − 1` of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// The first one wanted.
    pub from: Position,
    /// How many, at most [`PULL_ENVELOPES_MAX`].
    pub count: u32,
}

/// A run of an outbox, oldest first; possibly empty, when the origin has nothing there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullAnswer {
    /// What the origin has, from the wanted place on.
    pub envelopes: Vec<Envelope>,
}

/// Bytes that are no request or no answer.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The request.
    #[error("not a pull request: {0}")]
    Request(#[from] serde_json::Error),
    /// More envelopes than anyone may ask for.
    #[error("a pull request for {0} envelopes; the most is {PULL_ENVELOPES_MAX}")]
    TooMany(u32),
    /// An envelope of the answer.
    #[error("envelope {index} of a pull answer: {source}")]
    Envelope {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// The answer's frame.
    #[error("a pull answer that ends before the {0} envelopes it announces")]
    Short(u32),
}

impl PullRequest {
    /// The form on the wire: JSON, since it is small and rare.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers serialize").into()
    }

    /// Reads and checks a peer's request.
    pub fn decode(bytes: &[u8]) -> Result<Self, PullError> {
        let request: Self = serde_json::from_slice(bytes)?;
        if request.count > PULL_ENVELOPES_MAX {
            return Err(PullError::TooMany(request.count));
        }
        Ok(request)
    }
}

impl PullAnswer {
    /// As many of `envelopes` as fit into one answer; at least the first.
    pub fn fitting(envelopes: impl IntoIterator<Item = Envelope>) -> Self {
        let mut bytes = 4;
        let envelopes = envelopes
            .into_iter()
            .enumerate()
            .take_while(|(index, envelope)| {
                bytes += envelope.encoded_len();
                *index == 0 || bytes <= PULL_ANSWER_BYTES_MAX
            })
            .map(|(_, envelope)| envelope)
            .collect();
        Self { envelopes }
    }

    /// The form on the wire: the number of envelopes (u32), then each in its own form.
    pub fn encode(&self) -> Bytes {
        let bytes: usize = self.envelopes.iter().map(Envelope::encoded_len).sum();
        let mut out = BytesMut::with_capacity(4 + bytes);
        out.put_u32(u32::try_from(self.envelopes.len()).expect("at most PULL_ENVELOPES_MAX"));
        for envelope in &self.envelopes {
            envelope.encode_into(&mut out);
        }
        out.freeze()
    }

    /// Reads an answer; every hash is checked.
    pub fn decode(mut bytes: Bytes) -> Result<Self, PullError> {
        if bytes.len() < 4 {
            return Err(PullError::Short(0));
        }
        let count = bytes.get_u32();
        if count > PULL_ENVELOPES_MAX {
            return Err(PullError::TooMany(count));
        }
        let mut envelopes = Vec::with_capacity(count as usize);
        for index in 0..count as usize {
            if bytes.is_empty() {
                return Err(PullError::Short(count));
            }
            let envelope = Envelope::decode_from(&mut bytes)
                .map_err(|source| PullError::Envelope { index, source })?;
            envelopes.push(envelope);
        }
        Ok(Self { envelopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::envelope::tests::envelope;
    use crate::types::Epoch;

    #[test]
    fn an_answer_round_trips_and_a_cut_one_is_refused() {
        let sent = PullAnswer { envelopes: (1..=3).map(|n| envelope("us-east", 1, n)).collect() };
        let bytes = sent.encode();
        assert_eq!(PullAnswer::decode(bytes.clone()).unwrap(), sent);
        for length in 0..bytes.len() {
            assert!(PullAnswer::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
        assert_eq!(PullAnswer::decode(PullAnswer::default().encode()).unwrap().envelopes, []);
    }

    #[test]
    fn a_request_is_bounded() {
        let from = Position { epoch: Epoch(1), sequence: 5 };
        let good = PullRequest { from, count: PULL_ENVELOPES_MAX };
        assert_eq!(PullRequest::decode(&good.encode()).unwrap(), good);
        let greedy = PullRequest { from, count: PULL_ENVELOPES_MAX + 1 };
        assert!(matches!(PullRequest::decode(&greedy.encode()), Err(PullError::TooMany(65))));
        assert!(PullRequest::decode(b"{}").is_err());
    }

    #[test]
    fn an_answer_holds_what_fits_but_at_least_one() {
        let many = (1..=5).map(|n| {
            let small = envelope("a", 1, n);
            let payload = vec![b' '; PAYLOAD_BYTES_MAX / 2].into();
            Envelope::seal(crate::replication::NewEnvelope {
                origin: small.origin,
                position: small.position(),
                follows: None,
                hlc: small.hlc,
                schema_version: 1,
                payload,
            })
            .unwrap()
        });
        let answer = PullAnswer::fitting(many);
        assert_eq!(answer.envelopes.len(), 2);
        assert!(answer.encode().len() <= PULL_ANSWER_BYTES_MAX + 4);
    }
}
