//! Ending a region that is gone for good.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use crate::app::adoption::AdoptError;
use crate::app::rejoin::JoinError;
use crate::app::retire::RetireError;
use crate::app::rights::{FenceError, ProposeError};
use crate::runtime::spawn_named;
use crate::types::RegionId;

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::retirement::{ProspectOut, RetirementOut};
use super::super::forward::Origin;
use super::super::problem::{Code, Problem};
use super::super::query::{PathId, StrictQuery};
use super::orders::json;
use super::{RETRY_DEPENDENCY_S, ensure_seller, lost_task};

/// How long a call waits for the end: below what forwarding allows.
const WAIT: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct RetireQuery {
    /// Says what it would come to, and changes nothing.
    #[serde(default)]
    dry_run: bool,
    /// Takes the first person's word back.
    #[serde(default)]
    abort: bool,
}

/// Declares that a region's database can never be read again. The first person asks, a second one, with another token's
/// `sub`, confirms by the same call; then what it had not sold below its ceilings is freed, and payments for orders that nobody
/// knows are named. Called again, it goes on, or tells what came of it.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/retire", tag = "admin",
    params(("region" = String, Path), RetireQuery),
    responses((status = 200, description = "It waits for a second person, is done, was taken back, or would come to this", body = RetirementOut),
              (status = 202, description = "Under way: ask again", body = RetirementOut),
              (status = 404, description = "`not_found`"),
              (status = 409, description = "`not_retirable`, `not_fenceable`, `second_person_needed`, `rejoin_refused`, `region_set_back`"),
              (status = 503, description = "`every_region_needed`, `no_majority`, `home_region_unavailable`, `dependency_unavailable`")))]
pub(in crate::http) async fn retire(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    StrictQuery(query): StrictQuery<RetireQuery>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    // The one that carries it out gets what is freed.
    ensure_seller(&context, region)?;
    ensure_seller(&context, context.region)?;
    let retire = context.retire.clone().ok_or_else(|| Problem::not_found("region"))?;
    if region == context.region {
        let detail = format!("{region} itself was asked; ask one of the regions that live");
        return Err(Problem::new(Code::NotRetirable, detail));
    }
    if !context.app.region.may_write() {
        let detail = "this region's database was set back, or may have been; nothing was changed: ask another region";
        return Err(Problem::new(Code::RegionSetBack, detail));
    }
    let executor = retire.executor(region).await.map_err(|error| refused(&error))?;
    if executor != context.region {
        return context.ask(executor, &origin, Bytes::new(), WAIT).await;
    }
    if query.dry_run && query.abort {
        return Err(Problem::invalid("abort", "takes nothing back in a dry run"));
    }
    if query.dry_run {
        let prospect = retire.weigh(region).await.map_err(|error| refused(&error))?;
        return Ok(json(&ProspectOut::of(region, prospect)));
    }
    let (subject, role, trace_id) = (caller.subject.clone(), caller.role, origin.trace());
    let records = retire.clone();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let doing = spawn_named("retire", async move {
        tracing::warn!(%region, abort = query.abort, actor = %subject, %role, %trace_id, "{role} {subject} retires region {region}");
        let done = if query.abort {
            retire.withdraw(region, &subject).await
        } else {
            retire.retire(region, &subject).await
        };
        if let Err(error) = &done {
            tracing::warn!(%region, %error, "not retired: {error}");
        }
        // Who asked may not have waited: whoever asks next is told.
        if let Err(Err(error)) = answer.send(done) {
            retire.note_failure(region, error);
        }
    });
    let retirement = if let Ok(done) = tokio::time::timeout(WAIT, answered).await {
        match done {
            Ok(done) => done.map_err(|error| refused(&error))?,
            Err(_) => return Err(doing.await.map_err(lost_task).err().unwrap_or_else(lost)),
        }
    } else {
        // It goes on, and whoever asks again is told how far it is.
        let current = records.current(region).await.map_err(|error| refused(&error))?;
        current.ok_or_else(|| refused(&RetireError::UnderWay))?
    };
    let out = RetirementOut::of(retirement);
    let status = if out.is_under_way() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, json(&out)).into_response())
}

fn lost() -> Problem {
    Problem::new(Code::Internal, "the attempt ended without an answer: repeat it")
}

fn refused(error: &RetireError) -> Problem {
    let detail = error.to_string();
    match error {
        RetireError::NotFenced(_)
        | RetireError::Heard(_)
        | RetireError::NothingToWithdraw(_)
        | RetireError::UnderWay
        | RetireError::Overtaken(_)
        | RetireError::Taken(_)
        | RetireError::Fence(FenceError::Heard(_))
        | RetireError::BegunAnew(_) => Problem::new(Code::NotRetirable, detail),
        RetireError::SecondPersonNeeded { .. } => Problem::new(Code::SecondPersonNeeded, detail),
        RetireError::Join(JoinError::Unreachable(_) | JoinError::Refused { .. })
        | RetireError::Adopt(AdoptError::Join(
            JoinError::Unreachable(_) | JoinError::Refused { .. },
        )) => Problem::new(Code::EveryRegionNeeded, format!("{detail}: repeat it"))
            .retry_after(RETRY_DEPENDENCY_S),
        RetireError::Propose(ProposeError::NoMajority { .. })
        | RetireError::Adopt(AdoptError::Propose(ProposeError::NoMajority { .. }))
        | RetireError::Fence(FenceError::Propose(ProposeError::NoMajority { .. }))
        | RetireError::NoLease => Problem::new(Code::NoMajority, format!("{detail}: repeat it"))
            .retry_after(RETRY_DEPENDENCY_S),
        RetireError::Adopt(AdoptError::Join(JoinError::Unsound { .. }))
        | RetireError::Join(JoinError::Unsound { .. }) => Problem::new(Code::RejoinRefused, detail),
        RetireError::Adopt(_)
        | RetireError::Refused(_)
        | RetireError::Fence(_)
        | RetireError::Propose(_)
        | RetireError::Join(_)
        | RetireError::Bus(_)
        | RetireError::Store(_) => {
            let detail = format!("{detail}; what was done stands, and is gone on with: repeat it");
            Problem::new(Code::DependencyUnavailable, detail).retry_after(RETRY_DEPENDENCY_S)
        }
    }
}
