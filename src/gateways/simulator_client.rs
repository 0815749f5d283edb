//! The payment provider simulator as a payment gateway, over HTTP with kept connections.

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::ports::{Authorization, AuthorizeRequest, GatewayError, PaymentGateway};
use crate::runtime::{Connector, Trust};
use crate::types::Money;

/// The largest answer we read: the provider's have some 300 bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an idle connection is kept. Shorter than the provider keeps it, so that a request never
/// goes into a connection that the other side is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// An address is not one of a provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a payment provider: http(s)://HOST:PORT, without a path")]
pub struct BadProviderUrl(String);

/// A client of the simulator.
pub struct SimulatorClient {
    client: Client<Connector, Full<Bytes>>,
    authorizations: Uri,
    ledger: Uri,
    timeout: Duration,
    slots: Semaphore,
}

#[derive(Serialize)]
struct AuthorizeBody<'a> {
    idempotency_key: &'a str,
    method: &'a str,
    token: &'a str,
    amount: Money,
    order_reference: &'a str,
}

/// The part of the provider's answers that we read.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    state: String,
    #[serde(default)]
    reference: String,
    #[serde(default)]
    decline_code: String,
    /// Of a refusal.
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
}

impl SimulatorClient {
    /// A client that waits for an answer at most `timeout`, with at most `in_flight_max` calls at once.
    pub fn new(
        base_url: &str,
        timeout: Duration,
        in_flight_max: usize,
        trust: &Trust,
    ) -> Result<Self, BadProviderUrl> {
        let bad = || BadProviderUrl(base_url.to_owned());
        let base: Uri = base_url.parse().map_err(|_| bad())?;
        let bare = base.path() == "/" && base.query().is_none();
        let scheme = base.scheme_str().filter(|scheme| bare && ["http", "https"].contains(scheme));
        let (scheme, authority) = scheme.zip(base.authority()).ok_or_else(bad)?;
        let authorizations =
            format!("{scheme}://{authority}/v1/authorizations").parse().map_err(|_| bad())?;
        let ledger = format!("{scheme}://{authority}/ledger").parse().map_err(|_| bad())?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(in_flight_max)
            .build(trust.connector(timeout));
        Ok(Self { client, authorizations, ledger, timeout, slots: Semaphore::new(in_flight_max) })
    }

    fn uri_of(&self, key: &str, action: &str) -> Uri {
        let mut uri = self.authorizations.to_string();
        uri.push('/');
        for byte in key.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                write!(uri, "%{byte:02X}").expect("a string takes everything");
            }
        }
        uri.push_str(action);
        uri.parse().expect("percent-encoded")
    }

    async fn call(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> Result<Authorization, GatewayError> {
        let (status, body) = self.exchange(method, uri, body, ANSWER_BYTES_MAX).await?;
        read_answer(status, &body)
    }

    /// The answer, if there is one in time.
    pub(super) async fn exchange(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), GatewayError> {
        let deadline = tokio::time::sleep(self.timeout);
        tokio::select! {
            biased;
            answer = self.exchange_unbounded(method, uri, body, bytes_max) => answer,
            () = deadline => {
                Err(GatewayError::NoAnswer(format!("no answer within {} ms", self.timeout.as_millis())))
            }
        }
    }

    async fn exchange_unbounded(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), GatewayError> {
        let _slot = self.slots.acquire().await.expect("never closed");
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("fixed headers are legal");
        let response = self.client.request(request).await.map_err(|error| {
            let reason = with_causes(&error);
            // A connection that was never made carried nothing; the rest may have arrived.
            if error.is_connect() {
                GatewayError::Unavailable(reason)
            } else {
                GatewayError::NoAnswer(reason)
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let body = body.map_err(|error| GatewayError::NoAnswer(error.to_string()))?.to_bytes();
        Ok((status, body))
    }

    pub(super) fn ledger(&self) -> &Uri {
        &self.ledger
    }
}

/// What an answer says.
fn read_answer(status: StatusCode, body: &[u8]) -> Result<Authorization, GatewayError> {
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(GatewayError::Unavailable(format!("it answered {status}")));
    }
    let refused = |why: &str| Err(GatewayError::Refused(format!("{status}: {why}")));
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return refused("its answer is not the JSON we expect");
    };
    if status == StatusCode::NOT_FOUND && answer.code == "unknown_authorization" {
        return Ok(Authorization::Unknown);
    }
    if !status.is_success() {
        return refused(&format!("{} ({})", answer.detail, answer.code));
    }
    match answer.state.as_str() {
        "authorized" => Ok(Authorization::Authorized { reference: answer.reference }),
        "pending" => Ok(Authorization::Pending { reference: answer.reference }),
        "declined" => Ok(Authorization::Declined { code: answer.decline_code }),
        "voided" => Ok(Authorization::Voided { reference: answer.reference }),
        other => refused(&format!("unknown state `{other}`")),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a string takes everything");
        cause = error.source();
    }
    text
}

#[async_trait]
impl PaymentGateway for SimulatorClient {
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<Authorization, GatewayError> {
        let body = AuthorizeBody {
            idempotency_key: &request.provider_key,
            method: &request.method,
            token: &request.token,
            amount: request.amount,
            order_reference: &request.order_reference,
        };
        let body = serde_json::to_vec(&body).expect("plain JSON").into();
        let answer = self.call(Method::POST, self.authorizations.clone(), body).await?;
        if answer == Authorization::Unknown {
            let why = "it does not know what we just asked for".to_owned();
            return Err(GatewayError::Refused(why));
        }
        Ok(answer)
    }

    async fn look_up(&self, provider_key: &str) -> Result<Authorization, GatewayError> {
        self.call(Method::GET, self.uri_of(provider_key, ""), Bytes::new()).await
    }

    async fn void(&self, provider_key: &str) -> Result<Authorization, GatewayError> {
        self.call(Method::POST, self.uri_of(provider_key, "/void"), Bytes::new()).await
    }
}
