//! The registers of ceilings, as this region's database stores them.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::StoreError;
use crate::escrow::{
    Accept, Accepted, Ballot, KeyedSlot, Prepare, Promise, Stewardship, Voted, Voters,
};
use crate::types::{Actor, Epoch, RegionId};

/// This region's database as an acceptor for every owner, and what it knows to be chosen.
///
/// The answers are those of [`crate::escrow::answer_prepare`] and [`crate::escrow::answer_accept`], and they
/// are durable before they are given.
#[async_trait]
pub trait RegisterStore: Send + Sync {
    /// What was promised of an owner's registers; the ballot of birth where nobody ever asked.
    async fn promised(&self, owner: Actor) -> Result<Ballot, StoreError>;

    /// Promises, and reads what is stored. Counts as a vote.
    async fn prepare(&self, request: &Prepare) -> Result<Voted<Promise>, StoreError>;

    /// Stores values. Either all of a message are looked at key by key, or none is stored. Counts as a vote.
    async fn accept(&self, request: &Accept) -> Result<Voted<Accepted>, StoreError>;

    /// Notes what a majority has stored; what is known to be chosen later stays. Of the own register that raises
    /// the ceiling of this region's sales. Notes `voters` with it.
    async fn choose(
        &self,
        owner: Actor,
        chosen: &[KeyedSlot],
        voters: &Voters,
    ) -> Result<(), StoreError>;

    /// Notes how far other acceptors have voted; what is known to be further stays. Whatever rests on a vote is done
    /// after that: an acceptor that forgets it can then be told.
    async fn note_voters(&self, voters: &Voters) -> Result<(), StoreError>;

    /// How far they had, when it was noted last.
    async fn voters(&self) -> Result<Voters, StoreError>;

    /// The latest incarnation of a region that this database knows of.
    async fn latest(&self, region: RegionId) -> Result<Epoch, StoreError>;

    /// Who acts for a region's orders, as this acceptor knows it.
    async fn stewardship(&self, region: RegionId) -> Result<Stewardship, StoreError>;

    /// Owners whose raises a survivor has ended.
    async fn fenced(&self) -> Result<BTreeSet<Actor>, StoreError>;

    /// Keeps a person's word that no process of a region that was fenced under `ballot` will ever act again. It ends with
    /// the fence.
    async fn keep_gone(&self, region: RegionId, ballot: Ballot) -> Result<(), StoreError>;

    /// Did a person give that word, for the fence under this very ballot?
    async fn is_gone(&self, region: RegionId, ballot: Ballot) -> Result<bool, StoreError>;
}
