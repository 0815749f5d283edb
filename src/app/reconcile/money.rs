//! Payments against the provider's ledger, both ways.
//!
//! The ledger is streamed, and each page looked up in the orders: that finds money held for nobody and money that
//! orders no longer have. What orders count on and no page named is asked for by key. Only suspects are kept in
//! memory, and eight bytes of each key that was seen.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::Reconciler;
use crate::domain::order::OrderStatus;
use crate::ports::{Authorization, LedgerEntry, StoreError};
use crate::reconcile::{Class, Flaw, Found, Provided, Report, StoredOrder, judge_payment};
use crate::types::OrderId;

/// Payments that are looked at one by one. Beyond it something is wrong with all of them, and each costs a call to
/// the provider.
const SUSPECTS_MAX: usize = 10_000;

/// A payment that a confirmed order counts on.
#[derive(Debug, Clone)]
pub(super) struct CountedOn {
    pub(super) order: OrderId,
    pub(super) key: String,
}

/// What the ledger told.
#[derive(Debug, Default)]
pub(super) struct Money {
    /// The ledger could be read.
    read: bool,
    /// The last page's cursor: what came later is in it or behind it.
    cursor: Option<String>,
    /// Sorted hashes of the keys that were seen.
    seen: Vec<u64>,
    suspects: Vec<CountedOn>,
}

impl Money {
    /// The ledger named this key, or could not be read and says nothing about any.
    pub(super) fn has(&self, key: &str) -> bool {
        !self.read || self.seen.binary_search(&key_hash(key)).is_ok()
    }
}

