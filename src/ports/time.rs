//! Time and ids are parameters, so that the simulator can own them.

use uuid::Uuid;

/// Two clocks: one to tell people, one to measure with.
pub trait Clock: Send + Sync {
    /// Wall time in milliseconds since 1970. May jump.
    fn wall_ms(&self) -> u64;

    /// Milliseconds since some fixed point of this process. Never goes back.
    fn monotonic_ms(&self) -> u64;
}

/// A source of time-ordered unique ids.
pub trait Ids: Send + Sync {
    /// A UUID of version 7.
    fn uuid(&self) -> Uuid;
}
