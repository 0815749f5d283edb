//! A payment provider, as far as placing an order needs one.

use async_trait::async_trait;

use crate::types::Money;

/// What we ask a provider to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeRequest {
    /// Names the intent for ever: the same key again never holds money twice (I-07).
    pub provider_key: String,
    /// What the client's payment form gave us for the card or account; never a card number.
    pub token: String,
    /// The payment method, e.g. `card`.
    pub method: String,
    /// How much.
    pub amount: Money,
    /// The order, for the provider's own books.
    pub order_reference: String,
}

/// What the provider says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Money is held.
    Authorized {
        /// The provider's name for it.
        reference: String,
    },
    /// The provider will tell later, by webhook or when asked again.
    Pending {
        /// The provider's name for it.
        reference: String,
    },
    /// Nothing is held and nothing will be under this key.
    Declined {
        /// The provider's reason, e.g. `insufficient_funds`, `fraud`.
        code: String,
    },
    /// Was held and is released, or was closed before anything was held: the key is dead.
    Voided {
        /// The provider's name for it.
        reference: String,
    },
    /// The provider has never heard of the key.
    Unknown,
}

/// The provider gave no usable answer. What it did is *unknown*: ask by key before anything else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// No answer in time, or the connection broke.
    #[error("the payment provider did not answer: {0}")]
    NoAnswer(String),
    /// It answered that it can't now (5xx, 429).
    #[error("the payment provider is unavailable: {0}")]
    Unavailable(String),
    /// It refuses the request itself (4xx, or nonsense in the answer): a bug or a wrong configuration, not to be retried.
    #[error("the payment provider refuses the request: {0}")]
    Refused(String),
}

/// A payment provider. Every call is idempotent under its key.
#[async_trait]
pub trait PaymentGateway: Send + Sync {
    /// Asks for a hold. Never answers [`Authorization::Unknown`].
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<Authorization, GatewayError>;

    /// What became of a key. The only thing to do after an answer that did not come.
    async fn look_up(&self, provider_key: &str) -> Result<Authorization, GatewayError>;

    /// Releases what is held under a key, or closes the key if nothing is yet, so that a late
    /// authorization finds it dead. Good when the answer is `Voided`, `Declined` is good as well.
    async fn void(&self, provider_key: &str) -> Result<Authorization, GatewayError>;
}
