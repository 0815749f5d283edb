//! What a saga's step found out becomes part of the order: confirmed, undone, or asked again later.

use std::sync::Arc;

use crate::domain::inventory::StockDelta;
use crate::domain::order::{
    AllocationState, Cancellation, EventBody, EventMaker, OrderRecord, OrderStatus, PaymentState,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::Needs;
use crate::saga::{CompensationReason, Ending, SagaRecord, SagaState, Step};
use crate::types::{PaymentId, StockKey};

use super::{Command, Workspace};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// All money is held, with the provider's references.
    Confirm(Vec<(PaymentId, String)>),
    /// Money that is or may be held must be voided before the units are given back.
    BeginCompensation(CompensationReason),
    /// Nothing is held any more: give back the units and cancel. Each payment with how it ended.
    FinishCompensation(CompensationReason, Vec<(PaymentId, Ending)>),
    /// The provider has not decided: later again.
    AskAgain {
        /// What it said.
        found: String,
        /// When.
        due_at_ms: u64,
    },
}

/// Advances a saga. It carries the saga and the order on which the finding rests; a worker that was
/// overtaken changes nothing.
pub struct AdvanceSaga {
    /// As it was.
    pub saga: SagaRecord,
    /// Its order, as it was.
    pub order: Arc<OrderRecord>,
    /// What is to be done.
    pub advance: Advance,
}

/// The saga and the order as they are now. `None` when another worker was faster, or this region may not
/// act on the order now.
pub(super) type Advanced = Option<(SagaRecord, Arc<OrderRecord>)>;

impl Command for AdvanceSaga {
    type Answer = Advanced;

    /// Nothing is loaded at first: what the saga's worker holds is nearly always what is stored, and the
    /// versions guard the commit.
    fn needs(&self, needs: &mut Needs, attempt: u32) {
        if attempt > 0 {
            needs.sagas.insert(self.saga.id);
            needs.orders.insert(self.order.order.id);
        }
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> Advanced {
        let (saga_id, order_id) = (self.saga.id, self.order.order.id);
        let sagas = &mut workspace.view.sagas;
        let mut saga = sagas.entry(saga_id).or_insert_with(|| self.saga.clone()).clone();
        let orders = &mut workspace.view.orders;
        let order = Arc::clone(orders.entry(order_id).or_insert_with(|| Arc::clone(&self.order)));
        if !workspace.region.may_act_on(&order.order) {
            return None;
        }
        if saga.version != self.saga.version {
            return saga.state.is_over().then_some((saga, order));
        }
        let now_ms = workspace.now_ms;
        let record = match &self.advance {
            Advance::Confirm(references) => {
                saga.note(Step::Authorize, "authorized", now_ms);
                saga.note(Step::Confirm, "confirmed", now_ms);
                saga.state = SagaState::Completed;
                saga.step = Step::Confirm;
                confirm(workspace, &order, references)
            }
            Advance::BeginCompensation(reason) => {
                saga.note(Step::Authorize, reason.code(), now_ms);
                saga.state = SagaState::Compensating;
                saga.step = Step::Void;
                saga.attempts = 0;
                saga.reason = Some(reason.clone());
                order
            }
            Advance::FinishCompensation(reason, endings) => {
                let undone = if saga.state == SagaState::Compensating {
                    Step::Void
                } else {
                    Step::Authorize
                };
                let result = if undone == Step::Void { "nothing held" } else { reason.code() };
                saga.note(undone, result, now_ms);
                saga.note(Step::Cancel, "units given back", now_ms);
                saga.state = SagaState::Compensated;
                saga.step = Step::Cancel;
                saga.reason = Some(reason.clone());
                cancel(workspace, &order, reason, endings)
            }
            Advance::AskAgain { found, due_at_ms } => {
                saga.note(saga.step, found.as_str(), now_ms);
                saga.attempts += 1;
                saga.due_at_ms = *due_at_ms;
                order
            }
        };
        Some((workspace.write_saga(saga), record))
    }
}

fn confirm(
    workspace: &mut Workspace<'_>,
    order: &Arc<OrderRecord>,
    references: &[(PaymentId, String)],
) -> Arc<OrderRecord> {
    if order.order.status() == OrderStatus::Cancelled {
        return Arc::clone(order);
    }
    let mut made = workspace.change_order(Some(order.order.id));
    for (payment_id, reference) in references {
        let event =
            EventBody::PaymentAuthorized { payment_id: *payment_id, reference: reference.clone() };
        push(workspace, &mut made, event);
    }
    push(workspace, &mut made, EventBody::Confirmed {});
    workspace.write_order(made, None)
}

/// Cancels an order whose money is settled, and gives its units back, each hold once (I-03). Each payment
/// ends as the provider says (I-12); one that it was not asked about gave its money to another order.
pub(super) fn cancel(
    workspace: &mut Workspace<'_>,
    order: &Arc<OrderRecord>,
    reason: &CompensationReason,
    endings: &[(PaymentId, Ending)],
) -> Arc<OrderRecord> {
    if order.order.status() == OrderStatus::Cancelled {
        return Arc::clone(order);
    }
    for line in &order.order.lines {
        let held = line.allocations.iter().filter(|held| held.state == AllocationState::Held);
        // What an incarnation took that is over counts as sold under its ceiling, for ever; what another region took,
        // it gives back itself when it copies the cancellation.
        let is_ours = order.order.placed_in() == workspace.region.id;
        let own = held
            .filter(|_| is_ours)
            .filter(|held| held.epoch == workspace.region.epoch || is_on(Mutant::OldHoldsReleased));
        for allocation in own.collect::<Vec<_>>() {
            let key = StockKey { sku: line.sku.clone(), node: allocation.node.clone() };
            if is_on(Mutant::NeverReleased) {
                continue;
            }
            let times = if is_on(Mutant::ReleasedTwice) { 2 } else { 1 };
            let released = u64::from(allocation.quantity) * times;
            workspace.change_stock(key, StockDelta { released, ..StockDelta::default() });
        }
    }
    let mut made = workspace.change_order(Some(order.order.id));
    let cancellation = Cancellation { code: reason.code().to_owned(), detail: reason.detail() };
    push(workspace, &mut made, EventBody::Cancelled(cancellation));
    for payment in
        order.order.payments.iter().filter(|payment| payment.state != PaymentState::Voided)
    {
        let payment_id = payment.id;
        let ending = endings.iter().find(|(id, _)| *id == payment_id);
        let event = match ending.map(|(_, ending)| ending) {
            Some(Ending::Declined(code)) => {
                EventBody::PaymentDeclined { payment_id, code: code.clone() }
            }
            Some(Ending::Voided(reference)) => {
                EventBody::PaymentVoided { payment_id, reference: Some(reference.clone()) }
            }
            None => EventBody::PaymentVoided { payment_id, reference: None },
        };
        push(workspace, &mut made, event);
    }
    workspace.write_order(made, None)
}

fn push(workspace: &mut Workspace<'_>, made: &mut EventMaker, event: EventBody) {
    // An order that has moved here may bear the stamps of a clock that is ahead.
    let stamp = workspace.tick_after(made.last_stamp());
    made.push(stamp, event).expect("the state was checked before the event was chosen");
}
