//! Requests that only another region can answer go there, over the link between the two.
//!
//! The client's own token goes along: the other region checks it as if the client had come there. A
//! forwarded request is never forwarded again (`X-Entrepot-Forwarded`), so regions that disagree
//! about who is responsible answer 503 instead of passing it around. The load balancer takes that header
//! off what comes from outside; only the name of a region of the deployment counts.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::runtime::{Connector, Trust};
use crate::types::RegionId;

use super::context::Context;
use super::front_door::TraceId;
use super::problem::{Code, Problem};

/// Set by the region that forwards, to its own name.
pub const X_ENTREPOT_FORWARDED: HeaderName = HeaderName::from_static("x-entrepot-forwarded");

/// Set by the load balancer: the region that the client's requests usually go to.
const X_PREFERRED_REGION: HeaderName = HeaderName::from_static("x-preferred-region");

/// For a connection to a peer: three of the slowest round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// For an answer, beyond what the peer was asked to wait itself. Below the 3 s in which a load
/// balancer gives a region up.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_500);

/// For an answer of a peer that was not heard lately, or doesn't hear us: two of the slowest round
/// trips. The heartbeats may be wrong, so it is tried; a client shouldn't wait long for what fails.
pub(super) const DOUBTFUL_TIMEOUT: Duration = Duration::from_millis(500);

/// When a client may try again: by then the link is healed, or the peer is taken over.
const RETRY_AFTER_S: u32 = 2;

/// The largest answer passed on: 200 orders of 200 lines would be some 12 MiB.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Idle connections kept to one peer.
const IDLE_PER_PEER_MAX: usize = 32;

/// Shorter than a peer's own time-out of idle connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What goes along of a request's headers.
const PASSED_ON: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::ACCEPT,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
    HeaderName::from_static("webhook-signature"),
];

/// Speaks HTTP with the peers.
#[derive(Debug, Clone)]
pub struct Forwarder {
    own: RegionId,
    peers: BTreeMap<RegionId, String>,
    client: Client<Connector, Full<Bytes>>,
}

impl Forwarder {
    /// `peers` are base addresses as reached over the links, e.g. `http://127.0.0.1:8180`.
    pub fn new(own: RegionId, peers: BTreeMap<RegionId, String>, trust: &Trust) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_PEER_MAX)
            .build(trust.connector(CONNECT_TIMEOUT));
        Self { own, peers, client }
    }

    /// Asks a peer and passes its answer on.
    pub(super) async fn ask(
        &self,
        to: RegionId,
        origin: &Origin,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Body>, Problem> {
        if let Some(by) = origin.forwarded_by {
            tracing::warn!(trace_id = %origin.trace, %by, %to, "a forwarded request would be forwarded again");
            return Err(unavailable(to, "the regions don't agree on who is responsible"));
        }
        let base = self.peers.get(&to).ok_or_else(|| unavailable(to, "it has no known address"))?;
        let request = self
            .request(base, origin, body)
            .ok_or_else(|| unavailable(to, "its address is not usable"))?;
        let answer = async {
            let (parts, body) =
                self.client.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>(Response::from_parts(passed_back(parts), Body::from(bytes)))
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                tracing::debug!(trace_id = %origin.trace, %to, %error, "a peer did not answer");
                Err(unavailable(to, "it can't be reached"))
            }
            Err(_elapsed) => Err(unavailable(to, "it did not answer in time")),
        }
    }

    fn request(&self, base: &str, origin: &Origin, body: Bytes) -> Option<Request<Full<Bytes>>> {
        let path = origin.uri.path_and_query()?;
        let mut request = Request::builder()
            .method(origin.method.clone())
            .uri(format!("{}{path}", base.trim_end_matches('/')))
            .body(Full::new(body))
            .ok()?;
        let headers = request.headers_mut();
        for name in PASSED_ON {
            if let Some(value) = origin.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert("traceparent", origin.trace.traceparent());
        headers.insert(X_ENTREPOT_FORWARDED, HeaderValue::from_str(self.own.as_str()).ok()?);
        Some(request)
    }
}

/// Without what belongs to the connection with the peer.
fn passed_back(mut parts: axum::http::response::Parts) -> axum::http::response::Parts {
    for name in
        [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::DATE]
    {
        parts.headers.remove(name);
    }
    parts.extensions.clear();
    parts
}

fn unavailable(region: RegionId, why: &str) -> Problem {
    let detail = format!("only region {region} can answer this, and {why}");
    Problem::new(Code::HomeRegionUnavailable, detail).retry_after(RETRY_AFTER_S)
}

/// What of a request goes along when it is forwarded.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    trace: TraceId,
    forwarded_by: Option<RegionId>,
}

impl Origin {
    /// Under which the request stands in every region's log.
    pub(super) fn trace(&self) -> TraceId {
        self.trace
    }

    /// The other region that an earlier attempt of this request may have gone to: the client's home by
    /// its token, else where the load balancer would have sent it.
    ///
    /// The header is anybody's to set. For an order it decides no more than whether the peers are asked for
    /// the intent first, which costs a forger time and harms nobody; beyond that only operators' calls
    /// look at it.
    pub(super) fn strayed_from(&self, own: RegionId, home: Option<RegionId>) -> Option<RegionId> {
        let usual = home.or_else(|| region(&self.headers, &X_PREFERRED_REGION));
        usual.filter(|usual| self.forwarded_by.is_none() && *usual != own)
    }
}

fn region(headers: &HeaderMap, name: &HeaderName) -> Option<RegionId> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

impl FromRequestParts<Context> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        context: &Context,
    ) -> Result<Self, Self::Rejection> {
        let trace = parts.extensions.get::<TraceId>().copied();
        // A client's nonsense must not keep its request from the region that can answer it.
        let region_of = &context.app.region;
        let is_peer = |by: &RegionId| *by != region_of.id && region_of.numbers.contains_key(by);
        let forwarded_by = region(&parts.headers, &X_ENTREPOT_FORWARDED).filter(is_peer);
        Ok(Self {
            forwarded_by,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            trace: trace.unwrap_or_else(|| TraceId::of(&parts.headers, context.ids.as_ref())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_strays_from_its_tokens_home_or_else_from_where_the_balancer_sends_it() {
        let name = |name: &str| name.parse::<RegionId>().unwrap();
        for (home, preferred, forwarded_by, strayed) in [
            (None, None, None, false),
            (Some("eu-west"), None, None, true),
            (Some("us-east"), None, None, false),
            (None, Some("eu-west"), None, true),
            (None, Some("us-east"), None, false),
            (Some("us-east"), Some("eu-west"), None, false),
            (Some("eu-west"), Some("us-east"), None, true),
            (None, Some("NO REGION"), None, false),
            (Some("eu-west"), Some("eu-west"), Some("eu-west"), false),
        ] {
            let header = preferred.map(|value| (X_PREFERRED_REGION, value.parse().unwrap()));
            let origin = Origin {
                method: Method::POST,
                uri: Uri::from_static("/api/v1/orders"),
                headers: header.into_iter().collect(),
                trace: TraceId::of(
                    &HeaderMap::new(),
                    &crate::runtime::RandomIds::new(crate::runtime::SystemClock::new()),
                ),
                forwarded_by: forwarded_by.map(name),
            };
            let is = origin.strayed_from(name("us-east"), home.map(name)).is_some();
            assert_eq!(is, strayed, "{home:?} {preferred:?} {forwarded_by:?}");
        }
    }
}
