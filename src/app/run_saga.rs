//! Carries sagas on: asks the provider, judges, commits what came of it.
//!
//! A saga belongs to the process that placed its order until its lease is past; then any worker that
//! finds it due takes it. Two workers on one saga would be harmless (provider keys are idempotent, and
//! every commit is guarded by the saga's version), only wasteful.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::domain::fraud;
use crate::domain::order::place::PaymentIntent;
use crate::domain::order::{Order, OrderRecord};
use crate::mutants::{Mutant, is_on};
use crate::ports::{
    Authorization, AuthorizeRequest, GatewayError, PaymentGateway, Reader, SagaQueue, StoreError,
};
use crate::runtime::{TaskSet, crash_point};
use crate::saga::{
    CompensationReason, Ending, Finding, Findings, SagaRecord, SagaState, Verdict, judge,
};
use crate::types::{Money, PaymentId};

use super::{Advance, AdvanceSaga, Completions, Region, Writer};

/// Pause before a provider is asked again: doubles from the first to the last.
const BACKOFF_FIRST_MS: u64 = 200;
/// See [`BACKOFF_FIRST_MS`].
const BACKOFF_LAST_MS: u64 = 5_000;
/// Due sagas taken at once from the database.
const CLAIM_MAX: u32 = 256;
/// A commit that is refused for want of capacity is tried again after this pause; the saga's lease is
/// the bound, after it the recovery takes over.
const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// See [`WRITE_PAUSE`].
const WRITE_ATTEMPTS_MAX: u32 = 20;

/// Runs sagas of this process.
pub struct SagaRunner {
    /// This region.
    pub region: Arc<Region>,
    /// Commits what was found out.
    pub writer: Writer,
    /// The provider.
    pub gateway: Arc<dyn PaymentGateway>,
    /// Orders of sagas that were taken over.
    pub reader: Arc<dyn Reader>,
    /// Due sagas.
    pub queue: Arc<dyn SagaQueue>,
    /// Who waits for the end.
    pub completions: Arc<Completions>,
    /// Owner of the tasks.
    pub tasks: TaskSet,
    /// Bounds the sagas under way.
    pub running: Arc<Semaphore>,
    /// How long a saga belongs to one worker.
    pub lease: Duration,
}

impl SagaRunner {
    /// Starts a saga that was just placed. When too many are under way it is left to the recovery.
    pub fn start(self: &Arc<Self>, saga: SagaRecord, order: Arc<OrderRecord>) {
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else {
            tracing::warn!(saga = %saga.id, "too many sagas under way: this one waits for its lease to end");
            return;
        };
        let runner = Arc::clone(self);
        drop(self.tasks.spawn("saga", async move {
            runner.run(saga, order).await;
            drop(permit);
        }));
    }

    /// Takes over what is due: after a crash, and what a provider wanted to be asked about later.
    /// Answers how many it took.
    pub async fn recover(self: &Arc<Self>) -> Result<usize, StoreError> {
        if !self.region.may_write() {
            return Ok(0);
        }
        let now_ms = self.region.clock.wall_ms();
        let room = u32::try_from(self.running.available_permits()).unwrap_or(u32::MAX);
        let room = if is_on(Mutant::NoRecovery) { 0 } else { room };
        let limit = CLAIM_MAX.min(room);
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        let due = self.queue.claim(now_ms, now_ms + lease_ms, limit).await?;
        let taken = due.len();
        for saga in due {
            match self.reader.order(saga.order_id).await? {
                Some(order) => self.start(saga, order),
                None => {
                    tracing::error!(saga = %saga.id, "a saga without an order");
                }
            }
        }
        Ok(taken)
    }

    /// The webhook's nudge: looks at the sagas of an order now instead of when they are due.
    pub async fn nudge(self: &Arc<Self>, order: Arc<OrderRecord>) -> Result<(), StoreError> {
        for saga in self.reader.sagas_of(order.order.id).await? {
            if !saga.state.is_over() {
                self.start(saga, Arc::clone(&order));
            }
        }
        Ok(())
    }

