//! Two regions that reconcile: databases, real stores, a provider in memory, and no other worker, so that
//! what a test breaks stays broken.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use entrepot::app::Region as RegionState;
use entrepot::app::reconcile::{
    Helpers, RECONCILE_REQUEST, ReconcileHandler, ReconcileTimes, Reconciler,
};
use entrepot::domain::inventory::StockDelta;
use entrepot::domain::order::{Cancellation, EventBody, EventMaker, OrderRecord};
use entrepot::escrow::Ballot;
use entrepot::ports::store::OrderWrite;
use entrepot::ports::{
    Applied, Authorization, AuthorizeRequest, Bus, ChangeSet, Ending, GatewayError, LedgerEntry,
    LedgerPage, PaymentGateway, PaymentLedger, ReplicationStore, RetirementStore, RightsStore,
    Store, StoreError,
};
use entrepot::reconcile::{Provided, Report, Status};
use entrepot::replication::retirement::{Retirement, RetirementOutcome};
use entrepot::replication::{PULL_ENVELOPES_MAX, Position};
use entrepot::runtime::{RandomIds, SystemClock, TaskSet};
use entrepot::store::{PgRights, PgStore};
use entrepot::types::{
    Actor, Epoch, HlcTimestamp, OrderId, RegionId, RegionNumber, ReportId, SagaId, StockKey,
};
use sqlx::Executor as _;

use super::hub::{Hub, Port};
use super::postgres::Database;
use super::{ceilings, eventually, writes};

pub(crate) const NAMES: [&str; 2] = ["a", "b"];

/// A copy that has not arrived by then is lost; here nothing is under way.
const CATCH_UP: Duration = Duration::from_millis(300);

/// Money by key.
#[derive(Default)]
pub(crate) struct Provider {
    books: Mutex<BTreeMap<String, (String, Provided)>>,
}

impl Provider {
    pub(crate) fn set(&self, key: &str, order: &str, provided: Provided) {
        self.books.lock().unwrap().insert(key.to_owned(), (order.to_owned(), provided));
    }

    pub(crate) fn forget(&self, key: &str) {
        self.books.lock().unwrap().remove(key);
    }

    pub(crate) fn says(&self, key: &str) -> Provided {
        self.books.lock().unwrap().get(key).map_or(Provided::Unknown, |(_, provided)| *provided)
    }
}

#[async_trait]
impl PaymentGateway for Provider {
    async fn authorize(&self, _: &AuthorizeRequest) -> Result<Authorization, GatewayError> {
        Err(GatewayError::Refused("nobody asks here".to_owned()))
    }

    async fn look_up(&self, key: &str) -> Result<Authorization, GatewayError> {
        let reference = key.to_owned();
        Ok(match self.says(key) {
            Provided::Held(_) => Authorization::Authorized { reference },
            Provided::Pending => Authorization::Pending { reference },
            Provided::NotHeld => Authorization::Voided { reference },
            Provided::Unknown => Authorization::Unknown,
        })
    }

    async fn void(&self, key: &str) -> Result<Authorization, GatewayError> {
        if let Some((_, provided)) = self.books.lock().unwrap().get_mut(key) {
            *provided = Provided::NotHeld;
        }
        Ok(Authorization::Voided { reference: key.to_owned() })
    }
}

#[async_trait]
impl PaymentLedger for Provider {
    async fn page(&self, cursor: Option<&str>) -> Result<LedgerPage, GatewayError> {
        // One line a page, so that every run goes through several.
        let place: usize = cursor.map_or(0, |text| text.parse().unwrap());
        let books = self.books.lock().unwrap();
        let line = books.iter().nth(place);
        let entries = line.map(|(key, (order, provided))| LedgerEntry {
            provider_key: key.clone(),
            order_reference: Some(order.clone()),
            provided: *provided,
        });
        let next = (place + 1 < books.len()).then(|| (place + 1).to_string());
        Ok(LedgerPage { entries: entries.into_iter().collect(), next })
    }
}

