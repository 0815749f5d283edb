//! HTTP as shoppers and operators speak it: JSON, a token, an idempotency key, and no patience for
//! a server that says nothing.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// Far above what any server here takes to answer or to refuse: an answer that comes later is as
/// good as none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A client with a pool of connections.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn get(url: String) -> Self {
        Self { method: Method::GET, url, headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn post(url: String, body: &Value) -> Self {
        Self::post_bytes(url, body.to_string())
    }

    pub(crate) fn put(url: String, body: &Value) -> Self {
        Self { method: Method::PUT, ..Self::post(url, body) }
    }

    pub(crate) fn post_bytes(url: String, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { method: Method::POST, url, headers, body: body.into() }
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Http {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Self { client }
    }

    /// The answer; `None` when there was none, so that what the request did is not known.
    pub(crate) async fn send(&self, call: Call) -> Option<Answer> {
        let mut request = Request::builder().method(call.method).uri(&call.url);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(call.body)).expect("a well-formed request");
        let exchange = async {
            let (head, body) = self.client.request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.ok().flatten()
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The stable code of a refusal; empty when it is none.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and code, to compare and to show.
    pub(crate) fn outcome(&self) -> (u16, String) {
        (self.status, self.code())
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    /// The home answers for an order from now on, whatever happens.
    pub(crate) fn is_acknowledged(&self) -> bool {
        matches!(self.status, 201 | 202)
    }

    pub(crate) fn order_id(&self) -> String {
        let id = self.json()["id"].as_str().map(str::to_owned);
        id.unwrap_or_else(|| panic!("no order in {self:?}"))
    }
}
