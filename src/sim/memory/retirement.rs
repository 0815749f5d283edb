//! Regions that are gone for good.

use async_trait::async_trait;

use crate::escrow::KeyedRow;
use crate::ports::{MergeReport, RejoinStore as _, RetirementStore, RightsStore as _, StoreError};
use crate::replication::retirement::Retirement;
use crate::types::{Epoch, OrderId, RegionId};

use super::{MemoryRights, stands};

#[async_trait]
impl RetirementStore for MemoryRights {
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError> {
        let tables = self.database.tables();
        let of_region = tables.retirements.iter().rfind(|((of, ..), _)| *of == region);
        Ok(of_region.map(|(_, retirement)| retirement.clone()))
    }

    async fn keep_retirement(&self, retirement: &Retirement) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        let name = (retirement.region, retirement.ends, retirement.asked_at_ms);
        let is_done = tables.retirements.get(&name).is_some_and(|it| it.outcome.is_some());
        if !is_done || retirement.outcome.is_some() {
            tables.retirements.insert(name, retirement.clone());
        }
        Ok(())
    }

    async fn note_retirement(&self, retirement: &Retirement) -> Result<(Epoch, bool), StoreError> {
        let (region, ends) = (retirement.region, retirement.ends);
        let name = (region, ends, retirement.asked_at_ms);
        let known = self.database.tables().retirements.get(&name).cloned();
        let before = self.note_incarnation(region, ends).await?;
        let is_known = known.is_some_and(|known| known.noted) && before == ends;
        let is_ours = before < ends || is_known;
        if is_ours {
            self.keep_retirement(&Retirement { noted: true, ..retirement.clone() }).await?;
        }
        Ok((before.max(ends), is_ours))
    }

    async fn bury(
        &self,
        region: RegionId,
        ends: Epoch,
        rows: &[KeyedRow],
    ) -> Result<Option<MergeReport>, StoreError> {
        if self.database.tables().incarnations.get(&region) != Some(&ends) {
            return Ok(None);
        }
        self.merge(rows, &[]).await.map(Some)
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
