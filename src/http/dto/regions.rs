//! Regions in answers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::app::RegionStatus;
use crate::app::evacuate::Burden;
use crate::app::rights::TakenOver;
use crate::domain::evacuation::Progress;
use crate::ports::store::Spendable;
use crate::replication::Position;
use crate::types::{Actor, Epoch, HlcTimestamp, RegionId};

/// A region as seen from the one that answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Region)]
pub(in crate::http) struct RegionOut {
    /// Which.
    #[schema(value_type = String)]
    region: RegionId,
    /// The one that answers.
    own: bool,
    /// `ready`, `draining`, `fenced`, `retired`, `silent`, `one_way` or `never_heard`; of the one that answers also
    /// `set_back`: its database forgot what it had written, and it takes no orders before that is put right.
    status: &'static str,
    /// Of the one that answers: whether a majority lets it act on its orders. Without that it takes new ones, and leaves
    /// older ones alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_lease: Option<bool>,
    /// Its incarnation.
    #[schema(value_type = Option<u32>)]
    epoch: Option<Epoch>,
    /// How long ago it was heard.
    heard_ms_ago: Option<u64>,
    /// The last measured round trip of a heartbeat.
    round_trip_ms: Option<u64>,
    /// How many of its envelopes are known and not applied here.
    lag_events: u64,
    /// How long the oldest of these has been known.
    lag_ms: u64,
    /// The newest that it is known to have written.
    head: Option<PositionOut>,
    /// What of it has been applied here.
    watermark: Option<PositionOut>,
    /// Everything it wrote up to this stamp is applied here.
    #[schema(value_type = Option<String>)]
    fresh_as_of: Option<HlcTimestamp>,
    /// What it may still sell without asking anybody, as far as it is known here; `null` where this
    /// region's database does not answer.
    may_sell_alone: Option<MaySellAlone>,
    /// What it has applied of every region.
    #[schema(value_type = BTreeMap<String, PositionOut>)]
    its_watermarks: BTreeMap<RegionId, PositionOut>,
}

/// What fencing a region came to.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[schema(as = Fenced)]
pub(in crate::http) struct FencedOut {
    /// Which.
    #[schema(value_type = String)]
    region: RegionId,
    /// The incarnation that was fenced.
    #[schema(value_type = u32)]
    epoch: Epoch,
    /// `fenced`.
    status: &'static str,
    /// What the others may sell now that it held.
    taken_over: MaySellAlone,
    /// Units below its ceilings that it may have sold without anybody knowing. Nobody sells them until it is back.
    stranded_units: u64,
}

impl From<TakenOver> for FencedOut {
    fn from(TakenOver { owner, keys, units, stranded }: TakenOver) -> Self {
        let taken_over = MaySellAlone { units, keys };
        let Actor { region, epoch } = owner;
        Self { region, epoch, status: "fenced", taken_over, stranded_units: stranded }
    }
}

/// How far an evacuation is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Evacuation)]
pub(in crate::http) struct EvacuationOut {
    /// Which region is given up.
    #[schema(value_type = String)]
    region: RegionId,
    /// Names it: `?run=` asks how far it is.
    run: uuid::Uuid,
    /// `settling`, `moving_rights`, `moving_orders`, `verifying`, `done`, `failed` or `aborted`.
    status: &'static str,
    /// Who gets everything.
    #[schema(value_type = String)]
    to: RegionId,
    /// Orders that have moved so far.
    orders_moved: u64,
    /// Units that may now be sold there.
    units_moved: u64,
    /// Why it failed, or what was left out.
    detail: Option<String>,
}

impl EvacuationOut {
    pub(in crate::http) fn of(region: RegionId, progress: Progress) -> Self {
        let Progress { run, to, stage, orders, units, detail } = progress;
        let status = stage.as_str();
        Self { region, run, status, to, orders_moved: orders, units_moved: units, detail }
    }
}

/// What an evacuation would have to do.
#[derive(Debug, Serialize)]
pub(in crate::http) struct BurdenOut {
    region: RegionId,
    would: &'static str,
    to: RegionId,
    orders: u64,
    undecided: u64,
    units: u64,
}

impl BurdenOut {
    pub(in crate::http) fn of(region: RegionId, burden: Burden) -> Self {
        let Burden { to, orders, undecided, units } = burden;
        Self { region, would: "evacuate", to, orders, undecided, units }
    }
}

/// The sum of a region's rights.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub(in crate::http) struct MaySellAlone {
    /// Over all SKUs and nodes.
    units: u64,
    /// Of how many SKUs at how many nodes.
    keys: u64,
}

impl From<Spendable> for MaySellAlone {
    fn from(Spendable { units, keys }: Spendable) -> Self {
        Self { units, keys }
    }
}

/// A place in a region's sequence of envelopes.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
#[schema(as = Position)]
pub(in crate::http) struct PositionOut {
    /// The incarnation.
    #[schema(value_type = u32)]
    epoch: Epoch,
    /// 1..n without a gap.
    sequence: u64,
}

impl From<Position> for PositionOut {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch, sequence: position.sequence }
    }
}

impl RegionOut {
    /// `own_epoch` is of the region that answers; `alone` is what each region may sell.
    pub(in crate::http) fn of(
        status: RegionStatus,
        own_epoch: Epoch,
        alone: Option<&BTreeMap<RegionId, Spendable>>,
    ) -> Self {
        let RegionStatus { region, own, status, view, order_lease } = status;
        let may_sell_alone =
            alone.map(|alone| alone.get(&region).copied().unwrap_or_default().into());
        let Some(view) = view else {
            return Self {
                region,
                own,
                status,
                order_lease,
                epoch: own.then_some(own_epoch),
                heard_ms_ago: None,
                round_trip_ms: None,
                lag_events: 0,
                lag_ms: 0,
                head: None,
                watermark: None,
                fresh_as_of: None,
                may_sell_alone,
                its_watermarks: BTreeMap::new(),
            };
        };
        let head = view.head.map(|head| head.position);
        Self {
            region,
            own,
            status,
            order_lease,
            epoch: head.map(|head| head.epoch),
            heard_ms_ago: view.heard_ms_ago,
            round_trip_ms: view.round_trip_ms,
            lag_events: view.lag_events,
            lag_ms: view.lag_ms,
            head: head.map(PositionOut::from),
            watermark: Some(view.applied.into()),
            fresh_as_of: view.fresh_as_of,
            may_sell_alone,
            its_watermarks: view
                .its_watermarks
                .into_iter()
                .map(|(region, position)| (region, position.into()))
                .collect(),
        }
    }
}
