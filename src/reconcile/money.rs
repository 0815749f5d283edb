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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::Cancellation;
    use proptest::prelude::*;

    fn order(status: OrderStatus) -> Order {
        let id = uuid::Uuid::nil();
        let state = match status {
            OrderStatus::Pending => "pending",
            OrderStatus::Confirmed => "authorized",
            OrderStatus::Cancelled => "voided",
        };
        let mut order: Order = serde_json::from_value(serde_json::json!({
            "id": id, "number": "1", "home_region": "a", "channel": "web", "currency": "EUR",
            "lines": [{"id": id, "sku": "x", "quantity": 2, "unit_minor": 5, "allocations": []}],
            "payments": [{"id": id, "method": "card", "gateway": "simulator", "provider_key": "k",
                          "amount_minor": 10, "state": state}],
            "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
            "shipping_option": "standard", "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
        }))
        .unwrap();
        if status == OrderStatus::Cancelled {
            order.lines[0].cancelled = 2;
            let (code, detail) = ("duplicate".to_owned(), String::new());
            order.cancellation = Some(Cancellation { code, detail });
        }
        assert_eq!(order.status(), status);
        order
    }

    proptest! {
        /// I-10: what stands is held in full, what is cancelled is not held, unless another order counts on it, and
        /// what is pending is its saga's.
        #[test]
        fn money_is_held_for_what_stands_and_for_nothing_else(
            status in prop::sample::select(OrderStatus::ALL.to_vec()), which in 0usize..5, minor in 9i64..12, shared: bool,
        ) {
            let held = Money::new(minor, "EUR".parse().unwrap());
            let provided = [
                Provided::Held(Some(held)), Provided::Held(None), Provided::Pending, Provided::NotHeld, Provided::Unknown,
            ][which];
            let order = order(status);
            let class = judge_payment(&order, &order.payments[0], provided, shared).map(|flaw| flaw.class);
            let may_hold = matches!(provided, Provided::Held(_) | Provided::Pending);
            let expected = match status {
                OrderStatus::Pending => None,
                OrderStatus::Cancelled => {
                    (may_hold && !shared).then_some(Class::PaymentHeldForCancelledOrder)
                }
                OrderStatus::Confirmed => match provided {
                    Provided::Held(Some(_)) => (minor != 10).then_some(Class::PaymentAmountDiffers),
                    Provided::Held(None) => None,
                    Provided::Pending | Provided::NotHeld => Some(Class::PaymentNotHeld),
                    Provided::Unknown => Some(Class::PaymentUnknownToProvider),
                },
            };
            prop_assert_eq!(class, expected);
        }
    }
}
