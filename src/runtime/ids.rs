//! Random, time-ordered ids.

use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::ports::{Clock, Ids};
use crate::types::uuid_v7;

use super::SystemClock;

/// UUIDs of version 7 from this machine's clock and a generator seeded by the operating system.
///
/// Ids are names, not secrets: nothing is authorized by knowing one, so a fast generator will do.
#[derive(Debug)]
pub struct RandomIds {
    clock: SystemClock,
    generator: Mutex<(SmallRng, u128)>,
}

impl RandomIds {
    /// Seeded by the operating system.
    #[expect(clippy::disallowed_methods, reason = "the real source of randomness")]
    pub fn new(clock: SystemClock) -> Self {
        let generator = SmallRng::from_rng(&mut rand::rng());
        Self { clock, generator: Mutex::new((generator, 0)) }
    }
}

/// Bytes nobody can guess, from a generator made for secrets: for keys, never for names.
#[expect(clippy::disallowed_methods, reason = "the real source of randomness")]
pub fn secret_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

impl Ids for RandomIds {
    fn uuid(&self) -> Uuid {
        let mut random = [0; 10];
        let mut generator = self.generator.lock().expect("no panic while held");
        generator.0.fill_bytes(&mut random);
        // Ids of one process rise within a millisecond too; the last byte may become a region's number.
        let fresh = uuid_v7(self.clock.wall_ms(), random).as_u128();
        generator.1 = if fresh > generator.1 { fresh } else { generator.1 + 256 };
        Uuid::from_u128(generator.1)
    }
}
