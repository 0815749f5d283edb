//! Questions and answers between regions.
//!
//! The asker is connected to the answerer's broker, where the answerer's servers listen in a queue
//! group: one of them gets it. The first byte of an answer tells whether it is one, or the reason why
//! there is none. Nothing is queued while there is no connection: a question that waits is a
//! question that is answered after its asker has gone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Message, Request};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::is_connected;
use super::names;
use crate::ports::{BusError, RequestHandler, RequestKind};
use crate::types::RegionId;

/// Who asks.
const FROM: &str = "Entrepot-From";
/// Requests of one kind handled at once: a pool of database connections can't use more, and the
/// rest waits in the subscription until its askers give up.
const HANDLED_AT_ONCE: usize = 32;
/// Between two attempts to subscribe at the own broker.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);
/// How long an answer may wait to be sent.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;

/// Asks a peer.
pub(super) async fn ask(
    client: &Client,
    own: RegionId,
    peer: RegionId,
    kind: RequestKind,
    payload: Bytes,
    limit: Duration,
) -> Result<Bytes, BusError> {
    let unreachable = |reason: &str| BusError::Unreachable { peer, reason: reason.to_owned() };
    if !is_connected(client) {
        return Err(unreachable("there is no connection to its broker"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(FROM, own.as_str());
    let request = Request::new().payload(payload).headers(headers).timeout(Some(limit));
    let subject = names::request_subject(peer, kind);
    // The inner limit doesn't cover the wait for a place in the queue of commands.
    let asked = timeout(limit, client.send_request(subject, request)).await;
    let answer = match asked {
        Ok(Ok(message)) => message.payload,
        Ok(Err(error)) => match error.kind() {
            RequestErrorKind::NoResponders => return Err(unreachable("no server listens there")),
            RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                return Err(unreachable(&error.to_string()));
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                return Err(BusError::NoAnswer { peer });
            }
        },
        Err(_late) => return Err(BusError::NoAnswer { peer }),
    };
    match answer.first() {
        Some(&ANSWERED) => Ok(answer.slice(1..)),
        Some(&REFUSED) => {
            let reason = String::from_utf8_lossy(&answer[1..]).into_owned();
            Err(BusError::Refused { peer, reason })
        }
        _ => {
            let reason = "an answer of a form that this program doesn't know".to_owned();
            Err(BusError::Refused { peer, reason })
        }
    }
}

/// Answers requests of one kind at the own broker until told to stop, then finishes what it began.
pub(super) async fn serve(
    client: &Client,
    own: RegionId,
    kind: RequestKind,
    handler: Arc<dyn RequestHandler>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let subject = names::request_subject(own, kind);
        let Ok(subscription) = client.queue_subscribe(subject, "servers".to_owned()).await else {
            let pause = sleep(SUBSCRIBE_PAUSE);
            stop.run_until_cancelled(pause).await;
            continue;
        };
        subscription
            .take_until(stop.cancelled())
            .for_each_concurrent(HANDLED_AT_ONCE, |message| answer(client, kind, &handler, message))
            .await;
    }
}

async fn answer(
    client: &Client,
    kind: RequestKind,
    handler: &Arc<dyn RequestHandler>,
    message: Message,
) {
    let from = message.headers.as_ref().and_then(|headers| headers.get(FROM));
    let from = from.and_then(|name| name.as_str().parse::<RegionId>().ok());
    let (Some(from), Some(reply)) = (from, message.reply) else {
        tracing::warn!(kind = kind.as_str(), "a request without a sender is not answered");
        return;
    };
    // A panic is a bug in one answer; it must not end the answering of all others.
    let handled = AssertUnwindSafe(handler.handle(from, message.payload)).catch_unwind();
    let result = handled.await.unwrap_or_else(|_panic| {
        tracing::error!(peer.region = %from, kind = kind.as_str(), "answering {from} panicked");
        Err("an internal error; see the log of the region that was asked".to_owned())
    });
    let (tag, body) = match &result {
        Ok(body) => (ANSWERED, body.as_ref()),
        Err(reason) => (REFUSED, reason.as_bytes()),
    };
    let mut answer = BytesMut::with_capacity(1 + body.len());
    answer.put_u8(tag);
    answer.put_slice(body);
    match timeout(ANSWER_LIMIT, client.publish(reply, answer.freeze())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            peer.region = %from, kind = kind.as_str(), %error, "an answer to {from} got lost"
        ),
        Err(_late) => tracing::warn!(
            peer.region = %from, kind = kind.as_str(), "an answer to {from} could not be sent"
        ),
    }
}
