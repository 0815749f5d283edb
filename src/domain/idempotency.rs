//! One client's intent, kept so that it is carried out once (I-07).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::types::{Money, OrderId, RegionId, Sku};

/// Names an intent: who asks, and the client's key for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IntentKey {
    /// `<role>:<subject>` of the token, so that two clients never share a key.
    pub principal: String,
    /// The `Idempotency-Key` header.
    pub key: String,
}

impl IntentKey {
    /// The payment provider's key of what this intent asks it: the same in whichever region the intent
    /// arrives, so that the money is held once even when two regions take the order. What is asked is
    /// part of it, so that no order ever stands on a hold of another amount, as when prices or bodies
    /// differed between the two.
    pub fn provider_key(&self, purpose: &str, asked: &Asked<'_>) -> String {
        let mut hash = Sha256::new();
        let currency = asked.amount.currency.to_string();
        for part in [purpose, &self.principal, &self.key, &currency, asked.method, asked.token] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(asked.amount.amount.to_be_bytes());
        hash.update((asked.index as u64).to_be_bytes());
        hex::encode(&hash.finalize()[..20])
    }
}

/// What a payment asks of the provider.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which of the order's payments.
    pub index: usize,
    /// How much.
    pub amount: Money,
    /// How.
    pub method: &'a str,
    /// From what.
    pub token: &'a str,
}

/// An answer that is given again to the same intent, for intents that made no order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredAnswer {
    /// The order was refused for want of stock.
    InsufficientStock(Vec<StockRefusal>),
    /// It was done; the result as JSON.
    Done(serde_json::Value),
}

/// One SKU of an order that was refused for want of stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRefusal {
    /// What.
    pub sku: Sku,
    /// The order's whole demand.
    pub wanted: u64,
    /// What this region could have sold at that moment.
    pub available_here: u64,
    /// What the other regions held, as far as was known.
    pub available_elsewhere: u64,
}

/// What is known of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    /// Which intent.
    pub intent: IntentKey,
    /// The region that took it.
    pub region: RegionId,
    /// Hex SHA-256 of the request, so that a key used for another body is noticed.
    pub body_hash: String,
    /// The order it placed; its answer follows from the order's events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// The answer, for intents that made no order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<StoredAnswer>,
    /// Wall time.
    pub first_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_key_is_shared_by_equal_requests_of_one_intent_only() {
        let intent = |key: &str| IntentKey { principal: "customer:a".into(), key: key.into() };
        let asked = |index, minor, currency: &str, token| {
            let amount = Money::new(minor, currency.parse().unwrap());
            intent("k").provider_key("authorize", &Asked { index, amount, method: "card", token })
        };
        let key = asked(0, 100, "EUR", "t");
        assert_eq!(key, asked(0, 100, "EUR", "t"));
        let amount = Money::new(100, "EUR".parse().unwrap());
        let same = Asked { index: 0, amount, method: "card", token: "t" };
        let others = [
            asked(1, 100, "EUR", "t"),
            asked(0, 101, "EUR", "t"),
            asked(0, 100, "GBP", "t"),
            asked(0, 100, "EUR", "u"),
            intent("l").provider_key("authorize", &same),
            intent("k").provider_key("void", &same),
        ];
        assert!(!others.contains(&key));
    }
}
