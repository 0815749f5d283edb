//! A token bucket for each client, so that one that loops can't take the region from the others.
//!
//! The client is the subject of the token, not the address: behind a load balancer all addresses are
//! one. A bucket that was forgotten is full again, which is what a bucket unused for long would be.

use std::sync::{Mutex, MutexGuard};

use super::auth::{Principal, Role};
use super::generations::Generations;
use super::problem::{Code, Problem};

/// How many clients are remembered at least: more than are active within the time a bucket takes to fill.
const CLIENTS_MAX: usize = 50_000;

/// What one client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, over time.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// The rate of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// One shopper: far above what a person's pages ask for, far below what hurts.
    pub customer: Rate,
    /// One employee, tools included.
    pub staff: Rate,
    /// One service: a shop's back end speaks for all its shoppers, so this only stops a runaway loop.
    pub service: Rate,
    /// One operator, tools included: a load generator is one.
    pub admin: Rate,
}

/// A service speaks for all the shoppers of a shop or a channel, and operators measure what all of them
/// together can do: so many times the rate of one client.
const EVERYBODY_FACTOR: u32 = 1_000;

/// People who work here run scripts: an import, a catalogue, a stocktake.
const STAFF_FACTOR: u32 = 25;

/// What a page of many small requests, a sale's first second, or a script's start may ask for at once, in
/// seconds of the rate.
const BURST_S: u32 = 8;

impl Rates {
    /// So many requests a second for one person; 0 is no limit.
    pub fn per_person(per_second: u32) -> Self {
        let rate = |factor: u32| {
            let per_second = match per_second {
                0 => UNLIMITED,
                per_second => per_second.saturating_mul(factor),
            };
            Rate { per_second, burst: per_second.saturating_mul(BURST_S) }
        };
        Self {
            customer: rate(1),
            staff: rate(STAFF_FACTOR),
            service: rate(EVERYBODY_FACTOR),
            admin: rate(EVERYBODY_FACTOR),
        }
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self::per_person(50)
    }
}

/// More than this server can take in.
const UNLIMITED: u32 = 1_000_000;

/// Thousandths of a request, so that a bucket fills smoothly by the millisecond.
const UNITS: u64 = 1_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    units: u64,
    filled_at_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct RateLimiter {
    rates: Rates,
    buckets: Mutex<Generations<(Role, String), Bucket>>,
}

impl RateLimiter {
    /// A limiter whose buckets are all full.
    pub fn new(rates: Rates) -> Self {
        Self { rates, buckets: Mutex::new(Generations::new(CLIENTS_MAX)) }
    }

    fn buckets(&self) -> MutexGuard<'_, Generations<(Role, String), Bucket>> {
        self.buckets.lock().expect("nothing panics while it holds the lock")
    }

    /// Takes one request out of the client's bucket.
    pub(super) fn take(&self, principal: &Principal, now_ms: u64) -> Result<(), Problem> {
        let rate = match principal.role {
            Role::Customer => self.rates.customer,
            Role::Staff => self.rates.staff,
            Role::Service => self.rates.service,
            Role::Admin => self.rates.admin,
        };
        let full = u64::from(rate.burst) * UNITS;
        let key = (principal.role, principal.subject.clone());
        let mut buckets = self.buckets();
        let Some(bucket) = buckets.get(&key) else {
            let units = full.saturating_sub(UNITS);
            buckets.insert(key, Bucket { units, filled_at_ms: now_ms });
            return Ok(());
        };
        // One request a second is one unit a millisecond.
        let fresh = now_ms.saturating_sub(bucket.filled_at_ms) * u64::from(rate.per_second);
        bucket.units = (bucket.units + fresh).min(full);
        bucket.filled_at_ms = now_ms;
        if bucket.units >= UNITS {
            bucket.units -= UNITS;
            return Ok(());
        }
        let wait_ms = (UNITS - bucket.units).div_ceil(u64::from(rate.per_second.max(1)));
        let seconds = u32::try_from(wait_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        Err(Problem::new(
            Code::RateLimited,
            format!("more than {} requests a second from this client", rate.per_second),
        )
        .retry_after(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_burst_then_its_rate_and_takes_nothing_from_others() {
        let rate = Rate { per_second: 2, burst: 3 };
        let limiter =
            RateLimiter::new(Rates { customer: rate, staff: rate, service: rate, admin: rate });
        let greedy = Principal::for_tests(Role::Customer, "greedy");
        let other = Principal::for_tests(Role::Customer, "other");
        let granted = |now_ms| (0..10).filter(|_| limiter.take(&greedy, now_ms).is_ok()).count();
        assert_eq!(granted(1_000), 3);
        assert_eq!(granted(1_400), 0);
        assert_eq!(granted(1_500), 1);
        assert_eq!(granted(60_000), 3);
        assert!(limiter.take(&other, 60_000).is_ok());
        let refusal = limiter.take(&greedy, 60_000).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after_s), (Code::RateLimited, Some(1)));
    }
}
