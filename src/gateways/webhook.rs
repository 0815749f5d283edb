//! Signatures of webhooks, as the Standard Webhooks specification has them.
//!
//! Pure functions: the caller brings the headers, the raw body and the time. The signature covers id,
//! time stamp and body, so none of them can be exchanged; the tolerance bounds how long a captured
//! message can be replayed (within it, replays are harmless because events are applied by id).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::mutants::{Mutant, is_on};

/// How far a webhook's time stamp may be from our clock, as the specification's reference libraries
/// have it: long enough for a sender's retries of one attempt and for clocks a little off.
pub const TOLERANCE_MS: u64 = 5 * 60 * 1000;

/// The shortest secret we take, in bytes: the specification asks for 24 to 64.
const SECRET_BYTES_MIN: usize = 24;

/// The longest secret we take, in bytes.
const SECRET_BYTES_MAX: usize = 64;

/// How many signatures of one message are tried: a sender that rotates its secret sends two.
const SIGNATURES_MAX: usize = 8;

/// The key both sides share. Never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A text is not a webhook secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a webhook secret: `whsec_` and the base64 of 24 to 64 random bytes, e.g. from `echo whsec_$(openssl rand -base64 32)`"
)]
pub struct BadSecret;

impl std::str::FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim().strip_prefix("whsec_").ok_or(BadSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| BadSecret)?;
        let fits = (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len());
        fits.then(|| Self(bytes.into_boxed_slice())).ok_or(BadSecret)
    }
}

/// The three headers of a webhook, as they came.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    /// `webhook-id`: names the message; the same on every attempt to deliver it.
    pub id: &'a str,
    /// `webhook-timestamp`: seconds since 1970, of this attempt.
    pub timestamp: &'a str,
    /// `webhook-signature`: one or several `v1,<base64>`, with spaces between.
    pub signature: &'a str,
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAuthentic {
    /// The time stamp is no number.
    #[error("webhook-timestamp is not a number of seconds")]
    BadTimestamp,
    /// Too long ago, or too far in the future.
    #[error("webhook-timestamp is more than five minutes from this clock")]
    OutsideTolerance,
    /// No signature fits.
    #[error("no webhook-signature fits this message and our secret")]
    BadSignature,
}

/// The value of `webhook-signature` for a message.
pub fn sign(secret: &Secret, id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let code = message_code(secret, id, &timestamp_s.to_string(), body).finalize();
    format!("v1,{}", STANDARD.encode(code.into_bytes()))
}

/// Checks that a message was signed with our secret, lately. Compares in constant time.
pub fn verify(
    secret: &Secret,
    headers: &Headers<'_>,
    body: &[u8],
    now_ms: u64,
) -> Result<(), NotAuthentic> {
    let seconds: u64 = headers.timestamp.parse().map_err(|_| NotAuthentic::BadTimestamp)?;
    if seconds.saturating_mul(1000).abs_diff(now_ms) > TOLERANCE_MS {
        return Err(NotAuthentic::OutsideTolerance);
    }
    let fits = |candidate: &str| {
        let Some(encoded) = candidate.strip_prefix("v1,") else { return false };
        let Ok(given) = STANDARD.decode(encoded) else { return false };
        message_code(secret, headers.id, headers.timestamp, body).verify_slice(&given).is_ok()
    };
    let mut candidates = headers.signature.split_ascii_whitespace().take(SIGNATURES_MAX);
    if candidates.any(fits) || is_on(Mutant::UnsignedWebhooks) {
        Ok(())
    } else {
        Err(NotAuthentic::BadSignature)
    }
}

fn message_code(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut code =
        Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        code.update(part);
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_614_265_330_000;

    fn secret() -> Secret {
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()
    }

    fn headers(signature: &str) -> Headers<'_> {
        Headers { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp: "1614265330", signature }
    }

    /// The example of the specification.
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_example_of_the_specification_fits() {
        assert_eq!(sign(&secret(), headers("").id, 1_614_265_330, BODY), SIGNATURE);
        assert_eq!(verify(&secret(), &headers(SIGNATURE), BODY, NOW_MS), Ok(()));
        let rotated = format!("v1,AAAA v1a,x {SIGNATURE}");
        assert_eq!(verify(&secret(), &headers(&rotated), BODY, NOW_MS), Ok(()));
    }

    #[test]
    fn every_changed_part_is_noticed() {
        let bad = Err(NotAuthentic::BadSignature);
        assert_eq!(verify(&secret(), &headers(SIGNATURE), b"{}", NOW_MS), bad);
        let other_id = Headers { id: "msg_2", ..headers(SIGNATURE) };
        assert_eq!(verify(&secret(), &other_id, BODY, NOW_MS), bad);
        let other_time = Headers { timestamp: "1614265331", ..headers(SIGNATURE) };
        assert_eq!(verify(&secret(), &other_time, BODY, NOW_MS), bad);
        for signature in ["", "v1,", "v1,!", &SIGNATURE[3..], &SIGNATURE[..20]] {
            assert_eq!(verify(&secret(), &headers(signature), BODY, NOW_MS), bad, "{signature}");
        }
        let other: Secret = format!("whsec_{}", STANDARD.encode([7; 32])).parse().unwrap();
        assert_eq!(verify(&other, &headers(SIGNATURE), BODY, NOW_MS), bad);
    }

    #[test]
    fn old_and_future_messages_are_refused() {
        for now_ms in [NOW_MS + TOLERANCE_MS + 1, NOW_MS - TOLERANCE_MS - 1, 0, u64::MAX] {
            let answer = verify(&secret(), &headers(SIGNATURE), BODY, now_ms);
            assert_eq!(answer, Err(NotAuthentic::OutsideTolerance), "{now_ms}");
        }
        let no_number = Headers { timestamp: "now", ..headers(SIGNATURE) };
        assert_eq!(verify(&secret(), &no_number, BODY, NOW_MS), Err(NotAuthentic::BadTimestamp));
        let huge = Headers { timestamp: "18446744073709551615", ..headers(SIGNATURE) };
        assert_eq!(verify(&secret(), &huge, BODY, NOW_MS), Err(NotAuthentic::OutsideTolerance));
    }

    #[test]
    fn secrets_are_checked_and_never_printed() {
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!"] {
            assert_eq!(bad.parse::<Secret>().unwrap_err(), BadSecret, "{bad}");
        }
        assert_eq!(format!("{:?}", secret()), "Secret(…)");
    }
}
