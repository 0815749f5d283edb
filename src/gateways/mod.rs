//! Adapters of payment providers; one file each.
//!
//! [`SimulatorClient`] speaks to the payment provider simulator that the project ships, [`simulator`]
//! is that provider: a process of its own that shares nothing with a region but HTTP. [`webhook`]
//! signs and checks webhooks as Standard Webhooks says; both sides use it.

pub mod simulator;
mod simulator_client;
mod simulator_ledger;
pub mod webhook;

pub use simulator_client::{BadProviderUrl, SimulatorClient};
