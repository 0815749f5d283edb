//! Whole deployments as a user starts them: three regions as real processes, killed, frozen, cut off.
//!
//! Each test has a deployment of its own ([`support::Deployment`]), so they run one after the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod refusals;
mod supervision;
mod support;
mod traffic;
