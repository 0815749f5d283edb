//! Whole deployments as a user starts them: three regions as real processes, killed, frozen, cut off.
//!
//! Tests of the deployment itself have one of their own each ([`support::Deployment`]); tests of what
//! the regions do together share one ([`world`]). One test runs at a time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]

mod adoption;
mod bad_input;
mod balancer;
mod broker;
mod chaos;
mod contention;
mod cut;
mod drain;
mod evacuate;
mod fence;
mod frozen;
mod kill;
mod placement;
mod readme;
mod rebalance;
mod reconcile;
mod refusals;
mod restore;
mod retire;
mod retry;
mod routing;
mod saga;
mod supervision;
mod support;
mod traffic;
mod two_regions;
mod world;
