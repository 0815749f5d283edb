//! What the provider knows, and what it decides from that. Pure.
//!
//! A decision is a [`Record`]; [`Books::apply`] is the only thing that changes the books, both for a
//! decision just made and for a record read at start, so that a restart can't know anything else than
//! the process before it knew.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::Money;

use super::token::Decline;

/// ISO 4217's code for "no currency": the amount of a void that found nothing to release.
const NO_CURRENCY: &str = "XXX";

/// What a line of the ledger is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Authorize,
    /// A pending authorization came to its end. Not listed: the authorization shows its state.
    Settle,
    Capture,
    Void,
    Refund,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Pending,
    /// The only state that holds money.
    Authorized,
    Declined,
    Voided,
    Captured,
    Refunded,
}

/// Money as the ledger writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount<'a> {
    pub(crate) amount: i64,
    #[serde(borrow)]
    pub(crate) currency: Cow<'a, str>,
}

impl From<Money> for Amount<'_> {
    fn from(money: Money) -> Self {
        Self { amount: money.amount, currency: Cow::Owned(money.currency.as_str().to_owned()) }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record<'a> {
    pub(crate) operation: Operation,
    #[serde(borrow)]
    pub(crate) idempotency_key: Cow<'a, str>,
    /// The key of the authorization that a capture or refund belongs to.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) authorization: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) reference: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) amount: Amount<'a>,
    pub(crate) state: State,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) decline_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) order_reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) at: Cow<'a, str>,
}

/// What we know of one authorization's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) amount: i64,
    /// None: the key was closed before it held anything.
    pub(crate) currency: Option<Box<str>>,
    pub(crate) state: State,
    pub(crate) decline: Option<Decline>,
    pub(crate) reference: Box<str>,
    pub(crate) order_reference: Option<Box<str>>,
    pub(crate) captured: i64,
    pub(crate) refunded: i64,
    /// The ledger's group that carries the last change: nothing is told of it before that is durable.
    pub(crate) group: u64,
}

/// A capture or refund, by its own key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Movement {
    operation: Operation,
    authorization: Box<str>,
    amount: i64,
}

/// Why something can't be done. The words go to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the idempotency key was used with another amount, currency, operation or authorization"
    )]
    KeyReused,
    #[error("no authorization has this key")]
    UnknownAuthorization,
    #[error("nothing is held under this key")]
    NothingHeld,
    #[error("captures would exceed what is authorized")]
    ExceedsAuthorized,
    #[error("refunds would exceed what is captured")]
    ExceedsCaptured,
    #[error("the amount must be positive and in the authorization's currency")]
    BadAmount,
}

/// A hold asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold<'a> {
    pub(crate) key: &'a str,
    pub(crate) amount: Money,
    pub(crate) token: &'a str,
    pub(crate) order_reference: &'a str,
}

/// The provider's memory: everything but what can be read in the ledger when it is listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    accounts: BTreeMap<Box<str>, Account>,
    movements: BTreeMap<Box<str>, Movement>,
    records: u64,
}

impl Books {
    /// What stands under a key of an authorization.
    pub(crate) fn account(&self, key: &str) -> Option<&Account> {
        self.accounts.get(key)
    }

