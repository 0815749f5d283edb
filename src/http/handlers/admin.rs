//! Regions and sagas, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use crate::app::RegionStatus;
use crate::app::rejoin::{JoinError, RejoinError};
use crate::app::rights::{FenceError, ProposeError, Rights};
use crate::ports::StoreError;
use crate::ports::store::{SagaFilter, Spendable};
use crate::runtime::spawn_named;
use crate::types::{OrderId, RegionId, SagaId};

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::regions::{FencedOut, RegionOut};
use super::super::dto::saga::SagaOut;
use super::super::forward::Origin;
use super::super::page::{self, Page};
use super::super::problem::{Code, Problem};
use super::super::query::{PathId, StrictQuery};
use super::orders::json;
use super::products::PageQuery;
use super::{RETRY_DEPENDENCY_S, lost_task};

/// Every region as seen from here.
#[utoipa::path(get, path = "/api/v1/admin/regions", tag = "admin", params(PageQuery),
    responses((status = 200, description = "This one first", body = Page<RegionOut>)))]
pub(in crate::http) async fn list_regions(
    State(context): State<Context>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after: Option<RegionId> = page::cursor(query.cursor.as_deref())?;
    let mut regions = seen_regions(&context).await;
    if let Some(after) = after {
        let given = regions.iter().position(|status| status.region == after);
        regions.drain(..given.map_or(0, |last| last + 1));
    }
    let page = Page::cut(regions, limit, |status| status.region);
    let epoch = context.app.region.epoch;
    let alone = may_sell_alone(&context).await;
    let items = page.items.into_iter();
    let items = items.map(|status| RegionOut::of(status, epoch, alone.as_ref())).collect();
    Ok(json(&Page { items, next_cursor: page.next_cursor }))
}

/// Every region as seen from here, this one first. Whatever is heard of one that was fenced, that is what counts.
pub(super) async fn seen_regions(context: &Context) -> Vec<RegionStatus> {
    let mut regions = context.app.regions();
    for status in &mut regions {
        let fenced = |rights: &Arc<Rights>| rights.is_fenced_region(status.region);
        if !status.own && context.rights.as_ref().is_some_and(fenced) {
            let is_retired = is_retired(context, status.region).await;
            status.status = if is_retired { "retired" } else { "fenced" };
        }
    }
    regions
}

async fn is_retired(context: &Context, region: RegionId) -> bool {
    let Some(retire) = &context.retire else { return false };
    // The list is most wanted when a database does not answer.
    matches!(retire.current(region).await, Ok(Some(last)) if last.outcome.is_some())
}

/// The rest of the list is most wanted when a database does not answer, so that is no reason to refuse it.
async fn may_sell_alone(context: &Context) -> Option<BTreeMap<RegionId, Spendable>> {
    let alone = context.app.reader.may_sell_alone().await;
    let log = |error: &StoreError| tracing::warn!(%error, "what the regions may sell is not known");
    alone.inspect_err(log).ok()
}

/// Takes a region out of traffic: `/readyz` turns 503, open work finishes, new orders are refused.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/drain", tag = "admin", params(("region" = String, Path)),
    responses((status = 200, description = "Draining, also after a restart", body = RegionOut),
              (status = 404, description = "`not_found`"),
              (status = 503, description = "`home_region_unavailable`, `dependency_unavailable`")))]
pub(in crate::http) async fn drain(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    set_draining(&context, region, true, &caller, &origin).await
}

/// Puts a drained region back into traffic.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/resume", tag = "admin", params(("region" = String, Path)),
    responses((status = 200, description = "Ready", body = RegionOut), (status = 404, description = "`not_found`"),
              (status = 409, description = "`region_set_back`, `evacuation_under_way`"),
              (status = 503, description = "`home_region_unavailable`, `dependency_unavailable`")))]
pub(in crate::http) async fn resume(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    set_draining(&context, region, false, &caller, &origin).await
}

/// How sure the caller is.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FenceQuery {
    /// None of the region's processes will ever act again: nothing is waited for, and what it had under way is taken
    /// over as well. Where that is not so, two regions act on one order.
    #[serde(default)]
    gone: bool,
}

