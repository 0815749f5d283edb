//! One intent, one standing order (I-07): when two regions took the same intent because the first could
//! not be asked, all but one of the orders are cancelled once they know of each other. The same goes for
//! two orders of one customer under one reference of a channel.
//!
//! The rule is fixed and needs no agreement: of two orders that stand, the one with the lower stamp
//! stays. The money of one intent was held once, because the provider's key comes from the intent and
//! not from the order, so the order that yields gives back its units and leaves the money to the one
//! that stays. Two intents with one reference held money each: the order that yields has its own voided
//! first, by its saga, which is taken up again for that.
//!
//! An order may also be undone for a reason of its own (the provider could not be reached, say) before
//! its region knew of the other one, and void the money both count on. The order that stands then stands
//! on nothing, and is undone as well: better no order than one that is shipped for no money.

use std::collections::BTreeSet;

use crate::domain::order::{OrderRecord, OrderStatus, Payment, PaymentState};
use crate::mutants::{Mutant, is_on};
use crate::ports::{Needs, Reader, StoreError};
use crate::saga::{CompensationReason, SagaState, Step};
use crate::types::{OrderId, SagaId};

use super::{Command, Workspace, Writer, advance_saga};

/// Contested orders read at a time.
const CONTESTED_MAX: u32 = 256;

/// What the rule says of our order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruling {
    /// Cancel ours.
    Yield,
    /// Cancel ours: the other one's saga voided the money that both counted on.
    Unpaid,
    /// Nothing to do, now or later.
    Settled,
    /// One of the two is still on its way, or the other must yield and has not yet.
    NotYet,
}

fn rule(own: &OrderRecord, other: &OrderRecord) -> Ruling {
    use OrderStatus::{Cancelled, Confirmed, Pending};
    match (own.order.status(), other.order.status()) {
        (Confirmed, Cancelled)
            if voided_ours(own, other) && !is_on(Mutant::StandsOnVoidedMoney) =>
        {
            Ruling::Unpaid
        }
        (Cancelled, _) | (Confirmed, Cancelled) => Ruling::Settled,
        (Pending, _) | (_, Pending) => Ruling::NotYet,
        (Confirmed, Confirmed) => {
            let ours_is_later = own.precedence() > other.precedence() || is_on(Mutant::BothYield);
            let yields = ours_is_later && !is_on(Mutant::NobodyYields);
            if yields { Ruling::Yield } else { Ruling::NotYet }
        }
    }
}

/// Did the other order, which is cancelled, take money with it that ours counts on? One that yielded
/// left it where it was.
fn voided_ours(own: &OrderRecord, other: &OrderRecord) -> bool {
    let cancellation = other.order.cancellation.as_ref();
    let yielded = cancellation.is_some_and(|why| why.code == CompensationReason::Duplicate.code());
    let ours = provider_keys(own);
    let voided = |payment: &Payment| {
        payment.state == PaymentState::Voided && ours.contains(payment.provider_key.as_str())
    };
    !yielded && other.order.payments.iter().any(voided)
}

/// Cancels an own order that can't stand beside another region's.
pub struct CancelDuplicate {
    /// Ours.
    pub own: OrderId,
    /// The other one.
    pub other: OrderId,
}

impl Command for CancelDuplicate {
    /// It yields, now.
    type Answer = bool;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.orders.extend([self.own, self.other]);
        needs.sagas.insert(SagaId(self.own.0));
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> bool {
        let orders = &workspace.view.orders;
        let (Some(own), Some(other)) = (orders.get(&self.own), orders.get(&self.other)) else {
            return false;
        };
        if !workspace.region.may_act_on(&own.order) {
            return false;
        }
        match rule(own, other) {
            Ruling::Yield if share_money(own, other) => {
                let own = own.clone();
                advance_saga::cancel(workspace, &own, &CompensationReason::Duplicate, &[]);
                true
            }
            Ruling::Yield => {
                let spared = provider_keys(other).into_iter().map(str::to_owned).collect();
                take_up_again(workspace, self.own, CompensationReason::Duplicate, &spared)
            }
            Ruling::Unpaid => {
                let reason = CompensationReason::PaymentUnavailable;
                take_up_again(workspace, self.own, reason, &BTreeSet::new())
            }
            Ruling::Settled | Ruling::NotYet => false,
        }
    }
}

/// What the provider holds for one it holds for the other.
fn share_money(own: &OrderRecord, other: &OrderRecord) -> bool {
    provider_keys(own).is_subset(&provider_keys(other))
}