    /// Every key with what stands under it.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (&str, &Account)> {
        self.accounts.iter().map(|(key, account)| (&**key, account))
    }

    /// Keys whose authorization waits for its end.
    pub(crate) fn pending(&self) -> Vec<String> {
        let pending = self.accounts.iter().filter(|(_, account)| account.state == State::Pending);
        pending.map(|(key, _)| key.to_string()).collect()
    }

    /// Whether a hold under a known key asks for the same as before. A closed key fits everything.
    pub(crate) fn same_hold(account: &Account, amount: Money) -> Result<(), Refusal> {
        let Some(currency) = &account.currency else { return Ok(()) };
        let same = account.amount == amount.amount && **currency == *amount.currency.as_str();
        if same { Ok(()) } else { Err(Refusal::KeyReused) }
    }

    /// A first authorization under a key. None: the key is known, and stands as it is.
    pub(crate) fn authorize<'a>(
        &self,
        hold: &Hold<'a>,
        state: State,
        decline: Option<Decline>,
        at: &'a str,
    ) -> Result<Option<Record<'a>>, Refusal> {
        if let Some(account) = self.account(hold.key) {
            return Self::same_hold(account, hold.amount).map(|()| None);
        }
        Ok(Some(Record {
            operation: Operation::Authorize,
            idempotency_key: hold.key.into(),
            authorization: None,
            reference: self.next_reference("auth"),
            amount: hold.amount.into(),
            state,
            decline_code: decline.map(|decline| decline.code().into()),
            token: Some(hold.token.into()),
            order_reference: Some(hold.order_reference.into()),
            at: at.into(),
        }))
    }

    /// The end of a pending authorization. None: it isn't pending (any more).
    pub(crate) fn settle<'a>(&self, key: &'a str, at: &'a str) -> Option<Record<'a>> {
        let account = self.account(key).filter(|account| account.state == State::Pending)?;
        Some(Record {
            reference: account.reference.to_string().into(),
            ..account.record(Operation::Settle, key, account.amount, State::Authorized, at)
        })
    }

    /// Releases what is held and not captured, or closes a key never seen. None: nothing to release.
    pub(crate) fn void<'a>(&self, key: &'a str, at: &'a str) -> Option<Record<'a>> {
        let Some(account) = self.account(key) else {
            return Some(Record {
                operation: Operation::Void,
                idempotency_key: key.into(),
                authorization: None,
                reference: self.next_reference("void"),
                amount: Amount { amount: 0, currency: NO_CURRENCY.into() },
                state: State::Voided,
                decline_code: None,
                token: None,
                order_reference: None,
                at: at.into(),
            });
        };
        if !matches!(account.state, State::Authorized | State::Pending) {
            return None;
        }
        let held = account.amount - account.captured;
        let record = account.record(Operation::Void, key, held, State::Voided, at);
        Some(Record { reference: self.next_reference("void"), ..record })
    }

    /// Takes part of what is held. None: this key has done so already.
    pub(crate) fn capture<'a>(
        &self,
        authorization: &'a str,
        key: &'a str,
        amount: Money,
        at: &'a str,
    ) -> Result<Option<Record<'a>>, Refusal> {
        let account = self.account(authorization).ok_or(Refusal::UnknownAuthorization)?;
        if self.moved(Operation::Capture, authorization, key, amount.amount)? {
            return Ok(None);
        }
        account.check(amount)?;
        if account.state != State::Authorized {
            return Err(Refusal::NothingHeld);
        }
        if amount.amount > account.amount - account.captured {
            return Err(Refusal::ExceedsAuthorized);
        }
        let record = account.record(Operation::Capture, key, amount.amount, State::Captured, at);
        let reference = self.next_reference("capt");
        Ok(Some(Record { authorization: Some(authorization.into()), reference, ..record }))
    }

    /// Gives back part of what was captured. None: this key has done so already.
    pub(crate) fn refund<'a>(
        &self,
        authorization: &'a str,
        key: &'a str,
        amount: Money,
        at: &'a str,
    ) -> Result<Option<Record<'a>>, Refusal> {
        let account = self.account(authorization).ok_or(Refusal::UnknownAuthorization)?;
        if self.moved(Operation::Refund, authorization, key, amount.amount)? {
            return Ok(None);
        }
        account.check(amount)?;
        if amount.amount > account.captured - account.refunded {
            return Err(Refusal::ExceedsCaptured);
        }
        let record = account.record(Operation::Refund, key, amount.amount, State::Refunded, at);
        let reference = self.next_reference("refd");
        Ok(Some(Record { authorization: Some(authorization.into()), reference, ..record }))
    }

    /// Enters a record. An error says what is wrong with it: only a damaged ledger has such records.
    pub(crate) fn apply(&mut self, record: &Record<'_>, group: u64) -> Result<(), &'static str> {
        let key = &*record.idempotency_key;
        match record.operation {
            Operation::Authorize => {
                let account = Account {
                    amount: record.amount.amount,
                    currency: Some(record.amount.currency.as_ref().into()),
                    state: record.state,
                    decline: record.decline_code.as_deref().and_then(Decline::from_code),
                    reference: record.reference.as_ref().into(),
                    order_reference: record.order_reference.as_deref().map(Into::into),
                    captured: 0,
                    refunded: 0,
                    group,
                };
                if self.accounts.insert(key.into(), account).is_some() {
                    return Err("a second authorization under one key");
                }
            }
            Operation::Settle => {
                let account = self.accounts.get_mut(key).ok_or("no authorization has this key")?;
                account.state = record.state;
                account.group = group;
            }
            Operation::Void => {
                let closed = || Account {
                    amount: 0,
                    currency: None,
                    state: State::Voided,
                    decline: None,
                    reference: record.reference.as_ref().into(),
                    order_reference: None,
                    captured: 0,
                    refunded: 0,
                    group,
                };
                let account = self.accounts.entry(key.into()).or_insert_with(closed);
                account.state = State::Voided;
                account.group = group;
            }
            Operation::Capture | Operation::Refund => self.apply_movement(record, group)?,
        }
        self.records += 1;
        Ok(())
    }

    fn apply_movement(&mut self, record: &Record<'_>, group: u64) -> Result<(), &'static str> {
        let authorization = record.authorization.as_deref().ok_or("names no authorization")?;
        let account =
            self.accounts.get_mut(authorization).ok_or("no authorization has this key")?;
        let amount = record.amount.amount;
        if record.operation == Operation::Capture {
            account.captured += amount;
        } else {
            account.refunded += amount;
        }
        account.group = group;
        let movement =
            Movement { operation: record.operation, authorization: authorization.into(), amount };
        let known = self.movements.insert(record.idempotency_key.as_ref().into(), movement);
        if known.is_some() { Err("a second movement under one key") } else { Ok(()) }
    }

    /// Whether a key has already moved this money; an error if it moved other money.
    fn moved(
        &self,
        operation: Operation,
        authorization: &str,
        key: &str,
        amount: i64,
    ) -> Result<bool, Refusal> {
        let Some(movement) = self.movements.get(key) else { return Ok(false) };
        let same = movement.operation == operation
            && *movement.authorization == *authorization
            && movement.amount == amount;
        if same { Ok(true) } else { Err(Refusal::KeyReused) }
    }

    /// Numbered by records, so that a restarted provider goes on where the last one stopped.
    fn next_reference(&self, kind: &str) -> Cow<'static, str> {
        format!("{kind}_{:08}", self.records + 1).into()
    }
}

