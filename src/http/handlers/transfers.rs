//! An operator moves rights from this region to another.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::app::rights::{TransferError, transfer};
use crate::domain::idempotency::IntentKey;
use crate::runtime::spawn_named;
use crate::types::{Sku, TransferId};

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::inventory::{PinBody, PinOut, TransferBody, TransferOut};
use super::super::forward::Origin;
use super::super::headers::IdempotencyKey;
use super::super::json::StrictJson;
use super::super::problem::{Code, Problem};
use super::super::query::PathId;
use super::orders::json;
use super::{IDEMPOTENCY_REPLAYED, TRUE, intent, key_reused, lost_task};

/// Moves budget to another region: it may sell so many units more, this one so many fewer.
///
/// The region that gives is the one that the caller's requests usually go to: the home in the token, else
/// where the load balancer sends them, else the one that is asked. A retry that lands elsewhere is passed
/// on to it and never takes from another region; `from_region` and `X-Region` name it.
#[utoipa::path(
    post, path = "/api/v1/inventory/{sku}/rights-transfers", tag = "inventory",
    params(("sku" = String, Path), ("Idempotency-Key" = String, Header)), request_body = TransferBody,
    responses((status = 200, description = "Moved", body = TransferOut),
              (status = 409, description = "`insufficient_rights`, with `spendable`"), (status = 422, description = "`validation_failed`, `idempotency_key_reused`"),
              (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn transfer_rights(
    State(context): State<Context>,
    caller: Caller,
    PathId(sku): PathId<Sku>,
    key: IdempotencyKey,
    origin: Origin,
    body: StrictJson<TransferBody>,
) -> Result<Response, Problem> {
    let (stock, units) = body.value.check(sku)?;
    if let Some(giver) = origin.strayed_from(context.region, caller.home_region) {
        return context.ask(giver, &origin, body.raw, Duration::ZERO).await;
    }
    let to = body.value.to_region;
    let id = transfer_id(&intent(&caller, key));
    let Some(rights) = context.rights.clone() else {
        return Err(Problem::invalid("to_region", "this deployment has no other region"));
    };
    let moved = stock.clone();
    let moving =
        spawn_named(
            "transfer rights",
            async move { transfer(&rights, id, &moved, to, units).await },
        );
    match moving.await.map_err(lost_task)? {
        Ok(replayed) => {
            let answer = json(&TransferOut {
                transfer_id: id,
                sku: stock.sku,
                node: stock.node,
                from_region: context.region,
                to_region: to,
                quantity: units,
            });
            Ok(if replayed {
                ([(IDEMPOTENCY_REPLAYED, TRUE)], answer).into_response()
            } else {
                answer
            })
        }
        Err(TransferError::OtherTransfer) => Err(key_reused()),
        Err(error @ TransferError::NotAPeer { .. }) => {
            Err(Problem::invalid("to_region", error.to_string()))
        }
        Err(TransferError::Insufficient { spendable }) => Err(Problem::new(
            Code::InsufficientRights,
            format!(
                "this region may give {spendable} units of {} at {}; nothing was moved",
                stock.sku, stock.node
            ),
        )
        .with("spendable", spendable)),
        Err(error @ TransferError::SetBack) => {
            Err(Problem::new(Code::RegionSetBack, format!("{error}; nothing was moved")))
        }
        Err(error @ (TransferError::NeverHeard { .. } | TransferError::Fenced { .. })) => {
            let text = format!("{error}; nothing was moved: try again when it is reachable");
            Err(Problem::new(Code::DependencyUnavailable, text).retry_after(5))
        }
        Err(TransferError::Store(error)) => Err(error.into()),
    }
}

/// Keeps budget in a region: of a SKU so many units, or as many as it has, are never given to another region, also when an order there
/// is refused for it. What an operator moves is moved all the same, and what a lost region had is taken over.
#[utoipa::path(
    put, path = "/api/v1/inventory/{sku}/rights-pins", tag = "inventory",
    params(("sku" = String, Path)), request_body = PinBody,
    responses((status = 200, description = "Kept from now on", body = PinOut), (status = 404, description = "`not_found`"),
              (status = 422, description = "`validation_failed`"), (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn pin_rights(
    State(context): State<Context>,
    caller: Caller,
    PathId(sku): PathId<Sku>,
    origin: Origin,
    body: StrictJson<PinBody>,
) -> Result<Response, Problem> {
    let (region, units) = (body.value.region, body.value.check()?);
    let rights = context.rights.clone();
    let known = context.app.region.is_seller(region);
    let Some(rights) = rights.filter(|_| known) else {
        return Err(Problem::invalid("region", "must be a region of a deployment with several"));
    };
    if region != context.region {
        return context.ask(region, &origin, body.raw, Duration::ZERO).await;
    }
    if context.app.reader.product(&sku).await?.is_none() {
        return Err(Problem::not_found("SKU"));
    }
    let (subject, role, trace_id) = (&caller.subject, caller.role, origin.trace());
    tracing::info!(%sku, units, actor = %subject, %role, %trace_id, "{role} {subject} keeps {units} units of {sku} in {region}");
    rights.store.pin(&sku, units).await?;
    Ok(json(&PinOut { sku, region, quantity: units }))
}

/// The same intent is the same transfer.
fn transfer_id(intent: &IntentKey) -> TransferId {
    let mut hash = Sha256::new();
    for part in ["rights-transfer", &intent.principal, &intent.key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let bytes: [u8; 16] = digest[..16].try_into().expect("half of it");
    TransferId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_intent_is_the_same_transfer() {
        let intent = |principal: &str, key: &str| IntentKey {
            principal: principal.to_owned(),
            key: key.to_owned(),
        };
        assert_eq!(transfer_id(&intent("a", "bc")), transfer_id(&intent("a", "bc")));
        assert_ne!(transfer_id(&intent("a", "bc")), transfer_id(&intent("ab", "c")));
    }
}
