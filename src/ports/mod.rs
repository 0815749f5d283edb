//! The traits through which the core asks the world. Adapters implement them; only `boot` names both.

mod payments;
mod time;

pub use payments::{Authorization, AuthorizeRequest, GatewayError, PaymentGateway};
pub use time::{Clock, Ids};
