//! Regions that are gone for good.

use async_trait::async_trait;

use crate::escrow::KeyedRow;
use crate::ports::{
    Buried, Ending, RejoinStore as _, RetirementStore, RightsStore as _, StoreError,
};
use crate::replication::retirement::Retirement;
use crate::types::{OrderId, RegionId};

use super::{MemoryRights, Tables, stands};

impl Tables {
    fn last_retirement(&self, region: RegionId) -> Option<&Retirement> {
        let mut all = self.retirements.iter();
        all.rfind(|((of, ..), _)| *of == region).map(|(_, retirement)| retirement)
    }

    /// Those that have ended a region which has not begun anew since.
    pub fn ended(&self) -> Vec<Retirement> {
        let last = |(region, latest)| {
            let mut all = self.retirements.iter();
            all.rfind(|((of, ends, _), _)| (of, ends) == (region, latest))
        };
        let last = self.incarnations.iter().filter_map(last);
        last.map(|(_, it)| it).filter(|it| it.has_ended()).cloned().collect()
    }

    pub(super) fn keep_retirement(&mut self, retirement: &Retirement) {
        let name = (retirement.region, retirement.ends, retirement.asked_at_ms);
        let is_done = self.retirements.get(&name).is_some_and(|it| it.outcome.is_some());
        if !is_done || retirement.outcome.is_some() {
            self.retirements.insert(name, retirement.clone());
        }
    }
}

#[async_trait]
impl RetirementStore for MemoryRights {
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError> {
        Ok(self.database.tables().last_retirement(region).cloned())
    }

    async fn ended(&self) -> Result<Vec<Retirement>, StoreError> {
        Ok(self.database.tables().ended())
    }

    async fn keep_retirement(
        &self,
        read: Option<&Retirement>,
        next: &Retirement,
    ) -> Result<bool, StoreError> {
        let mut tables = self.database.tables();
        let is_same = tables.last_retirement(next.region) == read;
        if is_same {
            tables.keep_retirement(next);
        }
        Ok(is_same)
    }

    async fn note_retirement(&self, retirement: &Retirement) -> Result<Ending, StoreError> {
        let (region, ends) = (retirement.region, retirement.ends);
        let name = (region, ends, retirement.asked_at_ms);
        let known = self.database.tables().retirements.get(&name).cloned();
        if known.as_ref().is_some_and(|known| known.withdrawn_by.is_some()) {
            return Ok(Ending::TakenBack);
        }
        let before = self.note_incarnation(region, ends).await?;
        let is_end = known.is_some_and(|known| known.noted) || retirement.is_done();
        let is_known = is_end && before == ends;
        if before >= ends && !is_known {
            return Ok(Ending::BegunAnew(before));
        }
        let noted = Retirement { noted: true, ..retirement.clone() };
        self.database.tables().keep_retirement(&noted);
        Ok(Ending::Noted)
    }

    async fn bury(
        &self,
        retirement: &Retirement,
        rows: &[KeyedRow],
    ) -> Result<Option<Buried>, StoreError> {
        if self.database.tables().incarnations.get(&retirement.region) != Some(&retirement.ends) {
            return Ok(None);
        }
        let report = self.merge(rows, &[]).await?;
        let mut tables = self.database.tables();
        let name = (retirement.region, retirement.ends, retirement.asked_at_ms);
        let freed = report.credited.values().sum();
        let retirement = retirement.freeing(tables.retirements.get(&name).cloned(), freed);
        tables.keep_retirement(&retirement);
        Ok(Some(Buried { report, retirement }))
    }

    async fn paid_by(&self, keys: &[String]) -> Result<Vec<(String, OrderId)>, StoreError> {
        let tables = self.database.tables();
        let standing = tables.orders.values().filter(|record| stands(record));
        let paid = standing.flat_map(|record| {
            let payments = record.order.payments.iter();
            payments.map(move |payment| (payment.provider_key.clone(), record.order.id))
        });
        Ok(paid.filter(|(key, _)| keys.contains(key)).collect())
    }
}
