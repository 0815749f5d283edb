//! Regions that are gone for good, in answers.

use serde::Serialize;

use crate::app::retire::Prospect;
use crate::replication::retirement::{LostOrder, LostOrders, Retirement};
use crate::types::{OrderId, RegionId};

use super::{MoneyOut, rfc3339};

/// How a retirement stands.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Retirement)]
pub(in crate::http) struct RetirementOut {
    /// Which region.
    #[schema(value_type = String)]
    region: RegionId,
    /// `asked`: a second person has to confirm; `retiring`; `retired`; `withdrawn`.
    status: &'static str,
    /// The first person.
    asked_by: String,
    /// When.
    asked_at: String,
    /// The second person.
    confirmed_by: Option<String>,
    /// When.
    confirmed_at: Option<String>,
    /// When it was carried out last.
    done_at: Option<String>,
    /// Units below its ceilings that may be sold again.
    units_freed: Option<u64>,
    /// Units that orders hold and nobody has: it had cancelled them, and nobody saw it.
    units_uncovered: Option<u64>,
    /// Payments for orders that it had acknowledged and nobody else has heard of.
    lost_orders: Option<LostOut>,
}

/// What retiring a region would come to, as far as is known now.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ProspectOut {
    region: RegionId,
    would: &'static str,
    asked_by: Option<String>,
    units_stranded: u64,
    units_are_at_least: bool,
    lost_orders: LostOut,
}

/// Payments for orders that nobody knows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LostOrders)]
pub(in crate::http) struct LostOut {
    /// How many.
    payments: u64,
    /// The first thousand.
    items: Vec<LostOrderOut>,
    /// Why the provider's ledger could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_read: Option<String>,
}

/// One of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LostOrder)]
pub(in crate::http) struct LostOrderOut {
    /// Which.
    #[schema(value_type = uuid::Uuid)]
    order_id: OrderId,
    /// The provider's key.
    provider_key: String,
    /// What is held; `null` while the provider has not decided.
    held: Option<MoneyOut>,
    /// The client has placed it again elsewhere under the same key, and this order stands on the same hold.
    #[schema(value_type = Option<uuid::Uuid>)]
    placed_again_as: Option<OrderId>,
}

impl From<LostOrders> for LostOut {
    fn from(LostOrders { count, named, not_read }: LostOrders) -> Self {
        let item = |LostOrder { order, provider_key, held, placed_again_as }| LostOrderOut {
            order_id: order,
            provider_key,
            held: held.map(|held| MoneyOut { amount: held.amount, currency: held.currency }),
            placed_again_as,
        };
        Self { payments: count, items: named.into_iter().map(item).collect(), not_read }
    }
}

impl ProspectOut {
    pub(in crate::http) fn of(region: RegionId, prospect: Prospect) -> Self {
        let Prospect { asked_by, units, has_more_units, lost } = prospect;
        Self {
            region,
            would: "retire",
            asked_by,
            units_stranded: units,
            units_are_at_least: has_more_units,
            lost_orders: lost.into(),
        }
    }
}

impl RetirementOut {
    pub(in crate::http) fn of(retirement: Retirement) -> Self {
        let status = match &retirement {
            Retirement { withdrawn_by: Some(_), .. } => "withdrawn",
            Retirement { outcome: Some(_), .. } => "retired",
            Retirement { confirmed_by: Some(_), .. } => "retiring",
            Retirement { .. } => "asked",
        };
        let Retirement { region, asked_by, asked_at_ms, confirmed_by, .. } = retirement;
        let Retirement { confirmed_at_ms, units_freed, outcome, .. } = retirement;
        Self {
            region,
            status,
            asked_by,
            asked_at: rfc3339(asked_at_ms),
            confirmed_by,
            confirmed_at: confirmed_at_ms.map(rfc3339),
            done_at: outcome.as_ref().map(|outcome| rfc3339(outcome.done_at_ms)),
            units_freed: outcome.as_ref().map(|_| units_freed),
            units_uncovered: outcome.as_ref().map(|outcome| outcome.units_uncovered),
            lost_orders: outcome.map(|outcome| outcome.lost.into()),
        }
    }

    pub(in crate::http) fn is_under_way(&self) -> bool {
        self.status == "retiring"
    }
}
