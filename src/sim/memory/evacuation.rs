//! The evacuation of this region, as all its processes know it.

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::evacuation::{Evacuating, Progress, Stage};
use crate::ports::{EvacuationStore, StoreError};
use crate::types::Epoch;

use super::read::fenced;
use super::{Memory, Tables};

/// The last one that was begun.
#[derive(Debug, Clone)]
pub(super) struct LastEvacuation {
    told: Evacuating,
    /// No orders have moved.
    may_abort: bool,
    /// Its end was asked for.
    abort: bool,
}

impl Tables {
    /// It has told that it moves orders, and is not over.
    pub(super) fn still_moves(&self, run: Uuid) -> bool {
        self.evacuating
            && self.evacuation.as_ref().is_some_and(|last| {
                let Progress { run: of, stage, .. } = last.told.progress;
                of == run && !last.may_abort && !stage.is_over()
            })
    }
}

#[async_trait]
impl EvacuationStore for Memory {
    async fn evacuation(&self) -> Result<Option<Evacuating>, StoreError> {
        Ok(self.tables().evacuation.as_ref().map(|last| last.told.clone()))
    }

    async fn begin_evacuation(
        &self,
        epoch: Epoch,
        begun: &Progress,
        now_ms: u64,
        lost_ms: u64,
    ) -> Result<Evacuating, StoreError> {
        let mut tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        let goes_on = tables.evacuating;
        let last = tables.evacuation.as_ref();
        let is_under_way = |last: &&LastEvacuation| {
            !last.told.progress.stage.is_over() && last.told.told_at_ms >= lost_ms
        };
        if let Some(last) = last.filter(is_under_way) {
            return Ok(last.told.clone());
        }
        let told = Evacuating { progress: begun.clone(), told_at_ms: now_ms };
        let may_abort = last.is_none_or(|last| last.may_abort || !goes_on);
        tables.evacuation = Some(LastEvacuation { told: told.clone(), may_abort, abort: false });
        tables.evacuating = true;
        Ok(told)
    }

    async fn tell_evacuation(
        &self,
        progress: &Progress,
        now_ms: u64,
    ) -> Result<Option<bool>, StoreError> {
        let mut tables = self.tables();
        let is_heard = tables.evacuating || progress.stage.is_over();
        let last = tables.evacuation.as_mut();
        let Some(last) = last.filter(|last| is_heard && last.told.progress.run == progress.run)
        else {
            return Ok(None);
        };
        last.told = Evacuating { progress: progress.clone(), told_at_ms: now_ms };
        last.may_abort &= last.abort || !progress.stage.moves_orders();
        let abort = last.abort;
        tables.evacuating &= progress.stage != Stage::Aborted;
        Ok(Some(abort))
    }

    async fn abort_evacuation(&self, run: Uuid) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let may = |last: &&mut LastEvacuation| {
            let Progress { run: of, stage, .. } = last.told.progress;
            of == run && last.may_abort && !stage.is_over()
        };
        let last = tables.evacuation.as_mut().filter(may);
        Ok(last.map(|last| last.abort = true).is_some())
    }
}
