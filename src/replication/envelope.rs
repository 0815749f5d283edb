//! One commit group of one region, as it travels.
//!
//! On the wire an envelope is a small fixed header and the payload as it stands in the outbox. The
//! payload is JSON text already: wrapping it into more JSON would escape and copy every byte of it,
//! and the publisher could not read a sequence without parsing a megabyte. All numbers are big-endian:
//!
//! ```text
//! version u8 = 1 │ origin: length u8, bytes │ epoch u32 │ sequence u64 │ follows: epoch u32, sequence u64
//! │ hlc: wall_ms u64, logical u32 │ schema_version u16 │ SHA-256 of the payload, 32 bytes │ length u32 │ payload
//! ```
//!
//! The hash is checked on receipt, so that neither a broker nor a disk can change what is applied.
//! A reader refuses a header version that it doesn't know: the header is the frame and changes only
//! together with the name of the stream. The *schema* version is about the payload, may be newer
//! than the reader and is no reason to refuse the frame: see [`super::Inbound`] on parking.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::types::{Epoch, HlcTimestamp, RegionId};

/// The payload schema this program writes, and the newest that it can read.
pub const SCHEMA_VERSION: u16 = 1;

/// The largest payload. A commit group of 256 orders takes about 1 MiB; NATS advises against
/// messages over 8 MiB and is configured for that, and a pull answer must hold at least one
/// envelope. A group that would be larger has to be split by whoever makes it.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

const HEADER_VERSION: u8 = 1;
/// Everything but the origin's name and the payload.
const FIXED_BYTES: usize = 1 + 1 + 4 + 8 + 4 + 8 + 8 + 4 + 2 + 32 + 4;

/// A place in what one region wrote: which incarnation, and the how manieth envelope of it (from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The origin's incarnation.
    pub epoch: Epoch,
    /// Gap-free within the epoch; 0 is the place before the first envelope.
    pub sequence: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { epoch: Epoch::FIRST, sequence: 0 };

    /// The next place in the same epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self { sequence: self.sequence + 1, ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.sequence)
    }
}

/// What the maker of an envelope states; the hash is computed.
#[derive(Debug, Clone)]
pub struct NewEnvelope {
    /// Who wrote it.
    pub origin: RegionId,
    /// Where it stands in what the origin wrote.
    pub position: Position,
    /// For the first envelope of a later epoch: the last one of the epoch before.
    pub follows: Option<Position>,
    /// The highest stamp in the group.
    pub hlc: HlcTimestamp,
    /// The payload's schema.
    pub schema_version: u16,
    /// Opaque here.
    pub payload: Bytes,
}

/// A commit group of one region. Cheap to clone: the payload is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who wrote it.
    pub origin: RegionId,
    /// The origin's incarnation.
    pub epoch: Epoch,
    /// Gap-free per origin and epoch, from 1.
    pub sequence: u64,
    /// For the first envelope of a later epoch: the last one of the epoch before. A receiver that
    /// has not applied that one yet asks for the rest of the old epoch first.
    pub follows: Option<Position>,
    /// The highest stamp in the group.
    pub hlc: HlcTimestamp,
    /// The payload's schema.
    pub schema_version: u16,
    /// Opaque here.
    pub payload: Bytes,
    hash: [u8; 32],
}

/// Why bytes are not an envelope, or something can't become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter or longer than its own lengths say.
    #[error("an envelope of {got} bytes where its header asks for {wanted}")]
    Length {
        /// What the header implies.
        wanted: usize,
        /// What there is.
        got: usize,
    },
    /// A frame of another program version.
    #[error("an envelope with header version {0}; this program reads version {HEADER_VERSION}")]
    HeaderVersion(u8),
    /// The origin's name is no region's name.
    #[error("the origin of an envelope is not a region's name")]
    Origin,
    /// The payload is not what the origin hashed.
    #[error("the payload of {origin} {position} does not have the hash that its header states")]
    Hash {
        /// Who is said to have written it.
        origin: RegionId,
        /// Where it is said to stand.
        position: Position,
    },
    /// More than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes; the most is {PAYLOAD_BYTES_MAX}: split the commit group")]
    TooLarge(usize),
}

/// The name under which outbox, inbox and audits know a payload: SHA-256 in hex.
pub fn event_hash(payload: &[u8]) -> String {
    hex::encode(Sha256::digest(payload))
}

