//! The catalogue.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::app::{Put, PutOutcome, PutProduct};
use crate::types::Sku;

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::catalogue::{ProductBody, ProductOut, ProductPatch};
use super::super::headers::IdempotencyKey;
use super::super::json::StrictJson;
use super::super::page::{self, Page};
use super::super::problem::{Code, Problem};
use super::super::query::{PathId, StrictQuery};
use super::orders::json;
use super::{IDEMPOTENCY_REPLAYED, TRUE, intent, key_reused, request_hash};

/// Which page.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PageQuery {
    /// 1 to 200; 50 if absent.
    #[serde(default)]
    pub(super) limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default)]
    pub(super) cursor: Option<String>,
}

/// Products by SKU.
#[utoipa::path(get, path = "/api/v1/products", tag = "catalogue", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<ProductOut>)))]
pub(in crate::http) async fn list_products(
    State(context): State<Context>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after: Option<Sku> = page::cursor(query.cursor.as_deref())?;
    let products = context.app.reader.products(after.as_ref(), limit + 1).await?;
    let page = Page::cut(products, limit, |product| product.sku.clone());
    let items = page.items.into_iter().map(ProductOut::from).collect();
    Ok(json(&Page { items, next_cursor: page.next_cursor }))
}

/// One product.
#[utoipa::path(get, path = "/api/v1/products/{sku}", tag = "catalogue", params(("sku" = String, Path)),
    responses((status = 200, description = "The product", body = ProductOut), (status = 404, description = "`not_found`")))]
pub(in crate::http) async fn get_product(
    State(context): State<Context>,
    PathId(sku): PathId<Sku>,
) -> Result<Response, Problem> {
    let product = context.app.reader.product(&sku).await?;
    let product = product.ok_or_else(|| Problem::not_found("product"))?;
    Ok(json(&ProductOut::from(product)))
}

/// A new product, in every region as soon as they hear of it.
#[utoipa::path(post, path = "/api/v1/products", tag = "catalogue", params(("Idempotency-Key" = String, Header)), request_body = ProductBody,
    responses((status = 201, description = "Created", body = ProductOut), (status = 409, description = "`already_exists`"),
              (status = 422, description = "`validation_failed`, `idempotency_key_reused`")))]
pub(in crate::http) async fn create_product(
    State(context): State<Context>,
    caller: Caller,
    key: IdempotencyKey,
    body: StrictJson<ProductBody>,
) -> Result<Response, Problem> {
    let product = body.value.check(context.region)?;
    let hash = request_hash("POST /products", &body.value.canonical());
    let (sku, intent) = (product.sku.clone(), intent(&caller, key));
    let put = Put::Create { value: product, intent, body_hash: hash };
    put_product(&context, PutProduct { sku, put }).await
}

/// Changes of a product; what is absent stays.
#[utoipa::path(patch, path = "/api/v1/products/{sku}", tag = "catalogue", params(("sku" = String, Path)), request_body = ProductPatch,
    responses((status = 200, description = "As it is now", body = ProductOut), (status = 404, description = "`not_found`"),
              (status = 422, description = "`validation_failed`")))]
pub(in crate::http) async fn change_product(
    State(context): State<Context>,
    PathId(sku): PathId<Sku>,
    body: StrictJson<ProductPatch>,
) -> Result<Response, Problem> {
    let (product, patch) = (context.app.reader.product(&sku).await?, body.value);
    patch.apply(product.ok_or_else(|| Problem::not_found("product"))?)?;
    let put = Put::Change(Box::new(move |now| patch.apply(now).expect(NO_FAULT)));
    put_product(&context, PutProduct { sku, put }).await
}

/// A patch is checked before it is handed on, and what is wrong with one is so whatever it is applied to.
pub(super) const NO_FAULT: &str = "it was applied once, and its faults are its own";

async fn put_product(context: &Context, command: PutProduct) -> Result<Response, Problem> {
    let sku = command.sku.clone();
    let is_new = matches!(command.put, Put::Create { .. });
    let (outcome, _) = context.app.writer.submit(command).await?;
    put_answer(outcome, is_new, |product| json(&ProductOut::from(product)), "product", sku.as_str())
}

/// The answer to a creation or a change.
pub(super) fn put_answer<T>(
    outcome: PutOutcome<T>,
    is_new: bool,
    out: impl Fn(T) -> Response,
    what: &str,
    id: &str,
) -> Result<Response, Problem> {
    let created = |value| {
        let mut response = out(value);
        *response.status_mut() = StatusCode::CREATED;
        if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/{what}s/{id}")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    };
    match outcome {
        PutOutcome::Done(value) if is_new => Ok(created(value)),
        PutOutcome::Done(value) => Ok(out(value)),
        PutOutcome::Replayed(value) => {
            Ok(([(IDEMPOTENCY_REPLAYED, TRUE)], created(value)).into_response())
        }
        PutOutcome::KeyReused => Err(key_reused()),
        PutOutcome::Exists => Err(Problem::new(
            Code::AlreadyExists,
            format!("there is a {what} {id} already; nothing was changed; PATCH changes it"),
        )),
        PutOutcome::Missing => Err(Problem::not_found(what)),
    }
}
