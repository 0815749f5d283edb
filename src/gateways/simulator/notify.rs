//! Webhooks to whoever wants to know, signed and retried.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;

use crate::gateways::webhook::{Secret, sign};
use crate::ports::{Clock, Ids};

/// How often one message is tried. With the pauses below, over some 12 s: longer than a region takes
/// to restart. A receiver that missed all of them can still ask by key.
const ATTEMPTS_MAX: u32 = 7;

/// The pause after the first attempt; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many messages are on their way at once; others wait their turn.
const IN_FLIGHT_MAX: usize = 64;

/// Tells every configured URL.
pub(super) struct Notifier {
    targets: Vec<(Uri, Secret)>,
    client: Client<HttpConnector, Full<Bytes>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    slots: Semaphore,
}

impl Notifier {
    pub(super) fn new(
        targets: Vec<(Uri, Secret)>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { targets, client, clock, ids, slots: Semaphore::new(IN_FLIGHT_MAX) }
    }

    /// Delivers one event to every target, as far as they take it.
    pub(super) async fn tell(&self, event: &str, data: serde_json::Value) {
        if self.targets.is_empty() {
            return;
        }
        let id = format!("msg_{}", self.ids.uuid().simple());
        let body = serde_json::json!({ "type": event, "data": data });
        let body: Bytes = serde_json::to_vec(&body).expect("plain JSON").into();
        let deliveries = self.targets.iter().map(|target| self.deliver(target, &id, &body));
        futures::future::join_all(deliveries).await;
    }

    async fn deliver(&self, (url, secret): &(Uri, Secret), id: &str, body: &Bytes) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS_MAX {
            let slot = self.slots.acquire().await.expect("never closed");
            let outcome = self.attempt(url, secret, id, body).await;
            drop(slot);
            match outcome {
                Ok(()) => return,
                Err(reason) => tracing::info!(%url, id, attempt, reason, "a webhook was not taken"),
            }
            if attempt < ATTEMPTS_MAX {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        tracing::warn!(%url, id, "a webhook is given up; the receiver can ask by key");
    }

    async fn attempt(
        &self,
        url: &Uri,
        secret: &Secret,
        id: &str,
        body: &Bytes,
    ) -> Result<(), String> {
        let timestamp_s = self.clock.wall_ms() / 1000;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", sign(secret, id, timestamp_s, body))
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())?;
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("answered {}", response.status())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}