impl Envelope {
    /// Seals a payload.
    pub fn seal(new: NewEnvelope) -> Result<Self, EnvelopeError> {
        if new.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EnvelopeError::TooLarge(new.payload.len()));
        }
        let hash = Sha256::digest(&new.payload).into();
        let NewEnvelope { origin, position, follows, hlc, schema_version, payload } = new;
        let Position { epoch, sequence } = position;
        Ok(Self { origin, epoch, sequence, follows, hlc, schema_version, payload, hash })
    }

    /// Where it stands in what its origin wrote.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, sequence: self.sequence }
    }

    /// SHA-256 of the payload in hex: the same in the origin's outbox and every peer's inbox.
    pub fn event_hash(&self) -> String {
        hex::encode(self.hash)
    }

    /// How many bytes it takes on the wire.
    pub fn encoded_len(&self) -> usize {
        FIXED_BYTES + self.origin.as_str().len() + self.payload.len()
    }

    /// The form on the wire.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut bytes);
        bytes.freeze()
    }

    pub(super) fn encode_into(&self, out: &mut BytesMut) {
        let name = self.origin.as_str().as_bytes();
        let follows = self.follows.unwrap_or(Position { epoch: Epoch(0), sequence: 0 });
        out.put_u8(HEADER_VERSION);
        out.put_u8(u8::try_from(name.len()).expect("a region's name has at most 15 bytes"));
        out.put_slice(name);
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_u32(follows.epoch.0);
        out.put_u64(follows.sequence);
        out.put_u64(self.hlc.wall_ms);
        out.put_u32(self.hlc.logical);
        out.put_u16(self.schema_version);
        out.put_slice(&self.hash);
        out.put_u32(u32::try_from(self.payload.len()).expect("bounded by PAYLOAD_BYTES_MAX"));
        out.put_slice(&self.payload);
    }

    /// Reads one envelope that fills `bytes` exactly, and checks its hash.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EnvelopeError> {
        let got = bytes.len();
        let envelope = Self::decode_from(&mut bytes)?;
        if bytes.is_empty() {
            Ok(envelope)
        } else {
            Err(EnvelopeError::Length { wanted: got - bytes.len(), got })
        }
    }

    /// Reads one envelope from the front of `bytes`, and checks its hash.
    pub(super) fn decode_from(bytes: &mut Bytes) -> Result<Self, EnvelopeError> {
        let short = |wanted: usize, got: usize| EnvelopeError::Length { wanted, got };
        let got = bytes.len();
        let (version, name_len) = match bytes.as_ref() {
            [version, name_len, ..] => (*version, usize::from(*name_len)),
            _ => return Err(short(FIXED_BYTES, got)),
        };
        if version != HEADER_VERSION {
            return Err(EnvelopeError::HeaderVersion(version));
        }
        if got < FIXED_BYTES + name_len {
            return Err(short(FIXED_BYTES + name_len, got));
        }
        bytes.advance(2);
        let name = bytes.split_to(name_len);
        let origin = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
        let origin: RegionId = origin.ok_or(EnvelopeError::Origin)?;
        let epoch = Epoch(bytes.get_u32());
        let sequence = bytes.get_u64();
        let follows = Position { epoch: Epoch(bytes.get_u32()), sequence: bytes.get_u64() };
        let hlc =
            HlcTimestamp { wall_ms: bytes.get_u64(), logical: bytes.get_u32(), region: origin };
        let schema_version = bytes.get_u16();
        let mut hash = [0; 32];
        bytes.copy_to_slice(&mut hash);
        let payload_len = bytes.get_u32() as usize;
        if payload_len > PAYLOAD_BYTES_MAX {
            return Err(EnvelopeError::TooLarge(payload_len));
        }
        if bytes.len() < payload_len {
            return Err(short(FIXED_BYTES + name_len + payload_len, got));
        }
        let payload = bytes.split_to(payload_len);
        let position = Position { epoch, sequence };
        let computed: [u8; 32] = Sha256::digest(&payload).into();
        if computed != hash {
            return Err(EnvelopeError::Hash { origin, position });
        }
        let follows = (follows.epoch.0 > 0).then_some(follows);
        Ok(Self { origin, epoch, sequence, follows, hlc, schema_version, payload, hash })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn envelope(origin: &str, epoch: u32, sequence: u64) -> Envelope {
        let origin: RegionId = origin.parse().unwrap();
        Envelope::seal(NewEnvelope {
            origin,
            position: Position { epoch: Epoch(epoch), sequence },
            follows: None,
            hlc: HlcTimestamp { wall_ms: sequence * 10, logical: epoch, region: origin },
            schema_version: SCHEMA_VERSION,
            payload: Bytes::from(format!("{{\"changes\":[{sequence}]}}")),
        })
        .unwrap()
    }

    #[test]
    fn the_hash_is_that_of_the_payload_and_is_checked() {
        let sent = envelope("us-east", 1, 7);
        assert_eq!(sent.event_hash(), event_hash(b"{\"changes\":[7]}"));
        let mut bytes = sent.encode().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let refusal = Envelope::decode(bytes.into()).unwrap_err();
        assert_eq!(refusal, EnvelopeError::Hash { origin: sent.origin, position: sent.position() });
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let bytes = envelope("eu-west", 2, 9).encode();
        for length in 0..bytes.len() {
            assert!(Envelope::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
        let longer = [bytes.as_ref(), b"x"].concat();
        assert!(matches!(Envelope::decode(longer.into()), Err(EnvelopeError::Length { .. })));
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert_eq!(Envelope::decode(other.into()), Err(EnvelopeError::HeaderVersion(2)));
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_on_both_sides() {
        let small = envelope("a", 1, 1);
        let new = NewEnvelope {
            origin: small.origin,
            position: small.position(),
            follows: None,
            hlc: small.hlc,
            schema_version: 1,
            payload: Bytes::from(vec![b' '; PAYLOAD_BYTES_MAX + 1]),
        };
        assert!(matches!(Envelope::seal(new), Err(EnvelopeError::TooLarge(_))));
        let mut bytes = small.encode().to_vec();
        let at = bytes.len() - small.payload.len() - 4;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(Envelope::decode(bytes.into()), Err(EnvelopeError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(
            epoch in 1u32.., sequence in any::<u64>(), follows in prop::option::of((1u32.., any::<u64>())),
            wall_ms in any::<u64>(), logical in any::<u32>(), schema_version in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let origin: RegionId = "ap-south".parse().unwrap();
            let sent = Envelope::seal(NewEnvelope {
                origin,
                position: Position { epoch: Epoch(epoch), sequence },
                follows: follows.map(|(epoch, sequence)| Position { epoch: Epoch(epoch), sequence }),
                hlc: HlcTimestamp { wall_ms, logical, region: origin },
                schema_version,
                payload: payload.into(),
            }).unwrap();
            prop_assert_eq!(sent.encode().len(), sent.encoded_len());
            prop_assert_eq!(Envelope::decode(sent.encode()).unwrap(), sent);
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![HEADER_VERSION];
            framed.extend(bytes);
            prop_assert!(Envelope::decode(framed.into()).is_err());
        }
    }
}
