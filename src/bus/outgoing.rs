//! This region's own broker: its streams, and publishing into them.
//!
//! The stream of envelopes is a buffer, not a store. It keeps the newest [`ENVELOPES_BYTES_MAX`] and
//! discards the oldest ones; a peer that was away for longer pulls from the outbox. So losing the
//! stream, or any part of it, costs nothing but pulls.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use bytes::Bytes;
use tokio::time::timeout;

use super::link::{connect, is_connected};
use super::{BadAddress, names};
use crate::config::NatsAddress;
use crate::ports::BusError;
use crate::replication::{Envelope, PAYLOAD_BYTES_MAX, Position};
use crate::types::RegionId;

/// What the stream of envelopes may take on disk: about a minute of a region at 3,000 orders a second,
/// a day of one at 2. Bridges restarts and short cuts without a pull.
const ENVELOPES_BYTES_MAX: i64 = 512 * 1024 * 1024;
/// What rows may take in memory: newest values win, so that older ones are worth little.
const ROWS_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// A row that waited this long has certainly been repaired by digests.
const ROWS_AGE_MAX: Duration = Duration::from_mins(1);
/// Copies of a message within this time are dropped by the broker. A convenience only: the watermark
/// decides, at any time.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);
/// How long the broker on the same machine may take to confirm a batch: its disk may be busy, and
/// nobody waits but the publisher.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);
/// How long anything else may take there.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// What a broker must accept in one message: an envelope or a pull answer, with headers.
const MESSAGE_BYTES_NEEDED: usize = PAYLOAD_BYTES_MAX + 64 * 1024;
/// Messages confirmed at once; a batch of the publisher is smaller.
const CONFIRMATIONS_MAX: usize = 1_024;

/// The connection to the broker beside this server.
pub(super) struct OwnBroker {
    region: RegionId,
    pub(super) client: Client,
    jetstream: jetstream::Context,
}

impl OwnBroker {
    pub(super) async fn connect(
        region: RegionId,
        address: &NatsAddress,
    ) -> Result<Self, BadAddress> {
        let client = connect(region, address, format!("entrepot {region}")).await?;
        let jetstream = ContextBuilder::new()
            .timeout(CALL_LIMIT)
            .ack_timeout(CONFIRM_LIMIT)
            .max_ack_inflight(CONFIRMATIONS_MAX)
            .build(client.clone());
        Ok(Self { region, client, jetstream })
    }

    /// Publishes in order and awaits every confirmation. All are on their way before the first one
    /// is awaited: with the broker syncing each write, many at once are what makes it fast.
    pub(super) async fn publish(&self, envelopes: &[Envelope]) -> Result<(), BusError> {
        let all = async {
            let mut confirmations = Vec::with_capacity(envelopes.len());
            for envelope in envelopes {
                let message = PublishMessage::build()
                    .payload(envelope.encode())
                    .message_id(envelope.position().to_string());
                let subject = names::envelopes_subject(self.region);
                let sent = self.jetstream.send_publish(subject, message).await;
                confirmations.push(sent.map_err(not_confirmed)?);
            }
            for confirmation in confirmations {
                confirmation.await.map_err(not_confirmed)?;
            }
            Ok(())
        };
        self.bounded(all).await
    }

    /// Makes sure that the streams are there, and says what the one of envelopes ends with.
    pub(super) async fn published(&self) -> Result<Option<Position>, BusError> {
        let last = async {
            let max_payload = self.client.server_info().max_payload;
            if max_payload < MESSAGE_BYTES_NEEDED {
                return Err(BusError::NotConfirmed(format!(
                    "it accepts messages of at most {max_payload} bytes and envelopes need \
                     {MESSAGE_BYTES_NEEDED}; set `max_payload: 8388608` in its configuration"
                )));
            }
            self.make_streams().await?;
            let stream = names::envelopes_stream(self.region);
            let stream = self.jetstream.get_stream_no_info(stream).await.map_err(not_confirmed)?;
            let subject = names::envelopes_subject(self.region);
            let message = match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(None);
                }
                Err(error) => return Err(not_confirmed(error)),
            };
            match Envelope::decode(message.payload) {
                Ok(envelope) => Ok(Some(envelope.position())),
                Err(error) => {
                    // Whatever it is, peers repair around it.
                    tracing::error!(%error, "the last message of the own stream is no envelope");
                    Ok(None)
                }
            }
        };
        self.bounded(last).await
    }

    /// Sends without a confirmation.
    pub(super) async fn send(&self, subject: String, payload: Bytes) -> Result<(), BusError> {
        let sent = async { self.client.publish(subject, payload).await.map_err(not_confirmed) };
        self.bounded(sent).await
    }

    async fn make_streams(&self) -> Result<(), BusError> {
        let envelopes = Config {
            name: names::envelopes_stream(self.region),
            subjects: vec![names::envelopes_subject(self.region)],
            max_bytes: ENVELOPES_BYTES_MAX,
            ..limited(StorageType::File)
        };
        let rows = Config {
            name: names::rows_stream(self.region),
            subjects: vec![names::rows_subject(self.region)],
            max_bytes: ROWS_BYTES_MAX,
            max_age: ROWS_AGE_MAX,
            duplicate_window: ROWS_AGE_MAX,
            ..limited(StorageType::Memory)
        };
        for config in [envelopes, rows] {
            self.jetstream.create_or_update_stream(config).await.map_err(not_confirmed)?;
        }
        Ok(())
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        if !is_connected(&self.client) {
            return Err(BusError::NotConfirmed("there is no connection to it".to_owned()));
        }
        let late = |_| BusError::NotConfirmed("it did not answer in time".to_owned());
        timeout(CONFIRM_LIMIT + CALL_LIMIT, call).await.map_err(late)?
    }
}

fn limited(storage: StorageType) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        duplicate_window: DUPLICATE_WINDOW,
        storage,
        num_replicas: 1,
        ..Config::default()
    }
}

fn not_confirmed(error: impl std::error::Error) -> BusError {
    BusError::NotConfirmed(error.to_string())
}
