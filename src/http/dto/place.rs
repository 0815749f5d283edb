//! The request of `POST /orders`.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::idempotency::IntentKey;
use crate::domain::order::Address;
use crate::domain::order::place::{
    LineRequest, ORDER_TOTAL_MINOR_MAX, PaymentRequest, PlaceRequest,
};
use crate::types::{Currency, CustomerId};

use super::super::auth::{Principal, Role};
use super::super::problem::Problem;
use super::{Faults, MoneyIn};

/// Lines of one order. More is a wholesaler's file, not a cart; it can come as several orders.
pub(in crate::http) const LINES_MAX: usize = 200;
/// Units of one line.
pub(in crate::http) const QUANTITY_MAX: i64 = 10_000;
/// Payments of one order: a card, two gift cards and points, and room.
const PAYMENTS_MAX: usize = 10;
/// The longest name or street, in bytes.
const TEXT_BYTES_MAX: usize = 200;
/// The longest e-mail address (RFC 5321), in bytes.
const EMAIL_BYTES_MAX: usize = 254;
/// The longest token of a payment form, in bytes.
const TOKEN_BYTES_MAX: usize = 255;

/// Methods that a provider authorizes by a token of its payment form.
const PROVIDER_METHODS: &[&str] = &["card", "paypal", "razorpay", "upi"];
/// Methods that draw on a balance kept here.
const BALANCE_METHODS: &[&str] = &["wallet", "store_credit", "loyalty"];

/// A new order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PlaceOrderBody {
    /// `web`, `mobile`, `pos` or `marketplace:<name>`.
    #[serde(default = "web")]
    #[schema(example = "web")]
    channel: String,
    /// The channel's own name of the order; the same one again answers the same order, but to another
    /// customer (`channel_ref_taken`), unless that order was refused or cancelled.
    #[serde(default)]
    channel_order_ref: Option<String>,
    /// Whose order. A customer's token orders for that customer only.
    #[serde(default)]
    customer_id: Option<String>,
    /// Where notifications go.
    #[serde(default)]
    #[schema(example = "shopper@example.com")]
    email: Option<String>,
    /// ISO 4217; every amount of the order is in it.
    #[schema(example = "EUR")]
    currency: String,
    /// 1 to 200. Several lines of one SKU are added up when stock is checked.
    #[schema(min_items = 1, max_items = 200)]
    lines: Vec<LineBody>,
    /// How it is sent.
    #[serde(default = "standard")]
    #[schema(example = "standard")]
    shipping_option: String,
    /// Where it goes.
    shipping_address: AddressBody,
    /// Where the bill goes, if elsewhere.
    #[serde(default)]
    billing_address: Option<AddressBody>,
    /// Taken in the order given; one without an amount takes what is left.
    #[serde(default)]
    payments: Vec<PaymentBody>,
    /// What is not there may be sent later. Not accepted yet: `true` is refused.
    #[serde(default)]
    allow_backorder: bool,
    /// It may be sent from several places.
    #[serde(default = "yes")]
    allow_split: bool,
    /// `local`, or `remote` to answer only when another region holds the order too.
    #[serde(default)]
    durability: Durability,
}

/// How durable an order must be before it is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Durability {
    /// On the disks of its home region.
    #[default]
    Local,
    /// In another region as well.
    Remote,
}

/// A line of a new order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct LineBody {
    /// What.
    #[schema(example = "85123A")]
    sku: String,
    /// How many.
    #[schema(minimum = 1, maximum = 10_000, example = 2)]
    quantity: i64,
    /// The channel's own price of one; from `pos` and `marketplace:*` with the role `service` only.
    #[serde(default)]
    unit_price: Option<MoneyIn>,
}

/// A postal address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct AddressBody {
    /// The recipient.
    name: String,
    /// The street.
    line1: String,
    /// A further part of it.
    #[serde(default)]
    line2: Option<String>,
    /// The town.
    city: String,
    /// State, province or the like.
    #[serde(default)]
    region: Option<String>,
    /// The postal code; may be empty where there are none.
    postal_code: String,
    /// ISO 3166 alpha-2.
    #[schema(example = "DE")]
    country: String,
}

/// A payment that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PaymentBody {
    /// `card`, `paypal`, `razorpay`, `upi`, `wallet`, `store_credit` or `loyalty`.
    #[schema(example = "card")]
    method: String,
    /// What the provider's payment form gave; never a card number.
    #[serde(default)]
    #[schema(example = "tok_ok")]
    token: Option<String>,
    /// How much; absent takes what is left.
    #[serde(default)]
    amount: Option<MoneyIn>,
    /// For `loyalty`: how many points.
    #[serde(default)]
    points: Option<i64>,
}

