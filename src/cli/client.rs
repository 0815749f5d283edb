//! HTTP as the commands need it: JSON, a bearer token, errors as sentences.
//!
//! Plain HTTP only: the commands talk to a load balancer on this machine or behind a tunnel. A call
//! has a deadline; what a call without an answer did is unknown, so callers repeat it only under the
//! same idempotency key.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::types::RegionId;

/// For one answer. Placing an order waits 2 s for its saga; a fail-over to another region takes 3 s.
/// After ten times that nobody is going to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// For a TCP connection to a load balancer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer, in bytes: an order of 200 lines has a tenth of this.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The longest `Retry-After` that is obeyed. A server that asks for more is not worth waiting for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A client of one base address.
#[derive(Debug, Clone)]
pub(super) struct ApiClient {
    http: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    /// GET, POST …
    pub(super) method: Method,
    /// Behind the base address, e.g. `/api/v1/orders`.
    pub(super) path: &'a str,
    /// The bearer token.
    pub(super) token: &'a str,
    /// Names the intent; needed by every POST.
    pub(super) idempotency_key: Option<&'a str>,
    /// JSON.
    pub(super) body: Bytes,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// It is the first answer again.
    pub(super) replayed: bool,
    /// When to come back.
    pub(super) retry_after: Option<Duration>,
    /// The region that answered; the load balancer's own answers name none.
    pub(super) region: Option<RegionId>,
    /// As it came.
    pub(super) body: Bytes,
}

/// There is no answer; what the call did is unknown.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url} got no answer: {why}")]
pub(super) struct NoAnswer {
    method: Method,
    url: String,
    why: String,
}

/// A refusal, as the server words it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    /// Stable.
    pub(super) code: String,
    /// For people.
    pub(super) title: String,
    /// For people, about this very call.
    pub(super) detail: String,
    /// What is wrong with which field.
    pub(super) errors: Vec<FieldProblem>,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct FieldProblem {
    field: String,
    message: String,
}

impl ApiClient {
    /// A client of `base`, e.g. `http://127.0.0.1:8080`.
    pub(super) fn new(base: &str) -> anyhow::Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("`{base}` is not an address"))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            bail!(
                "`{base}` must be http://host:port (for TLS, go through a tunnel on this machine)"
            );
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Ok(Self { http, base })
    }

    /// Sends a call and reads the whole answer.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, NoAnswer> {
        let (method, url) = (call.method.clone(), format!("{}{}", self.base, call.path));
        let no_answer = |why: String| NoAnswer { method, url: url.clone(), why };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(&url, call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(no_answer(format!("{error:#}"))),
            Err(_) => Err(no_answer(format!("none within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(&self, url: &str, call: Call<'_>) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(url)
            .header(AUTHORIZATION, format!("Bearer {}", call.token));
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let (head, body) =
            self.http.request(request.body(Full::new(call.body))?).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            replayed: text(&head.headers, "idempotency-replayed") == Some("true"),
            retry_after: retry_after(&head.headers),
            region: text(&head.headers, "x-region").and_then(|name| name.parse().ok()),
            body,
        })
    }

    /// GET, or the refusal as an error.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        token: &str,
    ) -> anyhow::Result<T> {
        let method = Method::GET;
        let call = Call { method, path, token, idempotency_key: None, body: Bytes::new() };
        self.send(call).await?.expect(path)
    }
}

impl Answer {
    /// Whether the server did what it was asked.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    /// The refusal; of something that is no Entrepôt (a proxy's page, say) only the status is told.
    pub(super) fn problem(&self) -> Problem {
        let mut problem: Problem = self.json().unwrap_or_default();
        if problem.code.is_empty() {
            problem.code = format!("http_{}", self.status);
        }
        problem
    }

    /// The body of a good answer, or the refusal as an error.
    pub(super) fn expect<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        if !self.is_success() {
            bail!("{path} answered {}: {}", self.status, self.problem());
        }
        self.json().with_context(|| format!("{path} answered something else than expected"))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.code)?;
        let explanation = if self.detail.is_empty() { &self.title } else { &self.detail };
        if !explanation.is_empty() {
            write!(f, ": {explanation}")?;
        }
        for error in &self.errors {
            write!(f, " ({}: {})", error.field, error.message)?;
        }
        Ok(())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = text(headers, RETRY_AFTER.as_str())?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let body = Bytes::from(body.to_owned());
        Answer { status, replayed: false, retry_after: None, region: None, body }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let refused = answer(
            422,
            r#"{"code":"validation_failed","title":"Invalid","detail":"1 field is wrong","new":1,
                "errors":[{"field":"lines[0].sku","message":"must not be empty"}]}"#,
        );
        let error = refused.expect::<serde_json::Value>("/api/v1/orders").unwrap_err().to_string();
        let expected = "/api/v1/orders answered 422: validation_failed: 1 field is wrong \
                        (lines[0].sku: must not be empty)";
        assert_eq!(error, expected);
        assert_eq!(answer(502, "<html>Bad gateway</html>").problem().to_string(), "http_502");
    }

    #[test]
    fn only_plain_http_addresses_are_taken() {
        assert!(ApiClient::new("http://127.0.0.1:8080/").is_ok());
        for bad in ["127.0.0.1:8080", "https://shop.example", "http://", "/x", ""] {
            assert!(ApiClient::new(bad).is_err(), "{bad:?}");
        }
    }
}
