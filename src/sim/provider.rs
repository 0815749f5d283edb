//! The payment provider: the books and tokens of the payment simulator, without HTTP, and less reliable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::gateways::simulator::{Account, Behavior, Books, Decline, Hold, Record, State};
use crate::ports::{
    Authorization, AuthorizeRequest, GatewayError, LedgerEntry, LedgerPage, PaymentGateway,
    PaymentLedger,
};
use crate::reconcile::Provided;
use crate::runtime::spawn_named;
use crate::types::OrderId;

use super::dice::Dice;
use super::life::Life;
use super::shared::Shared;

/// How long a region waits for an answer (`payments_answer_timeout`).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// When what is pending is decided, at the latest.
const SETTLE_MS_MAX: u64 = 3_000;
/// Nobody looks at the times in these books.
const AT: &str = "";

/// Told that an order's payment was decided.
pub type Webhook = dyn Fn(OrderId) + Send + Sync;

/// The provider. One for all regions.
pub struct Provider {
    shared: Arc<Shared>,
    books: Mutex<Books>,
    flaky: Mutex<BTreeMap<String, u32>>,
    dice: Mutex<Dice>,
    down: AtomicBool,
    webhook: Mutex<Option<Arc<Webhook>>>,
}

impl Provider {
    /// With empty books.
    pub fn new(shared: Arc<Shared>, dice: Dice) -> Self {
        Self {
            shared,
            books: Mutex::default(),
            flaky: Mutex::default(),
            dice: Mutex::new(dice),
            down: AtomicBool::new(false),
            webhook: Mutex::default(),
        }
    }

    /// Who is told what was decided later.
    pub fn tell(&self, webhook: Arc<Webhook>) {
        *self.webhook.lock().expect("no panic while held") = Some(webhook);
    }

    /// It is gone, or back.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// What it knows.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic while held")
    }

    fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().expect("no panic while held")
    }

    async fn travel(&self) {
        let ms = self.dice().between(5, 40);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn silence<T>() -> T {
        std::future::pending().await
    }

    /// One call: there, the work, and back. Work may be done without an answer, or with a wrong one.
    async fn call<T>(&self, work: impl Future<Output = T>) -> Result<T, GatewayError> {
        self.travel().await;
        if self.down.load(Ordering::Relaxed) {
            return Err(GatewayError::NoAnswer("connection refused".to_owned()));
        }
        let faulty = self.dice().chance(self.shared.now_and_then(|it| it.provider_error_permille));
        if faulty && self.dice().chance(500) {
            return Err(GatewayError::Unavailable("500 before it was done".to_owned()));
        }
        let answer = work.await;
        if faulty {
            return Err(GatewayError::Unavailable("500 after it was done".to_owned()));
        }
        if self.dice().chance(self.shared.now_and_then(|it| it.provider_silent_permille)) {
            return Self::silence().await;
        }
        self.travel().await;
        Ok(answer)
    }

    fn enter(
        &self,
        hold: &Hold<'_>,
        state: State,
        decline: Option<Decline>,
    ) -> Result<(), GatewayError> {
        let mut books = self.books();
        let decided = books.authorize(hold, state, decline, AT);
        let record = decided.map_err(|refusal| GatewayError::Refused(refusal.to_string()))?;
        if let Some(record) = record {
            write_down(&mut books, &record);
            self.shared.note("provider", format_args!("{:.8} is {state:?}", hold.key));
        }
        Ok(())
    }

    async fn authorize(
        self: &Arc<Self>,
        request: &AuthorizeRequest,
    ) -> Result<Authorization, GatewayError> {
        let hold = Hold {
            key: &request.provider_key,
            amount: request.amount,
            token: &request.token,
            order_reference: &request.order_reference,
        };
        let known = self.books().account(hold.key).is_some();
        let behavior = if known { Behavior::Hold } else { Behavior::of(hold.token) };
        match behavior {
            Behavior::Hold => self.enter(&hold, State::Authorized, None)?,
            Behavior::Decline(decline) => self.enter(&hold, State::Declined, Some(decline))?,
            Behavior::HoldInSilence => {
                self.enter(&hold, State::Authorized, None)?;
                Self::silence::<()>().await;
            }
            Behavior::Silence => Self::silence::<()>().await,
            Behavior::HoldAfter(delay) => {
                // It happens even when nobody waits any more.
                let (provider, request) = (Arc::clone(self), request.clone());
                let slow = spawn_named("slow authorization", async move {
                    tokio::time::sleep(delay).await;
                    let hold = Hold {
                        key: &request.provider_key,
                        amount: request.amount,
                        token: &request.token,
                        order_reference: &request.order_reference,
                    };
                    provider.enter(&hold, State::Authorized, None)
                });
                slow.await.expect("it does not panic")?;
            }
            Behavior::FailThenHold(failures) => {
                let failed = {
                    let mut flaky = self.flaky.lock().expect("no panic while held");
                    let failed = flaky.entry(hold.key.to_owned()).or_default();
                    *failed += 1;
                    *failed
                };
                if failed <= failures {
                    return Err(GatewayError::Unavailable("500, as the token asks".to_owned()));
                }
                self.enter(&hold, State::Authorized, None)?;
            }
            Behavior::HoldLater => {
                self.enter(&hold, State::Pending, None)?;
                self.settle_later(hold.key.to_owned(), request.order_reference.clone());
            }
        }
        Ok(self.state_of(hold.key))
    }

    fn settle_later(self: &Arc<Self>, key: String, order: String) {
        let provider = Arc::clone(self);
        let ms = self.dice().between(1, SETTLE_MS_MAX);
        drop(spawn_named("settlement", async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let record = {
                let mut books = provider.books();
                let record = books.settle(&key, AT);
                if let Some(record) = &record {
                    write_down(&mut books, record);
                }
                record.is_some()
            };
            let lost = provider.shared.now_and_then(|knobs| knobs.webhook_lost_permille);
            if record && !provider.dice().chance(lost) {
                let webhook = provider.webhook.lock().expect("no panic while held").clone();
                if let (Some(webhook), Ok(order)) = (webhook, order.parse()) {
                    webhook(order);
                }
            }
        }));
    }

    fn void(&self, key: &str) -> Authorization {
        let mut books = self.books();
        let record = books.void(key, AT);
        if let Some(record) = record {
            write_down(&mut books, &record);
            self.shared.note("provider", format_args!("{key:.8} is voided"));
        }
        drop(books);
        self.state_of(key)
    }

    fn state_of(&self, key: &str) -> Authorization {
        self.books().account(key).map_or(Authorization::Unknown, answer)
    }
}

