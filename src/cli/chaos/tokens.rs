//! Who the shoppers are, and their tokens. Making a token takes longer than ordering does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::scenario::Scenario;
use crate::http::auth::Role;
use crate::http::auth::issuer::{self, Mint};
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::types::RegionId;

/// Different people of the steady load. A region lets each of them ask 50 times a second, and one that is back serves five of
/// a hundred at first: of its 200 some ten, whose turns come every second or two.
const CUSTOMERS: u64 = 600;

/// How long tokens are good: longer than any run, also for a region whose clock is hours ahead.
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// Makes tokens, each once.
pub(super) struct Tokens<'a> {
    data_dir: &'a Path,
    made: Mutex<BTreeMap<(String, RegionId), String>>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(data_dir: &'a Path) -> Self {
        Self { data_dir, made: Mutex::default() }
    }

    /// Makes those of all first tries.
    pub(super) fn prepare(&self, scenario: &Scenario, regions: &[RegionId]) -> anyhow::Result<()> {
        if let Some(load) = scenario.load {
            // The same people come again and again, and may be at home elsewhere by then.
            for serial in 0..load.orders_per_second * scenario.seconds {
                self.of(&customer(serial), load.home(regions, serial))?;
            }
        }
        if let Some(sale) = scenario.sale {
            for serial in 0..sale.shoppers {
                self.of(&sale_customer(serial), sale.home(regions, serial))?;
            }
        }
        Ok(())
    }

    /// Of this person, who is at home there.
    pub(super) fn of(&self, customer: &str, home: RegionId) -> anyhow::Result<String> {
        let name = (customer.to_owned(), home);
        if let Some(token) = self.made().get(&name) {
            return Ok(token.clone());
        }
        let mint = Mint {
            role: Role::Customer,
            subject: customer.to_owned(),
            home_region: Some(home),
            ttl: TOKEN_TTL,
        };
        let now_s = SystemClock::new().wall_ms() / 1_000;
        let token = issuer::mint(&issuer::directory(self.data_dir), &mint, now_s)?;
        drop(self.made().insert(name, token.clone()));
        Ok(token)
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<(String, RegionId), String>> {
        self.made.lock().expect("no panic while held")
    }
}

/// A shopper of the steady load.
pub(super) fn customer(serial: u64) -> String {
    format!("chaos-shopper-{}", serial % CUSTOMERS)
}

/// A shopper of a sale: each orders once.
pub(super) fn sale_customer(serial: u64) -> String {
    format!("chaos-bargain-hunter-{serial}")
}
