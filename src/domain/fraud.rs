//! The fraud check of a placement. Pure: it looks at the order only.

use super::order::Order;

/// A total above this, in minor units of whatever currency, sent to another country than the one
/// that is billed, is refused: the classic pattern of a stolen card. Ten thousand units of the
/// common currencies; known customers (a customer id on the order) take the fast path without it.
pub const UNKNOWN_CUSTOMER_CROSS_BORDER_MINOR_MAX: i64 = 1_000_000;

/// What the check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FraudVerdict {
    /// Nothing to object.
    Pass,
    /// The order must not be confirmed.
    Reject,
}

/// Judges an order.
pub fn check(order: &Order) -> FraudVerdict {
    if order.customer_id.is_some() {
        return FraudVerdict::Pass;
    }
    let billed_to = order.billing_address.as_ref().unwrap_or(&order.shipping_address);
    let crosses_border = billed_to.country != order.shipping_address.country;
    if crosses_border && order.total_minor() > UNKNOWN_CUSTOMER_CROSS_BORDER_MINOR_MAX {
        FraudVerdict::Reject
    } else {
        FraudVerdict::Pass
    }
}
