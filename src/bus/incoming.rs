//! Reading a peer's streams over the link.
//!
//! A named durable pull consumer of ours lives in the peer's broker and remembers what we have
//! acknowledged. Pull consumers have been seen to fall silent after a reconnect, so nothing is
//! trusted here: the broker must send a sign of life every two seconds, after ten seconds without a
//! message it is asked whether something is pending, and every error, and every doubt, ends in
//! building the reader anew. Whatever comes twice by that is known by its sequence.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{sleep, timeout};

use super::link::Link;
use super::names;
use crate::ports::{Acknowledge, Delivery};
use crate::replication::{Envelope, PENDING_ENVELOPES_MAX};
use crate::types::RegionId;

/// How long an envelope may stay unacknowledged before the broker sends it again: longer than a
/// database takes to fail over.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The broker's sign of life while there is nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long one request for messages stands in the broker: a few signs of life.
const EXPIRES: Duration = Duration::from_secs(6);
/// Messages asked for at once: what an apply transaction takes, four times over.
const BATCH_MESSAGES: usize = 64;
/// Bytes asked for at once. More than the largest message, or that one could never be sent.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// After this long without a message the consumer is asked whether it holds something back.
const WATCHDOG: Duration = Duration::from_secs(10);
/// The time limit of each call to the peer's broker: several round trips of 300 ms.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// The first pause before building anew; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause before building anew: a healed link is used within this time.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long an acknowledgement may wait to be sent.
const ACK_LIMIT: Duration = Duration::from_secs(1);

/// The envelopes of a peer.
pub(super) fn envelopes(
    own: RegionId,
    peer: RegionId,
    link: &Arc<Link>,
) -> BoxStream<'static, Delivery> {
    let consumer = pull::Config {
        durable_name: Some(names::consumer(own)),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: i64::try_from(PENDING_ENVELOPES_MAX).expect("a small number"),
        filter_subject: names::envelopes_subject(peer),
        ..pull::Config::default()
    };
    let reader = Reader::new(peer, &link.bulk, names::envelopes_stream(peer), consumer);
    futures::stream::unfold(reader, move |mut reader| async move {
        loop {
            let message = reader.next().await;
            let (message, acker) = message.split();
            let ack = Box::new(JetStreamAck(acker));
            match Envelope::decode(message.payload) {
                Ok(envelope) => return Some((Delivery { envelope, ack }, reader)),
                Err(error) => {
                    // What is missing now is pulled from the outbox, and checked again.
                    tracing::error!(peer.region = %peer, %error, "a broken envelope from {peer}");
                    ack.acknowledge().await;
                }
            }
        }
    })
    .boxed()
}

/// The rows of a peer, from now on: older ones come by digests.
pub(super) fn rows(own: RegionId, peer: RegionId, link: &Arc<Link>) -> BoxStream<'static, Bytes> {
    let consumer = pull::Config {
        durable_name: Some(names::consumer(own)),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::None,
        filter_subject: names::rows_subject(peer),
        memory_storage: true,
        ..pull::Config::default()
    };
    let reader = Reader::new(peer, &link.control, names::rows_stream(peer), consumer);
    futures::stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await;
        Some((message.payload.clone(), reader))
    })
    .boxed()
}

struct JetStreamAck(jetstream::message::Acker);

#[async_trait]
impl Acknowledge for JetStreamAck {
    async fn acknowledge(&self) {
        match timeout(ACK_LIMIT, self.0.ack()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an acknowledgement got lost"),
            Err(_late) => tracing::debug!("an acknowledgement could not be sent in time"),
        }
    }
}

/// One durable consumer, built again whenever in doubt.
struct Reader {
    peer: RegionId,
    jetstream: jetstream::Context,
    stream: String,
    config: pull::Config,
    open: Option<Open>,
    failures: u32,
}

struct Open {
    consumer: PullConsumer,
    messages: Pin<Box<pull::Stream>>,
}

impl Reader {
    fn new(
        peer: RegionId,
        client: &async_nats::Client,
        stream: String,
        config: pull::Config,
    ) -> Self {
        let jetstream =
            jetstream::context::ContextBuilder::new().timeout(CALL_LIMIT).build(client.clone());
        Self { peer, jetstream, stream, config, open: None, failures: 0 }
    }

    async fn next(&mut self) -> jetstream::Message {
        loop {
            let Some(open) = &mut self.open else {
                self.build().await;
                continue;
            };
            let doubt = match timeout(WATCHDOG, open.messages.next()).await {
                Ok(Some(Ok(message))) => {
                    self.failures = 0;
                    return message;
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "it ended".to_owned(),
                Err(_quiet) => match open.stalled().await {
                    None => {
                        self.failures = 0;
                        continue;
                    }
                    Some(doubt) => doubt,
                },
            };
            self.give_up(&doubt).await;
        }
    }

    async fn build(&mut self) {
        match timeout(CALL_LIMIT, Open::build(&self.jetstream, &self.stream, &self.config)).await {
            Ok(Ok(open)) => {
                tracing::debug!(peer.region = %self.peer, stream = self.stream, "reading");
                self.open = Some(open);
            }
            Ok(Err(error)) => self.give_up(&error.to_string()).await,
            Err(_late) => self.give_up("the broker did not answer in time").await,
        }
    }

    async fn give_up(&mut self, why: &str) {
        self.open = None;
        let pause = PAUSE_FIRST * 2_u32.pow(self.failures.min(10));
        self.failures += 1;
        tracing::debug!(
            peer.region = %self.peer,
            stream = self.stream,
            why,
            failures = self.failures,
            "the reader of a stream of {} is built anew", self.peer
        );
        sleep(pause.min(PAUSE_MAX)).await;
    }
}

impl Open {
    async fn build(
        jetstream: &jetstream::Context,
        stream: &str,
        config: &pull::Config,
    ) -> Result<Self, async_nats::Error> {
        // Made or found: the same name and the same configuration is the same consumer.
        let consumer = jetstream.create_consumer_on_stream(config.clone(), stream).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES)
            .max_bytes_per_batch(BATCH_BYTES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await?;
        Ok(Self { consumer, messages: Box::pin(messages) })
    }

    /// Why the consumer is in doubt, if it is: something is pending and nothing came.
    async fn stalled(&self) -> Option<String> {
        match timeout(CALL_LIMIT, self.consumer.get_info()).await {
            Ok(Ok(info)) if info.num_pending == 0 => None,
            Ok(Ok(info)) => Some(format!("{} messages pending and none came", info.num_pending)),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_late) => Some("the broker did not answer in time".to_owned()),
        }
    }
}
