//! The real clock, ids and tasks, and the way to other machines.
//!
//! The only callers of the functions that clippy bans elsewhere: everything else takes time, ids and
//! randomness as parameters, so that the simulator can own them.

mod clock;
mod ids;
mod marker;
mod tasks;
mod trust;

pub use clock::SystemClock;
pub use ids::{RandomIds, secret_bytes};
pub use marker::FileMarker;
pub use tasks::{TaskSet, spawn_named};
#[cfg(test)]
pub(crate) use trust::tls_front_of;
pub use trust::{Connector, NoAuthorities, Trust};

/// An environment variable, if it is set to text. Configuration is read once, at start.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How tests kill a region between two steps: the process dies at the point that the file named by
/// `ENTREPOT_CRASH_FILE` holds, and takes the file away first, so that it dies once. Not in a release build.
pub fn crash_point(name: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(path) = environment("ENTREPOT_CRASH_FILE") else { return };
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    if wanted.trim() == name && std::fs::remove_file(&path).is_ok() {
        tracing::error!(name, "crash point reached");
        std::process::abort();
    }
}