/// Remembers what was asked of it, and pulls rows as the workers would.
struct TestHelpers {
    woken: Arc<Mutex<Vec<SagaId>>>,
    rights: PgRights,
    origins: Arc<Mutex<BTreeMap<RegionId, PgRights>>>,
}

#[async_trait]
impl Helpers for TestHelpers {
    async fn wake_saga(&self, saga: SagaId) -> Result<bool, StoreError> {
        self.woken.lock().unwrap().push(saga);
        Ok(true)
    }

    async fn pull_rights(&self, peer: RegionId) -> Result<usize, String> {
        let origin = self.origins.lock().unwrap()[&peer].clone();
        copy_rows(&origin, &self.rights, peer).await.map_err(|error| error.to_string())
    }

    fn found(&self, _: &Report) {}
}

async fn copy_rows(from: &PgRights, to: &PgRights, owner: RegionId) -> Result<usize, StoreError> {
    let mut changed = 0;
    let owner = Actor { region: owner, epoch: Epoch::FIRST };
    for bucket in 0..entrepot::escrow::BUCKETS {
        let rows = from.rows_in(owner, bucket, None, 100).await?;
        changed += to.merge(&rows, &[]).await?.changed.len();
    }
    Ok(changed)
}

pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) store: PgStore,
    pub(crate) database: Database,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) woken: Arc<Mutex<Vec<SagaId>>>,
    rights: PgRights,
    tasks: TaskSet,
}

pub(crate) struct Regions {
    pub(crate) a: Region,
    pub(crate) b: Region,
    pub(crate) hub: Arc<Hub>,
    pub(crate) provider: Arc<Provider>,
}

impl Drop for Regions {
    fn drop(&mut self) {
        self.a.tasks.stopping().cancel();
        self.b.tasks.stopping().cancel();
    }
}

impl Region {
    async fn start(
        id: RegionId,
        numbers: &BTreeMap<RegionId, RegionNumber>,
        hub: &Arc<Hub>,
        provider: &Arc<Provider>,
        origins: &Arc<Mutex<BTreeMap<RegionId, PgRights>>>,
    ) -> Self {
        let database = Database::new().await;
        let store = database.store(id.as_str());
        store.start(numbers[&id]).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        let ids = Arc::new(RandomIds::new(SystemClock::new()));
        let floor = HlcTimestamp::origin(id);
        let region =
            RegionState::new(id, numbers.clone(), Epoch::FIRST, floor, clock.clone(), ids.clone());
        let all = numbers.keys().copied().collect();
        let port = Arc::new(Port { hub: Arc::clone(hub), own: id, all });
        let rights = PgRights::new(store.clone(), Epoch::FIRST);
        origins.lock().unwrap().insert(id, rights.clone());
        let woken = Arc::new(Mutex::default());
        let tasks = TaskSet::new();
        let helpers = TestHelpers {
            woken: Arc::clone(&woken),
            rights: rights.clone(),
            origins: Arc::clone(origins),
        };
        let reconciler = Arc::new(Reconciler {
            region: Arc::new(region),
            store: Arc::new(store.clone()),
            replication: Arc::new(store.clone()),
            reader: Arc::new(store.clone()),
            bus: port.clone(),
            reachability: port.clone(),
            gateway: provider.clone(),
            ledger: provider.clone(),
            retirements: Arc::new(rights.clone()),
            helpers: Arc::new(helpers),
            tasks: tasks.clone(),
            times: ReconcileTimes { catch_up: CATCH_UP, saga_stuck: Duration::from_mins(5) },
            progress: Mutex::default(),
        });
        let handler = Arc::new(ReconcileHandler { reconciler: Arc::clone(&reconciler) });
        let stop = tasks.stopping();
        drop(
            tasks.spawn("serve", async move { port.serve(RECONCILE_REQUEST, handler, stop).await }),
        );
        Self { id, store, database, reconciler, woken, rights, tasks }
    }

