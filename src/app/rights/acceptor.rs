//! This region's database as an acceptor of the peers' proposals.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ProposeError, Rights};
use crate::escrow::{Accept, Prepare, Promise, ROWS_PER_MESSAGE_MAX};
use crate::ports::RequestHandler;
use crate::types::RegionId;

/// Answers "promise me".
pub struct PrepareHandler {
    rights: Arc<Rights>,
}

/// Answers "store this".
pub struct AcceptHandler {
    rights: Arc<Rights>,
}

impl PrepareHandler {
    /// Answers with what `rights` has stored.
    pub fn new(rights: Arc<Rights>) -> Self {
        Self { rights }
    }
}

impl AcceptHandler {
    /// Stores where `rights` does.
    pub fn new(rights: Arc<Rights>) -> Self {
        Self { rights }
    }
}

#[async_trait]
impl RequestHandler for PrepareHandler {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let request: Prepare = serde_json::from_slice(&request)
            .map_err(|error| format!("not a request for promises: {error}"))?;
        if request.ballot.region != from || request.keys.len() > ROWS_PER_MESSAGE_MAX {
            return Err("a ballot is its proposer's, and a message has its limits".to_owned());
        }
        self.rights.may_vote().map_err(|error| error.to_string())?;
        let promise = self.rights.registers.prepare(&request).await;
        let promise =
            promise.map_err(|error| format!("nothing was promised: {error}; ask again"))?;
        if let Promise::Promised { fenced, .. } = promise {
            self.rights.note_fenced(request.owner, fenced);
        }
        encode(&promise)
    }
}

#[async_trait]
impl RequestHandler for AcceptHandler {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let request: Accept =
            serde_json::from_slice(&request).map_err(|error| format!("not a proposal: {error}"))?;
        let is_theirs = request.slots.iter().all(|keyed| keyed.slot.ballot.region == from);
        if !is_theirs || request.slots.len() > ROWS_PER_MESSAGE_MAX {
            return Err("a ballot is its proposer's, and a message has its limits".to_owned());
        }
        self.rights.may_vote().map_err(|error| error.to_string())?;
        let accepted = self.rights.registers.accept(&request).await;
        encode(&accepted.map_err(|error| format!("nothing was stored: {error}; ask again"))?)
    }
}

impl Rights {
    /// What this region forgot may have been a promise.
    pub(super) fn may_vote(&self) -> Result<(), ProposeError> {
        if (self.may_give)() { Ok(()) } else { Err(ProposeError::SetBack) }
    }
}

fn encode<T: serde::Serialize>(answer: &T) -> Result<Bytes, String> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| error.to_string())
}