fn provider_keys(record: &OrderRecord) -> BTreeSet<&str> {
    record.order.payments.iter().map(|payment| payment.provider_key.as_str()).collect()
}

/// Has the saga of a confirmed order undo it, and void its money but for what is held under the `spared`
/// keys. `false` when it does so already.
fn take_up_again(
    workspace: &mut Workspace<'_>,
    order: OrderId,
    reason: CompensationReason,
    spared: &BTreeSet<String>,
) -> bool {
    let completed =
        workspace.saga(SagaId(order.0)).filter(|saga| saga.state == SagaState::Completed);
    let Some(mut saga) = completed.cloned() else { return false };
    let now_ms = workspace.now_ms;
    saga.note(Step::Void, reason.code(), now_ms);
    saga.state = SagaState::Compensating;
    saga.step = Step::Void;
    saga.attempts = 0;
    saga.reason = Some(reason);
    saga.payments.retain(|payment| !spared.contains(&payment.provider_key));
    saga.due_at_ms = now_ms;
    workspace.write_saga(saga);
    true
}

/// Looks at every contested order of this region. Answers how many are undone.
pub async fn settle_contested(reader: &dyn Reader, writer: &Writer) -> Result<usize, StoreError> {
    let mut undone = 0;
    let mut after = None;
    loop {
        let pairs = reader.contested(after, CONTESTED_MAX).await?;
        for pair in &pairs {
            let (own, other) = (pair.own.order.id, pair.other.order.id);
            after = Some((own, other));
            match rule(&pair.own, &pair.other) {
                Ruling::NotYet => {}
                Ruling::Settled => reader.settled(own, other).await?,
                Ruling::Yield | Ruling::Unpaid => {
                    undone += usize::from(undo(writer, own, other).await);
                }
            }
        }
        if pairs.len() < CONTESTED_MAX as usize {
            return Ok(undone);
        }
    }
}

async fn undo(writer: &Writer, own: OrderId, other: OrderId) -> bool {
    match writer.submit(CancelDuplicate { own, other }).await {
        Ok((undone, _)) => {
            if undone {
                tracing::info!(order = %own, %other, "can't stand beside the other region's order");
            }
            undone
        }
        Err(error) => {
            tracing::warn!(order = %own, %error, "could not be undone yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::Order;
    use serde_json::json;

    fn record(key: &str, payment_state: &str, cancelled_for: Option<&str>) -> OrderRecord {
        let id = "01a1fc10-9d4c-7e5c-b4d9-28fcba41f401";
        let address =
            json!({"name": "A", "line1": "B", "city": "C", "postal_code": "1", "country": "DE"});
        let payment = json!({
            "id": id, "method": "card", "gateway": "simulator", "provider_key": key, "amount_minor": 5,
            "state": payment_state, "reference": "auth_1",
        });
        let cancellation = cancelled_for.map(|code| json!({"code": code, "detail": "d"}));
        let allocation = if cancelled_for.is_some() { "released" } else { "held" };
        let allocation =
            json!({"reservation_id": id, "node": "n", "quantity": 1, "state": allocation});
        let line = json!({
            "id": id, "sku": "S", "quantity": 1, "unit_minor": 5, "allocations": [allocation],
            "cancelled": u32::from(cancelled_for.is_some()),
        });
        let order: Order = serde_json::from_value(json!({
            "id": id, "number": "1-1", "home_region": "a", "channel": "web", "currency": "EUR",
            "lines": [line], "shipping_option": "standard", "shipping_address": address,
            "payments": [payment], "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
            "cancellation": cancellation,
        }))
        .unwrap();
        let hlc = "0001795230544105-00000002-a".parse().unwrap();
        OrderRecord {
            order,
            version: 2,
            chain_hash: String::new(),
            created_hlc: hlc,
            updated_hlc: hlc,
        }
    }

    #[test]
    fn an_order_does_not_stand_on_money_that_the_other_one_voided() {
        let ours = record("k", "authorized", None);
        let voided = |key, code| record(key, "voided", Some(code));
        assert_eq!(rule(&ours, &voided("k", "dependency_unavailable")), Ruling::Unpaid);
        assert_eq!(rule(&ours, &voided("k", "duplicate")), Ruling::Settled, "left where it was");
        assert_eq!(rule(&ours, &voided("l", "fraud_rejected")), Ruling::Settled, "its own money");
        let undone = record("k", "voided", Some("dependency_unavailable"));
        assert_eq!(rule(&undone, &voided("k", "dependency_unavailable")), Ruling::Settled);
        assert_eq!(rule(&ours, &ours), Ruling::NotYet);
    }
}
