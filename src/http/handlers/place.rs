//! `POST /orders`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::Placement;
use crate::domain::idempotency::StockRefusal;
use crate::domain::order::place::{ORDER_TOTAL_MINOR_MAX, PlaceRejection};
use crate::domain::order::{OrderRecord, OrderStatus};
use crate::runtime::spawn_named;

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::order::OrderOut;
use super::super::dto::place::{Durability, PlaceOrderBody};
use super::super::forward::Origin;
use super::super::headers::{IdempotencyKey, Prefer};
use super::super::json::StrictJson;
use super::super::problem::{Code, Problem, ProblemBody};
use super::orders::order_answer;
use super::{IDEMPOTENCY_REPLAYED, TRUE, intent, key_reused, lost_task};

/// How often the watermarks of the peers are looked at for `durability: remote`; heartbeats bring them
/// several times a second.
const REMOTE_LOOK: Duration = Duration::from_millis(20);

/// When a client of a draining region may try again: the load balancer has noticed by then.
const RETRY_DRAINING_S: u32 = 1;

/// Places an order.
///
/// Reserves stock, has the money held and confirms, all or nothing. The answer waits for the outcome
/// up to 2 s, or as `Prefer: wait=N` or `respond-async` says, counted from the request's arrival.
/// Finding units in other regions, where this one has too few, comes before and may take longer: until
/// it is over there is no order to answer with. Every refusal leaves no money held and no stock reserved.
#[utoipa::path(
    post, path = "/api/v1/orders", tag = "orders",
    params(
        ("Idempotency-Key" = String, Header, description = "Names this intent: 1 to 255 visible ASCII characters"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` or `respond-async`"),
    ),
    request_body = PlaceOrderBody,
    responses(
        (status = 201, description = "Confirmed", body = OrderOut<'_>),
        (status = 202, description = "Taken, and still running: `saga.status` is `running`", body = OrderOut<'_>),
        (status = 400, description = "`malformed_json`, `idempotency_key_required`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 402, description = "`payment_declined`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 408, description = "`request_timeout`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 409, description = "`insufficient_stock` with `shortages`, `channel_ref_taken`, `idempotency_in_flight`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `fraud_rejected`, `idempotency_key_reused`", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 503, description = "`region_draining`, `dependency_unavailable`, `overloaded`, with `Retry-After`", body = ProblemBody<'_>, content_type = "application/problem+json"),
    ),
)]
pub(in crate::http) async fn place_order(
    State(context): State<Context>,
    caller: Caller,
    key: IdempotencyKey,
    prefer: Prefer,
    origin: Origin,
    body: StrictJson<PlaceOrderBody>,
) -> Result<Response, Problem> {
    let StrictJson { value, raw } = body;
    let request = value.check(&caller, intent(&caller, key))?;
    let wait = prefer.wait.unwrap_or(context.order_wait);
    let began_ms = context.clock.monotonic_ms();
    let app = Arc::clone(&context.app);
    let hash = value.hash();
    let strayed = origin.strayed_from(context.region, caller.home_region).is_some();
    // In a task of its own: a client that hangs up must not keep the saga from starting.
    let placing =
        spawn_named(
            "place order",
            async move { app.place_order(request, hash, wait, strayed).await },
        );
    let placement = placing.await.map_err(lost_task)?.map_err(Problem::from);
    let response = match placement {
        Ok(Placement::Elsewhere { home, copy }) => {
            let spent = Duration::from_millis(context.clock.monotonic_ms() - began_ms);
            let left = wait.saturating_sub(spent);
            return match (context.ask(home, &origin, raw, left).await, copy) {
                (Ok(response), _) => Ok(response),
                (Err(_), Some(copy)) => Ok(settled(&copy, true)),
                (Err(problem), None) => Err(problem),
            };
        }
        Ok(placement) => answer(placement),
        Err(problem) => problem.into_response(),
    };
    context.metrics.order_placed(outcome(&response));
    if value.durability() == Durability::Remote && response.status() == StatusCode::CREATED {
        let spent = Duration::from_millis(context.clock.monotonic_ms() - began_ms);
        let held = held_elsewhere(&context);
        if !matches!(tokio::time::timeout(wait.saturating_sub(spent), held).await, Ok(true)) {
            let mut response = response;
            *response.status_mut() = StatusCode::ACCEPTED;
            return Ok(response);
        }
    }
    Ok(response)
}

/// Waits until a peer holds everything that was in this region's outbox when it was called: the
/// order is in it, because it is durable. `false` when there is no telling.
async fn held_elsewhere(context: &Context) -> bool {
    let Some(outbox) = &context.outbox else { return false };
    let Ok(end) = outbox.head().await else { return false };
    loop {
        let held = {
            let peers = context.app.peers.lock().expect("nothing panics while it holds the lock");
            peers.held_elsewhere(end.position)
        };
        if held {
            return true;
        }
        tokio::time::sleep(REMOTE_LOOK).await;
    }
}

fn outcome(response: &Response) -> &'static str {
    match (response.extensions().get::<Problem>(), response.status()) {
        (Some(problem), _) => problem.code.as_str(),
        (None, StatusCode::CREATED) => "confirmed",
        (None, _) => "running",
    }
}

fn answer(placement: Placement) -> Response {
    match placement {
        Placement::Settled { order, replayed } => settled(&order, replayed),
        Placement::Running { order, replayed } => taken(StatusCode::ACCEPTED, &order, replayed),
        Placement::OutOfStock { refusals, replayed } => {
            mark(out_of_stock(&refusals).into_response(), replayed)
        }
        Placement::KeyReused => key_reused().into_response(),
        Placement::ChannelRefTaken => Problem::new(
            Code::ChannelRefTaken,
            "channel_order_ref names another customer's order; nothing was done",
        )
        .into_response(),
        Placement::InFlight => Problem::new(
            Code::IdempotencyInFlight,
            "the first request with this Idempotency-Key is still being worked on; nothing is done twice",
        )
        .retry_after(1)
        .into_response(),
        Placement::Rejected(rejection) => rejected(&rejection).into_response(),
        Placement::Draining => Problem::new(
            Code::RegionDraining,
            "this region takes no new orders; nothing was done",
        )
        .retry_after(RETRY_DRAINING_S)
        .into_response(),
        Placement::Elsewhere { home, .. } => {
            unreachable!("asked above: the order is at {home}")
        }
    }
}

/// The answer for an order that is decided.
fn settled(record: &OrderRecord, replayed: bool) -> Response {
    match record.order.status() {
        OrderStatus::Confirmed => taken(StatusCode::CREATED, record, replayed),
        OrderStatus::Pending => taken(StatusCode::ACCEPTED, record, replayed),
        OrderStatus::Cancelled => {
            let mut response = refused(record).into_response();
            super::orders::name_home(&mut response, record);
            mark(response, replayed)
        }
    }
}

fn refused(record: &OrderRecord) -> Problem {
    let (code, detail) = record
        .order
        .cancellation
        .as_ref()
        .map_or(("", "The order was cancelled."), |why| (&why.code, &why.detail));
    let code = match code {
        "payment_declined" => Code::PaymentDeclined,
        "fraud_rejected" => Code::FraudRejected,
        _ => Code::DependencyUnavailable,
    };
    let problem = Problem::new(code, detail).with("order_id", record.order.id.to_string());
    if code == Code::DependencyUnavailable {
        problem.retry_after(super::RETRY_DEPENDENCY_S)
    } else {
        problem
    }
}

fn taken(status: StatusCode, record: &OrderRecord, replayed: bool) -> Response {
    let mut response = order_answer(status, record, &OrderOut::of(record));
    let location = format!("/api/v1/orders/{}", record.order.id);
    let location = HeaderValue::from_str(&location).expect("a path of ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    mark(response, replayed)
}

fn mark(mut response: Response, replayed: bool) -> Response {
    if replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, TRUE);
    }
    response
}

fn out_of_stock(refusals: &[StockRefusal]) -> Problem {
    let texts: Vec<_> = refusals
        .iter()
        .map(|refusal| {
            format!(
                "{}: {} wanted, {} available here, {} elsewhere",
                refusal.sku, refusal.wanted, refusal.available_here, refusal.available_elsewhere
            )
        })
        .collect();
    let shortages = serde_json::to_value(refusals).expect("plain values");
    Problem::new(Code::InsufficientStock, texts.join("; ")).with("shortages", shortages)
}

fn rejected(rejection: &PlaceRejection) -> Problem {
    match rejection {
        PlaceRejection::UnknownSku { line, sku } => Problem::invalid(
            format!("lines[{line}].sku"),
            format!("the catalogue has no SKU {sku}"),
        ),
        PlaceRejection::NoPrice { line, sku } => Problem::invalid(
            format!("lines[{line}].sku"),
            format!("{sku} has no price in the order's currency"),
        ),
        PlaceRejection::TotalTooLarge => Problem::invalid(
            "lines",
            format!("the order's total must be at most {ORDER_TOTAL_MINOR_MAX} minor units"),
        ),
        PlaceRejection::PaymentsDoNotAddUp { total_minor, offered_minor } => Problem::invalid(
            "payments",
            format!(
                "must add up to {total_minor} minor units, the total; they are {offered_minor}"
            ),
        ),
        PlaceRejection::InsufficientStock(_) => {
            Problem::new(Code::InsufficientStock, Code::InsufficientStock.meaning())
        }
    }
}
