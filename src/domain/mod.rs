//! Pure decisions and transitions. No clock, no randomness, no input or output: what a decision needs
//! comes in, what it decides goes out, and everything runs unchanged in a simulator.

pub mod catalogue;
pub mod change;
pub mod evacuation;
pub mod fraud;
pub mod idempotency;
pub mod inventory;
pub mod order;
pub mod routing;
