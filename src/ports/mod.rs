//! The traits through which the core asks the world. Adapters implement them; only `boot` names both.

mod bus;
mod payments;
mod replication;
mod time;

pub use bus::{Acknowledge, Bus, BusError, Delivery, RequestHandler, RequestKind};
pub use payments::{Authorization, AuthorizeRequest, GatewayError, PaymentGateway};
pub use replication::{Applied, ReplicationError, ReplicationStore};
pub use time::{Clock, Ids};
