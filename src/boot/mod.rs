//! Puts the parts together: the only place that names both ports and adapters.

pub(crate) mod follow;
mod health;
pub(crate) mod local;
mod mending;
pub mod server;
