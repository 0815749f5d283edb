//! Tests with one real PostgreSQL and real NATS servers: everything that SQL, transactions and a
//! broker decide.
//!
//! Under nextest each test is a process, under `cargo test` a thread; either way a process has one
//! cluster, copied from a prepared one, and each test a database of its own. See [`support`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bus;
mod ceilings;
mod ended;
mod hang_ups;
mod payment_simulator;
mod processes;
mod reconcile;
mod references;
mod replication;
mod replication_store;
mod rights;
mod statements;
mod stops;
mod store_contract;
mod support;
mod witness;
