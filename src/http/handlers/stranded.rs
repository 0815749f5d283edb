//! Units that nobody may sell.

use axum::extract::State;
use axum::response::Response;

use crate::app::stranded::{Place, stranded};
use crate::types::RegionId;

use super::super::context::Context;
use super::super::dto::stranded::StrandedOut;
use super::super::page::{self, Page};
use super::super::problem::Problem;
use super::super::query::{PathId, StrictQuery};
use super::ensure_seller;
use super::orders::json;
use super::products::PageQuery;

/// Units of a region that nobody may sell: they lie below the ceilings of an incarnation that others have taken over from, which
/// may have sold them without anybody knowing. As far as the region that answers knows. A page may have fewer items than asked for,
/// or none, and a next one all the same.
#[utoipa::path(get, path = "/api/v1/admin/regions/{region}/stranded", tag = "admin", params(("region" = String, Path), PageQuery),
    responses((status = 200, description = "In order of SKUs and nodes", body = Page<StrandedOut>),
              (status = 404, description = "`not_found`"), (status = 409, description = "`not_fenceable`: it is the witness"),
              (status = 503, description = "`dependency_unavailable`")))]
pub(in crate::http) async fn list_stranded(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Response, Problem> {
    ensure_seller(&context, region)?;
    let limit = page::limit(query.limit)?;
    let after: Option<Place> = page::cursor(query.cursor.as_deref())?;
    let retire = context.retire.as_ref().ok_or_else(|| Problem::not_found("region"))?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (rows, records) = (retire.known.as_ref(), retire.records.as_ref());
    let (found, next) = stranded(&retire.rights, rows, records, region, after, limit).await?;
    Ok(json(&Page::until(found.into_iter().map(StrandedOut::from).collect(), next.as_ref())))
}