    async fn run(self: &Arc<Self>, mut saga: SagaRecord, mut order: Arc<OrderRecord>) {
        loop {
            // It is due again: then another look is taken, here or where the order went.
            if !saga.state.is_over() && !self.region.may_act_on(&order.order) {
                return;
            }
            let advance = match saga.state {
                SagaState::Running => self.authorize(&saga, &order.order).await,
                SagaState::Compensating => self.compensate(&saga).await,
                SagaState::Completed | SagaState::Compensated => {
                    self.completions.complete(&order);
                    return;
                }
            };
            let waits = matches!(advance, Advance::AskAgain { .. });
            match self.commit(&saga, &order, advance).await {
                Some((next, record)) if waits && !next.state.is_over() => {
                    self.wake_later(next, record);
                    return;
                }
                Some((next, record)) => (saga, order) = (next, record),
                None => return,
            }
        }
    }

    async fn commit(
        &self,
        saga: &SagaRecord,
        order: &Arc<OrderRecord>,
        advance: Advance,
    ) -> Option<(SagaRecord, Arc<OrderRecord>)> {
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let command = AdvanceSaga {
                saga: saga.clone(),
                order: Arc::clone(order),
                advance: advance.clone(),
            };
            match self.writer.submit(command).await {
                Ok((advanced, _)) => return advanced,
                Err(error) => {
                    tracing::warn!(saga = %saga.id, %error, "a saga's step was not committed: trying again");
                    tokio::time::sleep(WRITE_PAUSE).await;
                }
            }
        }
        None
    }

    /// A pause that is short is waited for here; the database's due time is the safety net.
    fn wake_later(self: &Arc<Self>, saga: SagaRecord, order: Arc<OrderRecord>) {
        let pause = saga.due_at_ms.saturating_sub(self.region.clock.wall_ms());
        let runner = Arc::clone(self);
        let stopping = self.tasks.stopping();
        drop(self.tasks.spawn("saga pause", async move {
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_millis(pause)) => runner.start(saga, order),
                () = stopping.cancelled() => {}
            }
        }));
    }

    async fn authorize(&self, saga: &SagaRecord, order: &Order) -> Advance {
        crash_point("before_authorize");
        let fraud = fraud::check(order);
        let found = join_all(saga.payments.iter().map(|payment| async {
            (payment.payment_id, self.authorize_one(saga, payment, order).await)
        }));
        let payments = found.await;
        crash_point("after_authorize");
        let now_ms = self.region.clock.wall_ms();
        let findings = Findings {
            payments,
            fraud,
            age_ms: now_ms.saturating_sub(saga.created_at_ms),
            attempts: saga.attempts + 1,
        };
        match judge(&findings) {
            Verdict::Confirm(references) => Advance::Confirm(references),
            Verdict::Compensate { reason, void } if void.is_empty() => {
                Advance::FinishCompensation(reason, endings(&findings.payments))
            }
            Verdict::Compensate { reason, .. } => Advance::BeginCompensation(reason),
            Verdict::AskAgain => Advance::AskAgain {
                found: undecided(&findings.payments),
                due_at_ms: now_ms + backoff_ms(saga.attempts),
            },
        }
    }

    /// A first attempt asks for the hold. Every later one, and one of a saga that was taken over, asks
    /// by key first: the earlier request may have arrived.
    async fn authorize_one(
        &self,
        saga: &SagaRecord,
        payment: &PaymentIntent,
        order: &Order,
    ) -> Finding {
        if payment.token.is_empty() && is_on(Mutant::AdoptedWithoutAsking) {
            return Finding::Authorized(String::new());
        }
        let age_ms = self.region.clock.wall_ms().saturating_sub(saga.created_at_ms);
        let maybe_asked = saga.attempts > 0 || age_ms >= self.lease_ms();
        if maybe_asked {
            match self.gateway.look_up(&payment.provider_key).await {
                // What was to be charged is lost, and it was never asked for.
                Ok(Authorization::Unknown) if payment.token.is_empty() => {
                    return Finding::Refused("nothing was ever asked of the provider".to_owned());
                }
                Ok(Authorization::Unknown) => {}
                Ok(known) => return finding(known),
                Err(error) => return Finding::Unknown(error.to_string()),
            }
        }
        let all = || saga.payments.iter().map(|payment| payment.amount_minor).sum();
        let pays_all = is_on(Mutant::EachPaymentPaysAll);
        let amount_minor = if pays_all { all() } else { payment.amount_minor };
        let request = AuthorizeRequest {
            provider_key: payment.provider_key.clone(),
            token: payment.token.clone(),
            method: payment.method.clone(),
            amount: Money::new(amount_minor, order.currency),
            order_reference: order.id.to_string(),
        };
        match self.gateway.authorize(&request).await {
            Ok(answer) => finding(answer),
            Err(GatewayError::Refused(why)) => {
                tracing::error!(order = %order.id, %why, "the payment provider refuses our request");
                match self.gateway.look_up(&payment.provider_key).await {
                    Ok(Authorization::Unknown) => Finding::Refused(why),
                    Ok(known) => finding(known),
                    Err(error) => Finding::Unknown(error.to_string()),
                }
            }
            Err(_) if is_on(Mutant::SilenceIsRefusal) => Finding::Declined(String::new()),
            Err(_) if is_on(Mutant::SilenceIsConsent) => Finding::Authorized(String::new()),
            Err(error) => match self.gateway.look_up(&payment.provider_key).await {
                Ok(Authorization::Unknown) | Err(_) => Finding::Unknown(error.to_string()),
                Ok(known) => finding(known),
            },
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    async fn compensate(&self, saga: &SagaRecord) -> Advance {
        crash_point("before_void");
        let reason = saga.reason.clone().unwrap_or(CompensationReason::PaymentUnavailable);
        let mut endings = Vec::with_capacity(saga.payments.len());
        for payment in saga.payments.iter().filter(|_| !is_on(Mutant::NotVoided)) {
            let problem = match self.gateway.void(&payment.provider_key).await {
                Ok(Authorization::Voided { reference }) => {
                    endings.push((payment.payment_id, Ending::Voided(reference)));
                    continue;
                }
                Ok(Authorization::Declined { code }) => {
                    endings.push((payment.payment_id, Ending::Declined(code)));
                    continue;
                }
                Ok(other) => format!("void answered {other:?}"),
                Err(error) => error.to_string(),
            };
            let due_at_ms = self.region.clock.wall_ms() + backoff_ms(saga.attempts);
            return Advance::AskAgain { found: problem, due_at_ms };
        }
        crash_point("after_void");
        Advance::FinishCompensation(reason, endings)
    }
}

fn finding(answer: Authorization) -> Finding {
    match answer {
        Authorization::Authorized { reference } => Finding::Authorized(reference),
        Authorization::Pending { .. } => Finding::Pending,
        Authorization::Declined { code } => Finding::Declined(code),
        Authorization::Voided { reference } => Finding::Voided(reference),
        Authorization::Unknown => Finding::Unknown("the provider does not know the key".to_owned()),
    }
}

fn undecided(payments: &[(PaymentId, Finding)]) -> String {
    let mut texts = payments.iter().filter_map(|(_, finding)| match finding {
        Finding::Pending => Some("the provider decides later".to_owned()),
        Finding::Unknown(why) => Some(why.clone()),
        Finding::Authorized(_)
        | Finding::Declined(_)
        | Finding::Voided(_)
        | Finding::Refused(_) => None,
    });
    texts.next().unwrap_or_default()
}

/// Of payments none of which is or may be held.
fn endings(payments: &[(PaymentId, Finding)]) -> Vec<(PaymentId, Ending)> {
    let ending = |(id, finding): &(PaymentId, Finding)| match finding {
        Finding::Declined(code) => Some((*id, Ending::Declined(code.clone()))),
        Finding::Voided(reference) => Some((*id, Ending::Voided(reference.clone()))),
        Finding::Authorized(_) | Finding::Pending | Finding::Refused(_) | Finding::Unknown(_) => {
            None
        }
    };
    payments.iter().filter_map(ending).collect()
}

fn backoff_ms(attempts: u32) -> u64 {
    BACKOFF_FIRST_MS.saturating_mul(1 << attempts.min(10)).min(BACKOFF_LAST_MS)
}
