//! The operations endpoints at the root: is it alive, is it fit, what does it count, what can it do.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use utoipa_axum::routes;

use crate::telemetry::metrics;

use super::context::{Context, HealthReport};
use super::dto::routing::ToldOut;
use super::problem::Problem;
use super::routes::{Access, Routes};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Public, routes!(livez))
        .add(Access::Public, routes!(readyz))
        .add(Access::Public, routes!(routing))
        .add(Access::Public, routes!(metrics_text))
        .add(Access::Public, routes!(openapi))
        .add(Access::Public, routes!(docs))
}

/// The process lives.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, description = "It lives")))]
async fn livez() -> impl IntoResponse {
    Json(serde_json::json!({"status": "alive"}))
}

/// Fit for traffic, with the state of each dependency.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, description = "Fit for traffic", body = HealthReport),
    (status = 503, description = "Not fit for traffic, or draining", body = HealthReport),
))]
async fn readyz(State(context): State<Context>) -> impl IntoResponse {
    let report = context.health.report().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(report))
}

/// What this region knows of who serves whose shoppers, for a load balancer: of the answers of several regions the one
/// with the highest ballot counts. See `docs/adr/0016-routing.md`.
#[utoipa::path(get, path = "/routing", tag = "operations", responses(
    (status = 200, description = "One route for each region", body = ToldOut),
    (status = 404, description = "`not_found`: there are no other regions"),
    (status = 503, description = "`dependency_unavailable`"),
))]
async fn routing(State(context): State<Context>) -> Result<Response, Problem> {
    let routing = context.routing.clone().ok_or_else(|| Problem::not_found("route"))?;
    let told = routing.tell().await?;
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Json(ToldOut::from(told))).into_response())
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "Every metric", body = String, content_type = "text/plain"),
))]
async fn metrics_text(State(context): State<Context>) -> impl IntoResponse {
    let regions = context.app.regions();
    context.metrics.peers(regions.iter().filter_map(|region| region.view.as_ref()));
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], context.metrics.text())
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1")))]
async fn openapi(State(context): State<Context>) -> impl IntoResponse {
    let document = context.inner().openapi.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], document)
}

/// The page of the API for people.
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, description = "A page", content_type = "text/html")))]
async fn docs() -> impl IntoResponse {
    // The page loads nothing from anywhere else and can't be framed.
    let policy = "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; \
                  style-src 'unsafe-inline'; frame-ancestors 'none'";
    let headers: [(HeaderName, &str); 1] = [(header::CONTENT_SECURITY_POLICY, policy)];
    (headers, Html(include_str!("docs.html")))
}
