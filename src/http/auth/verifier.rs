//! Checks bearer tokens.
//!
//! Algorithms are fixed by the key, never by the token; `exp`, `nbf`, `iss`, `aud` and `sub` must be
//! there and right. A signature takes some 50 µs to check and a client sends the same token with every
//! request, so verified tokens are remembered by their hash until they expire, or until the issuer's
//! keys change.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use axum::http::{HeaderMap, header};
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::mutants::{Mutant, is_on};
use crate::ports::Clock;
use crate::types::RegionId;

use super::super::generations::Generations;
use super::super::problem::{Code, Problem};
use super::keys::{BadKeys, KeySet};
use super::{Principal, Role};

/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 5;

/// How often the key file is looked at: a withdrawn key stops working within this time.
const KEYS_CHECK_MS: u64 = 1_000;

/// Tokens remembered at least: one for each client active within a minute or so, some 10 MiB.
const TOKENS_MAX: usize = 20_000;

/// The longest token looked at. Longer ones are not ours.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Whom to believe.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The issuer's public keys, a JWK set.
    pub jwks_file: PathBuf,
    /// The `iss` of good tokens.
    pub issuer: String,
    /// The `aud` of good tokens.
    pub audience: String,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    role: String,
    home_region: Option<RegionId>,
    exp: u64,
    nbf: u64,
}

#[derive(Debug, Clone)]
struct Verified {
    principal: Arc<Principal>,
    not_before_s: u64,
    expires_s: u64,
}

/// See the module.
pub struct Verifier {
    settings: Settings,
    clock: Arc<dyn Clock>,
    keys: RwLock<KeySet>,
    keys_checked_ms: AtomicU64,
    verified: Mutex<Generations<[u8; 32], Verified>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads the keys. A missing or broken key set is an error here, and later only a warning.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, BadKeys> {
        let keys = RwLock::new(KeySet::load(&settings.jwks_file)?);
        let keys_checked_ms = AtomicU64::new(clock.monotonic_ms());
        let verified = Mutex::new(Generations::new(TOKENS_MAX));
        Ok(Self { settings, clock, keys, keys_checked_ms, verified })
    }

    /// Who sends these headers.
    pub(in crate::http) fn verify(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let token = bearer(headers)?;
        self.follow_keys();
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.remembered().get(&hash).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => self.check(token, hash)?,
        };
        let now_s = self.clock.wall_ms() / 1_000;
        if verified.expires_s + LEEWAY_S <= now_s && !is_on(Mutant::TokensNeverExpire) {
            self.remembered().remove(&hash);
            return Err(refused("the token has expired; get a new one"));
        }
        if verified.not_before_s > now_s + LEEWAY_S {
            return Err(refused("the token is not valid yet"));
        }
        Ok(verified.principal)
    }

    fn remembered(&self) -> MutexGuard<'_, Generations<[u8; 32], Verified>> {
        self.verified.lock().expect("nothing panics while it holds the lock")
    }

    fn current_keys(&self) -> RwLockReadGuard<'_, KeySet> {
        self.keys.read().expect("nothing panics while it holds the lock")
    }

    /// Checks a token and remembers it. The keys stay locked until it is remembered, so that a
    /// change of the keys forgets it.
    fn check(&self, token: &str, hash: [u8; 32]) -> Result<Verified, Problem> {
        // The library's own error could repeat parts of the token: it is not passed on.
        let bad = |_| refused("the bearer token is not a JWT of this issuer");
        let header = decode_header(token).map_err(bad)?;
        let keys = self.current_keys();
        let key = keys
            .find(header.kid.as_deref())
            .ok_or_else(|| refused("the token is signed with a key this issuer does not have"))?;
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let claims = decode::<Claims>(token, &key.public, &validation).map_err(explain)?.claims;
        let role: Role =
            claims.role.parse().map_err(|_| refused("the token has an unknown role"))?;
        let customer_id = match role {
            Role::Customer => Some(
                claims
                    .sub
                    .parse()
                    .map_err(|_| refused("the token's subject is not a customer's id"))?,
            ),
            Role::Staff | Role::Service | Role::Admin => None,
        };
        let principal =
            Principal { subject: claims.sub, role, customer_id, home_region: claims.home_region };
        let verified = Verified {
            principal: Arc::new(principal),
            not_before_s: claims.nbf,
            expires_s: claims.exp,
        };
        self.remembered().insert(hash, verified.clone());
        drop(keys);
        Ok(verified)
    }

    /// Looks now and then whether the key file has changed. One `stat` a second: not worth a task.
    fn follow_keys(&self) {
        let now_ms = self.clock.monotonic_ms();
        let checked_ms = self.keys_checked_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(checked_ms) < KEYS_CHECK_MS {
            return;
        }
        let mine = self.keys_checked_ms.compare_exchange(
            checked_ms,
            now_ms,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if mine.is_err() {
            return;
        }
        let change = self.current_keys().changed();
        match change {
            None => {}
            Some(Ok(keys)) => {
                *self.keys.write().expect("no panic while held") = keys;
                self.remembered().clear();
                tracing::info!("the issuer's keys have changed");
            }
            Some(Err(error)) => {
                self.keys.write().expect("no panic while held").mark_seen();
                tracing::warn!(%error, "the issuer's keys have changed to something unusable; the former keys stay");
            }
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only what helps an honest client is told apart"
)]
fn explain(error: jsonwebtoken::errors::Error) -> Problem {
    use jsonwebtoken::errors::ErrorKind;
    refused(match error.into_kind() {
        ErrorKind::ExpiredSignature => "the token has expired; get a new one",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks one of exp, nbf, iss, aud and sub",
        _ => "the token's signature or claims are not valid",
    })
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused("send one header `Authorization: Bearer <token>`"));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token
        .filter(|token| token.len() <= TOKEN_BYTES_MAX)
        .ok_or_else(|| refused("send the token as `Authorization: Bearer <token>`"))
}

