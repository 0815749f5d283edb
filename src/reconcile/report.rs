//! What a run of reconciliation found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Class, Flaw};
use crate::types::{RegionId, ReportId};

/// Differences that a report lists one by one; more are only counted. Whoever has a thousand differences has one
/// fault, and a report must stay readable and small.
pub const DIFFERENCES_MAX: usize = 1_000;

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Under way, or waiting for another run of the region to end.
    Running,
    /// Ended, having looked at everything that could be reached.
    Finished,
    /// Ended early: its process or its database did.
    Failed,
}

impl Status {
    /// The word in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What kind.
    pub class: Class,
    /// The region whose data it was found in.
    pub region: RegionId,
    /// The region it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<RegionId>,
    /// What it is about, e.g. `order 0190…`.
    pub subject: String,
    /// What must be, and by whom that is said.
    pub expected: String,
    /// What is.
    pub found: String,
    /// What the repair did, or why it did not. Absent where none was asked for or none is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
}

/// Something that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NotCompared {
    /// In the run of which region.
    pub region: RegionId,
    /// What, e.g. `ap-south` or `the payment ledger`.
    pub what: String,
    /// Why.
    pub why: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Own orders and copies that were folded from their events.
    pub orders: u64,
    /// Keys of own rights.
    pub keys: u64,
    /// Authorizations in the provider's ledger.
    pub payments: u64,
    /// Copies compared with their origins: orders, rows, envelopes, products, nodes.
    pub copies: u64,
    /// Copies that changed whenever they were looked at: right as far as they were seen.
    pub moving: u64,
}

/// What one run found; the runs of several regions add up to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its name; tells the region that keeps it, like an order's.
    pub id: ReportId,
    /// How it stands.
    pub status: Status,
    /// Who asked for it; `timer` for a round of the region's own.
    pub asked_by: String,
    /// Safe repairs were asked for.
    pub repair: bool,
    /// Wall time.
    pub started_at_ms: u64,
    /// Wall time.
    pub finished_at_ms: Option<u64>,
    /// Regions whose own data was looked at.
    pub regions: Vec<RegionId>,
    /// What was left out, and why.
    pub not_compared: Vec<NotCompared>,
    /// How much was looked at.
    pub checked: Checked,
    /// How many there are of each class; also of those that are not listed.
    pub counts: BTreeMap<Class, u64>,
    /// At most [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A flaw with its place.
#[derive(Debug, Clone)]
pub struct Found {
    /// The region it was compared with.
    pub peer: Option<RegionId>,
    /// What it is about.
    pub subject: String,
    /// What is wrong.
    pub flaw: Flaw,
}

impl Report {
    /// A run that begins.
    pub fn begin(id: ReportId, asked_by: &str, repair: bool, now_ms: u64) -> Self {
        Self {
            id,
            status: Status::Running,
            asked_by: asked_by.to_owned(),
            repair,
            started_at_ms: now_ms,
            finished_at_ms: None,
            regions: Vec::new(),
            not_compared: Vec::new(),
            checked: Checked::default(),
            counts: BTreeMap::new(),
            differences: Vec::new(),
            error: None,
        }
    }

    /// Enters a difference found in `region`. Answers its entry, if it is listed.
    pub fn add(&mut self, region: RegionId, found: Found) -> Option<&mut Difference> {
        let Found { peer, subject, flaw: Flaw { class, expected, found } } = found;
        *self.counts.entry(class).or_default() += 1;
        if self.differences.len() >= DIFFERENCES_MAX {
            return None;
        }
        let repair = None;
        self.differences.push(Difference { class, region, peer, subject, expected, found, repair });
        self.differences.last_mut()
    }

    /// Enters what could not be compared.
    pub fn leave_out(&mut self, region: RegionId, what: impl Into<String>, why: impl Into<String>) {
        let left_out = NotCompared { region, what: what.into(), why: why.into() };
        if !self.not_compared.contains(&left_out) {
            self.not_compared.push(left_out);
        }
    }

    /// Takes in the part of another region.
    pub fn absorb(&mut self, part: Self) {
        self.regions.extend(part.regions);
        for left_out in part.not_compared {
            self.leave_out(left_out.region, left_out.what, left_out.why);
        }
        for (class, count) in part.counts {
            *self.counts.entry(class).or_default() += count;
        }
        let room = DIFFERENCES_MAX.saturating_sub(self.differences.len());
        self.differences.extend(part.differences.into_iter().take(room));
        self.checked.orders += part.checked.orders;
        self.checked.keys += part.checked.keys;
        self.checked.payments += part.checked.payments;
        self.checked.copies += part.checked.copies;
        self.checked.moving += part.checked.moving;
        if let Some(error) = part.error {
            self.error.get_or_insert(error);
            self.status = Status::Failed;
        }
    }

    /// How many differences there are.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_so_many_and_counts_all() {
        let region = "a".parse().unwrap();
        let mut report = Report::begin(ReportId(uuid::Uuid::nil()), "timer", false, 1);
        for number in 0..=DIFFERENCES_MAX {
            let flaw =
                Flaw { class: Class::Oversold, expected: String::new(), found: String::new() };
            report.add(region, Found { peer: None, subject: number.to_string(), flaw });
        }
        let mut whole = report.clone();
        whole.absorb(report);
        assert_eq!(whole.differences.len(), DIFFERENCES_MAX);
        assert_eq!(whole.total(), 2 * (DIFFERENCES_MAX as u64 + 1));
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), whole);
    }
}
