//! This region's database as an acceptor of the peers' proposals.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ProposeError, Rights};
use crate::escrow::{
    Accept, Asked, Prepare, Promise, ROWS_PER_MESSAGE_MAX, Stale, Voter, Voters, check_voters,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::{RequestHandler, StoreError};
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
        let Asked { voters, request } = serde_json::from_slice::<Asked<Prepare>>(&request)
            .map_err(|error| format!("not a request for promises: {error}"))?;
        if request.ballot.region != from || request.keys.len() > ROWS_PER_MESSAGE_MAX {
            return Err("a ballot is its proposer's, and a message has its limits".to_owned());
        }
        self.rights.may_vote().map_err(|error| error.to_string())?;
        let promise = self.rights.registers.prepare(&request).await;
        let vote = promise.map_err(|error| format!("nothing was promised: {error}; ask again"))?;
        self.rights.may_answer(from, &voters, vote.voter)?;
        if let Promise::Promised { fenced, .. } = vote.answer {
            self.rights.note_fenced(request.owner, fenced);
        }
        encode(&vote)
    }
}

#[async_trait]
impl RequestHandler for AcceptHandler {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let Asked { voters, request } = serde_json::from_slice::<Asked<Accept>>(&request)
            .map_err(|error| format!("not a proposal: {error}"))?;
        let is_theirs = request.slots.iter().all(|keyed| keyed.slot.ballot.region == from);
        if !is_theirs || request.slots.len() > ROWS_PER_MESSAGE_MAX {
            return Err("a ballot is its proposer's, and a message has its limits".to_owned());
        }
        self.rights.may_vote().map_err(|error| error.to_string())?;
        let accepted = self.rights.registers.accept(&request).await;
        let vote = accepted.map_err(|error| format!("nothing was stored: {error}; ask again"))?;
        self.rights.may_answer(from, &voters, vote.voter)?;
        encode(&vote)
    }
}

impl Rights {
    /// A vote counts when its answer arrives. One that must not count has been stored like one whose answer got
    /// lost, and is kept back; a proposer that knows more of this acceptor than it does itself proves that its
    /// database was set back.
    fn may_answer(&self, from: RegionId, told: &Voters, after: Voter) -> Result<(), String> {
        let known = self.voters();
        let stale = check_voters(self.own.region, after, &known, from, told);
        if stale == Err(Stale::Acceptor) {
            let of_us = told.get(&self.own.region).copied().unwrap_or(Voter::UNKNOWN);
            self.forgot(format!(
                "{from} knows of vote {} of incarnation {}, the database of vote {} of {}",
                of_us.votes, of_us.epoch, after.votes, after.epoch
            ));
        }
        stale.map_err(|stale| stale.to_string())
    }

    /// What is known of the acceptors, and which incarnation this region is.
    pub(super) fn voters(&self) -> Voters {
        let mut voters = self.voters.lock().expect("no panic while held").clone();
        let own = Voter { epoch: self.own.epoch, votes: 0 };
        let known = voters.entry(self.own.region).or_insert(own);
        *known = own.max(*known);
        voters
    }

    /// How far the other acceptors are known to have voted.
    pub(super) fn others_votes(&self) -> Voters {
        let mut voters = self.voters();
        voters.remove(&self.own.region);
        if is_on(Mutant::VotesNotNoted) { Voters::new() } else { voters }
    }

    /// What other processes of this region have counted counts here too: read before a vote is asked for.
    pub(super) async fn read_voters(&self) -> Result<(), StoreError> {
        for (region, voter) in self.registers.voters().await? {
            self.heard_vote(region, voter);
        }
        Ok(())
    }

    /// How far an acceptor is known to have voted.
    pub fn voter(&self, region: RegionId) -> Voter {
        self.voters().get(&region).copied().unwrap_or(Voter::UNKNOWN)
    }

    /// An acceptor has voted.
    pub(super) fn heard_vote(&self, peer: RegionId, voter: Voter) {
        let mut voters = self.voters.lock().expect("no panic while held");
        let known = voters.entry(peer).or_insert(Voter::UNKNOWN);
        *known = voter.max(*known);
    }

    /// What this region forgot may have been a promise.
    pub(super) fn may_vote(&self) -> Result<(), ProposeError> {
        if (self.may_give)() { Ok(()) } else { Err(ProposeError::SetBack) }
    }
}

fn encode<T: serde::Serialize>(answer: &T) -> Result<Bytes, String> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| error.to_string())
}
