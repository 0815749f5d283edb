//! Stock: what is where, and changes of what is on the shelf.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::app::{AdjustOutcome, AdjustStock, Adjustment};
use crate::domain::idempotency::IntentKey;
use crate::runtime::spawn_named;
use crate::types::{Sku, StockKey};

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::inventory::{AdjustedOut, AdjustmentBody, InventoryOut, StocktakeBody};
use super::super::forward::Origin;
use super::super::headers::{IdempotencyKey, optional_idempotency_key};
use super::super::json::StrictJson;
use super::super::problem::{Code, Problem};
use super::super::query::PathId;
use super::orders::json;
use super::{IDEMPOTENCY_REPLAYED, TRUE, intent, key_reused, lost_task, request_hash};

/// A SKU: what lies where, what is promised, who may still sell how much.
#[utoipa::path(
    get, path = "/api/v1/inventory/{sku}", tag = "inventory", params(("sku" = String, Path)),
    responses((status = 200, description = "As this region knows it", body = InventoryOut<'_>), (status = 404, description = "`not_found`")),
)]
pub(in crate::http) async fn get_inventory(
    State(context): State<Context>,
    PathId(sku): PathId<Sku>,
) -> Result<Response, Problem> {
    let app = &context.app;
    let view = app.inventory(&sku).await?.ok_or_else(|| Problem::not_found("SKU"))?;
    let seen = super::admin::seen_regions(&context).await;
    let statuses: BTreeMap<_, _> =
        seen.into_iter().map(|region| (region.region, region.status)).collect();
    let status = |region| statuses.get(&region).copied().unwrap_or("unknown").to_owned();
    let mut as_of = BTreeMap::from([(context.region, app.region.tick())]);
    for region in statuses.keys() {
        if let Some(fresh) = app.stale_as_of(*region) {
            as_of.insert(*region, fresh);
        }
    }
    let pinned = match &context.rights {
        Some(rights) => rights.store.pinned(&sku).await?,
        None => 0,
    };
    Ok(json(&InventoryOut::of(&sku, &view, status, as_of, pinned)))
}

/// More units, or fewer, at a node. Units that are promised can't be taken away.
#[utoipa::path(
    post, path = "/api/v1/inventory/{sku}/adjustments", tag = "inventory",
    params(("sku" = String, Path), ("Idempotency-Key" = String, Header)), request_body = AdjustmentBody,
    responses((status = 200, description = "Done", body = AdjustedOut), (status = 404, description = "`not_found`"),
              (status = 409, description = "`stock_is_promised`, with `wanted` and `removable`"),
              (status = 422, description = "`validation_failed`"), (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn adjust(
    State(context): State<Context>,
    caller: Caller,
    PathId(sku): PathId<Sku>,
    key: IdempotencyKey,
    origin: Origin,
    body: StrictJson<AdjustmentBody>,
) -> Result<Response, Problem> {
    let hash = request_hash(&format!("POST /inventory/{sku}/adjustments"), &body.value.canonical());
    let (stock_key, delta) = body.value.check(sku)?;
    let change = Change {
        key: stock_key,
        adjustment: Adjustment::By(delta),
        reason: body.value.reason.as_str(),
        intent: Some((intent(&caller, key), hash)),
    };
    carry_out(&context, change, &origin, body.raw).await
}

/// A stocktake: so many units lie at a node. Units that are promised can't be taken away.
#[utoipa::path(
    put, path = "/api/v1/inventory/{sku}", tag = "inventory",
    params(("sku" = String, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = StocktakeBody,
    responses((status = 200, description = "Done; `delta` says by how much", body = AdjustedOut), (status = 404, description = "`not_found`"),
              (status = 409, description = "`stock_is_promised`, with `wanted` and `removable`"),
              (status = 422, description = "`validation_failed`"), (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn stocktake(
    State(context): State<Context>,
    caller: Caller,
    PathId(sku): PathId<Sku>,
    headers: HeaderMap,
    origin: Origin,
    body: StrictJson<StocktakeBody>,
) -> Result<Response, Problem> {
    let key = optional_idempotency_key(&headers)?;
    let hash = request_hash(&format!("PUT /inventory/{sku}"), &body.value.canonical());
    let (stock_key, counted) = body.value.check(sku)?;
    let change = Change {
        key: stock_key,
        adjustment: Adjustment::To(counted),
        reason: body.value.reason.as_str(),
        intent: key.map(|key| (intent(&caller, key), hash)),
    };
    carry_out(&context, change, &origin, body.raw).await
}

/// What is to be done at a node.
#[derive(Debug, Clone)]
struct Change {
    key: StockKey,
    adjustment: Adjustment,
    reason: &'static str,
    intent: Option<(IntentKey, String)>,
}

async fn carry_out(
    context: &Context,
    change: Change,
    origin: &Origin,
    raw: axum::body::Bytes,
) -> Result<Response, Problem> {
    let app = Arc::clone(&context.app);
    // In a task of its own: a client that hangs up must not interrupt the second try after a recall.
    let adjusting = spawn_named("adjust stock", async move {
        let make = || AdjustStock {
            key: change.key.clone(),
            adjustment: change.adjustment,
            reason: change.reason.to_owned(),
            intent: change.intent.clone(),
        };
        app.adjust_stock(make).await
    });
    Ok(match adjusting.await.map_err(lost_task)?? {
        AdjustOutcome::Done(done) => json(&AdjustedOut::from(done)),
        AdjustOutcome::Replayed(done) => {
            ([(IDEMPOTENCY_REPLAYED, TRUE)], json(&AdjustedOut::from(done))).into_response()
        }
        AdjustOutcome::KeyReused => return Err(key_reused()),
        AdjustOutcome::UnknownSku => return Err(Problem::not_found("SKU")),
        AdjustOutcome::UnknownNode => {
            return Err(Problem::invalid("node", "there is no such node"));
        }
        AdjustOutcome::TooLarge => {
            return Err(Problem::invalid("delta", "is more than the books can hold"));
        }
        AdjustOutcome::OtherRegion(owner) => {
            context.ask(owner, origin, raw, context.app.settings.grant_wait).await?
        }
        AdjustOutcome::Promised { wanted, removable } => {
            let detail = format!(
                "{wanted} units were to be taken away, and {removable} could be: the others are promised to \
                 orders or held by regions that can't be asked; nothing was changed"
            );
            return Err(Problem::new(Code::StockIsPromised, detail)
                .with("wanted", wanted)
                .with("removable", removable));
        }
    })
}
