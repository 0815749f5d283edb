//! The deterministic simulator: whole deployments in one thread, on virtual time.
//!
//! A [`plan::Plan`] is drawn from a seed: what shoppers order, what breaks, and how bad the network is.
//! [`run()`] plays it with the production code of placement, sagas, rights and replication on ports that
//! belong to the simulator: a database in memory ([`memory`]) whose calls take time and lose their answers
//! ([`database`]), brokers and links ([`bus`], [`network`]), a payment provider with the books of the real
//! simulator ([`provider`]), clocks that jump ([`time`]). The rules are looked at after every step, and
//! once more when all faults are over and everything has come to rest ([`checks`]).
//!
//! Time is tokio's paused clock: it stands still while anybody works and jumps to the next timer when all
//! wait, so a minute takes milliseconds. One thread, no hash maps, `biased` selects in the workers and
//! randomness from the seed alone make two runs of a seed the same, to the byte of the trace.
//!
//! A crash ends a process between two of its calls to the outside ([`life`]); its database keeps what it
//! acknowledged. A broker may forget what it confirmed. What is not here: HTTP, SQL and NATS themselves,
//! which the tests against real servers cover.

pub mod bus;
pub mod checks;
pub mod database;
pub mod dice;
pub mod life;
pub mod memory;
pub mod network;
pub mod plan;
pub mod provider;
mod run;
pub mod server;
pub mod shared;
pub mod shopper;
mod shrink;
#[cfg(test)]
mod tests;
pub mod time;
pub mod trace;
pub mod world;

pub use run::{Outcome, run};
pub use shrink::shrink;
