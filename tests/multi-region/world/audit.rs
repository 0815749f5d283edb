//! What must be true of the whole deployment when nothing is broken any more.
//!
//! Every test ends here, so every test checks all of it, for everything that was ever ordered in the
//! deployment: convergence (I-18, I-20), stock (I-01, I-03, I-04, I-05), money (I-07, I-10, I-12) and
//! sagas (I-16).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::evidence::{Log, PaymentRow};
use super::{Held, REGIONS, World};

/// I-20: after healing, every region's replicated state is equal within this.
pub(crate) const CONVERGES_WITHIN: Duration = Duration::from_secs(30);

impl World {
    /// All sagas end, all regions agree within 30 s, and the books are right.
    pub(crate) async fn audit(&self) {
        self.until("every saga is over", async || {
            for region in REGIONS {
                if self.open_sagas(region).await > 0 {
                    return false;
                }
            }
            true
        })
        .await;
        self.converge().await;
        self.check_stock().await;
        self.check_money().await;
    }

    /// Every region has applied what every other wrote, and their hashes are equal.
    pub(crate) async fn converge(&self) {
        let mut last = String::new();
        let poll = async {
            while let Err(difference) = self.compare().await {
                last = difference;
                tokio::time::sleep(super::POLL).await;
            }
        };
        let started_ms = entrepot::ports::Clock::monotonic_ms(&self.clock);
        let in_time = tokio::time::timeout(CONVERGES_WITHIN, poll).await;
        assert!(in_time.is_ok(), "regions differ after {CONVERGES_WITHIN:?}: {last}");
        let took_ms = entrepot::ports::Clock::monotonic_ms(&self.clock) - started_ms;
        println!("all regions agree: after {took_ms} ms");
    }

    async fn compare(&self) -> Result<(), String> {
        let first = self.hashes(REGIONS[0]).await;
        for region in &REGIONS[1..] {
            let other = self.hashes(region).await;
            if first != other {
                return Err(format!("hashes: {} {first:#?}, {region} {other:#?}", REGIONS[0]));
            }
        }
        for origin in REGIONS {
            // What an incarnation wrote that was set back, the next one told again.
            let mut written = self.outbox(origin).await;
            let epoch = self.epoch(origin).await;
            written.retain(|(of, ..)| i64::from(*of) == epoch);
            for region in REGIONS.into_iter().filter(|region| *region != origin) {
                let mut inbox = self.inbox(region).await;
                let mut applied = inbox.remove(origin).unwrap_or_default();
                applied.retain(|(of, ..)| i64::from(*of) == epoch);
                if applied != written {
                    let missing = written.difference(&applied).count();
                    return Err(format!("{region} lacks {missing} of {origin}'s envelopes"));
                }
            }
            gap_free(origin, &written)?;
        }
        Ok(())
    }

    /// Units promised are units that orders hold; nothing is negative; nothing is lost.
    async fn check_stock(&self) {
        for region in REGIONS {
            let reserved = self.reserved(region).await;
            let spent = self.spent(region).await;
            for (key, (spent, rights)) in &spent {
                assert!(*rights >= 0, "{region} has {rights} rights to {key:?} (I-05)");
                let reserved = reserved.get(key).copied().unwrap_or(0);
                assert_eq!(*spent, reserved, "{region}: spent and held of {key:?} (I-03)");
            }
            let unknown = reserved.keys().find(|key| !spent.contains_key(key));
            assert_eq!(unknown, None, "{region}: units are held that were never spent");
            for (key, [received, spent, withdrawn, rights]) in self.balance(region).await {
                assert!(spent <= received, "{key:?} is oversold: {spent} of {received} (I-01)");
                let known = rights + spent + withdrawn;
                assert_eq!(known, received, "rights to {key:?} are not conserved (I-04)");
            }
        }
    }

    /// The provider holds what standing orders are to pay, and nothing else.
    async fn check_money(&self) {
        let mut to_be_held = Held::new();
        let mut orders: BTreeMap<String, String> = BTreeMap::new();
        for region in REGIONS {
            orders.extend(self.statuses(region).await);
            for payment in self.payments(region).await {
                let PaymentRow { order_id, provider_key, amount_minor, state } = payment;
                if orders.get(&order_id).is_some_and(|status| status != "cancelled") {
                    assert_eq!(state, "authorized", "a payment of the standing order {order_id}");
                    let twice = to_be_held.insert(provider_key, amount_minor);
                    assert_eq!(
                        twice, None,
                        "two standing orders on one payment (I-07): {order_id}"
                    );
                }
            }
        }
        assert_eq!(self.held().await, to_be_held, "held by the provider, and to be held (I-12)");
        let pending: Vec<_> = orders.iter().filter(|(_, status)| *status == "pending").collect();
        assert!(pending.is_empty(), "{pending:?}");
        for (key, ids) in self.orders_of_keys(REGIONS[0]).await {
            let stands = |id: &&String| orders.get(*id).is_some_and(|status| status != "cancelled");
            let standing: BTreeSet<_> = ids.iter().filter(stands).collect();
            assert!(standing.len() <= 1, "{key} has two standing orders (I-07): {standing:?}");
        }
    }
}

/// I-18: numbered from one, without a gap, in each epoch.
fn gap_free(origin: &str, log: &Log) -> Result<(), String> {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for (epoch, seq, _) in log {
        let expected = next.entry(*epoch).or_insert(1);
        if seq != expected {
            return Err(format!("{origin}'s outbox goes from {expected} to {seq}"));
        }
        *expected += 1;
    }
    Ok(())
}
