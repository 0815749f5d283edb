//! Refusals and errors as RFC 9457 `application/problem+json`.
//!
//! A handler returns a [`Problem`]; the front door (the one place every answer passes) gives it the
//! trace id and writes it. So a problem made by a handler, by an extractor and by the router itself
//! all look the same. The codes are a published contract: `docs/ERRORS.md` and the OpenAPI document
//! list them, and a test compares both with this file.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

macro_rules! codes {
    ($($name:ident = $code:literal $status:ident $title:literal $meaning:literal;)*) => {
        /// Why a request was refused: stable, machine-readable, never reused for something else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name clients match on.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The status of every answer with this code.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status),* }
            }

            /// The code in words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// What it means and what the client does next.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }
        }
    };
}

codes! {
    MalformedJson = "malformed_json" BAD_REQUEST "The body is not JSON" "The body can't be read as JSON at all. Correct it; nothing was done.";
    MalformedRequest = "malformed_request" BAD_REQUEST "The request breaks HTTP" "The request is ambiguous or breaks HTTP, e.g. it has both Content-Length and Transfer-Encoding. The connection is closed; nothing was done.";
    IdempotencyKeyRequired = "idempotency_key_required" BAD_REQUEST "Idempotency-Key is missing" "This call needs an Idempotency-Key header of 1 to 255 visible ASCII characters. Nothing was done; send it again with one.";
    Unauthenticated = "unauthenticated" UNAUTHORIZED "No valid token" "The bearer token is missing, expired or not signed by the issuer. Get a new one.";
    InvalidSignature = "invalid_signature" UNAUTHORIZED "The signature does not fit" "A webhook whose signature is missing, too old or not made with the shared secret. Nothing was done.";
    PaymentDeclined = "payment_declined" PAYMENT_REQUIRED "The payment was declined" "The provider declined. No money is held and no stock is reserved; order again with another payment and a new Idempotency-Key.";
    Forbidden = "forbidden" FORBIDDEN "Not allowed" "The token is valid but its role may not do this.";
    NotFound = "not_found" NOT_FOUND "Not found" "There is no such thing, or it is not yours to see.";
    MethodNotAllowed = "method_not_allowed" METHOD_NOT_ALLOWED "Wrong method" "The address exists but not with this method; the Allow header lists those it has.";
    RequestTimeout = "request_timeout" REQUEST_TIMEOUT "The body came too slowly" "The body did not arrive in time. Nothing was done; send it again.";
    IdempotencyInFlight = "idempotency_in_flight" CONFLICT "The first request is still running" "Another request with this Idempotency-Key is being worked on. Ask again after Retry-After; nothing is done twice.";
    InsufficientStock = "insufficient_stock" CONFLICT "Not enough stock" "At least one SKU can't be promised in full; `shortages` names them. Nothing is reserved and no money is held.";
    StockIsPromised = "stock_is_promised" CONFLICT "The stock is promised" "The adjustment would take away units that are promised to orders or granted to other regions. Nothing was changed; the detail says what could be taken.";
    InsufficientRights = "insufficient_rights" CONFLICT "Not enough rights" "The region has fewer rights to spare than the transfer asks for. Nothing was moved.";
    AlreadyExists = "already_exists" CONFLICT "It exists already" "Something with this id exists and differs. Nothing was changed; use PATCH to change it.";
    ChannelRefTaken = "channel_ref_taken" CONFLICT "The reference is taken" "`channel_order_ref` names an order in this channel that is another customer's. Nothing was done; order with another reference.";
    RegionSetBack = "region_set_back" CONFLICT "The region's database was set back" "The database of the region has forgotten what it had written, so taking orders again could oversell. It stays out of traffic until the database that remembers is put back, or the region rejoins as a new incarnation.";
    RejoinUnderWay = "rejoin_under_way" CONFLICT "The region is rejoining" "A new incarnation of the region is being prepared. Nothing else was begun; look at the status of the region.";
    RejoinRefused = "rejoin_refused" CONFLICT "The region can't rejoin as it is" "What the regions know of an order can't be put together: the detail names it, and a person has to look at it. Or a region that is gone for good may have known of this one what its database has forgotten: put a newer database in place. The region stays out of traffic.";
    NoEvacuation = "no_evacuation" CONFLICT "No evacuation is under way" "There is nothing to abort. Nothing was changed; a region that takes no orders since an evacuation has ended is put back into traffic by `entrepot region resume`.";
    EvacuationUnderWay = "evacuation_under_way" CONFLICT "The region is being evacuated" "A region that is being given up takes no orders before that is over or aborted. Nothing was changed.";
    EvacuationPastReturn = "evacuation_past_return" CONFLICT "The evacuation can't be aborted any more" "Orders have moved to another region. It goes to its end; evacuate that region if the orders are to come back.";
    NotFenceable = "not_fenceable" CONFLICT "This region can't fence that one" "A region is fenced by another one that lives. A witness sells nothing: it is not fenced, evacuated or retired, and does none of that itself. Nobody is gone who is heard. Nothing was done.";
    NotRetirable = "not_retirable" CONFLICT "The region can't be retired now" "A region is retired after it was fenced, while it is not heard, by the region that fenced it; and of two requests at once one counts. The detail says what is not so, and what to do.";
    SecondPersonNeeded = "second_person_needed" CONFLICT "Another person has to confirm" "Whoever asked for a region to be retired can't confirm it as well. Nothing was changed; somebody else repeats the call with a token of theirs.";
    NotRetryable = "not_retryable" CONFLICT "Nothing to retry" "The saga has ended; there is nothing to try again.";
    PreconditionFailed = "precondition_failed" PRECONDITION_FAILED "It changed meanwhile" "If-Match names an older version. Read it again, decide again.";
    PayloadTooLarge = "payload_too_large" PAYLOAD_TOO_LARGE "The body is too large" "The body is over 256 KiB. Nothing was done.";
    UnsupportedMediaType = "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "Not JSON" "Bodies are application/json.";
    ValidationFailed = "validation_failed" UNPROCESSABLE_ENTITY "The request is not valid" "`errors` names each field that is wrong and why. Nothing was done.";
    IdempotencyKeyReused = "idempotency_key_reused" UNPROCESSABLE_ENTITY "Idempotency-Key was used for another request" "This key belongs to a request with another body. Nothing was done; a new intent needs a new key.";
    FraudRejected = "fraud_rejected" UNPROCESSABLE_ENTITY "Refused by the fraud check" "The order was refused by the fraud check. No money is held and no stock is reserved.";
    PreconditionRequired = "precondition_required" PRECONDITION_REQUIRED "If-Match is missing" "A change needs If-Match with the `ETag` that was read.";
    RateLimited = "rate_limited" TOO_MANY_REQUESTS "Too many requests" "This client is over its rate. Try again after Retry-After.";
    Internal = "internal" INTERNAL_SERVER_ERROR "Something broke here" "A fault of this service. Whether the request took effect is not known: repeat it with the same Idempotency-Key, or look. Report the `trace_id`.";
    RegionBrokeOff = "region_broke_off" BAD_GATEWAY "The region broke off" "The load balancer's connection to the region ended before the answer. Whether the request took effect is not known: repeat it with the same Idempotency-Key.";
    RegionTimeout = "region_timeout" GATEWAY_TIMEOUT "The region did not answer in time" "The load balancer waited for the region as long as it may. Whether the request took effect is not known: repeat it with the same Idempotency-Key.";
    RegionDraining = "region_draining" SERVICE_UNAVAILABLE "The region takes no new orders" "An operator is draining this region, it is or was evacuated and not resumed since, its database was set back, or it is not known yet whether it was. Nothing was done; the load balancer sends a new try to another region.";
    HomeRegionUnavailable = "home_region_unavailable" SERVICE_UNAVAILABLE "The home region does not answer" "Only the home region can do this and it can't be reached. Repeat it with the same Idempotency-Key after Retry-After.";
    NoMajority = "no_majority" SERVICE_UNAVAILABLE "Too few regions can be reached" "A majority of the regions must agree to this. What was agreed on by then stands; repeat it when more regions can be reached.";
    EveryRegionNeeded = "every_region_needed" SERVICE_UNAVAILABLE "Not every region answers" "Before a region begins anew, or is retired, every other one that is not gone for good has to tell what it knows. What was done by then stands, and is gone on with; repeat it when all can be reached, and do what is said to one that refuses.";
    DependencyUnavailable = "dependency_unavailable" SERVICE_UNAVAILABLE "A dependency does not answer" "The database or a provider does not answer. Repeat it with the same Idempotency-Key after Retry-After.";
    Overloaded = "overloaded" SERVICE_UNAVAILABLE "Too busy" "A queue is full. Nothing was done; try again after Retry-After.";
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where: a path such as `lines[0].quantity`, or the name of a parameter.
    #[schema(example = "lines[0].quantity")]
    pub field: String,
    /// Why, for people.
    #[schema(example = "must be between 1 and 10000")]
    pub message: String,
}

