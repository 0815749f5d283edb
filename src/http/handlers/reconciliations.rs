//! Reconciliation, for operators.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::reconcile::Reconciler;
use crate::reconcile::{Report, Status};
use crate::types::{OrderId, ReportId};

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::reconciliation::{ReconcileBody, ReportOut};
use super::super::forward::Origin;
use super::super::headers::Prefer;
use super::super::json::OptionalJson;
use super::super::problem::Problem;
use super::super::query::PathId;
use super::super::routes::BASE_PATH;
use super::orders::json;

/// Between two looks at a run that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Compares all regions, stock, money and events, and mends what is safe if that is asked for.
///
/// The run goes on by itself: the answer waits for its end as for an order's, then the report is read under its id.
/// Two runs at once do no harm, so no idempotency key is needed.
#[utoipa::path(post, path = "/api/v1/admin/reconciliations", tag = "admin", request_body = Option<ReconcileBody>,
    responses((status = 201, description = "The report", body = ReportOut<'_>),
              (status = 202, description = "Still running; `Location` has the report", body = ReportOut<'_>),
              (status = 422, description = "`validation_failed`")))]
pub(in crate::http) async fn reconcile(
    State(context): State<Context>,
    caller: Caller,
    prefer: Prefer,
    body: OptionalJson<ReconcileBody>,
) -> Result<Response, Problem> {
    let reconciler = reconciler(&context)?;
    let ReconcileBody { repair } = body.value;
    let asked_by = format!("{}:{}", caller.role, caller.subject);
    tracing::warn!(asked_by, repair, "a reconciliation was asked for");
    let begun = reconciler.begin(&asked_by, repair).await?;
    let wait = prefer.wait.unwrap_or(context.order_wait);
    let report = match tokio::time::timeout(wait, end(&reconciler, begun.id)).await {
        Ok(ended) => ended?,
        Err(_elapsed) => begun,
    };
    let running = report.status == Status::Running;
    let status = if running { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let location = format!("{BASE_PATH}/admin/reconciliations/{}", report.id);
    let location = HeaderValue::try_from(location).expect("a path of ASCII");
    Ok((status, [(header::LOCATION, location)], json(&ReportOut::of(&report))).into_response())
}

/// A report of reconciliation, from the region that keeps it.
#[utoipa::path(get, path = "/api/v1/admin/reconciliations/{id}", tag = "admin", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, description = "As far as it is", body = ReportOut<'_>),
              (status = 404, description = "`not_found`"),
              (status = 503, description = "`home_region_unavailable`")))]
pub(in crate::http) async fn get_reconciliation(
    State(context): State<Context>,
    PathId(id): PathId<ReportId>,
    origin: Origin,
) -> Result<Response, Problem> {
    let absent = || Problem::not_found("reconciliation");
    let home = context.app.region.placed_in(OrderId(id.0)).ok_or_else(absent)?;
    if home != context.region {
        return context.ask(home, &origin, Bytes::new(), Duration::ZERO).await;
    }
    let report = reconciler(&context)?.report(id).await?.ok_or_else(absent)?;
    Ok(json(&ReportOut::of(&report)))
}

fn reconciler(context: &Context) -> Result<Arc<Reconciler>, Problem> {
    context.reconciler.clone().ok_or_else(|| Problem::not_found("reconciliation"))
}

async fn end(reconciler: &Reconciler, id: ReportId) -> Result<Report, Problem> {
    loop {
        match reconciler.report(id).await? {
            Some(report) if report.status != Status::Running => return Ok(report),
            Some(_) => tokio::time::sleep(LOOK).await,
            None => return Err(Problem::not_found("reconciliation")),
        }
    }
}
