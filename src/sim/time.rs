//! Virtual time, and the ids that belong to a seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;
use uuid::Uuid;

use crate::ports::{Clock, Ids};
use crate::types::uuid_v7;

use super::dice::Dice;

/// The wall time at which every world begins: 2026-01-01.
const BEGINNING_MS: u64 = 1_767_225_600_000;

/// The time of one world: it passes only when everybody waits.
#[derive(Debug, Clone, Copy)]
pub struct WorldTime(Instant);

impl WorldTime {
    /// Begins now.
    #[expect(clippy::disallowed_methods, reason = "the clock of a paused runtime")]
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// By how much a region's wall clock is wrong.
#[derive(Debug, Default)]
pub struct Skew(AtomicI64);

impl Skew {
    /// The clock jumps.
    pub fn jump(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// What the clock shows.
    pub fn wall_ms(&self, time: WorldTime) -> u64 {
        let right = BEGINNING_MS + time.now_ms();
        right.saturating_add_signed(self.0.load(Ordering::Relaxed))
    }
}

/// The clocks of one process.
pub struct SimClock {
    time: WorldTime,
    skew: std::sync::Arc<Skew>,
    booted_ms: u64,
}

impl SimClock {
    /// Of a process that starts now.
    pub fn new(time: WorldTime, skew: std::sync::Arc<Skew>) -> Self {
        Self { time, skew, booted_ms: time.now_ms() }
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.skew.wall_ms(self.time)
    }

    fn monotonic_ms(&self) -> u64 {
        self.time.now_ms() - self.booted_ms
    }
}

/// The ids of one process.
pub struct SimIds {
    clock: std::sync::Arc<SimClock>,
    dice: Mutex<Dice>,
}

impl SimIds {
    /// `dice` must be another stream for each process.
    pub fn new(clock: std::sync::Arc<SimClock>, dice: Dice) -> Self {
        Self { clock, dice: Mutex::new(dice) }
    }
}

impl Ids for SimIds {
    fn uuid(&self) -> Uuid {
        let mut dice = self.dice.lock().expect("no panic while held");
        let mut random = [0; 10];
        random[..8].copy_from_slice(&dice.number().to_be_bytes());
        random[8..].copy_from_slice(&dice.number().to_be_bytes()[..2]);
        uuid_v7(self.clock.wall_ms(), random)
    }
}
