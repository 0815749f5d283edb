//! The one function that changes an order (I-19), used at its home and for every copy.

use crate::mutants::{Mutant, is_on};
use crate::types::{HlcTimestamp, PaymentId, RegionId};

use super::event::EventBody;
use super::model::{AllocationState, Moved, Order, PaymentState};

/// An event that doesn't fit the order it is meant for: a bug, or a log that was tampered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The first event is not a placement.
    #[error("`{0}` can't be the first event of an order")]
    NotPlaced(&'static str),
    /// A second placement.
    #[error("an order is placed once")]
    PlacedTwice,
    /// No such payment.
    #[error("the order has no payment {0}")]
    UnknownPayment(PaymentId),
    /// I-08.
    #[error("`{event}` would take the order from {from} to {to}, which is not legal (I-08)")]
    IllegalTransition {
        /// The event.
        event: &'static str,
        /// Status before.
        from: super::OrderStatus,
        /// Status after.
        to: super::OrderStatus,
    },
    /// A move from elsewhere than the order is.
    #[error("the order can't move from {from}: its home is {home}")]
    NotItsHome {
        /// From where.
        from: RegionId,
        /// Where it is.
        home: RegionId,
    },
    /// An order that is confirmed must have all its money held.
    #[error("the order can't be confirmed: a payment is not authorized")]
    NotAuthorized,
}

/// The order after an event.
pub fn apply(
    before: Option<Order>,
    event: EventBody,
    hlc: HlcTimestamp,
) -> Result<Order, FoldError> {
    let Some(mut order) = before else {
        return match event {
            EventBody::Placed(order) => Ok(*order),
            other @ (EventBody::PaymentAuthorized { .. }
            | EventBody::PaymentDeclined { .. }
            | EventBody::PaymentVoided { .. }
            | EventBody::Confirmed {}
            | EventBody::Cancelled(_)
            | EventBody::Moved { .. }) => Err(FoldError::NotPlaced(other.type_name())),
        };
    };
    let (event_name, from) = (event.type_name(), order.status());
    change(&mut order, event)?;
    order.updated_at_ms = hlc.wall_ms;
    let to = order.status();
    if from.may_become(to) || is_on(Mutant::AnyTransition) {
        Ok(order)
    } else {
        Err(FoldError::IllegalTransition { event: event_name, from, to })
    }
}

fn change(order: &mut Order, event: EventBody) -> Result<(), FoldError> {
    match event {
        EventBody::Placed(_) => return Err(FoldError::PlacedTwice),
        EventBody::PaymentAuthorized { payment_id, reference } => {
            let payment = payment(order, payment_id)?;
            payment.state = PaymentState::Authorized;
            payment.reference = Some(reference);
        }
        EventBody::PaymentDeclined { payment_id, code } => {
            payment(order, payment_id)?.state = PaymentState::Declined(code);
        }
        EventBody::PaymentVoided { payment_id, reference } => {
            let payment = payment(order, payment_id)?;
            payment.state = PaymentState::Voided;
            payment.reference = reference.or(payment.reference.take());
        }
        EventBody::Confirmed {} => {
            if order.payments.iter().any(|payment| payment.state != PaymentState::Authorized) {
                return Err(FoldError::NotAuthorized);
            }
        }
        EventBody::Cancelled(cancellation) => {
            for line in &mut order.lines {
                line.cancelled = line.quantity;
                for allocation in &mut line.allocations {
                    allocation.state = AllocationState::Released;
                }
            }
            order.cancellation = Some(cancellation);
        }
        EventBody::Moved { from, to } => {
            if from != order.home_region || from == to {
                return Err(FoldError::NotItsHome { from, home: order.home_region });
            }
            let times = order.moved.map_or(0, |moved| moved.times).saturating_add(1);
            order.moved = Some(Moved { placed_in: order.placed_in(), times });
            order.home_region = to;
        }
    }
    Ok(())
}

fn payment(order: &mut Order, id: PaymentId) -> Result<&mut super::model::Payment, FoldError> {
    order.payments.iter_mut().find(|payment| payment.id == id).ok_or(FoldError::UnknownPayment(id))
}
