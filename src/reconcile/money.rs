//! A payment against the provider's ledger (I-10).

use crate::domain::order::{Order, OrderStatus, Payment, PaymentState};
use crate::types::Money;

use super::{Class, Flaw};

/// What the provider says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// It holds money, or has taken it; how much, where it says so.
    Held(Option<Money>),
    /// It will tell later.
    Pending,
    /// It holds nothing, and knows why.
    NotHeld,
    /// It has never heard of the key.
    Unknown,
}

fn text(money: Money) -> String {
    format!("{} {} (minor units) held", money.amount, money.currency)
}

/// Judges one payment of an order whose saga is over. `shared`: another order that is not cancelled counts on the
/// same key, as two regions' orders of one intent do.
pub fn judge_payment(
    order: &Order,
    payment: &Payment,
    provided: Provided,
    shared: bool,
) -> Option<Flaw> {
    let authorized = Money::new(payment.amount_minor, order.currency);
    let flaw = |class, expected: String, found: &str| {
        Some(Flaw { class, expected, found: found.to_owned() })
    };
    match (order.status(), &payment.state, provided) {
        (OrderStatus::Confirmed, PaymentState::Authorized, Provided::Held(Some(held))) => {
            let found = text(held);
            let differs = held != authorized;
            differs.then(|| Flaw {
                class: Class::PaymentAmountDiffers,
                expected: text(authorized),
                found,
            })
        }
        (OrderStatus::Confirmed, PaymentState::Authorized, Provided::Unknown) => {
            flaw(Class::PaymentUnknownToProvider, text(authorized), "an unknown key")
        }
        (
            OrderStatus::Confirmed,
            PaymentState::Authorized,
            Provided::NotHeld | Provided::Pending,
        ) => flaw(Class::PaymentNotHeld, text(authorized), "nothing held"),
        (OrderStatus::Cancelled, _, Provided::Held(_) | Provided::Pending) if !shared => {
            flaw(Class::PaymentHeldForCancelledOrder, "nothing held".to_owned(), &text(authorized))
        }
        (OrderStatus::Pending | OrderStatus::Cancelled | OrderStatus::Confirmed, _, _) => None,
    }
}
