//! Reports of reconciliation in answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::reconcile::{Checked, Difference, NotCompared, Repair, Report};
use crate::types::{RegionId, ReportId};

use super::rfc3339;

/// What a run is to do.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
#[schema(as = ReconciliationRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReconcileBody {
    /// Mend what is safe to mend, and only that.
    #[serde(default)]
    pub(in crate::http) repair: bool,
}

/// What a run over all regions found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Reconciliation)]
pub(in crate::http) struct ReportOut<'a> {
    /// Its name.
    #[schema(value_type = uuid::Uuid)]
    id: ReportId,
    /// `running`, `finished` or `failed`.
    status: &'static str,
    /// Role and subject; `timer` for a region's own round.
    asked_by: &'a str,
    /// Safe repairs were asked for.
    repair: bool,
    /// When it began.
    started_at: String,
    /// When it ended.
    finished_at: Option<String>,
    /// Regions whose own data and copies were looked at.
    #[schema(value_type = Vec<String>)]
    regions: &'a [RegionId],
    /// What could not be compared, and why.
    not_compared: Vec<NotComparedOut<'a>>,
    /// How much was looked at.
    checked: CheckedOut,
    /// By class: how many differences, those that are not listed included.
    counts: BTreeMap<&'static str, u64>,
    /// The first thousand of them.
    differences: Vec<DifferenceOut<'a>>,
    /// Why it failed.
    error: Option<&'a str>,
}

/// Something that could not be compared.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = NotCompared)]
struct NotComparedOut<'a> {
    /// By which region.
    #[schema(value_type = String)]
    region: RegionId,
    /// What: a region, or the payment ledger.
    what: &'a str,
    /// Why.
    why: &'a str,
}

/// How much was looked at.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Checked)]
struct CheckedOut {
    /// Orders and copies of orders that were folded from their events.
    orders: u64,
    /// Keys of rights.
    keys: u64,
    /// Authorizations in the payment provider's ledger.
    payments: u64,
    /// Copies compared with their origins.
    copies: u64,
    /// Copies that changed at each look, and were right as far as they were seen.
    moving: u64,
}

/// One difference.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Difference)]
struct DifferenceOut<'a> {
    /// Stable; `docs/RECONCILIATION.md` lists them.
    class: &'static str,
    /// The rule that is broken, e.g. `I-01`.
    invariant: &'static str,
    /// In one sentence.
    meaning: &'static str,
    /// In whose data.
    #[schema(value_type = String)]
    region: RegionId,
    /// Compared with whose.
    #[schema(value_type = Option<String>)]
    peer: Option<RegionId>,
    /// What it is about.
    subject: &'a str,
    /// What must be.
    expected: &'a str,
    /// What is.
    found: &'a str,
    /// What mends it.
    repair: RepairOut<'a>,
}

/// What mends a difference.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Repair)]
struct RepairOut<'a> {
    /// A run with `repair` does it; otherwise a person has to.
    safe: bool,
    /// What is to be done.
    what: &'static str,
    /// What this run did; `null` when nothing was asked for or nothing is safe.
    done: Option<&'a str>,
}

impl<'a> ReportOut<'a> {
    pub(in crate::http) fn of(report: &'a Report) -> Self {
        let not_compared = report.not_compared.iter().map(NotComparedOut::of);
        Self {
            id: report.id,
            status: report.status.as_str(),
            asked_by: &report.asked_by,
            repair: report.repair,
            started_at: rfc3339(report.started_at_ms),
            finished_at: report.finished_at_ms.map(rfc3339),
            regions: &report.regions,
            not_compared: not_compared.collect(),
            checked: CheckedOut::of(report.checked),
            counts: report.counts.iter().map(|(class, count)| (class.code(), *count)).collect(),
            differences: report.differences.iter().map(DifferenceOut::of).collect(),
            error: report.error.as_deref(),
        }
    }
}

impl<'a> NotComparedOut<'a> {
    fn of(left_out: &'a NotCompared) -> Self {
        Self { region: left_out.region, what: &left_out.what, why: &left_out.why }
    }
}

impl CheckedOut {
    fn of(checked: Checked) -> Self {
        let Checked { orders, keys, payments, copies, moving } = checked;
        Self { orders, keys, payments, copies, moving }
    }
}

impl<'a> DifferenceOut<'a> {
    fn of(difference: &'a Difference) -> Self {
        let class = difference.class;
        Self {
            class: class.code(),
            invariant: class.invariant().code(),
            meaning: class.meaning(),
            region: difference.region,
            peer: difference.peer,
            subject: &difference.subject,
            expected: &difference.expected,
            found: &difference.found,
            repair: RepairOut {
                safe: class.repair() == Repair::Safe,
                what: class.mend(),
                done: difference.repair.as_deref(),
            },
        }
    }
}
