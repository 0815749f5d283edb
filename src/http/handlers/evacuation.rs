//! Giving a region up while it lives.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use crate::app::evacuate::EvacuationError;
use crate::runtime::spawn_named;
use crate::types::RegionId;

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::regions::{BurdenOut, EvacuationOut};
use super::super::forward::Origin;
use super::super::problem::{Code, Problem};
use super::super::query::{PathId, StrictQuery};
use super::orders::json;
use super::{RETRY_DEPENDENCY_S, ensure_seller, lost_task};

/// How long a call waits for the end: below what forwarding allows.
const WAIT: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EvacuationQuery {
    /// Who gets everything; the first region in reach if absent.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    to: Option<RegionId>,
    /// Says what would have to be done, and changes nothing.
    #[serde(default)]
    dry_run: bool,
    /// The `run` of an answer: tells how far that one is, and begins none.
    #[serde(default)]
    #[param(value_type = Option<uuid::Uuid>)]
    run: Option<uuid::Uuid>,
    /// Ends one that is under way and has not moved orders yet; the region takes orders again, unless an operator has drained it.
    #[serde(default)]
    abort: bool,
}

/// Gives a region up while it lives: it is drained, orders under way come to their end, what it may sell and its orders
/// go to another region. Called again, it tells how far that is, whichever server of the region is asked.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/evacuate", tag = "admin",
    params(("region" = String, Path), EvacuationQuery),
    responses((status = 200, description = "It has ended, was aborted, or would do this", body = EvacuationOut),
              (status = 202, description = "Under way: ask again", body = EvacuationOut),
              (status = 404, description = "`not_found`"),
              (status = 409, description = "`no_evacuation`, `evacuation_past_return`, `region_set_back`, `not_fenceable`: it is the witness"),
              (status = 422, description = "`validation_failed`"),
              (status = 503, description = "`home_region_unavailable`, `dependency_unavailable`")))]
pub(in crate::http) async fn evacuate(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    StrictQuery(query): StrictQuery<EvacuationQuery>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    let of_all = &context.app.region;
    ensure_seller(&context, region)?;
    let evacuation = context.evacuation.clone().ok_or_else(|| Problem::not_found("region"))?;
    let EvacuationQuery { to, dry_run, run, abort } = query;
    if to.is_some_and(|to| to == region || !of_all.is_seller(to)) {
        return Err(Problem::invalid(
            "to",
            "must be another region of the deployment, and not the witness",
        ));
    }
    if region != context.region {
        return context.ask(region, &origin, Bytes::new(), WAIT).await;
    }
    if dry_run {
        let burden = evacuation.weigh(to).await.map_err(|error| refused(&error))?;
        return Ok(json(&BurdenOut::of(region, burden)));
    }
    let (subject, role, trace_id) = (caller.subject.clone(), caller.role, origin.trace());
    let doing = spawn_named("evacuate", async move {
        if run.is_none() {
            tracing::warn!(%region, abort, actor = %subject, %role, %trace_id, "{role} {subject} evacuates region {region}");
        }
        if abort { evacuation.abort(run).await } else { evacuation.follow(to, run, WAIT).await }
    });
    let progress = doing.await.map_err(lost_task)?.map_err(|error| refused(&error))?;
    let status = if progress.stage.is_over() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, json(&EvacuationOut::of(region, progress))).into_response())
}

fn refused(error: &EvacuationError) -> Problem {
    let detail = format!("{error}; nothing was changed by this call");
    match error {
        EvacuationError::NoneUnderWay(_) => Problem::new(Code::NoEvacuation, detail),
        EvacuationError::PastReturn => Problem::new(Code::EvacuationPastReturn, detail),
        EvacuationError::NotTrusted => Problem::new(Code::RegionSetBack, detail),
        EvacuationError::NobodyThere
        | EvacuationError::NotThere(_)
        | EvacuationError::Undecided
        | EvacuationError::Aborted
        | EvacuationError::Ended
        | EvacuationError::Left(_)
        | EvacuationError::NotApplied { .. }
        | EvacuationError::Transfer(_)
        | EvacuationError::Move(_)
        | EvacuationError::Store(_)
        | EvacuationError::Log(_) => {
            Problem::new(Code::DependencyUnavailable, detail).retry_after(RETRY_DEPENDENCY_S)
        }
    }
}
