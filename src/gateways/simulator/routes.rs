//! Requests and answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::ports::Clock;
use crate::runtime::TaskSet;
use crate::types::Money;

use super::books::{Account, Amount, Books, Hold, Refusal, State};
use super::ledger::{Durable, Ledger};
use super::listing;
use super::notify::Notifier;
use super::token::{Behavior, Decline};

/// The largest request body: ours have some 300 bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The longest key, token or order reference.
const TEXT_BYTES_MAX: usize = 255;

/// How long a client of `tok_timeout_*` is left without an answer: longer than any sane time-out, and
/// an end, so that forgotten connections don't pile up.
const SILENCE: Duration = Duration::from_secs(30);

/// When a `tok_async` authorization comes to its end: after the answer surely went out, and soon
/// enough for a test to wait for.
const SETTLE_AFTER: Duration = Duration::from_millis(200);

/// How many keys of `tok_flaky_<n>` are counted at once. Beyond it all counts are forgotten, and
/// those keys fail from the start again.
const FLAKY_KEYS_MAX: usize = 65_536;

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer, as the payment token demands")]
pub(super) struct NoAnswer;

/// The provider: books, time and those to tell.
pub(super) struct Provider {
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    notifier: Notifier,
    tasks: TaskSet,
    flaky: Mutex<BTreeMap<Box<str>, u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizeBody<'a> {
    #[serde(borrow)]
    idempotency_key: Cow<'a, str>,
    amount: Money,
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    order_reference: Cow<'a, str>,
    /// Part of the contract of real providers; the simulator treats all methods alike.
    #[serde(borrow, default, rename = "method")]
    _method: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveBody<'a> {
    #[serde(borrow)]
    idempotency_key: Cow<'a, str>,
    amount: Money,
}

#[derive(Serialize)]
struct Answer<'a> {
    idempotency_key: &'a str,
    state: State,
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_code: Option<&'static str>,
    amount: Option<Amount<'a>>,
    order_reference: Option<&'a str>,
    captured: i64,
    refunded: i64,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: String,
}