/// Declares another region dead: its raises end, and what it had not sold above its ceilings is taken over. Its orders
/// follow when its last order lease is over.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/fence", tag = "admin", params(("region" = String, Path), FenceQuery),
    responses((status = 200, description = "Fenced; asked again, what has come to be known since is taken over", body = FencedOut),
              (status = 404, description = "`not_found`"),
              (status = 409, description = "`not_fenceable`: it is the region that was asked, one of the two is the witness, or `gone` is said of one that is heard"),
              (status = 503, description = "`no_majority`, `region_draining`, `dependency_unavailable`")))]
pub(in crate::http) async fn fence(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    StrictQuery(query): StrictQuery<FenceQuery>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    rights_of(&context, region)?;
    let adoption = context.adoption.clone().ok_or_else(|| Problem::not_found("region"))?;
    if region == context.region {
        let detail = format!("{region} itself was asked; ask one of the regions that live");
        return Err(Problem::new(Code::NotFenceable, detail));
    }
    if context.app.region.is_in_doubt() {
        let detail = "it is not known yet whether this region's database remembers everything, so it has no vote; \
                      nothing was changed: ask another region, or repeat it";
        return Err(Problem::new(Code::RegionDraining, detail).retry_after(RETRY_DEPENDENCY_S));
    }
    let (subject, role, trace_id) = (caller.subject.clone(), caller.role, origin.trace());
    let fencing = spawn_named("fence", async move {
        tracing::warn!(%region, actor = %subject, %role, %trace_id, "{role} {subject} fences region {region}");
        adoption.fence(region, query.gone).await
    });
    let taken = fencing.await.map_err(lost_task)?.map_err(|error| not_fenced(&error))?;
    Ok(json(&FencedOut::from(taken)))
}

/// A region comes back. One that was fenced goes on selling from what the others have agreed on meanwhile; one whose
/// database was set back begins a new incarnation, and its server starts again.
#[utoipa::path(post, path = "/api/v1/admin/regions/{region}/rejoin", tag = "admin", params(("region" = String, Path)),
    responses((status = 200, description = "Back in traffic, unless it is drained; or `rejoining`, under a new epoch, until its server has started again", body = RegionOut),
              (status = 404, description = "`not_found`"),
              (status = 409, description = "`rejoin_under_way`, `rejoin_refused`"),
              (status = 503, description = "`no_majority`, `every_region_needed`, `home_region_unavailable`, `dependency_unavailable`")))]
pub(in crate::http) async fn rejoin(
    State(context): State<Context>,
    PathId(region): PathId<RegionId>,
    caller: Caller,
    origin: Origin,
) -> Result<Response, Problem> {
    let rights = rights_of(&context, region)?;
    if region != context.region {
        return context.ask(region, &origin, Bytes::new(), Duration::ZERO).await;
    }
    let app = &context.app;
    let (subject, role, trace_id) = (caller.subject.clone(), caller.role, origin.trace());
    let mut epoch = app.region.epoch;
    if let Some(rejoin) = context.rejoin.clone().filter(|_| app.region.is_set_back()) {
        let beginning = spawn_named("rejoin", async move {
            tracing::warn!(%region, actor = %subject, %role, %trace_id, "{role} {subject} has region {region} rejoin as a new incarnation");
            rejoin.begin().await
        });
        let begun = beginning.await.map_err(lost_task)?.map_err(|error| not_begun(&error))?;
        epoch = begun.epoch;
    } else if is_fenced(&context).await {
        let routing = context.routing.clone().ok_or_else(|| Problem::not_found("region"))?;
        let returning = spawn_named("rejoin", async move {
            tracing::warn!(%region, actor = %subject, %role, %trace_id, "{role} {subject} has region {region} rejoin");
            // Before the others agree that it is back: it must not get all of its shoppers at once.
            routing.begin_canary().await.map_err(ProposeError::from)?;
            rights.come_back().await
        });
        returning.await.map_err(lost_task)?.map_err(|error| not_fenced(&error.into()))?;
    }
    let own =
        app.regions().into_iter().find(|status| status.own).expect("this region is one of them");
    let status = if epoch == app.region.epoch { own.status } else { "rejoining" };
    let alone = may_sell_alone(&context).await;
    Ok(json(&RegionOut::of(RegionStatus { status, ..own }, epoch, alone.as_ref())))
}

