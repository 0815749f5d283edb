//! Routes in answers, as a load balancer reads them.

use serde::Serialize;

use crate::domain::routing::{Route, Told};
use crate::types::RegionId;

/// What a region knows of who serves whose shoppers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Routing)]
pub(in crate::http) struct ToldOut {
    /// Who tells.
    #[schema(value_type = String)]
    region: RegionId,
    /// It takes orders.
    ready: bool,
    /// One for each region.
    routes: Vec<RouteOut>,
}

/// Who serves a region's shoppers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Route)]
struct RouteOut {
    /// Whose shoppers.
    #[schema(value_type = String)]
    region: RegionId,
    /// The version of the route: of two the higher one counts, by round, then by region.
    ballot: BallotOut,
    /// Of two versions with one ballot the higher one counts.
    sequence: u64,
    /// The region is lost: it serves nobody, whatever it says.
    fenced: bool,
    /// Who acts for its orders.
    #[schema(value_type = String)]
    steward: RegionId,
    /// Of the region that tells: how many in a hundred of its shoppers it serves itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<u8>,
}

/// Who proposed something, and how late.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Ballot)]
struct BallotOut {
    /// Rises.
    round: u32,
    /// The proposer.
    #[schema(value_type = String)]
    region: RegionId,
}

impl From<Told> for ToldOut {
    fn from(Told { region, ready, routes }: Told) -> Self {
        Self { region, ready, routes: routes.into_iter().map(RouteOut::from).collect() }
    }
}

impl From<Route> for RouteOut {
    fn from(Route { region, ballot, sequence, fenced, steward, share }: Route) -> Self {
        let ballot = BallotOut { round: ballot.round, region: ballot.region };
        Self { region, ballot, sequence, fenced, steward, share }
    }
}
