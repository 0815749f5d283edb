//! Request headers with a meaning of their own: `Idempotency-Key`, `Prefer`, `If-Match`.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::problem::{Code, Problem};

/// The longest key, in bytes: room for any client's UUID with a prefix.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The longest a client may wait: longer than any saga that is not stuck, shorter than the idle
/// time-outs of load balancers on the way.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// A client's name for one intent: the same key again is the same intent again (I-07).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        idempotency_key(&parts.headers)
    }
}

/// The key of a call that needs none but keeps to one that is given.
pub(super) fn optional_idempotency_key(
    headers: &HeaderMap,
) -> Result<Option<IdempotencyKey>, Problem> {
    let given = headers.contains_key("idempotency-key");
    given.then(|| idempotency_key(headers)).transpose()
}

fn idempotency_key(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Problem::new(
            Code::IdempotencyKeyRequired,
            "send exactly one Idempotency-Key header: a text of your own that names this intent, \
             e.g. a UUID; nothing was done",
        ));
    };
    let bytes = value.as_bytes();
    let visible = bytes.iter().all(|byte| (0x21..=0x7e).contains(byte));
    if bytes.is_empty() || bytes.len() > IDEMPOTENCY_KEY_BYTES_MAX || !visible {
        return Err(Problem::new(
            Code::IdempotencyKeyRequired,
            "Idempotency-Key must be 1 to 255 visible ASCII characters; nothing was done",
        ));
    }
    Ok(IdempotencyKey(String::from_utf8_lossy(bytes).into_owned()))
}

/// What the client prefers (RFC 7240): how long to wait for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefer {
    /// Zero for `respond-async`; `None` when the client doesn't say.
    pub wait: Option<Duration>,
}

impl<S: Sync> FromRequestParts<S> for Prefer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(prefer(&parts.headers))
    }
}

/// Preferences that make no sense are ignored, as the RFC wants it. `wait` beside `respond-async`
/// means: wait that long, then answer 202.
fn prefer(headers: &HeaderMap) -> Prefer {
    let mut wait = None;
    let mut asynchronous = false;
    for value in headers.get_all("prefer") {
        let Ok(value) = value.to_str() else { continue };
        for preference in value.split([',', ';']) {
            let (name, argument) = preference.split_once('=').unwrap_or((preference, ""));
            let name = name.trim();
            if name.eq_ignore_ascii_case("respond-async") {
                asynchronous = true;
            } else if name.eq_ignore_ascii_case("wait") {
                wait = wait.or_else(|| argument.trim().trim_matches('"').parse().ok());
            }
        }
    }
    let wait = match (wait, asynchronous) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds).min(WAIT_MAX)),
        (None, true) => Some(Duration::ZERO),
        (None, false) => None,
    };
    Prefer { wait }
}

/// The version of an order that a change was decided on: `If-Match: "7"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub u64);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else {
            return Err(Problem::new(
                Code::PreconditionRequired,
                "send If-Match with the ETag of what you read; nothing was changed",
            ));
        };
        let version = value.to_str().ok().and_then(|text| {
            text.strip_prefix('"').and_then(|text| text.strip_suffix('"'))?.parse().ok()
        });
        version.map(Self).ok_or_else(|| {
            Problem::new(
                Code::PreconditionFailed,
                "If-Match is not an ETag of this service; read it again; nothing was changed",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_key_is_one_visible_text() {
        let long = "k".repeat(255);
        for good in ["a", "0190163d-8694-739b-aea5-966c26f8ad91", &long] {
            let key = idempotency_key(&headers(&[("idempotency-key", good)])).unwrap();
            assert_eq!(key.0, good);
        }
        let too_long = "k".repeat(256);
        for bad in ["", "a b", &too_long, "ä"] {
            let headers: HeaderMap = [(
                "idempotency-key".parse().unwrap(),
                header::HeaderValue::from_bytes(bad.as_bytes()).unwrap(),
            )]
            .into_iter()
            .collect();
            assert_eq!(
                idempotency_key(&headers).unwrap_err().code,
                Code::IdempotencyKeyRequired,
                "{bad}"
            );
        }
        let mut two = headers(&[("idempotency-key", "a")]);
        two.append("idempotency-key", "b".parse().unwrap());
        assert!(idempotency_key(&two).is_err());
        assert!(idempotency_key(&HeaderMap::new()).is_err());
    }

    #[test]
    fn preferences() {
        let wait = |value: &str| prefer(&headers(&[("prefer", value)])).wait;
        assert_eq!(prefer(&HeaderMap::new()).wait, None);
        assert_eq!(wait("wait=10"), Some(Duration::from_secs(10)));
        assert_eq!(wait("wait=0"), Some(Duration::ZERO));
        assert_eq!(wait("respond-async"), Some(Duration::ZERO));
        assert_eq!(wait("respond-async, wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(wait("wait=100000"), Some(WAIT_MAX));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("return=minimal"), None);
    }
}
