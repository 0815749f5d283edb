//! Status is a pure function of lines, payments and shipments; nobody sets it beside them.

use super::model::{Line, Order, PaymentState};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every status, in the order of the life of an order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in the API and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

status!(
    /// Where an order stands as a whole.
    OrderStatus {
        /// Reserved; the money is not yet held.
        Pending = "pending",
        /// Reserved and authorized: we owe the goods.
        Confirmed = "confirmed",
        /// No unit will be sent; nothing is held.
        Cancelled = "cancelled",
    }
);

status!(
    /// Where the money stands.
    PaymentStatus {
        /// Nothing held.
        Unpaid = "unpaid",
        /// Everything held.
        Authorized = "authorized",
        /// What was held is given back.
        Voided = "voided",
    }
);

status!(
    /// Where the goods stand.
    FulfillmentStatus {
        /// Nothing sent.
        Unfulfilled = "unfulfilled",
    }
);

status!(
    /// Where one line stands.
    LineStatus {
        /// Units are held for it.
        Allocated = "allocated",
        /// No unit will be sent.
        Cancelled = "cancelled",
    }
);

impl OrderStatus {
    /// I-08: the legal transitions. A status may stay as it is.
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Pending, _) | (Self::Confirmed, Self::Confirmed | Self::Cancelled) => true,
            (Self::Confirmed, Self::Pending) => false,
            (Self::Cancelled, next) => next == Self::Cancelled,
        }
    }
}

impl Line {
    /// See [`LineStatus`].
    pub fn status(&self) -> LineStatus {
        if self.cancelled == self.quantity { LineStatus::Cancelled } else { LineStatus::Allocated }
    }
}

impl Order {
    /// See [`OrderStatus`].
    pub fn status(&self) -> OrderStatus {
        if self.lines.iter().all(|line| line.status() == LineStatus::Cancelled) {
            OrderStatus::Cancelled
        } else if self.payments.iter().all(|payment| payment.state == PaymentState::Authorized) {
            OrderStatus::Confirmed
        } else {
            OrderStatus::Pending
        }
    }

    /// See [`PaymentStatus`].
    pub fn payment_status(&self) -> PaymentStatus {
        let any =
            |state: &PaymentState| self.payments.iter().any(|payment| payment.state == *state);
        if any(&PaymentState::Voided) {
            PaymentStatus::Voided
        } else if self.payments.iter().all(|payment| payment.state == PaymentState::Authorized) {
            PaymentStatus::Authorized
        } else {
            PaymentStatus::Unpaid
        }
    }

    /// See [`FulfillmentStatus`].
    #[expect(clippy::unused_self, reason = "a function of the order's shipments")]
    pub fn fulfillment_status(&self) -> FulfillmentStatus {
        FulfillmentStatus::Unfulfilled
    }
}
