//! Finding and repairing the rows in which two regions differ.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ROWS_DIGEST, ROWS_PULL, Rights};
use crate::escrow::{BUCKETS, Digest, DigestAnswer, PullRows, ROWS_PER_MESSAGE_MAX, Rows};
use crate::ports::RequestHandler;
use crate::types::{Actor, RegionId};

/// Pages of one bucket that are pulled at a time: 64,000 rows. What is left comes with the next
/// comparison, so that one comparison is bounded.
const PAGES_MAX: usize = 64;

/// A request for sums that are made now.
const FRESH: &[u8] = b"fresh";

/// Answers "what do you hold?".
pub struct DigestHandler {
    rights: Arc<Rights>,
}

/// Answers "send me these rows".
pub struct PullHandler {
    rights: Arc<Rights>,
}

impl DigestHandler {
    /// Answers with what `rights` has stored.
    pub fn new(rights: Arc<Rights>) -> Self {
        Self { rights }
    }
}

impl PullHandler {
    /// Answers with what `rights` has stored.
    pub fn new(rights: Arc<Rights>) -> Self {
        Self { rights }
    }
}

#[async_trait]
impl RequestHandler for DigestHandler {
    async fn handle(&self, _from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let digest =
            self.rights.digest(request == FRESH).await.map_err(|error| error.to_string())?;
        let sums = digest.sums().map(|((owner, bucket), sum)| (owner, bucket, sum)).collect();
        encode(&DigestAnswer { sums })
    }
}

#[async_trait]
impl RequestHandler for PullHandler {
    async fn handle(&self, _from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let PullRows { owner, bucket, after } = serde_json::from_slice(&request)
            .map_err(|error| format!("not a request for rows: {error}"))?;
        if bucket >= BUCKETS {
            return Err(format!("there are {BUCKETS} buckets, none is {bucket}"));
        }
        let limit = ROWS_PER_MESSAGE_MAX;
        let rows = self.rights.store.rows_in(owner, bucket, after.as_ref(), limit).await;
        let rows = rows.map_err(|error| error.to_string())?;
        let more = rows.len() == limit;
        encode(&Rows { rows, more })
    }
}

/// What a comparison with a peer came to.
#[derive(Debug)]
pub struct Compared {
    /// Rows that were newer there.
    pub repaired: usize,
    /// Some rows differ and are changing right now: worth another look soon.
    pub put_off: bool,
}

/// Compares all rows, whose sums here are `ours`, with a peer's and pulls what differs; if there was
/// a comparison before, with what was then here, only what does not change.
pub async fn repair_from(
    rights: &Rights,
    peer: RegionId,
    ours: &Digest,
    before: Option<&Digest>,
) -> anyhow::Result<Compared> {
    let limit = rights.request_timeout;
    // What was lost in a fault a moment ago must show now: sums of a little earlier won't do.
    let asked = Bytes::from_static(if before.is_none() { FRESH } else { b"" });
    let answer = rights.bus.request(peer, ROWS_DIGEST, asked, limit).await?;
    let answer: DigestAnswer = serde_json::from_slice(&answer)?;
    let sums = answer.sums.into_iter().map(|(owner, bucket, sum)| ((owner, bucket), sum));
    let mut differences = ours.differences(rights.own, &Digest::from_sums(sums));
    let put_off = before.is_some_and(|before| ours.put_off_moving(before, &mut differences));
    let own = differences.own_suspect.into_iter().map(|bucket| (rights.own, bucket));
    let mut repaired = 0;
    for (owner, bucket) in differences.pull.into_iter().chain(own) {
        repaired += pull(rights, peer, owner, bucket).await?;
    }
    Ok(Compared { repaired, put_off })
}

async fn pull(rights: &Rights, peer: RegionId, owner: Actor, bucket: u8) -> anyhow::Result<usize> {
    let mut repaired = 0;
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let request = serde_json::to_vec(&PullRows { owner, bucket, after })?;
        let limit = rights.request_timeout;
        let answer = rights.bus.request(peer, ROWS_PULL, request.into(), limit).await?;
        let Rows { rows, more } = serde_json::from_slice(&answer)?;
        repaired += rights.learn(&rows, &[]).await?.changed.len();
        after = rows.last().map(|row| row.key.clone());
        if !more || after.is_none() {
            break;
        }
    }
    Ok(repaired)
}

fn encode<T: serde::Serialize>(message: &T) -> Result<Bytes, String> {
    serde_json::to_vec(message).map(Bytes::from).map_err(|error| error.to_string())
}