fn web() -> String {
    "web".to_owned()
}

fn standard() -> String {
    "standard".to_owned()
}

fn yes() -> bool {
    true
}

impl PlaceOrderBody {
    /// Identifies the request, whatever the order of its fields and its white space.
    pub(in crate::http) fn hash(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("plain values");
        let mut hash = Sha256::new();
        hash.update(b"POST /orders\n");
        hash.update(canonical);
        hex::encode(hash.finalize())
    }

    /// What the client asks of durability.
    pub(in crate::http) fn durability(&self) -> Durability {
        self.durability
    }

    /// The checked request.
    pub(in crate::http) fn check(
        &self,
        caller: &Principal,
        intent: IntentKey,
    ) -> Result<PlaceRequest, Problem> {
        let mut faults = Faults::default();
        let currency = faults.parse::<Currency>("currency", &self.currency);
        self.check_channel(caller, &mut faults);
        let customer_id = self.check_customer(caller, &mut faults);
        let lines = self.check_lines(caller, &mut faults);
        let payments = self.check_payments(&mut faults);
        let reference = self.channel_order_ref.as_deref();
        let channel_order_ref =
            faults.optional_text("channel_order_ref", reference, TEXT_BYTES_MAX);
        if self.allow_backorder {
            faults.add("allow_backorder", "true is not accepted by this deployment yet");
        }
        let email = self.check_email(&mut faults);
        let shipping_option = faults.text("shipping_option", &self.shipping_option, 64);
        let shipping_address = self.shipping_address.check("shipping_address", &mut faults);
        let billing_address = self
            .billing_address
            .as_ref()
            .map(|address| address.check("billing_address", &mut faults));
        faults.finish(currency.map(|currency| PlaceRequest {
            intent,
            channel: self.channel.clone(),
            channel_order_ref,
            customer_id,
            sees_only: caller.customer_id.clone(),
            email,
            currency,
            lines,
            shipping_option,
            shipping_address,
            billing_address,
            payments,
            allow_split: self.allow_split,
        }))
    }

    fn is_trade_channel(&self) -> bool {
        self.channel == "pos" || self.channel.starts_with("marketplace:")
    }

    fn check_channel(&self, caller: &Principal, faults: &mut Faults) {
        let known = match self.channel.strip_prefix("marketplace:") {
            Some(name) => {
                let legal =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
                (1..=32).contains(&name.len()) && name.chars().all(legal)
            }
            None => ["web", "mobile", "pos"].contains(&self.channel.as_str()),
        };
        if !known {
            faults.add("channel", "must be web, mobile, pos or marketplace:<name>");
        } else if self.is_trade_channel() && caller.role == Role::Customer {
            faults.add("channel", "a customer orders from web or mobile");
        }
    }

    fn check_customer(&self, caller: &Principal, faults: &mut Faults) -> Option<CustomerId> {
        let asked = self
            .customer_id
            .as_deref()
            .and_then(|id| faults.parse::<CustomerId>("customer_id", id));
        match (&caller.customer_id, asked) {
            (None, asked) => asked,
            (Some(own), None) => Some(own.clone()),
            (Some(own), Some(asked)) => {
                if *own != asked {
                    faults.add("customer_id", "a customer orders for themself only");
                }
                Some(asked)
            }
        }
    }

    fn check_email(&self, faults: &mut Faults) -> Option<String> {
        let email = self.email.as_deref()?;
        if !is_email(email) {
            faults.add("email", "is not an e-mail address");
        }
        Some(email.to_owned())
    }

    fn check_amount(&self, field: &str, money: &MoneyIn, least: i64, faults: &mut Faults) -> i64 {
        if money.currency != self.currency {
            let message = format!("must be {}, the currency of the order", self.currency);
            faults.add(format!("{field}.currency"), message);
        }
        let bounds = least..=ORDER_TOTAL_MINOR_MAX;
        faults.within(format!("{field}.amount"), money.amount, bounds).unwrap_or_default()
    }

