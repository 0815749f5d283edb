//! The one place every request and every answer passes.
//!
//! Coming in, a request gets its trace id. Going out, an answer gets `X-Region` and `X-Request-Id`;
//! problems are written; bare refusals of the router or of libraries become problems; a handler that
//! panicked becomes a 500. This is plain code around the router, not a stack of layers: it costs no
//! allocation but the headers.

use std::fmt;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::FutureExt as _;
use tower::ServiceExt as _;

use crate::ports::Ids;

use super::context::Context;
use super::problem::{Code, Problem};

/// Who answered.
pub const X_REGION: HeaderName = HeaderName::from_static("x-region");
/// The trace id of the answer.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names one request in every log line and in every problem, also across regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The client's, from a W3C `traceparent`, or a fresh one.
    pub(super) fn of(headers: &HeaderMap, ids: &dyn Ids) -> Self {
        let given = headers.get("traceparent").and_then(|value| value.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(|| Self(ids.uuid().as_u128()))
    }

    fn parse(traceparent: &str) -> Option<Self> {
        let id = traceparent.split('-').nth(1).filter(|id| id.len() == 32)?;
        u128::from_str_radix(id, 16).ok().filter(|id| *id != 0).map(Self)
    }

    /// For requests made on behalf of this one.
    pub fn traceparent(self) -> HeaderValue {
        let text = format!("00-{self}-{:016x}-00", 1);
        HeaderValue::from_str(&text).expect("hexadecimal digits and dashes")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct FrontDoor {
    context: Context,
    router: Router,
}

impl FrontDoor {
    pub(super) fn new(context: Context, router: Router) -> Self {
        Self { context, router }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Answers one request.
    pub async fn answer(&self, mut request: Request<Body>) -> Response {
        let trace = TraceId::of(request.headers(), self.context.ids.as_ref());
        request.extensions_mut().insert(trace);
        let routed = AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind().await;
        let response = match routed {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_panic) => {
                tracing::error!(trace_id = %trace, "a handler panicked");
                let detail =
                    "a fault of this service; whether the request took effect is not known";
                Problem::new(Code::Internal, detail).render(&trace.to_string())
            }
        };
        self.dress(response, trace)
    }

    /// Refuses a request that never reached the router.
    pub(super) fn refuse(&self, headers: &HeaderMap, problem: &Problem) -> Response {
        let trace = TraceId::of(headers, self.context.ids.as_ref());
        self.dress(problem.render(&trace.to_string()), trace)
    }

    fn dress(&self, mut response: Response, trace: TraceId) -> Response {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            response = with_headers_of(&response, problem.render(&trace.to_string()));
        } else if is_bare_refusal(&response) {
            let problem = Problem::of_status(response.status());
            response = with_headers_of(&response, problem.render(&trace.to_string()));
        }
        if response.status().is_server_error() {
            tracing::warn!(trace_id = %trace, status = response.status().as_u16(), "answered with a server error");
        }
        let headers = response.headers_mut();
        // A forwarded answer tells who really gave it.
        headers.entry(X_REGION).or_insert_with(|| self.context.inner().region_header.clone());
        let trace = HeaderValue::from_str(&trace.to_string()).expect("hexadecimal digits");
        headers.insert(X_REQUEST_ID, trace);
        response
    }
}

/// A refusal without a body of ours: libraries answer with nothing or with plain text.
fn is_bare_refusal(response: &Response) -> bool {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return false;
    }
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_none_or(|kind| kind.starts_with(b"text/plain"))
}

/// Keeps what the first answer said in headers (`Allow`, `ETag`), without what described its body.
fn with_headers_of(first: &Response, mut second: Response) -> Response {
    for (name, value) in first.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            second.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
    }
    second
}

pub(super) async fn no_such_route() -> Problem {
    Problem::new(Code::NotFound, "there is no such address; /openapi.json lists all")
}

pub(super) async fn no_such_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this address does not have this method")
}
