//! Entrepôt: an order management system that runs active-active in several regions.
//!
//! The way of an order, the invariants and who may use whom are in `docs/ARCHITECTURE.md`. Read the
//! modules in this order: [`types`], [`escrow`], [`domain`], [`saga`], [`replication`], [`reconcile`] and
//! [`ports`] are pure and know nothing of the world; [`app`] decides and commits; [`store`], [`bus`] and
//! [`gateways`] are adapters; [`workers`] and [`http`] drive; [`boot`] puts it together.

pub mod app;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod config;
pub mod domain;
pub mod escrow;
pub mod gateways;
pub mod http;
pub mod mutants;
pub mod ports;
pub mod reconcile;
pub mod replication;
pub mod runtime;
pub mod saga;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod types;
pub mod workers;

#[cfg(test)]
mod layers;