    /// Breaks something behind the program's back.
    pub(crate) async fn sql(&self, sql: &str) {
        let mut connection = self.database.connection().await;
        let done =
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))).await.unwrap();
        assert!(done.rows_affected() > 0, "it broke nothing: {sql}");
    }

    /// Two people say that another region is gone for good, and all of it is done.
    pub(crate) async fn retires(&self, region: RegionId) {
        let retirement = Retirement {
            region,
            ends: Epoch(2),
            fence: Ballot { round: 1, region: self.id },
            asked_by: "alice".to_owned(),
            asked_at_ms: 1,
            confirmed_by: Some("bob".to_owned()),
            confirmed_at_ms: Some(2),
            noted: true,
            units_freed: 0,
            withdrawn_by: None,
            outcome: Some(RetirementOutcome::default()),
        };
        assert_eq!(self.rights.note_retirement(&retirement).await.unwrap(), Ending::Noted);
    }

    pub(crate) async fn commit(&self, changes: &ChangeSet, time: u64) {
        self.store.commit(changes, writes::stamp(self.id, time)).await.unwrap();
    }
}

impl Regions {
    /// Two regions with stock, an order each that is confirmed, and one of `a` that is cancelled; all of it copied.
    pub(crate) async fn start() -> Self {
        let ids = NAMES.map(|name| name.parse::<RegionId>().unwrap());
        let number = |number| RegionNumber(NonZeroU8::new(number).unwrap());
        let numbers = BTreeMap::from([(ids[0], number(1)), (ids[1], number(2))]);
        let (hub, provider) = (Arc::new(Hub::default()), Arc::new(Provider::default()));
        let origins = Arc::default();
        let a = Region::start(ids[0], &numbers, &hub, &provider, &origins).await;
        let b = Region::start(ids[1], &numbers, &hub, &provider, &origins).await;
        let regions = Self { a, b, hub, provider };
        for (region, number) in [(&regions.a, 1), (&regions.b, 2)] {
            let received = StockDelta { received: 10, ..StockDelta::default() };
            let stock = ChangeSet { stock: [(key(), received)].into(), ..ChangeSet::default() };
            region.commit(&stock, 1).await;
            let rights = PgRights::new(region.store.clone(), Epoch::FIRST);
            let own = Actor { region: region.id, epoch: Epoch::FIRST };
            ceilings::open(&rights, &rights, own, &key()).await;
            region.commit(&writes::product(region.id, &format!("of-{}", region.id), 2), 2).await;
            regions.place(region, order_id(number, 1), 10).await;
        }
        regions.place(&regions.a, order_id(1, 2), 20).await;
        regions.cancel(&regions.a, order_id(1, 2), 30).await;
        regions.replicate().await;
        regions
    }

    /// A confirmed order of two units, its money held.
    pub(crate) async fn place(&self, region: &Region, id: OrderId, time: u64) -> OrderRecord {
        let (write, key) = confirmed(region.id, id, time);
        let spent = StockDelta { spent: 2, ..StockDelta::default() };
        let record = OrderRecord::clone(&write.record);
        let mut changes = writes::orders([write]);
        changes.stock = [(self::key(), spent)].into();
        region.commit(&changes, time + 5).await;
        self.provider.set(&key, &id.to_string(), Provided::Held(None));
        record
    }

    /// Gives units and money back.
    pub(crate) async fn cancel(&self, region: &Region, id: OrderId, time: u64) {
        let stored = entrepot::ports::Reader::order(&region.store, id).await.unwrap().unwrap();
        let payment = stored.order.payments[0].clone();
        let cancellation =
            Cancellation { code: "payment_declined".to_owned(), detail: String::new() };
        let mut maker = EventMaker::new(region.id, Epoch::FIRST, Some(OrderRecord::clone(&stored)));
        maker.push(writes::hlc(region.id, time), EventBody::Cancelled(cancellation)).unwrap();
        let voided = EventBody::PaymentVoided { payment_id: payment.id, reference: None };
        maker.push(writes::hlc(region.id, time + 1), voided).unwrap();
        let (record, events) = maker.finish();
        let write = OrderWrite {
            record: record.into(),
            expected_version: stored.version,
            events,
            intent: None,
        };
        let mut changes = writes::orders([write]);
        let released = StockDelta { released: 2, ..StockDelta::default() };
        changes.stock = [(key(), released)].into();
        region.commit(&changes, time + 5).await;
        self.provider.set(&payment.provider_key, &id.to_string(), Provided::NotHeld);
    }