/// A region that was cut off may not have heard of it.
async fn is_fenced(context: &Context) -> bool {
    let adoption = context.adoption.as_ref();
    context.app.region.is_fenced()
        || match adoption {
            Some(adoption) => adoption.lease.is_fenced_elsewhere().await,
            None => false,
        }
}

fn not_begun(error: &RejoinError) -> Problem {
    let detail =
        format!("{error}; no new incarnation has begun, and the region stays out of traffic");
    match error {
        RejoinError::UnderWay | RejoinError::NotSetBack => {
            Problem::new(Code::RejoinUnderWay, detail)
        }
        RejoinError::LostTogether(_)
        | RejoinError::References(_)
        | RejoinError::Join(JoinError::Unsound { .. }) => Problem::new(Code::RejoinRefused, detail),
        RejoinError::Join(JoinError::Unreachable(_) | JoinError::Refused { .. }) => {
            Problem::new(Code::EveryRegionNeeded, format!("{detail}: repeat it"))
                .retry_after(RETRY_DEPENDENCY_S)
        }
        RejoinError::Taken
        | RejoinError::Moved
        | RejoinError::Log(_)
        | RejoinError::Store(_)
        | RejoinError::Join(JoinError::KeepsChanging { .. } | JoinError::Store(_)) => {
            Problem::new(Code::DependencyUnavailable, format!("{detail}: repeat it"))
                .retry_after(RETRY_DEPENDENCY_S)
        }
    }
}

fn rights_of(context: &Context, region: RegionId) -> Result<Arc<Rights>, Problem> {
    let known = context.app.region.numbers.contains_key(&region);
    context.rights.clone().filter(|_| known).ok_or_else(|| Problem::not_found("region"))
}

fn not_fenced(error: &FenceError) -> Problem {
    let detail =
        format!("{error}; what was agreed on by then stands, and nothing is sold twice: repeat it");
    match error {
        FenceError::NotAPeer => Problem::not_found("region"),
        FenceError::Witness(_) | FenceError::Heard(_) => {
            Problem::new(Code::NotFenceable, format!("{error}; nothing was changed"))
        }
        FenceError::Propose(ProposeError::SetBack) => Problem::new(
            Code::RegionSetBack,
            "this region's database was set back and has no vote; nothing was changed: ask another region",
        ),
        FenceError::Propose(ProposeError::Store(_)) | FenceError::Bus(_) => {
            Problem::new(Code::DependencyUnavailable, detail).retry_after(RETRY_DEPENDENCY_S)
        }
        FenceError::Propose(_) => {
            Problem::new(Code::NoMajority, detail).retry_after(RETRY_DEPENDENCY_S)
        }
    }
}

async fn set_draining(
    context: &Context,
    region: RegionId,
    draining: bool,
    caller: &Caller,
    origin: &Origin,
) -> Result<Response, Problem> {
    let app = &context.app;
    if !app.region.numbers.contains_key(&region) {
        return Err(Problem::not_found("region"));
    }
    if region != context.region {
        return context.ask(region, origin, Bytes::new(), Duration::ZERO).await;
    }
    if let Some(evacuation) = context.evacuation.as_ref().filter(|_| !draining)
        && let Some(progress) = evacuation.under_way().await?
    {
        let detail = format!(
            "region {region} is being evacuated ({}); nothing was changed: abort that (`entrepot region evacuate {region} \
             --abort`) as long as no order has moved, or resume the region when it is over",
            progress.stage.as_str()
        );
        return Err(Problem::new(Code::EvacuationUnderWay, detail));
    }
    let (stops, subject) = (Arc::clone(&app.stops), caller.subject.clone());
    let (role, trace_id) = (caller.role, origin.trace());
    let changing = spawn_named("drain", async move {
        let changed = stops.drain(draining).await?;
        tracing::warn!(
            %region, draining, changed, actor = %subject, %role, %trace_id,
            "{role} {subject} changed whether region {region} takes orders: draining {draining}"
        );
        Ok::<_, StoreError>(changed)
    });
    let changed = changing.await.map_err(lost_task)?.map_err(|error| {
        tracing::warn!(%error, "whether this region takes orders could not be stored");
        Problem::new(
            Code::DependencyUnavailable,
            "the database does not answer; whether this is stored is not known: repeat it",
        )
        .retry_after(RETRY_DEPENDENCY_S)
    })?;
    let is_in_doubt = app.region.is_in_doubt() && !app.region.is_set_back();
    if let Some(verification) = context.verification.as_ref().filter(|_| !draining && is_in_doubt) {
        tracing::warn!(%region, "{role} {} says that the database of region {region} remembers everything", caller.subject);
        verification.trust();
    }
    if !changed {
        let detail =
            format!("region {region} stays out of traffic: {}", Code::RegionSetBack.meaning());
        return Err(Problem::new(Code::RegionSetBack, detail));
    }
    let own =
        app.regions().into_iter().find(|status| status.own).expect("this region is one of them");
    let alone = may_sell_alone(context).await;
    Ok(json(&RegionOut::of(own, app.region.epoch, alone.as_ref())))
}