fn write_down(books: &mut Books, record: &Record<'_>) {
    books.apply(record, 0).expect("decided on these books");
}

fn answer(account: &Account) -> Authorization {
    let reference = account.reference.to_string();
    match account.state {
        State::Authorized | State::Captured | State::Refunded => {
            Authorization::Authorized { reference }
        }
        State::Pending => Authorization::Pending { reference },
        State::Declined => {
            let code = account.decline.map_or("declined", |decline| decline.code());
            Authorization::Declined { code: code.to_owned() }
        }
        State::Voided => Authorization::Voided { reference },
    }
}

/// One process's way to the provider.
pub struct Gateway {
    /// The provider.
    pub provider: Arc<Provider>,
    /// The process.
    pub life: Life,
}

impl Gateway {
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, GatewayError>>,
    ) -> Result<T, GatewayError> {
        self.life.go_on().await;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, call).await;
        self.life.go_on().await;
        answer.unwrap_or_else(|_| Err(GatewayError::NoAnswer("no answer in time".to_owned())))
    }
}

#[async_trait]
impl PaymentGateway for Gateway {
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<Authorization, GatewayError> {
        let call = self.provider.call(self.provider.authorize(request));
        self.within(async { call.await? }).await
    }

    async fn look_up(&self, provider_key: &str) -> Result<Authorization, GatewayError> {
        let stale = {
            let permille = self.provider.shared.now_and_then(|it| it.provider_stale_permille);
            self.provider.dice().chance(permille)
        };
        let before = stale.then(|| self.provider.state_of(provider_key));
        let call = self
            .provider
            .call(async { before.unwrap_or_else(|| self.provider.state_of(provider_key)) });
        self.within(call).await
    }

    async fn void(&self, provider_key: &str) -> Result<Authorization, GatewayError> {
        self.within(self.provider.call(async { self.provider.void(provider_key) })).await
    }
}

#[async_trait]
impl PaymentLedger for Gateway {
    /// All of it, as one page.
    async fn page(&self, _: Option<&str>) -> Result<LedgerPage, GatewayError> {
        let entry = |(key, account): (&str, &Account)| {
            let provided = match account.state {
                State::Authorized | State::Captured | State::Refunded => Provided::Held(None),
                State::Pending => Provided::Pending,
                State::Declined | State::Voided => Provided::NotHeld,
            };
            let order_reference = account.order_reference.as_ref().map(ToString::to_string);
            LedgerEntry { provider_key: key.to_owned(), order_reference, provided }
        };
        let read = self.provider.call(async {
            let entries = self.provider.books().accounts().map(entry).collect();
            LedgerPage { entries, next: None }
        });
        self.within(read).await
    }
}
