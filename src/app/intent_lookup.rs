//! Has another region taken this intent? (I-07)
//!
//! A shopper whose region just died retries elsewhere, and the record of the first attempt may be in a
//! region that is alive and has not told us yet. So a placement that was not routed to its usual region
//! asks the peers that can be reached before it decides. What can't be asked is settled afterwards
//! ([`super::settle_contested`]); the money is held once in any case, because the provider's key comes
//! from the intent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::ports::{Bus, Clock, Reader, RequestHandler, RequestKind};
use crate::replication::Peers;
use crate::types::RegionId;

use super::InFlightIntents;

/// The request's name on the bus.
pub const INTENT_REQUEST: RequestKind = RequestKind::named("intent");

/// What a region knows of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knowledge {
    /// Nothing.
    Unknown,
    /// It is being carried out right now.
    InFlight,
    /// It was taken.
    Taken(IntentRecord),
}

/// Asks the peers.
pub struct IntentLookup {
    /// To them.
    pub bus: Arc<dyn Bus>,
    /// Who can be reached.
    pub peers: Arc<Mutex<Peers>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For one answer.
    pub patience: Duration,
}

impl IntentLookup {
    /// Asks every peer that can be reached, at once. The first that took it wins.
    pub async fn ask(&self, intent: &IntentKey) -> Knowledge {
        let now_ms = self.clock.monotonic_ms();
        let reachable: Vec<RegionId> = {
            let peers = self.peers.lock().expect("no panic while held");
            self.bus.peers().into_iter().filter(|peer| peers.reachable(*peer, now_ms)).collect()
        };
        let request =
            Bytes::from(serde_json::to_vec(intent).expect("our own type always serializes"));
        let answers = reachable
            .iter()
            .map(|peer| self.bus.request(*peer, INTENT_REQUEST, request.clone(), self.patience));
        let mut known = Knowledge::Unknown;
        for (peer, answer) in reachable.iter().zip(join_all(answers).await) {
            let knowledge = answer.map_err(|error| error.to_string()).and_then(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())
            });
            match knowledge {
                Ok(Knowledge::Taken(record)) => return Knowledge::Taken(record),
                Ok(Knowledge::InFlight) => known = Knowledge::InFlight,
                Ok(Knowledge::Unknown) => {}
                Err(why) => {
                    tracing::debug!(%peer, why, "a peer could not be asked about an intent");
                }
            }
        }
        known
    }
}

/// Answers the peers.
pub struct IntentHandler {
    /// What is stored.
    pub reader: Arc<dyn Reader>,
    /// What is under way.
    pub in_flight: Arc<InFlightIntents>,
    /// Only what this region took itself is told: the others are asked as well.
    pub region: RegionId,
}

#[async_trait]
impl RequestHandler for IntentHandler {
    async fn handle(&self, _from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let intent: IntentKey =
            serde_json::from_slice(&request).map_err(|error| error.to_string())?;
        // First the intents under way: one that ends between the two looks is then in the database.
        let in_flight = self.in_flight.holds(&intent);
        let records = self.reader.intents(&intent).await.map_err(|error| error.to_string())?;
        let own = records.into_iter().find(|record| record.region == self.region);
        let knowledge = match own {
            Some(record) => Knowledge::Taken(record),
            None if in_flight => Knowledge::InFlight,
            None => Knowledge::Unknown,
        };
        Ok(Bytes::from(serde_json::to_vec(&knowledge).expect("our own type always serializes")))
    }
}
