//! Claims that two orders stand under (I-07), and sagas that wait for ever (I-16).

use super::Reconciler;
use crate::domain::order::OrderStatus;
use crate::ports::store::SagaFilter;
use crate::ports::{Claim, ClaimCursor, StoreError};
use crate::reconcile::{Class, Flaw, Found, Report, StoredOrder};
use crate::types::OrderId;

/// Claims in one page.
const CLAIMS_PER_PAGE: u32 = 1_000;

/// Stuck sagas in one page.
const SAGAS_PER_PAGE: u32 = 200;

/// Pairs that are waited for: as many as a long cut between two regions leaves.
const PAIRS_MAX: usize = 1_000;

impl Reconciler {
    pub(super) async fn look_at_claims(&self, report: &mut Report) -> Result<(), StoreError> {
        for (claim, class) in [
            (Claim::Intent, Class::IntentTakenTwice),
            (Claim::Reference, Class::ReferenceTakenTwice),
        ] {
            let mut after = ClaimCursor::default();
            let mut pairs = Vec::new();
            loop {
                let page = self.store.doubles(claim, &after, CLAIMS_PER_PAGE).await?;
                pairs.extend(page.pairs);
                match page.next {
                    Some(next) if pairs.len() < PAIRS_MAX => after = next,
                    Some(_) | None => break,
                }
            }
            self.confirm_pairs(report, class, pairs).await?;
        }
        Ok(())
    }

    /// Regions settle such pairs by themselves; what they do not settle in time is a difference.
    async fn confirm_pairs(
        &self,
        report: &mut Report,
        class: Class,
        mut pairs: Vec<(OrderId, OrderId)>,
    ) -> Result<(), StoreError> {
        let started_ms = self.region.clock.monotonic_ms();
        loop {
            let mut standing = Vec::new();
            for (own, other) in pairs {
                let stored = self.store.stored_orders(&[own, other]).await?;
                if stored.len() == 2 && stored.iter().all(stands) {
                    standing.push((own, other));
                }
            }
            pairs = standing;
            if pairs.is_empty() || self.waited(started_ms) {
                break;
            }
            tokio::time::sleep(super::LOOK * 5).await;
        }
        for (own, other) in pairs {
            let (expected, found) = ("one standing order".to_owned(), format!("{other} as well"));
            let flaw = Flaw { class, expected, found };
            report.add(self.region.id, Found { peer: None, subject: format!("order {own}"), flaw });
        }
        Ok(())
    }

    pub(super) async fn look_at_sagas(&self, report: &mut Report) -> Result<(), StoreError> {
        let stuck_ms = u64::try_from(self.times.saga_stuck.as_millis()).unwrap_or(u64::MAX);
        let before_ms = self.region.clock.wall_ms().saturating_sub(stuck_ms);
        let mut after = None;
        loop {
            let filter = SagaFilter::OpenSince(before_ms);
            let page = self.reader.sagas(filter, after, SAGAS_PER_PAGE).await?;
            let is_last = page.len() < SAGAS_PER_PAGE as usize;
            after = page.last().map(|saga| saga.id);
            for saga in page {
                let (expected, found) =
                    ("an end".to_owned(), format!("at `{}`", saga.step.as_str()));
                let flaw = Flaw { class: Class::SagaStuck, expected, found };
                let subject = format!("saga {}", saga.id);
                let wake = async {
                    match self.helpers.wake_saga(saga.id).await {
                        Ok(true) => Ok("taken up again".to_owned()),
                        Ok(false) => Ok("is over by now".to_owned()),
                        Err(error) => Err(error.to_string()),
                    }
                };
                self.enter(report, Found { peer: None, subject, flaw }, wake).await;
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

fn stands(stored: &StoredOrder) -> bool {
    stored.status != OrderStatus::Cancelled.as_str()
}
