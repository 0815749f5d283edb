//! Reading orders: one, lists, the audit trail, the saga.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::domain::order::OrderRecord;
use crate::ports::store::OrderFilter;
use crate::types::{OrderId, RegionId};

use super::super::auth::{Caller, Role};
use super::super::context::Context;
use super::super::dto::order::{EventOut, OrderOut};
use super::super::dto::parse_rfc3339;
use super::super::dto::saga::SagaOut;
use super::super::forward::Origin;
use super::super::page::{self, Page};
use super::super::problem::Problem;
use super::super::query::{PathId, StrictQuery};

/// Who writes the order.
const X_HOME_REGION: HeaderName = HeaderName::from_static("x-home-region");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Every status of an order in the contract; those that no order reaches yet are legal filters.
const STATUSES: &[&str] = &[
    "pending",
    "confirmed",
    "processing",
    "partially_fulfilled",
    "fulfilled",
    "completed",
    "cancelled",
    "returned",
    "refunded",
];

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Consistency {
    /// The home region's own state.
    Strong,
    /// What this region has.
    Eventual,
}

/// See [`Consistency`].
#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReadQuery {
    /// `strong`: the home region's own state, also where this region has only a copy.
    #[serde(default)]
    #[param(inline)]
    consistency: Option<Consistency>,
}

/// Which events, and how fresh.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EventsQuery {
    /// `strong`: the home region's own state, also where this region has only a copy.
    #[serde(default)]
    #[param(inline)]
    consistency: Option<Consistency>,
    /// 1 to 200; 50 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default)]
    cursor: Option<String>,
}

/// Which orders.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ListQuery {
    /// Only this customer's. Customers see only their own anyway.
    #[serde(default)]
    customer_id: Option<String>,
    /// Only in this status.
    #[serde(default)]
    status: Option<String>,
    /// Only of this channel.
    #[serde(default)]
    channel: Option<String>,
    /// Only those placed at or after this time (RFC 3339).
    #[serde(default)]
    since: Option<String>,
    /// 1 to 200; 50 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default)]
    cursor: Option<String>,
}

