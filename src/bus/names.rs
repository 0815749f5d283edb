//! The names of subjects, streams and consumers.
//!
//! All of them carry the region, although each broker serves one only: a client that was pointed to
//! the wrong broker then finds nothing, instead of somebody else's envelopes.

use crate::ports::RequestKind;
use crate::types::RegionId;

/// The stream of a region's envelopes. A new header version of the envelope is a new stream.
pub(super) fn envelopes_stream(region: RegionId) -> String {
    format!("envelopes-{region}")
}

/// What it listens to.
pub(super) fn envelopes_subject(region: RegionId) -> String {
    format!("entrepot.{region}.envelopes")
}

/// The stream of a region's rows of rights.
pub(super) fn rows_stream(region: RegionId) -> String {
    format!("rows-{region}")
}

/// What it listens to.
pub(super) fn rows_subject(region: RegionId) -> String {
    format!("entrepot.{region}.rows")
}

/// Where a region says that it is there.
pub(super) fn heartbeat_subject(region: RegionId) -> String {
    format!("entrepot.{region}.heartbeat")
}

/// Where a region answers requests.
pub(super) fn request_subject(region: RegionId, kind: RequestKind) -> String {
    format!("entrepot.{region}.request.{}", kind.as_str())
}

/// The durable consumer of one region on a peer's stream.
pub(super) fn consumer(reader: RegionId) -> String {
    format!("to-{reader}")
}