impl FieldError {
    /// A field and why it is wrong.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// A refusal on its way to the front door.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// This occurrence, for people: what happened and what to do. Never holds a secret or a body.
    pub detail: String,
    /// Fields that are wrong, for [`Code::ValidationFailed`].
    pub errors: Vec<FieldError>,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// Further members of the answer, e.g. `shortages`.
    pub members: serde_json::Map<String, serde_json::Value>,
}

/// The answer's body as the OpenAPI document describes it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// Where the code is explained, relative to this server.
    #[serde(rename = "type")]
    #[schema(example = "/docs#validation_failed")]
    kind: String,
    /// The code in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What happened this time and what to do.
    detail: &'a str,
    /// Stable and machine-readable; `docs/ERRORS.md` lists all.
    #[schema(example = "validation_failed")]
    code: &'a str,
    /// Names this request in the logs.
    trace_id: &'a str,
    /// Each field that is wrong.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
    /// What else the code promises, e.g. `shortages`.
    #[serde(flatten)]
    #[schema(ignore)]
    members: &'a serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A refusal and what happened this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
            members: serde_json::Map::new(),
        }
    }

    /// 422 with the fields that are wrong.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] if only.field.is_empty() => only.message.clone(),
            [only] => format!("{}: {}", only.field, only.message),
            many => format!("{} fields are not valid; `errors` names each", many.len()),
        };
        Self { errors, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// 422 for one field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::validation(vec![FieldError::new(field, message)])
    }

    /// 404: there is none, or it is not the asker's to see (I-27: the two look the same).
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// With `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// With a further member of the answer.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The problem that stands for a bare status, as routers and extractors of libraries answer.
    pub fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::Forbidden,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::TOO_MANY_REQUESTS => Code::RateLimited,
            StatusCode::UNPROCESSABLE_ENTITY => Code::ValidationFailed,
            status if status.is_client_error() => Code::MalformedRequest,
            _ => Code::Internal,
        };
        Self::new(code, code.meaning())
    }

    /// Writes the answer: the last step, where the trace id is known.
    pub(super) fn render(&self, trace_id: &str) -> Response {
        let status = self.code.status();
        let body = serde_json::to_vec(&ProblemBody {
            kind: format!("/docs#{}", self.code.as_str()),
            title: self.code.title(),
            status: status.as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            trace_id,
            errors: &self.errors,
            members: &self.members,
        })
        .expect("texts, numbers and a map with text keys are JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The media type of problems.
pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Carries the problem to the front door, which knows the trace id and renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The page of all codes, for `docs/ERRORS.md`.
#[cfg(test)]
pub(super) fn documentation() -> String {
    use std::fmt::Write as _;
    let mut page = String::from(
        "# Error codes\n\nEvery refusal is `application/problem+json` (RFC 9457) with one of these codes. \
         They are stable: clients match on `code`, never on `detail`.\n\n\
         | code | status | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        writeln!(page, "| `{}` | {} | {} |", code.as_str(), code.status().as_u16(), code.meaning())
            .expect("a String takes any text");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[test]
    fn the_documentation_lists_the_codes() {
        expect_test::expect_file!["../../docs/ERRORS.md"].assert_eq(&documentation());
    }

    #[test]
    fn codes_are_unique() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_the_contract() {
        let problem = Problem::invalid("lines[0].quantity", "must be between 1 and 10000")
            .retry_after(2)
            .with("extra", 7);
        let response = problem.render("0af7");
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "2");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        expect_test::expect![[r#"{"code":"validation_failed","detail":"lines[0].quantity: must be between 1 and 10000","errors":[{"field":"lines[0].quantity","message":"must be between 1 and 10000"}],"extra":7,"status":422,"title":"The request is not valid","trace_id":"0af7","type":"/docs#validation_failed"}"#]].assert_eq(&body.to_string());
    }
}