/// One order.
///
/// In a region that is not its home: the copy, with `stale_as_of`.
#[utoipa::path(
    get, path = "/api/v1/orders/{id}", tag = "orders", params(("id" = uuid::Uuid, Path), ReadQuery),
    responses((status = 200, description = "The order", body = OrderOut<'_>), (status = 404, description = "`not_found`"),
              (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn get_order(
    State(context): State<Context>,
    caller: Caller,
    PathId(id): PathId<OrderId>,
    StrictQuery(query): StrictQuery<ReadQuery>,
    origin: Origin,
) -> Result<Response, Problem> {
    match find(&context, &caller, id, query.consistency, &origin).await? {
        Found::Elsewhere(response) => Ok(response),
        Found::Here(record) => Ok(shown(&context, &record)),
    }
}

/// Orders, newest first.
#[utoipa::path(
    get, path = "/api/v1/orders", tag = "orders", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<OrderOut<'_>>)),
)]
pub(in crate::http) async fn list_orders(
    State(context): State<Context>,
    caller: Caller,
    StrictQuery(query): StrictQuery<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let filter = filter(&caller, &query, limit)?;
    let Some(filter) = filter else {
        return Ok(json(&Page::<OrderOut<'_>>::whole(Vec::new())));
    };
    let records = context.app.reader.orders(&filter).await?;
    let page = Page::cut(records, limit, |record| record.order.id);
    let items = page.items.iter().map(|record| out(&context, record)).collect();
    Ok(json(&Page { items, next_cursor: page.next_cursor }))
}

/// `None` when the caller may see none of what is asked for.
fn filter(caller: &Caller, query: &ListQuery, limit: u32) -> Result<Option<OrderFilter>, Problem> {
    let asked = query
        .customer_id
        .as_deref()
        .map(|id| {
            id.parse().map_err(|error: crate::types::BadText| {
                Problem::invalid("customer_id", error.to_string())
            })
        })
        .transpose()?;
    let customer_id = match (caller.role, &caller.customer_id, asked) {
        (Role::Customer, Some(own), Some(asked)) if *own != asked => return Ok(None),
        (Role::Customer, None, _) => return Ok(None),
        (Role::Customer, Some(own), _) => Some(own.clone()),
        (Role::Staff | Role::Service | Role::Admin, _, asked) => asked,
    };
    if let Some(status) = &query.status
        && !STATUSES.contains(&status.as_str())
    {
        return Err(Problem::invalid("status", format!("must be one of {}", STATUSES.join(", "))));
    }
    let since_ms = query
        .since
        .as_deref()
        .map(|text| {
            parse_rfc3339(text).ok_or_else(|| {
                Problem::invalid("since", "must be a time of RFC 3339, e.g. 2026-12-01T00:00:00Z")
            })
        })
        .transpose()?;
    Ok(Some(OrderFilter {
        customer_id,
        status: query.status.clone(),
        channel: query.channel.clone(),
        since_ms,
        before: page::cursor(query.cursor.as_deref())?,
        limit: limit + 1,
    }))
}

/// The audit trail of an order: every event, oldest first, chained by hash.
#[utoipa::path(
    get, path = "/api/v1/orders/{id}/events", tag = "orders", params(("id" = uuid::Uuid, Path), EventsQuery),
    responses((status = 200, description = "A page", body = Page<EventOut<'_>>), (status = 404, description = "`not_found`")),
)]
pub(in crate::http) async fn order_events(
    State(context): State<Context>,
    caller: Caller,
    PathId(id): PathId<OrderId>,
    StrictQuery(query): StrictQuery<EventsQuery>,
    origin: Origin,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after: Option<u64> = page::cursor(query.cursor.as_deref())?;
    let record = match find(&context, &caller, id, query.consistency, &origin).await? {
        Found::Elsewhere(response) => return Ok(response),
        Found::Here(record) => record,
    };
    let events = context.app.reader.events(id, after.unwrap_or(0), limit + 1).await?;
    let page = Page::cut(events, limit, |event| event.seq);
    let items = page.items.iter().map(EventOut::of).collect();
    let mut response = json(&Page { items, next_cursor: page.next_cursor });
    name_home(&mut response, &record);
    Ok(response)
}

/// What was done for an order, what came of it, and what is next. Only its home region knows.
#[utoipa::path(
    get, path = "/api/v1/orders/{id}/saga", tag = "orders", params(("id" = uuid::Uuid, Path), ReadQuery),
    responses((status = 200, description = "The saga", body = SagaOut<'_>), (status = 404, description = "`not_found`"),
              (status = 503, description = "`home_region_unavailable`")),
)]
pub(in crate::http) async fn order_saga(
    State(context): State<Context>,
    caller: Caller,
    PathId(id): PathId<OrderId>,
    StrictQuery(_query): StrictQuery<ReadQuery>,
    origin: Origin,
) -> Result<Response, Problem> {
    let record = match find(&context, &caller, id, Some(Consistency::Strong), &origin).await? {
        Found::Elsewhere(response) => return Ok(response),
        Found::Here(record) => record,
    };
    let sagas = context.app.reader.sagas_of(id).await?;
    let saga = sagas.last().ok_or_else(|| Problem::not_found("saga of this order"))?;
    let mut response = json(&SagaOut::of(saga));
    name_home(&mut response, &record);
    Ok(response)
}

enum Found {
    Here(Arc<OrderRecord>),
    Elsewhere(Response),
}

/// The order, if the caller may see it: from here, or from its home when that is asked for or when
/// it has not been copied yet. A copy that the caller may not see is treated as one that has not, so that
/// neither the answer nor who gives it tells an order of somebody else's from none (I-27).
async fn find(
    context: &Context,
    caller: &Caller,
    id: OrderId,
    consistency: Option<Consistency>,
    origin: &Origin,
) -> Result<Found, Problem> {
    let absent = || Problem::not_found("order");
    let placed_in = context.app.region.placed_in(id).ok_or_else(absent)?;
    let record = context.app.reader.order(id).await?;
    let home = record.as_ref().map_or(placed_in, |record| record.order.home_region);
    let strong = consistency == Some(Consistency::Strong);
    let own = home == context.region;
    match record.filter(|_| own || !strong) {
        Some(record) if caller.may_see(record.order.customer_id.as_ref()) => {
            Ok(Found::Here(record))
        }
        Some(_) | None if own => Err(absent()),
        Some(_) | None => {
            let asked = context.ask(home, origin, Bytes::new(), std::time::Duration::ZERO);
            asked.await.map(Found::Elsewhere)
        }
    }
}

fn shown(context: &Context, record: &OrderRecord) -> Response {
    order_answer(StatusCode::OK, record, &out(context, record))
}

fn out<'a>(context: &Context, record: &'a OrderRecord) -> OrderOut<'a> {
    let home: RegionId = record.order.home_region;
    let out = OrderOut::of(record);
    if home == context.region {
        return out;
    }
    // Nothing heard of the home since the start: the copy is at least as fresh as its last event.
    let as_of = context.app.stale_as_of(home).unwrap_or(record.updated_hlc);
    out.stale_as_of(as_of.max(record.updated_hlc).wall_ms)
}

/// An order as an answer, with its headers.
pub(super) fn order_answer(
    status: StatusCode,
    record: &OrderRecord,
    out: &OrderOut<'_>,
) -> Response {
    let mut response = (status, out.to_bytes()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    let etag = HeaderValue::from_str(&format!("\"{}\"", record.version)).expect("digits");
    response.headers_mut().insert(header::ETAG, etag);
    name_home(&mut response, record);
    response
}

/// Says who writes the order.
pub(super) fn name_home(response: &mut Response, record: &OrderRecord) {
    let home = HeaderValue::from_str(record.order.home_region.as_str()).expect("a-z, 0-9 and -");
    response.headers_mut().insert(X_HOME_REGION, home);
}

/// Any value as an answer.
pub(super) fn json(value: &impl serde::Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("plain values");
    ([(header::CONTENT_TYPE, JSON)], bytes).into_response()
}
