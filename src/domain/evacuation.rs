//! How far a region is that is given up while it lives.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::RegionId;

/// How long the process that carries an evacuation out may tell nothing before it counts as gone: it tells twice a second,
/// and clocks of the region's machines may differ by some seconds.
pub const LOST_AFTER_MS: u64 = 15_000;

/// How far an evacuation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// New orders are turned away, those under way come to their end.
    Settling,
    /// What may still be sold goes to the other region.
    MovingRights,
    /// From here on there is no way back but another evacuation.
    MovingOrders,
    /// Everything is told; the others are asked whether they have it.
    Verifying,
    /// The region holds nothing that anybody waits for.
    Done,
    /// It can be asked for again.
    Failed,
    /// The region takes orders again, unless an operator had drained it.
    Aborted,
}

impl Stage {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settling => "settling",
            Self::MovingRights => "moving_rights",
            Self::MovingOrders => "moving_orders",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Nothing is done any more.
    pub fn is_over(self) -> bool {
        self >= Self::Done
    }

    /// Orders move, or have moved.
    pub fn moves_orders(self) -> bool {
        matches!(self, Self::MovingOrders | Self::Verifying | Self::Done)
    }
}

/// What an evacuation has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Names it, so that whoever asks how far it is begins no other one.
    pub run: Uuid,
    /// Who gets everything.
    pub to: RegionId,
    /// How far it is.
    pub stage: Stage,
    /// Orders that have moved.
    pub orders: u64,
    /// Units that may now be sold there.
    pub units: u64,
    /// Why it failed, or what was left out.
    pub detail: Option<String>,
}

/// What all processes of the region know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evacuating {
    /// What the process that carries it out told last.
    pub progress: Progress,
    /// When, by that process's clock.
    pub told_at_ms: u64,
}

impl Evacuating {
    /// Something is being done, as far as can be told.
    pub fn is_under_way(&self, now_ms: u64) -> bool {
        let is_lost = self.told_at_ms < now_ms.saturating_sub(LOST_AFTER_MS);
        !self.progress.stage.is_over() && !is_lost
    }

    /// How far it is: one whose process is gone has failed.
    pub fn into_progress(self, now_ms: u64) -> Progress {
        if self.progress.stage.is_over() || self.is_under_way(now_ms) {
            return self.progress;
        }
        let detail = format!(
            "the server that carried it out has told nothing for {} s, while it was {}",
            LOST_AFTER_MS / 1_000,
            self.progress.stage.as_str()
        );
        Progress { stage: Stage::Failed, detail: Some(detail), ..self.progress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evacuation_whose_server_is_gone_has_failed() {
        let to = "b".parse().unwrap();
        let stage = Stage::MovingOrders;
        let progress = Progress { run: Uuid::nil(), to, stage, orders: 3, units: 0, detail: None };
        let told = Evacuating { progress, told_at_ms: 1_000_000 };
        let at = |now_ms| told.clone().into_progress(now_ms);
        assert_eq!(at(1_000_000 + LOST_AFTER_MS), told.progress);
        assert_eq!(at(0), told.progress, "by a clock that is behind");
        let failed = at(1_000_001 + LOST_AFTER_MS);
        assert_eq!((failed.stage, failed.orders), (Stage::Failed, 3));
        assert!(failed.detail.is_some_and(|why| why.contains("moving_orders")));
        let progress = Progress { stage: Stage::Done, ..told.progress.clone() };
        let done = Evacuating { progress, ..told };
        assert_eq!(done.clone().into_progress(u64::MAX), done.progress);
    }
}