impl Provider {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        notifier: Notifier,
        tasks: TaskSet,
    ) -> Self {
        Self { ledger, clock, notifier, tasks, flaky: Mutex::default() }
    }

    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, NoAnswer> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path == "/ledger" && head.method == Method::GET {
            return Ok(listing::answer(&self.ledger, head.uri.query().unwrap_or_default()));
        }
        if path == "/livez" && head.method == Method::GET {
            return Ok(json(StatusCode::OK, &serde_json::json!({"status": "ok"})));
        }
        let Some(rest) = path.strip_prefix("/v1/authorizations") else { return Ok(not_found()) };
        let mut parts = rest.strip_prefix('/').unwrap_or_default().split('/');
        let (key, action, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let Some(key) = decode_key(key).filter(|_| more.is_none()) else { return Ok(not_found()) };
        if head.method == Method::GET && action.is_none() && !key.is_empty() {
            return Ok(self.look_up(&key).await);
        }
        if head.method != Method::POST {
            return Ok(not_found());
        }
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            let detail = format!("the body must arrive whole and within {BODY_BYTES_MAX} bytes");
            return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        };
        let body = body.to_bytes();
        match (key.is_empty(), action) {
            (true, None) => self.authorize(&body).await,
            (false, Some("void")) => Ok(self.void(&key).await),
            (false, Some("captures")) => Ok(self.move_money(&key, &body, Books::capture).await),
            (false, Some("refunds")) => Ok(self.move_money(&key, &body, Books::refund).await),
            _ => Ok(not_found()),
        }
    }

    async fn authorize(self: &Arc<Self>, body: &Bytes) -> Result<Response<Body>, NoAnswer> {
        let request = match parse::<AuthorizeBody<'_>>(body) {
            Ok(request) => request,
            Err(detail) => return Ok(unprocessable(detail)),
        };
        let hold = Hold {
            key: &request.idempotency_key,
            amount: request.amount,
            token: &request.token,
            order_reference: &request.order_reference,
        };
        let texts = [("idempotency_key", hold.key), ("token", hold.token)];
        for (field, text) in texts.into_iter().chain([("order_reference", hold.order_reference)]) {
            if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                let detail = format!("`{field}` must have 1 to {TEXT_BYTES_MAX} bytes");
                return Ok(unprocessable(detail));
            }
        }
        if hold.amount.amount <= 0 {
            return Ok(refused(Refusal::BadAmount));
        }
        // What is known of a key is answered as it stands: a token's fault strikes the first time only.
        if self.ledger.read(|books| books.account(hold.key).is_some()) {
            return Ok(self.hold(hold, State::Authorized, None).await);
        }
        Ok(match Behavior::of(hold.token) {
            Behavior::Decline(decline) => self.hold(hold, State::Declined, Some(decline)).await,
            Behavior::HoldInSilence => {
                drop(self.hold(hold, State::Authorized, None).await);
                tokio::time::sleep(SILENCE).await;
                return Err(NoAnswer);
            }
            Behavior::Silence => {
                tokio::time::sleep(SILENCE).await;
                return Err(NoAnswer);
            }
            Behavior::HoldAfter(delay) => self.hold_after(delay, body.clone()).await,
            Behavior::FailThenHold(failures) if self.fails_again(hold.key, failures) => {
                let detail = "a fault that the payment token asks for; try again".to_owned();
                problem(StatusCode::INTERNAL_SERVER_ERROR, "provider_fault", detail)
            }
            Behavior::Hold | Behavior::FailThenHold(_) => {
                self.hold(hold, State::Authorized, None).await
            }
            Behavior::HoldLater => {
                let answer = self.hold(hold, State::Pending, None).await;
                self.settle_later(hold.key.to_owned());
                answer
            }
        })
    }

    async fn hold(&self, hold: Hold<'_>, state: State, decline: Option<Decline>) -> Response<Body> {
        let at = self.now();
        let decided =
            self.ledger.decide(hold.key, |books| books.authorize(&hold, state, decline, &at));
        respond(hold.key, decided).await
    }

    /// The hold happens even when the client has gone: a slow provider doesn't notice that.
    async fn hold_after(self: &Arc<Self>, delay: Duration, body: Bytes) -> Response<Body> {
        let provider = Arc::clone(self);
        let slow = self.tasks.spawn("slow authorization", async move {
            tokio::time::sleep(delay).await;
            let request = parse::<AuthorizeBody<'_>>(&body).expect("parsed before");
            let hold = Hold {
                key: &request.idempotency_key,
                amount: request.amount,
                token: &request.token,
                order_reference: &request.order_reference,
            };
            provider.hold(hold, State::Authorized, None).await
        });
        slow.await.unwrap_or_else(|_| not_durable())
    }

    async fn look_up(&self, key: &str) -> Response<Body> {
        let nothing = |_: &Books| Ok::<_, Refusal>(None);
        respond(key, self.ledger.decide(key, nothing)).await
    }

    async fn void(&self, key: &str) -> Response<Body> {
        let at = self.now();
        let decided = self.ledger.decide(key, |books| Ok::<_, Refusal>(books.void(key, &at)));
        respond(key, decided).await
    }

    async fn move_money(&self, key: &str, body: &Bytes, decision: MoveDecision) -> Response<Body> {
        let request = match parse::<MoveBody<'_>>(body) {
            Ok(request) => request,
            Err(detail) => return unprocessable(detail),
        };
        let own_key = &*request.idempotency_key;
        if own_key.is_empty() || own_key.len() > TEXT_BYTES_MAX {
            let detail = format!("`idempotency_key` must have 1 to {TEXT_BYTES_MAX} bytes");
            return unprocessable(detail);
        }
        let at = self.now();
        let decided =
            self.ledger.decide(key, |books| decision(books, key, own_key, request.amount, &at));
        respond(key, decided).await
    }

    fn fails_again(&self, key: &str, failures: u32) -> bool {
        let mut flaky = self.flaky.lock().expect("no panic while held");
        let failed = flaky.get(key).copied().unwrap_or(0);
        if failed >= failures {
            flaky.remove(key);
            return false;
        }
        if flaky.len() >= FLAKY_KEYS_MAX {
            flaky.clear();
        }
        flaky.insert(key.into(), failed + 1);
        true
    }

    /// Finishes at once what was pending when the last process ended.
    pub(super) fn settle_pending(self: &Arc<Self>) {
        for key in self.ledger.read(Books::pending) {
            self.settle_later(key);
        }
    }

    fn settle_later(self: &Arc<Self>, key: String) {
        let provider = Arc::clone(self);
        self.tasks.spawn("settlement", async move {
            let stopping = provider.tasks.stopping();
            tokio::select! {
                () = tokio::time::sleep(SETTLE_AFTER) => {}
                () = stopping.cancelled() => return,
            }
            let at = provider.now();
            let settled =
                provider.ledger.decide(&key, |books| Ok::<_, Refusal>(books.settle(&key, &at)));
            let Ok((Some(account), durable)) = settled else { return };
            if durable.wait().await.is_err() || account.state != State::Authorized {
                return;
            }
            let data = serde_json::to_value(answer_of(&key, &account)).expect("plain JSON");
            tokio::select! {
                () = provider.notifier.tell("payment.authorized", data) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    fn now(&self) -> String {
        let ms = i64::try_from(self.clock.wall_ms()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
    }
}

type MoveDecision = for<'a> fn(
    &Books,
    &'a str,
    &'a str,
    Money,
    &'a str,
) -> Result<Option<super::books::Record<'a>>, Refusal>;

/// Answers with an account, once it is durable.
async fn respond(
    key: &str,
    decided: Result<(Option<Account>, Durable), Refusal>,
) -> Response<Body> {
    let (account, durable) = match decided {
        Ok(decided) => decided,
        Err(refusal) => return refused(refusal),
    };
    let Some(account) = account else {
        let detail = format!("no authorization has the key `{key}`");
        return problem(StatusCode::NOT_FOUND, "unknown_authorization", detail);
    };
    if durable.wait().await.is_err() {
        return not_durable();
    }
    let pending = account.state == State::Pending;
    let status = if pending { StatusCode::ACCEPTED } else { StatusCode::OK };
    json(status, &answer_of(key, &account))
}

fn answer_of<'a>(key: &'a str, account: &'a Account) -> Answer<'a> {
    let amount = account.currency.as_deref();
    Answer {
        idempotency_key: key,
        state: account.state,
        reference: &account.reference,
        decline_code: account.decline.map(Decline::code),
        amount: amount.map(|currency| Amount { amount: account.amount, currency: currency.into() }),
        order_reference: account.order_reference.as_deref(),
        captured: account.captured,
        refunded: account.refunded,
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not what we expect: {error}"))
}

/// Keys come percent-encoded in paths. None: not the encoding of a text.
pub(super) fn decode_key(encoded: &str) -> Option<Cow<'_, str>> {
    if !encoded.contains('%') {
        return Some(encoded.into());
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn refused(refusal: Refusal) -> Response<Body> {
    let (status, code) = match refusal {
        Refusal::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
        Refusal::UnknownAuthorization => (StatusCode::NOT_FOUND, "unknown_authorization"),
        Refusal::NothingHeld => (StatusCode::CONFLICT, "nothing_held"),
        Refusal::ExceedsAuthorized => (StatusCode::UNPROCESSABLE_ENTITY, "exceeds_authorized"),
        Refusal::ExceedsCaptured => (StatusCode::UNPROCESSABLE_ENTITY, "exceeds_captured"),
        Refusal::BadAmount => (StatusCode::UNPROCESSABLE_ENTITY, "bad_amount"),
    };
    problem(status, code, refusal.to_string())
}

fn not_durable() -> Response<Body> {
    let detail = "the ledger cannot be written; ask for the key later".to_owned();
    problem(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", detail)
}

fn not_found() -> Response<Body> {
    let detail = "see /v1/authorizations, /v1/authorizations/{key} and /ledger".to_owned();
    problem(StatusCode::NOT_FOUND, "no_such_route", detail)
}

fn unprocessable(detail: String) -> Response<Body> {
    problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail)
}

pub(super) fn problem(status: StatusCode, code: &str, detail: String) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    json(status, &Problem { title, status: status.as_u16(), code, detail })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("plain JSON");
    with_body(status, Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync())
}

pub(super) fn with_body(status: StatusCode, body: Body) -> Response<Body> {
    let success = status.is_success();
    let kind = if success { "application/json" } else { "application/problem+json" };
    Response::builder()
        .status(status)
        .header(hyper::header::CONTENT_TYPE, kind)
        .body(body)
        .expect("fixed headers are legal")
}