    fn check_lines(&self, caller: &Principal, faults: &mut Faults) -> Vec<LineRequest> {
        if self.lines.is_empty() || self.lines.len() > LINES_MAX {
            faults.add("lines", format!("must have 1 to {LINES_MAX} entries"));
            return Vec::new();
        }
        let may_price = self.is_trade_channel() && caller.role == Role::Service;
        let mut lines = Vec::with_capacity(self.lines.len());
        for (index, line) in self.lines.iter().enumerate() {
            // The path is made for faults only: an order without one costs no formatting.
            let at = |field: &str| format!("lines[{index}].{field}");
            let sku = match line.sku.parse::<crate::types::Sku>() {
                Ok(sku) => Some(sku),
                Err(error) => {
                    faults.add(at("sku"), error.to_string());
                    None
                }
            };
            let quantity = u32::try_from(line.quantity).ok();
            let quantity = quantity.filter(|_| (1..=QUANTITY_MAX).contains(&line.quantity));
            if quantity.is_none() {
                faults.add(at("quantity"), format!("must be between 1 and {QUANTITY_MAX}"));
            }
            let unit_minor = line.unit_price.as_ref().map(|price| {
                if !may_price {
                    let message =
                        "is accepted from pos and marketplace channels with the role service only";
                    faults.add(at("unit_price"), message);
                }
                self.check_amount(&at("unit_price"), price, 0, faults)
            });
            if let (Some(sku), Some(quantity)) = (sku, quantity) {
                lines.push(LineRequest { sku, quantity, unit_minor });
            }
        }
        lines
    }

    fn check_payments(&self, faults: &mut Faults) -> Vec<PaymentRequest> {
        if self.payments.len() > PAYMENTS_MAX {
            faults.add("payments", format!("must have at most {PAYMENTS_MAX} entries"));
            return Vec::new();
        }
        let mut payments = Vec::with_capacity(self.payments.len());
        for (index, payment) in self.payments.iter().enumerate() {
            let at = |field: &str| format!("payments[{index}].{field}");
            let method = payment.method.as_str();
            if BALANCE_METHODS.contains(&method) {
                faults
                    .add(at("method"), format!("{method} is not accepted by this deployment yet"));
            } else if !PROVIDER_METHODS.contains(&method) {
                faults.add(at("method"), format!("must be one of {}", PROVIDER_METHODS.join(", ")));
            } else if payment.points.is_some() {
                faults.add(at("points"), "are for the method loyalty only");
            }
            let token = payment.token.as_deref().unwrap_or_default();
            if token.is_empty()
                || token.len() > TOKEN_BYTES_MAX
                || !token.bytes().all(|b| b.is_ascii_graphic())
            {
                faults.add(at("token"), "must be the token of the provider's payment form");
            }
            let amount_minor = payment
                .amount
                .as_ref()
                .map(|amount| self.check_amount(&at("amount"), amount, 1, faults));
            payments.push(PaymentRequest {
                method: payment.method.clone(),
                token: token.to_owned(),
                amount_minor,
            });
        }
        payments
    }
}

impl AddressBody {
    fn check(&self, field: &str, faults: &mut Faults) -> Address {
        for (name, text) in [("name", &self.name), ("line1", &self.line1), ("city", &self.city)] {
            if let Err(error) = crate::types::check_text(text, TEXT_BYTES_MAX) {
                faults.add(format!("{field}.{name}"), error.to_string());
            }
        }
        let mut optional = |name: &str, text: Option<&str>| {
            let text = text.filter(|text| !text.is_empty())?;
            if let Err(error) = crate::types::check_text(text, TEXT_BYTES_MAX) {
                faults.add(format!("{field}.{name}"), error.to_string());
            }
            Some(text.to_owned())
        };
        let line2 = optional("line2", self.line2.as_deref());
        let region = optional("region", self.region.as_deref());
        let postal_code = optional("postal_code", Some(&self.postal_code)).unwrap_or_default();
        Address {
            name: self.name.clone(),
            line1: self.line1.clone(),
            line2,
            city: self.city.clone(),
            region,
            postal_code,
            country: faults.country(format!("{field}.country"), &self.country),
        }
    }
}

/// The shape that all addresses in use have; whether it exists shows when mail is sent.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"@<>(),;:\\\"[]".contains(c);
    let labels = || domain.split('.');
    text.len() <= EMAIL_BYTES_MAX
        && (1..=64).contains(&local.len())
        && local.chars().all(plain)
        && domain.chars().all(plain)
        && labels().count() >= 2
        && labels().all(|label| !label.is_empty() && label.len() <= 63)
}

#[cfg(test)]
mod tests;
