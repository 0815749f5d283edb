//! The one reader of request bodies: bounded in size and time, strict about every field.
//!
//! A body must be `application/json`, and within [`BodyLimits`] in size and time; a slower or larger one is refused before anything is looked at, so it leaves nothing
//! behind. Then syntax errors are 400, and everything about fields is 422 with the path of the field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::header;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::{Code, Problem};
use super::text;

/// What a body may take.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The largest: 200 lines with every field at its limit are below half of 256 KiB.
    pub bytes_max: usize,
    /// From the head to the last byte: a client that takes longer is broken or hostile, and each one
    /// holds a connection.
    pub timeout: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { bytes_max: 256 * 1024, timeout: Duration::from_secs(10) }
    }
}

/// Reads a whole body within its bounds.
pub(super) async fn read_body(body: Body, limits: BodyLimits) -> Result<Bytes, Problem> {
    let read = Limited::new(body, limits.bytes_max).collect();
    match tokio::time::timeout(limits.timeout, read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            Code::PayloadTooLarge,
            format!("the body is over {} bytes; nothing was done", limits.bytes_max),
        )),
        Ok(Err(_)) => Err(Problem::new(
            Code::MalformedRequest,
            "the body ended before its announced length; nothing was done",
        )),
        Err(_elapsed) => Err(Problem::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {:?}; nothing was done", limits.timeout),
        )),
    }
}

/// A request's body as `T`, and its bytes for the idempotency record.
#[derive(Debug)]
pub struct StrictJson<T> {
    /// The value.
    pub value: T,
    /// What was sent, byte for byte.
    pub raw: Bytes,
}

impl<T, S> FromRequest<S> for StrictJson<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(not_json());
        }
        let raw = read_body(request.into_body(), BodyLimits::from_ref(state)).await?;
        let value = parse(&raw)?;
        Ok(Self { value, raw })
    }
}

/// A body that may be left out: then its default.
#[derive(Debug)]
pub struct OptionalJson<T> {
    /// The value.
    pub value: T,
}

impl<T, S> FromRequest<S> for OptionalJson<T>
where
    T: DeserializeOwned + Default,
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !request.headers().contains_key(header::CONTENT_TYPE) {
            let raw = read_body(request.into_body(), BodyLimits::from_ref(state)).await?;
            return if raw.is_empty() { Ok(Self { value: T::default() }) } else { Err(not_json()) };
        }
        let StrictJson { value, .. } = StrictJson::from_request(request, state).await?;
        Ok(Self { value })
    }
}

fn not_json() -> Problem {
    Problem::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json")
}

fn is_json(request: &Request) -> bool {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return false };
    let Ok(kind) = kind.to_str() else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Parses strictly. The fast way knows no paths; only a body it refuses is read again with them.
pub(super) fn parse<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Problem> {
    if text::is_suspicious(raw) {
        let value = serde_json::from_slice(raw).map_err(|error| syntax(&error))?;
        let errors = text::check(&value);
        if !errors.is_empty() {
            return Err(Problem::validation(errors));
        }
    }
    serde_json::from_slice(raw).map_err(|_| explain::<T>(raw))
}

fn explain<T: DeserializeOwned>(raw: &[u8]) -> Problem {
    // Syntax first, over the whole body: the typed reader stops at the first field it dislikes.
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(raw) {
        return syntax(&error);
    }
    let mut reader = serde_json::Deserializer::from_slice(raw);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => Problem::new(Code::MalformedJson, "the body goes on after its end"),
        Err(error) => {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            // The reader's position in the body says nothing that the path does not.
            let message = message.split(" at line ").next().unwrap_or_default();
            Problem::invalid(field_of(&path, message), message)
        }
    }
}

/// The path of the field, with the name of an unknown, missing or doubled one, which only the message has.
fn field_of(path: &str, message: &str) -> String {
    let parent = if path == "." { "" } else { path };
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix)?.split('`').next());
    match named {
        Some(name) if parent == name || parent.ends_with(&format!(".{name}")) => parent.to_owned(),
        Some(name) if parent.is_empty() => name.to_owned(),
        Some(name) => format!("{parent}.{name}"),
        None => parent.to_owned(),
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    Problem::new(Code::MalformedJson, format!("the body is not JSON: {error}; nothing was done"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only read")]
        name: String,
        #[serde(default)]
        #[expect(dead_code, reason = "only read")]
        lines: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only read")]
        quantity: u32,
    }

    fn refusal(body: &str) -> (Code, Vec<String>) {
        let problem = parse::<Outer>(body.as_bytes()).unwrap_err();
        (problem.code, problem.errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn fields_are_named_by_path() {
        for (body, field) in [
            (r#"{"name": "a", "nam": 1}"#, "nam"),
            (
                r#"{"name": "a", "lines": [{"quantity": 1}, {"quantity": 1, "qty": 2}]}"#,
                "lines[1].qty",
            ),
            (r#"{"name": "a", "lines": [{}]}"#, "lines[0].quantity"),
            (r#"{"name": "a", "lines": [{"quantity": "1"}]}"#, "lines[0].quantity"),
            (r#"{"name": "a", "lines": [{"quantity": -1}]}"#, "lines[0].quantity"),
            (r#"{"name": "a", "lines": [{"quantity": 1.5}]}"#, "lines[0].quantity"),
            (
                r#"{"name": "a", "lines": [{"quantity": 99999999999999999999}]}"#,
                "lines[0].quantity",
            ),
            (r#"{"name": "a", "name": "b"}"#, "name"),
            (r#"{"name": "a\u0000"}"#, "name"),
            (r#"{"name": "4111 1111 1111 1111"}"#, "name"),
            (r#"{"name": "41\u00311 1111 1111 1111"}"#, "name"),
            ("[]", ""),
        ] {
            assert_eq!(refusal(body), (Code::ValidationFailed, vec![field.to_owned()]), "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for body in
            ["", "{", "{\"name\": \"a\"} x", "{\"name\": \"a\0\"}", "nul", "{\"name\": NaN}"]
        {
            assert_eq!(refusal(body).0, Code::MalformedJson, "{body}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(refusal(&deep).0, Code::MalformedJson);
    }
}