impl Account {
    fn check(&self, amount: Money) -> Result<(), Refusal> {
        let same_currency = self.currency.as_deref() == Some(amount.currency.as_str());
        if amount.amount > 0 && same_currency { Ok(()) } else { Err(Refusal::BadAmount) }
    }

    /// A record about this account; the caller fills in the reference.
    fn record<'a>(
        &self,
        operation: Operation,
        key: &'a str,
        amount: i64,
        state: State,
        at: &'a str,
    ) -> Record<'a> {
        let currency = self.currency.as_deref().unwrap_or(NO_CURRENCY).to_owned().into();
        Record {
            operation,
            idempotency_key: key.into(),
            authorization: None,
            reference: "".into(),
            amount: Amount { amount, currency },
            state,
            decline_code: None,
            token: None,
            order_reference: self.order_reference.as_deref().map(|text| text.to_owned().into()),
            at: at.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Authorize(u8, i64, State),
        Settle(u8),
        Void(u8),
        Capture(u8, u8, i64),
        Refund(u8, u8, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let state =
            prop_oneof![Just(State::Authorized), Just(State::Pending), Just(State::Declined)];
        let (key, own, amount) = (0u8..4, 0u8..6, 1i64..40);
        prop_oneof![
            (key.clone(), amount.clone(), state).prop_map(|(k, a, s)| Step::Authorize(k, a, s)),
            key.clone().prop_map(Step::Settle),
            key.clone().prop_map(Step::Void),
            (key.clone(), own.clone(), amount.clone()).prop_map(|(k, o, a)| Step::Capture(k, o, a)),
            (key, own, amount).prop_map(|(k, o, a)| Step::Refund(k, o, a)),
        ]
    }

    fn line(books: &Books, step: &Step) -> Option<String> {
        let euro = |amount| Money::new(amount, "EUR".parse().unwrap());
        let key = |k: &u8| format!("k{k}");
        let json = |record: Option<Record<'_>>| {
            record.map(|record| serde_json::to_string(&record).unwrap())
        };
        match step {
            Step::Authorize(k, amount, state) => {
                let key = key(k);
                let hold =
                    Hold { key: &key, amount: euro(*amount), token: "t", order_reference: "o\"" };
                books.authorize(&hold, *state, None, "now").map(json).ok().flatten()
            }
            Step::Settle(k) => json(books.settle(&key(k), "now")),
            Step::Void(k) => json(books.void(&key(k), "now")),
            Step::Capture(k, own, amount) => {
                let own = format!("m{own}");
                books.capture(&key(k), &own, euro(*amount), "now").map(json).ok().flatten()
            }
            Step::Refund(k, own, amount) => {
                let own = format!("m{own}");
                books.refund(&key(k), &own, euro(*amount), "now").map(json).ok().flatten()
            }
        }
    }

    proptest! {
        /// Money never comes from nowhere, a dead key stays dead, and the lines alone make the same books.
        #[test]
        fn the_books_balance_and_survive_a_restart(steps in prop::collection::vec(step(), 0..60)) {
            let (mut books, mut lines) = (Books::default(), Vec::new());
            for step in &steps {
                let before: Vec<_> = (0..4).map(|k| books.account(&format!("k{k}")).cloned()).collect();
                if let Some(line) = line(&books, step) {
                    books.apply(&serde_json::from_str(&line).unwrap(), 0).unwrap();
                    lines.push(line);
                }
                for (k, before) in before.iter().enumerate() {
                    let after = books.account(&format!("k{k}"));
                    if let (Some(before), Some(after)) = (before, after) {
                        prop_assert_eq!(before.amount, after.amount);
                        let dead = |s| matches!(s, State::Voided | State::Declined);
                        prop_assert!(!dead(before.state) || before.state == after.state);
                        prop_assert!(after.captured <= after.amount && after.refunded <= after.captured);
                        prop_assert!(!dead(before.state) || before.captured == after.captured);
                    }
                }
            }
            let mut again = Books::default();
            for line in &lines {
                again.apply(&serde_json::from_str(line).unwrap(), 0).unwrap();
            }
            prop_assert_eq!(books, again);
        }
    }
}