fn refused(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}

#[cfg(test)]
mod tests {
    use super::super::issuer::{self, Mint};
    use super::*;
    use crate::runtime::SystemClock;
    use serde_json::json;
    use std::path::Path;
    use std::time::Duration;

    /// The machine's clock, moved.
    #[derive(Default)]
    struct MovedClock(AtomicU64);

    impl Clock for MovedClock {
        fn wall_ms(&self) -> u64 {
            SystemClock::new().wall_ms() + self.0.load(Ordering::Relaxed)
        }
        fn monotonic_ms(&self) -> u64 {
            10_000 + self.0.load(Ordering::Relaxed)
        }
    }

    struct Fixture {
        dir: crate::http::testing::TestDir,
        clock: Arc<MovedClock>,
        verifier: Verifier,
    }

    fn fixture() -> Fixture {
        let dir = crate::http::testing::TestDir::new();
        issuer::create(dir.path()).unwrap();
        let clock = Arc::new(MovedClock::default());
        let verifier = Verifier::new(issuer::settings(dir.path()), clock.clone()).unwrap();
        Fixture { dir, clock, verifier }
    }

    fn mint(dir: &Path, now_s: u64) -> String {
        let mint = Mint {
            role: Role::Customer,
            subject: "alice".to_owned(),
            home_region: Some("eu-west".parse().unwrap()),
            ttl: Duration::from_mins(10),
        };
        issuer::mint(dir, &mint, now_s).unwrap()
    }

    fn now_s() -> u64 {
        SystemClock::new().wall_ms() / 1_000
    }

