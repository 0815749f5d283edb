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
use crate::types::{Money, OrderId};

/// Payments that are looked at one by one. Beyond it something is wrong with all of them, and each costs a call to
/// the provider.
const SUSPECTS_MAX: usize = 10_000;

/// A payment to be looked at by itself: a confirmed order counts on it, or the ledger does not fit its order.
#[derive(Debug, Clone)]
pub(super) struct CountedOn {
    pub(super) order: OrderId,
    pub(super) key: String,
    /// What the ledger says is held; under one key that never changes.
    pub(super) amount: Option<Money>,
}

/// What the ledger told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The ledger could be read.
    read: bool,
    /// The last page's cursor: what came later is in it or behind it.
    cursor: Option<String>,
    /// Sorted hashes of the keys that were seen.
    seen: Vec<u64>,
    suspects: Vec<CountedOn>,
    /// Money held under a reference that no region made: key and reference.
    nobodys: BTreeMap<String, String>,
}

impl Ledger {
    /// The ledger named this key, or could not be read and says nothing about any.
    pub(super) fn has(&self, key: &str) -> bool {
        !self.read || self.seen.binary_search(&key_hash(key)).is_ok()
    }
}

impl Ledger {
    /// The last page is read twice, and shows what is held by then.
    fn note_nobodys(&mut self, entry: LedgerEntry) {
        let held = matches!(entry.provided, Provided::Held(_));
        if held && self.nobodys.len() < SUSPECTS_MAX {
            let reference = entry.order_reference.unwrap_or_else(|| "no order".to_owned());
            self.nobodys.insert(entry.provider_key, reference);
        }
    }
}