fn key_hash(key: &str) -> u64 {
    let hash = Sha256::digest(key);
    u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

impl Reconciler {
    /// Reads the ledger once and looks up the orders of what is in it.
    pub(super) async fn read_ledger(&self, report: &mut Report) -> Result<Money, StoreError> {
        let mut money = Money::default();
        self.go_on(report, &mut money).await?;
        Ok(money)
    }

    async fn go_on(&self, report: &mut Report, money: &mut Money) -> Result<(), StoreError> {
        loop {
            let page = match self.ledger.page(money.cursor.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    money.read = false;
                    report.leave_out(self.region.id, "the payment ledger", error.to_string());
                    return Ok(());
                }
            };
            self.look_up(report, money, page.entries).await?;
            match page.next {
                Some(next) => money.cursor = Some(next),
                None => break,
            }
        }
        money.read = true;
        money.seen.sort_unstable();
        money.seen.dedup();
        Ok(())
    }

    async fn look_up(
        &self,
        report: &mut Report,
        money: &mut Money,
        entries: Vec<LedgerEntry>,
    ) -> Result<(), StoreError> {
        let mut ours: BTreeMap<OrderId, Vec<LedgerEntry>> = BTreeMap::new();
        for entry in entries {
            let order = entry.order_reference.as_deref().and_then(|text| text.parse().ok());
            match order.and_then(|id| Some((id, self.region.home_of(id)?))) {
                Some((id, home)) if home == self.region.id => {
                    report.checked.payments += 1;
                    money.seen.push(key_hash(&entry.provider_key));
                    ours.entry(id).or_default().push(entry);
                }
                Some(_) => {}
                // Nobody's: one region tells.
                None if self.is_first() => self.enter_nobodys(report, &entry),
                None => {}
            }
        }
        let ids: Vec<OrderId> = ours.keys().copied().collect();
        let stored = self.store.stored_orders(&ids).await?;
        let stored: BTreeMap<OrderId, StoredOrder> =
            stored.into_iter().map(|order| (order.id, order)).collect();
        for (id, entries) in ours {
            for entry in entries {
                let suspect = match stored.get(&id) {
                    None => matches!(entry.provided, Provided::Held(_) | Provided::Pending),
                    Some(order) => {
                        flaw_of(order, &entry.provider_key, entry.provided, false).is_some()
                    }
                };
                if suspect {
                    money.suspects.push(CountedOn { order: id, key: entry.provider_key });
                }
            }
        }
        Ok(())
    }

    fn is_first(&self) -> bool {
        self.region.numbers.values().all(|number| self.region.number <= *number)
    }

    fn enter_nobodys(&self, report: &mut Report, entry: &LedgerEntry) {
        if let Provided::Held(_) = entry.provided {
            let reference = entry.order_reference.as_deref().unwrap_or("no order");
            let found = format!("held for `{reference}`");
            self.enter_without_order(report, &entry.provider_key, found);
        }
    }

    fn enter_without_order(&self, report: &mut Report, key: &str, found: String) {
        let class = Class::PaymentHeldWithoutOrder;
        let flaw = Flaw { class, expected: "nothing held".to_owned(), found };
        let subject = format!("payment {key}");
        report.add(self.region.id, Found { peer: None, subject, flaw });
    }

    /// Looks at each suspect by itself: the order, the provider, and the order again.
    pub(super) async fn settle_money(
        &self,
        report: &mut Report,
        mut money: Money,
        counted_on: Vec<CountedOn>,
    ) -> Result<(), StoreError> {
        if !money.read {
            return Ok(());
        }
        // What was authorized while the orders were read is in the ledger by now.
        self.go_on(report, &mut money).await?;
        let unseen: Vec<_> = counted_on.into_iter().filter(|one| !money.has(&one.key)).collect();
        let mut suspects: Vec<_> = std::mem::take(&mut money.suspects);
        suspects.extend(unseen);
        suspects.sort_by(|a, b| (a.order, &a.key).cmp(&(b.order, &b.key)));
        suspects.dedup_by(|a, b| a.key == b.key && a.order == b.order);
        if suspects.len() > SUSPECTS_MAX {
            let why = format!("{} payments differ; {SUSPECTS_MAX} were looked at", suspects.len());
            report.leave_out(self.region.id, "the payment ledger", why);
            suspects.truncate(SUSPECTS_MAX);
        }
        let can_void = self.may_void(report);
        for suspect in suspects {
            self.settle_payment(report, &suspect, can_void).await?;
        }
        Ok(())
    }

    /// A region that is not heard may have an order of the same intent, which counts on the money.
    fn may_void(&self, report: &Report) -> bool {
        let peers = self.bus.peers();
        let is_peer = |name: &str| peers.iter().any(|peer| peer.as_str() == name);
        !report.not_compared.iter().any(|left_out| is_peer(&left_out.what))
    }

    async fn settle_payment(
        &self,
        report: &mut Report,
        suspect: &CountedOn,
        can_void: bool,
    ) -> Result<(), StoreError> {
        let CountedOn { order: id, key } = suspect;
        let before = self.store.stored_orders(&[*id]).await?.pop();
        let provided = match self.gateway.look_up(key).await {
            Ok(answer) => provided(&answer),
            Err(error) => {
                report.leave_out(self.region.id, "the payment ledger", error.to_string());
                return Ok(());
            }
        };
        let after = self.store.stored_orders(&[*id]).await?.pop();
        let (Some(before), Some(after)) = (before, after) else {
            if matches!(provided, Provided::Held(_)) {
                self.enter_without_order(report, key, format!("held for order {id}"));
            }
            return Ok(());
        };
        let shared = self.store.rivals(*id).await?.iter().any(|rival| counts_on(rival, key));
        // Under way: its saga will see to it, or be stuck.
        if before.saga_open || after.saga_open || before.version != after.version {
            return Ok(());
        }
        let Some(flaw) = flaw_of(&after, key, provided, shared) else { return Ok(()) };
        let is_held = flaw.class == Class::PaymentHeldForCancelledOrder;
        let subject = format!("payment {key} of order {id}");
        let found = Found { peer: None, subject, flaw };
        if is_held {
            self.enter(report, found, self.void(key, can_void)).await;
        } else {
            report.add(self.region.id, found);
        }
        Ok(())
    }

    async fn void(&self, key: &str, may: bool) -> Result<String, String> {
        if !may {
            let why = "not all regions could be compared, and one of them may have an order that counts on it";
            return Err(why.to_owned());
        }
        match self.gateway.void(key).await {
            Ok(Authorization::Voided { .. } | Authorization::Declined { .. }) => {
                Ok("voided with the provider".to_owned())
            }
            Ok(other) => Err(format!("the provider answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn flaw_of(stored: &StoredOrder, key: &str, provided: Provided, shared: bool) -> Option<Flaw> {
    let order = stored.document.as_ref().ok()?;
    let payment = order.payments.iter().find(|payment| payment.provider_key == key)?;
    judge_payment(order, payment, provided, shared)
}

fn counts_on(rival: &StoredOrder, key: &str) -> bool {
    rival.document.as_ref().is_ok_and(|order| {
        order.status() != OrderStatus::Cancelled
            && order.payments.iter().any(|payment| payment.provider_key == key)
    })
}

fn provided(answer: &Authorization) -> Provided {
    match answer {
        Authorization::Authorized { .. } => Provided::Held(None),
        Authorization::Pending { .. } => Provided::Pending,
        Authorization::Declined { .. } | Authorization::Voided { .. } => Provided::NotHeld,
        Authorization::Unknown => Provided::Unknown,
    }
}