    fn bearing(token: &str) -> HeaderMap {
        [(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
    }

    fn verify(verifier: &Verifier, token: &str) -> Result<Arc<Principal>, Problem> {
        verifier.verify(&bearing(token))
    }

    #[test]
    fn a_good_token_is_good_until_it_expires_also_from_memory() {
        let fixture = fixture();
        let token = mint(fixture.dir.path(), now_s());
        for _ in 0..2 {
            let principal = verify(&fixture.verifier, &token).unwrap();
            assert_eq!(principal.customer_id, Some("alice".parse().unwrap()));
            assert_eq!(principal.home_region, Some("eu-west".parse().unwrap()));
        }
        fixture.clock.0.store(610_000, Ordering::Relaxed);
        assert_eq!(verify(&fixture.verifier, &token).unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn every_claim_is_checked() {
        let fixture = fixture();
        let now = now_s();
        let good = json!({"iss": issuer::ISSUER, "aud": issuer::AUDIENCE, "sub": "alice", "role": "customer",
                          "iat": now, "nbf": now, "exp": now + 600});
        let sign = |claims: &serde_json::Value| issuer::sign(fixture.dir.path(), claims).unwrap();
        assert!(verify(&fixture.verifier, &sign(&good)).is_ok());
        for (claim, bad) in [
            ("iss", json!("else")),
            ("aud", json!("else")),
            ("sub", json!("")),
            ("role", json!("root")),
            ("exp", json!(now - 60)),
            ("exp", json!((now + 600).to_string())),
            ("nbf", json!(now + 60)),
            ("nbf", json!((now + 60).to_string())),
            ("home_region", json!("Not A Region")),
        ] {
            let mut claims = good.clone();
            claims[claim] = bad.clone();
            assert!(verify(&fixture.verifier, &sign(&claims)).is_err(), "{claim}: {bad}");
        }
        for claim in ["iss", "aud", "sub", "role", "exp", "nbf"] {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(claim);
            assert!(verify(&fixture.verifier, &sign(&claims)).is_err(), "without {claim}");
        }
    }

    #[test]
    fn the_token_does_not_choose_its_algorithm_or_key() {
        let fixture = fixture();
        let token = mint(fixture.dir.path(), now_s());
        let (_, payload_and_signature) = token.split_once('.').unwrap();
        let (payload, _) = payload_and_signature.split_once('.').unwrap();
        let encode = |value: &serde_json::Value| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        let none = encode(&json!({"alg": "none", "typ": "JWT"}));
        let hmac = encode(&json!({"alg": "HS256", "typ": "JWT"}));
        let public = std::fs::read(fixture.dir.path().join("jwks.json")).unwrap();
        let now = now_s();
        let claims = json!({"iss": issuer::ISSUER, "aud": issuer::AUDIENCE, "sub": "alice", "role": "admin",
                            "nbf": now, "exp": now + 600});
        let confused = jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
            &claims,
            &jsonwebtoken::EncodingKey::from_secret(&public),
        )
        .unwrap();
        let other = crate::http::testing::TestDir::new();
        issuer::create(other.path()).unwrap();
        for bad in [
            format!("{none}.{payload}."),
            format!("{hmac}.{payload_and_signature}"),
            confused,
            mint(other.path(), now_s()),
            String::new(),
            "x".repeat(10_000),
        ] {
            assert_eq!(verify(&fixture.verifier, &bad).unwrap_err().code, Code::Unauthenticated);
        }
        let mut two = HeaderMap::new();
        two.append(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        two.append(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(fixture.verifier.verify(&two).is_err());
    }

    #[test]
    fn changed_keys_are_followed_and_broken_ones_are_not() {
        let fixture = fixture();
        let token = mint(fixture.dir.path(), now_s());
        assert!(verify(&fixture.verifier, &token).is_ok());
        let jwks = fixture.dir.path().join("jwks.json");
        std::fs::write(&jwks, "not a key set").unwrap();
        fixture.clock.0.fetch_add(KEYS_CHECK_MS, Ordering::Relaxed);
        assert!(verify(&fixture.verifier, &token).is_ok(), "the former keys stay");
        let other = crate::http::testing::TestDir::new();
        issuer::create(other.path()).unwrap();
        std::fs::copy(other.path().join("jwks.json"), &jwks).unwrap();
        fixture.clock.0.fetch_add(KEYS_CHECK_MS, Ordering::Relaxed);
        assert!(verify(&fixture.verifier, &token).is_err(), "remembered tokens are forgotten");
        assert!(verify(&fixture.verifier, &mint(other.path(), now_s())).is_ok());
    }

    #[test]
    fn a_missing_key_set_is_named() {
        let dir = crate::http::testing::TestDir::new();
        let error =
            Verifier::new(issuer::settings(dir.path()), Arc::new(SystemClock::new())).unwrap_err();
        assert!(error.to_string().contains("jwks.json"), "{error}");
    }
}
