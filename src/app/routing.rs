//! Who serves whose shoppers, as a load balancer asks ([`crate::domain::routing`]), and this region's own way back: it gets
//! its shoppers again in steps, each of which lasts as long as nothing speaks against the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Region;
use super::rights::Rights;
use crate::domain::routing::{Route, Told, next_step, share_after};
use crate::escrow::ORDER_LEASE_MARGIN_MS;
use crate::ports::{StopStore, StoreError};

/// Whoever asks within this time is told the same: anybody may ask, and each answer reads the database twice a region.
/// A follower asks half as often.
const TOLD_AGE_MS: u64 = 250;

/// See the module.
pub struct Routing {
    /// This region.
    pub region: Arc<Region>,
    /// The registers.
    pub rights: Arc<Rights>,
    /// How far the region is back, over restarts.
    pub store: Arc<dyn StopStore>,
    /// How long a step lasts.
    pub step: Duration,
    /// The step this process has seen last, and since when, on its own clock, nothing spoke against the next.
    pub since: Mutex<Option<(u8, u64)>>,
    /// What was told last, and when; nothing at first.
    pub told: tokio::sync::Mutex<Option<(u64, Result<Told, StoreError>)>>,
}

impl Routing {
    /// What this region's database says of all, or said a moment ago. However many ask, one at a time reads it, also when
    /// it does not answer.
    pub async fn tell(&self) -> Result<Told, StoreError> {
        let mut last = self.told.lock().await;
        let now_ms = self.region.clock.monotonic_ms();
        if let Some((at_ms, told)) = last.as_ref()
            && now_ms.saturating_sub(*at_ms) < TOLD_AGE_MS
        {
            return told.clone();
        }
        let told = self.look().await;
        *last = Some((self.region.clock.monotonic_ms(), told.clone()));
        told
    }

    async fn look(&self) -> Result<Told, StoreError> {
        let own = self.region.id;
        let mut routes = Vec::new();
        for region in self.region.sellers() {
            let known = self.rights.registers.stewardship(region).await?;
            let share =
                if region == own { Some(share_after(self.store.canary().await?)) } else { None };
            routes.push(Route::of(region, &known, share));
        }
        Ok(Told { region: own, ready: !self.region.is_draining(), routes })
    }

    /// From now on the region gets its shoppers in steps, from the first one on, however far it was.
    pub async fn begin_canary(&self) -> Result<(), StoreError> {
        self.store.begin_canary(self.region.epoch).await?;
        *self.since.lock().expect("no panic while held") = None;
        tracing::info!("this region is about to get its shoppers back, in steps");
        Ok(())
    }

    /// Takes the next step when it is time. For a worker.
    pub async fn go_on(&self) -> Result<(), StoreError> {
        let Some(step) = self.store.canary().await? else {
            *self.since.lock().expect("no panic while held") = None;
            return Ok(());
        };
        let now_ms = self.region.clock.monotonic_ms();
        let is_well =
            !self.region.is_draining() && self.region.holds_order_lease(ORDER_LEASE_MARGIN_MS);
        let since_ms = {
            let mut since = self.since.lock().expect("no panic while held");
            let kept = since.filter(|(seen, _)| is_well && *seen == step);
            let (_, since_ms) = *since.insert(kept.unwrap_or((step, now_ms)));
            since_ms
        };
        let lasted = Duration::from_millis(now_ms.saturating_sub(since_ms));
        if !is_well || lasted < self.step {
            return Ok(());
        }
        let next = next_step(step);
        if self.store.set_canary(self.region.epoch, step, next).await? {
            tracing::info!("this region serves {} % of its shoppers", share_after(next));
        }
        Ok(())
    }
}
