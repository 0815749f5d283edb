//! One file for each part of the contract. A handler checks, asks `app`, and writes what it answers.

pub(super) mod admin;
pub(super) mod evacuation;
pub(super) mod inventory;
pub(super) mod nodes;
pub(super) mod orders;
pub(super) mod place;
pub(super) mod products;
pub(super) mod reconciliations;
pub(super) mod retirement;
pub(super) mod stranded;
pub(super) mod transfers;
pub(super) mod webhooks;

#[cfg(test)]
mod tests;

use axum::http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::app::WriteError;
use crate::domain::idempotency::IntentKey;
use crate::ports::StoreError;
use crate::types::RegionId;

use super::auth::Principal;
use super::context::Context;
use super::headers::IdempotencyKey;
use super::problem::{Code, Problem};

/// The first answer to this key again.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// When a client may try again after a queue was full: a group commit takes milliseconds.
const RETRY_OVERLOADED_S: u32 = 1;
/// When a client may try again after the database did not answer: about as long as a restart takes.
const RETRY_DEPENDENCY_S: u32 = 2;

/// The client's intent: two clients never share a key.
fn intent(caller: &Principal, key: IdempotencyKey) -> IntentKey {
    IntentKey { principal: format!("{}:{}", caller.role, caller.subject), key: key.0 }
}

/// Identifies a request for its key: the call, and its body whatever the order of fields.
fn request_hash(call: &str, canonical: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(call.as_bytes());
    hash.update(b"\n");
    hash.update(canonical);
    hex::encode(hash.finalize())
}

fn key_reused() -> Problem {
    let detail = "this Idempotency-Key belongs to another request; nothing was done; a new intent needs a new key";
    Problem::new(Code::IdempotencyKeyReused, detail)
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Overloaded => {
                Self::new(Code::Overloaded, "too many requests are waiting; nothing was done")
                    .retry_after(RETRY_OVERLOADED_S)
            }
            WriteError::Unavailable(why) => {
                tracing::warn!(%why, "a request was not carried out");
                Self::new(
                    Code::DependencyUnavailable,
                    "the database does not answer; whether this took effect is not known: repeat it \
                     with the same Idempotency-Key",
                )
                .retry_after(RETRY_DEPENDENCY_S)
            }
            WriteError::Fenced => {
                let detail =
                    "this region was declared dead by the others and writes nothing any more";
                Self::new(Code::RegionDraining, detail).retry_after(RETRY_DEPENDENCY_S)
            }
            WriteError::NotTrusted => {
                let detail =
                    "this region's database was set back, or may have been; nothing was done";
                Self::new(Code::RegionDraining, detail).retry_after(RETRY_DEPENDENCY_S)
            }
            WriteError::Broken(why) => {
                tracing::error!(%why, "a request could not be carried out");
                Self::new(Code::Internal, "a fault of this service; nothing was done")
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => {
                tracing::warn!(%why, "a read failed");
                Self::new(
                    Code::DependencyUnavailable,
                    "the database does not answer; nothing was changed",
                )
                .retry_after(RETRY_DEPENDENCY_S)
            }
            StoreError::Broken(why) => {
                tracing::error!(%why, "a read failed");
                Self::new(Code::Internal, "a fault of this service; nothing was changed")
            }
        }
    }
}

/// A region of the deployment that has something to give up, or to take over.
fn ensure_seller(context: &Context, region: RegionId) -> Result<(), Problem> {
    let of_all = &context.app.region;
    if of_all.witness == Some(region) {
        let detail = format!("{region} is the witness, which sells nothing; nothing was changed");
        return Err(Problem::new(Code::NotFenceable, detail));
    }
    if of_all.is_seller(region) { Ok(()) } else { Err(Problem::not_found("region")) }
}

/// A task of ours panicked: the panic itself is in the log.
fn lost_task(_: tokio::task::JoinError) -> Problem {
    Problem::new(Code::Internal, Code::Internal.meaning())
}