fn key_hash(key: &str) -> u64 {
    let hash = Sha256::digest(key);
    u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

impl Reconciler {
    /// Reads the ledger once and looks up the orders of what is in it.
    pub(super) async fn read_ledger(&self, report: &mut Report) -> Result<Ledger, StoreError> {
        let mut money = Ledger::default();
        self.go_on(report, &mut money).await?;
        Ok(money)
    }

    async fn go_on(&self, report: &mut Report, money: &mut Ledger) -> Result<(), StoreError> {
        // No order is its own, and it need not reach the provider.
        if self.region.is_witness() {
            money.read = true;
            return Ok(());
        }
        loop {
            let page = match self.ledger.page(money.cursor.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    money.read = false;
                    report.leave_out(self.region.id, "the payment ledger", error.to_string());
                    return Ok(());
                }
            };
            self.look_up(money, page.entries).await?;
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
        money: &mut Ledger,
        entries: Vec<LedgerEntry>,
    ) -> Result<(), StoreError> {
        let mut named: BTreeMap<OrderId, Vec<LedgerEntry>> = BTreeMap::new();
        for entry in entries {
            let order = entry.order_reference.as_deref().and_then(|text| text.parse().ok());
            match order.filter(|id| self.region.placed_in(*id).is_some()) {
                Some(id) => named.entry(id).or_default().push(entry),
                // Nobody's: one region tells.
                None if self.is_first() => money.note_nobodys(entry),
                None => {}
            }
        }
        let ids: Vec<OrderId> = named.keys().copied().collect();
        let stored = self.store.stored_orders(&ids).await?;
        let stored: BTreeMap<OrderId, StoredOrder> =
            stored.into_iter().map(|order| (order.id, order)).collect();
        // Each order's home of now judges it, and who placed it where no home is known.
        let home = |id: &OrderId| {
            stored.get(id).map(|order| order.home).or_else(|| self.region.placed_in(*id))
        };
        let ours = named.into_iter().filter(|(id, _)| home(id) == Some(self.region.id));
        for (id, entries) in ours {
            for entry in entries {
                let LedgerEntry { provider_key: key, provided, .. } = entry;
                money.seen.push(key_hash(&key));
                if flaw_of(stored.get(&id), &key, provided, false).is_some() {
                    let amount = amount_of(provided);
                    money.suspects.push(CountedOn { order: id, key, amount });
                }
            }
        }
        Ok(())
    }

    fn is_first(&self) -> bool {
        !self.region.is_witness()
            && self
                .region
                .sellers()
                .all(|region| self.region.number <= self.region.numbers[&region])
    }

    /// Looks at each suspect by itself: the order, the provider, and the order again.
    pub(super) async fn settle_money(
        &self,
        report: &mut Report,
        mut money: Ledger,
        counted_on: Vec<CountedOn>,
    ) -> Result<(), StoreError> {
        if !money.read {
            return Ok(());
        }
        // What was authorized while the orders were read is in the ledger by now.
        self.go_on(report, &mut money).await?;
        report.checked.payments += money.seen.len() as u64;
        for (key, reference) in std::mem::take(&mut money.nobodys) {
            let flaw = without_order(format!("held for `{reference}`"));
            let subject = format!("payment {key}");
            report.add(self.region.id, Found { peer: None, subject, flaw });
        }
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
        let can_void = self.may_void(report).await?;
        for suspect in suspects {
            self.settle_payment(report, &suspect, can_void).await?;
        }
        Ok(())
    }

    /// A region that is not heard may have an order of the same intent, which counts on the money. One that is gone for good has
    /// no order any more that somebody could carry out: what was known of them has moved to others.
    async fn may_void(&self, report: &Report) -> Result<bool, StoreError> {
        let (peers, gone) = (self.bus.peers(), self.gone().await?);
        let is_awaited =
            |name: &str| peers.iter().any(|peer| peer.as_str() == name && !gone.contains(peer));
        Ok(!report.not_compared.iter().any(|left_out| is_awaited(&left_out.what)))
    }

    async fn settle_payment(
        &self,
        report: &mut Report,
        suspect: &CountedOn,
        can_void: bool,
    ) -> Result<(), StoreError> {
        let CountedOn { order: id, key, .. } = suspect;
        let before = self.store.stored_orders(&[*id]).await?.pop();
        let provided = match self.gateway.look_up(key).await {
            Ok(answer) => provided(&answer, suspect.amount),
            Err(error) => {
                report.leave_out(self.region.id, "the payment ledger", error.to_string());
                return Ok(());
            }
        };
        let after = self.store.stored_orders(&[*id]).await?.pop();
        let is_open = |order: &Option<StoredOrder>| order.as_ref().is_some_and(|o| o.saga_open);
        let version = |order: &Option<StoredOrder>| order.as_ref().map(|order| order.version);
        // Under way: its saga will see to it, or be stuck.
        if is_open(&before) || is_open(&after) || version(&before) != version(&after) {
            return Ok(());
        }
        let shared = self.store.rivals(*id).await?.iter().any(|rival| counts_on(rival, key));
        let Some(flaw) = flaw_of(after.as_ref(), key, provided, shared) else { return Ok(()) };
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

/// What is wrong with what the provider says of a key under an order's name.
fn flaw_of(
    stored: Option<&StoredOrder>,
    key: &str,
    provided: Provided,
    shared: bool,
) -> Option<Flaw> {
    let order = match stored {
        Some(stored) => Some(stored.document.as_ref().ok()?),
        None => None,
    };
    let payment = order.and_then(|order| {
        let payment = order.payments.iter().find(|payment| payment.provider_key == key)?;
        Some((order, payment))
    });
    match payment {
        Some((order, payment)) => judge_payment(order, payment, provided, shared),
        None if matches!(provided, Provided::Held(_)) => {
            let found =
                if stored.is_some() { "held, and its order has no such payment" } else { "held" };
            Some(without_order(found.to_owned()))
        }
        None => None,
    }
}

fn without_order(found: String) -> Flaw {
    let class = Class::PaymentHeldWithoutOrder;
    Flaw { class, expected: "nothing held".to_owned(), found }
}

fn amount_of(provided: Provided) -> Option<Money> {
    match provided {
        Provided::Held(amount) => amount,
        Provided::Pending | Provided::NotHeld | Provided::Unknown => None,
    }
}

fn counts_on(rival: &StoredOrder, key: &str) -> bool {
    rival.document.as_ref().is_ok_and(|order| {
        order.status() != OrderStatus::Cancelled
            && order.payments.iter().any(|payment| payment.provider_key == key)
    })
}

fn provided(answer: &Authorization, amount: Option<Money>) -> Provided {
    match answer {
        Authorization::Authorized { .. } => Provided::Held(amount),
        Authorization::Pending { .. } => Provided::Pending,
        Authorization::Declined { .. } | Authorization::Voided { .. } => Provided::NotHeld,
        Authorization::Unknown => Provided::Unknown,
    }
}