/// Which sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum SagaState {
    /// Going forward.
    Running,
    /// Open for over five minutes.
    Stuck,
    /// Undoing.
    Compensating,
    /// Given up; none is, as long as its provider answers in the end.
    Failed,
}

/// See [`SagaState`].
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SagaQuery {
    /// `running`, `stuck`, `compensating` or `failed`; `stuck` if absent.
    #[serde(default)]
    #[param(inline)]
    status: Option<SagaState>,
    /// 1 to 200; 50 if absent.
    #[serde(default)]
    limit: Option<u32>,
    /// Where the last page ended.
    #[serde(default)]
    cursor: Option<String>,
}

/// Sagas of this region, oldest first.
#[utoipa::path(get, path = "/api/v1/admin/sagas", tag = "admin", params(SagaQuery),
    responses((status = 200, description = "A page", body = Page<SagaOut<'_>>)))]
pub(in crate::http) async fn list_sagas(
    State(context): State<Context>,
    StrictQuery(query): StrictQuery<SagaQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after: Option<SagaId> = page::cursor(query.cursor.as_deref())?;
    let stuck_ms = u64::try_from(context.app.settings.saga_stuck.as_millis()).unwrap_or(u64::MAX);
    let filter = match query.status.unwrap_or(SagaState::Stuck) {
        SagaState::Running => SagaFilter::Running,
        SagaState::Compensating => SagaFilter::Compensating,
        SagaState::Stuck => SagaFilter::OpenSince(context.clock.wall_ms().saturating_sub(stuck_ms)),
        // Every saga ends forward or undone; one that can't yet is running, and then stuck.
        SagaState::Failed => return Ok(json(&Page::<SagaOut<'_>>::whole(Vec::new()))),
    };
    let sagas = context.app.reader.sagas(filter, after, limit + 1).await?;
    let page = Page::cut(sagas, limit, |saga| saga.id);
    let items = page.items.iter().map(SagaOut::of).collect();
    Ok(json(&Page { items, next_cursor: page.next_cursor }))
}

/// Looks at a saga again now instead of when it is due. Its home does, whichever region is asked.
#[utoipa::path(post, path = "/api/v1/admin/sagas/{id}/retry", tag = "admin", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, description = "Being tried; this is how it stood before", body = SagaOut<'_>),
              (status = 404, description = "`not_found`"), (status = 409, description = "`not_retryable`"),
              (status = 503, description = "`home_region_unavailable`")))]
pub(in crate::http) async fn retry_saga(
    State(context): State<Context>,
    PathId(id): PathId<SagaId>,
    origin: Origin,
) -> Result<Response, Problem> {
    let absent = || Problem::not_found("saga");
    // The saga that places an order has the order's id, and lives at its home.
    let home = context.app.home_of(OrderId(id.0)).await?.ok_or_else(absent)?;
    if home != context.region {
        return context.ask(home, &origin, Bytes::new(), Duration::ZERO).await;
    }
    let saga = context.app.reader.saga(id).await?.ok_or_else(absent)?;
    if !context.app.retry_saga(id).await? {
        return Err(Problem::new(
            Code::NotRetryable,
            format!("the saga is {}", saga.state.as_str()),
        ));
    }
    Ok(json(&SagaOut::of(&saga)))
}
