//! Messages of payment providers.
//!
//! A webhook decides nothing: it only makes the order's saga ask the provider now instead of later. So
//! a replay is harmless, and a forged one could at most cause a question; it is refused all the same.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::gateways::webhook::{self, Headers};
use crate::types::OrderId;

use super::super::context::Context;
use super::super::forward::Origin;
use super::super::json::read_body;
use super::super::problem::{Code, Problem};
use super::super::query::PathId;
use super::orders::json;

/// What is read of a message; providers may say more.
#[derive(Debug, Deserialize)]
struct Message {
    data: MessageData,
}

#[derive(Debug, Deserialize)]
struct MessageData {
    order_reference: Option<String>,
}

/// A payment provider says that something happened to a payment.
///
/// Signed as Standard Webhooks says (`webhook-id`, `webhook-timestamp`, `webhook-signature`).
#[utoipa::path(
    post, path = "/api/v1/webhooks/payments/{gateway}", tag = "webhooks", params(("gateway" = String, Path, example = "simulator")),
    request_body(content = Object, description = "As the provider sends it"),
    responses((status = 200, description = "Heard"), (status = 202, description = "Of an order that is not known here"),
              (status = 404, description = "`not_found`: no such gateway")),
)]
pub(in crate::http) async fn payment_webhook(
    State(context): State<Context>,
    PathId(gateway): PathId<String>,
    headers: HeaderMap,
    origin: Origin,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let secret = context.webhook_secrets.get(&gateway);
    let secret = secret.ok_or_else(|| Problem::not_found("payment gateway"))?;
    let raw = read_body(request.into_body(), context.body_limits).await?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signed = Headers {
        id: text("webhook-id").unwrap_or_default(),
        timestamp: text("webhook-timestamp").unwrap_or_default(),
        signature: text("webhook-signature").unwrap_or_default(),
    };
    webhook::verify(secret, &signed, &raw, context.clock.wall_ms())
        .map_err(|why| Problem::new(Code::InvalidSignature, format!("{why}; nothing was done")))?;
    let message: Message = serde_json::from_slice(&raw).map_err(|_| {
        Problem::new(
            Code::MalformedJson,
            "the message is not what this gateway sends; nothing was done",
        )
    })?;
    let order = message.data.order_reference.and_then(|id| id.parse::<OrderId>().ok());
    let Some(order) = order else { return Ok(unknown()) };
    let Some(home) = context.app.home_of(order).await? else { return Ok(unknown()) };
    if home != context.region {
        return context.ask(home, &origin, raw, Duration::ZERO).await;
    }
    match context.app.reader.order(order).await? {
        None => Ok(unknown()),
        Some(record) => {
            context.app.sagas.nudge(record).await?;
            Ok(json(&serde_json::json!({"status": "heard"})))
        }
    }
}

fn unknown() -> Response {
    (StatusCode::ACCEPTED, json(&serde_json::json!({"status": "unknown_order"}))).into_response()
}