    /// Everything that was written is applied by the other.
    pub(crate) async fn replicate(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            copy_rows(&from.rights, &to.rights, from.id).await.unwrap();
            let watermarks = to.store.watermarks().await.unwrap();
            let after = watermarks.get(&from.id).map_or(Position::START, |mark| mark.position);
            let batch = from.store.outbox(after.next(), PULL_ENVELOPES_MAX).await.unwrap();
            let applied = to.store.apply(after, &batch, 1).await.unwrap();
            assert_eq!(applied, Applied::Done);
        }
    }

    /// A whole run, asked of `a`.
    pub(crate) async fn reconcile(&self, repair: bool) -> Report {
        let begun = self.a.reconciler.begin("admin:test", repair).await.unwrap();
        let report = self.ended(begun.id).await;
        assert_eq!(report.status, Status::Finished, "{report:#?}");
        report
    }

    async fn ended(&self, id: ReportId) -> Report {
        eventually("the run ends", || async {
            let report = self.a.reconciler.report(id).await.unwrap().unwrap();
            (report.status != Status::Running).then_some(report)
        })
        .await
    }

    /// The classes that a run finds, and where.
    pub(crate) async fn classes(&self) -> Vec<(String, String)> {
        let report = self.reconcile(false).await;
        let left_out = |name: &str| report.not_compared.iter().any(|one| one.what == name);
        assert!(!NAMES.into_iter().any(left_out), "{report:#?}");
        let place = |difference: &entrepot::reconcile::Difference| {
            (difference.class.code().to_owned(), difference.region.to_string())
        };
        report.differences.iter().map(place).collect()
    }
}

pub(crate) fn key() -> StockKey {
    StockKey { sku: "x".parse().unwrap(), node: "n".parse().unwrap() }
}

pub(crate) fn order_id(number: u8, serial: u64) -> OrderId {
    writes::order_id(number, serial)
}

/// The write of a confirmed order and its provider key.
fn confirmed(region: RegionId, id: OrderId, time: u64) -> (OrderWrite, String) {
    let key = format!("key-{id}");
    let order = serde_json::json!({
        "id": id, "number": id.to_string(), "home_region": region, "channel": "web", "currency": "EUR",
        "customer_id": "c1", "shipping_option": "standard", "allow_split": true,
        "lines": [{"id": id, "sku": "x", "quantity": 2, "unit_minor": 5, "allocations": [
            {"reservation_id": id, "node": "n", "quantity": 2, "state": "held"}]}],
        "payments": [{"id": id, "method": "card", "gateway": "simulator", "provider_key": key, "amount_minor": 10,
                      "state": "pending"}],
        "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
        "created_at_ms": time, "updated_at_ms": time,
    });
    let order: entrepot::domain::order::Order = serde_json::from_value(order).unwrap();
    let payment_id = order.payments[0].id;
    let mut maker = EventMaker::new(region, Epoch::FIRST, None);
    let bodies = [
        EventBody::Placed(Box::new(order)),
        EventBody::PaymentAuthorized { payment_id, reference: "r".to_owned() },
        EventBody::Confirmed {},
    ];
    for (body, time) in bodies.into_iter().zip(time..) {
        maker.push(writes::hlc(region, time), body).unwrap();
    }
    let (record, events) = maker.finish();
    (OrderWrite { record: record.into(), expected_version: 0, events, intent: None }, key)
}
