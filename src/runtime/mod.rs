//! The real clock, ids and tasks.
//!
//! The only callers of the functions that clippy bans elsewhere: everything else takes time, ids and
//! randomness as parameters, so that the simulator can own them.

mod clock;
mod ids;
mod tasks;

pub use clock::SystemClock;
pub use ids::RandomIds;
pub use tasks::{TaskSet, spawn_named};

/// An environment variable, if it is set to text. Configuration is read once, at start.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
