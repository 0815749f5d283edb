//! Three regions' rights: three databases, the real use cases and workers, and messages that can be cut,
//! doubled and lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entrepot::app::DirtyRows;
use entrepot::app::rights::{Board, Granter, Raises, Rights, Waiting, repair_from};
use entrepot::domain::inventory::{Shortage, StockDelta};
use entrepot::escrow::{Autonomy, SkuRows, TransferRequest};
use entrepot::ports::{ChangeSet, CommitError, Needs, RightsSource, Stamp, Store};
use entrepot::runtime::{RandomIds, SystemClock, TaskSet};
use entrepot::store::{PgRights, PgStore};
use entrepot::types::{
    Actor, Epoch, HlcTimestamp, RegionId, RegionNumber, Sku, StockKey, TransferId,
};
use entrepot::workers::grants::{self, RightsTimes};

use super::hub::{Hub, Port};
use super::postgres::Database;
use super::{ceilings, eventually};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(crate) const NODE: &str = "n";
pub(crate) const OTHER_NODE: &str = "o";

/// Long enough for many rounds on a busy machine; a test that needs all of it has found a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Enough for every test but one: what a region holds it may sell.
pub(crate) const AUTONOMY: Autonomy = Autonomy { units_least: 1_000, time_ms: 0 };

pub(crate) struct World {
    pub(crate) regions: Vec<Region>,
    pub(crate) hub: Arc<Hub>,
}

pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) store: PgStore,
    pub(crate) rights: Arc<Rights>,
    pub(crate) granter: Granter,
    pub(crate) amnesia: Arc<AtomicU64>,
    pub(crate) tasks: TaskSet,
    pub(crate) database: Database,
    port: Arc<Port>,
    /// Its workers run.
    pub(crate) works: bool,
}

pub(crate) fn sku(name: &str) -> Sku {
    name.parse().unwrap()
}

pub(crate) fn key(name: &str) -> StockKey {
    key_at(name, NODE)
}

pub(crate) fn key_at(name: &str, node: &str) -> StockKey {
    StockKey { sku: sku(name), node: node.parse().unwrap() }
}

pub(crate) fn actor(region: RegionId) -> Actor {
    Actor { region, epoch: Epoch::FIRST }
}

/// What one process of a region knows of rights.
fn process(
    store: &PgStore,
    id: RegionId,
    port: Arc<Port>,
    amnesia: Arc<AtomicU64>,
    is_first: bool,
) -> Arc<Rights> {
    let rows = Arc::new(PgRights::new(store.clone(), Epoch::FIRST));
    let alarm = Arc::clone(&amnesia);
    Arc::new(Rights {
        own: actor(id),
        witness: None,
        store: rows.clone(),
        registers: rows,
        bus: port.clone(),
        reachability: port,
        clock: Arc::new(SystemClock::new()),
        ids: Arc::new(RandomIds::new(SystemClock::new())),
        dirty: Arc::new(DirtyRows::default()),
        board: Board::new(actor(id)),
        waiting: Waiting::default(),
        raises: Raises::new(actor(id), AUTONOMY, is_first),
        fenced: Mutex::default(),
        voters: Mutex::default(),
        latest: Mutex::default(),
        fences: Mutex::default(),
        on_fenced: Box::new(|_| {}),
        sums: tokio::sync::Mutex::default(),
        takes_orders: Box::new(|| true),
        may_give: Box::new(move || amnesia.load(Ordering::Relaxed) == 0),
        sums_age: Duration::ZERO,
        request_timeout: Duration::from_secs(5),
        on_amnesia: Box::new(move |_| {
            alarm.fetch_add(1, Ordering::Relaxed);
        }),
    })
}

impl World {
    /// Three regions whose workers run.
    pub(crate) async fn start() -> Self {
        Self::with_workers(true).await
    }

    pub(crate) async fn with_workers(workers: bool) -> Self {
        let hub = Arc::new(Hub::default());
        let all: Vec<RegionId> = NAMES.iter().map(|name| name.parse().unwrap()).collect();
        let mut regions = Vec::new();
        for (number, &id) in (1..).zip(&all) {
            let database = Database::new().await;
            let store = database.store(id.as_str());
            let number = RegionNumber(std::num::NonZeroU8::new(number).unwrap());
            store.start(number).await.unwrap();
            let port = Arc::new(Port { hub: Arc::clone(&hub), own: id, all: all.clone() });
            let amnesia = Arc::new(AtomicU64::new(0));
            let rights = process(&store, id, Arc::clone(&port), Arc::clone(&amnesia), true);
            let tasks = TaskSet::new();
            let times = RightsTimes {
                row_ship: Duration::from_millis(5),
                digest_interval: Duration::from_millis(200),
                rebalance: Duration::from_millis(50),
                transfer_interval: Duration::from_millis(100),
            };
            if workers {
                grants::start(&tasks, &rights, times);
            }
            let granter = Granter::new(Arc::clone(&rights), tasks.clone());
            let works = workers;
            let region =
                Region { id, store, rights, granter, amnesia, tasks, database, port, works };
            region
                .sql(&format!("INSERT INTO nodes VALUES ('{NODE}', 'a', true, '', '{{}}')"))
                .await;
            regions.push(region);
        }
        let world = Self { regions, hub };
        if workers {
            let served = || async {
                let mut all = true;
                for Region { rights, .. } in &world.regions {
                    let ours = rights.store.digest().await.unwrap();
                    for peer in rights.bus.peers() {
                        all &= repair_from(rights, peer, &ours, None).await.is_ok();
                    }
                }
                all.then_some(())
            };
            eventually("every region answers", served).await;
        }
        world
    }

    pub(crate) async fn check_conserved(&self, name: &str, received: u64) {
        let mut sold = 0;
        for region in &self.regions {
            sold += region.cell(name, "spent - released").await;
        }
        assert!(sold <= received, "I-01: {sold} sold of {received}");
    }

    /// Waits until every region holds the same rows (I-20).
    pub(crate) async fn converge(&self) {
        let equal = || async {
            let mut hashes = BTreeSet::new();
            for region in &self.regions {
                hashes.insert(region.hashes().await);
            }
            (hashes.len() == 1).then_some(())
        };
        eventually("all copies of all rows are equal", equal).await;
    }
}

impl Region {
    /// Another process of this region, on the same database, without workers.
    pub(crate) fn another_process(&self) -> Arc<Rights> {
        process(&self.store, self.id, Arc::clone(&self.port), Arc::clone(&self.amnesia), false)
    }

    pub(crate) async fn sql(&self, statement: &str) {
        let mut connection = self.database.connection().await;
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }

    /// An expression over this region's own row of a SKU; 0 without one.
    pub(crate) async fn cell(&self, name: &str, expression: &str) -> u64 {
        let statement = format!(
            "SELECT coalesce((SELECT ({expression})::bigint FROM rights WHERE sku = '{name}' AND owner = '{}'), 0)",
            self.id
        );
        let mut connection = self.database.connection().await;
        let statement = sqlx::AssertSqlSafe(statement);
        let value: i64 = sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap();
        u64::try_from(value).unwrap()
    }

    pub(crate) async fn hashes(&self) -> Vec<(String, String, i64)> {
        let mut connection = self.database.connection().await;
        let statement = "SELECT range, hash, rows FROM evidence.v_state_hash WHERE range LIKE 'rights/%' ORDER BY range";
        sqlx::query_as(statement).fetch_all(&mut connection).await.unwrap()
    }

    pub(crate) async fn commit(&self, name: &str, delta: StockDelta) -> Result<(), CommitError> {
        self.commit_at(key(name), delta).await
    }

    pub(crate) async fn commit_at(
        &self,
        key: StockKey,
        delta: StockDelta,
    ) -> Result<(), CommitError> {
        let mut changes = ChangeSet::default();
        changes.stock.insert(key, delta);
        let hlc = HlcTimestamp::origin(self.id);
        let stamp = Stamp { epoch: Epoch::FIRST, hlc, now_ms: 0 };
        self.store.commit(&changes, stamp).await?;
        let rights = &self.rights;
        rights.dirty.mark(&changes.stock);
        for key in changes.stock.into_iter().filter(|(_, delta)| delta.received > 0).map(|it| it.0)
        {
            if self.works {
                rights.raise([(key, 0)]).await;
            } else {
                ceilings::open(&*rights.store, &*rights.registers, rights.own, &key).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn receive(&self, name: &str, units: u64) {
        if units == 0 {
            return;
        }
        let delta = StockDelta { received: units, ..StockDelta::default() };
        self.commit(name, delta).await.unwrap();
    }

    pub(crate) async fn spendable(&self, name: &str) -> u64 {
        let needs = Needs { skus: BTreeSet::from([sku(name)]), ..Needs::default() };
        self.store.load(&needs).await.unwrap().stock.available(&sku(name))
    }

    /// Sells as the use case does it: decide, ask when short, decide again; refuse when asking brings
    /// nothing.
    pub(crate) async fn sell(&self, name: &str, units: u64) -> bool {
        loop {
            let available_here = self.spendable(name).await;
            if available_here >= units {
                let delta = StockDelta { spent: units, ..StockDelta::default() };
                match self.commit(name, delta).await {
                    Ok(()) => return true,
                    Err(CommitError::Conflict(_)) => continue,
                    Err(error) => panic!("{error}"),
                }
            }
            let held_here = available_here;
            let short = Shortage { sku: sku(name), wanted: units, available_here, held_here };
            if !self.granter.obtain(&[short], PATIENCE).await.gained {
                return false;
            }
        }
    }

    pub(crate) async fn request(&self, name: &str, need: u64) -> TransferRequest {
        let ledgers = self.rights.store.ledgers(&sku(name)).await.unwrap();
        let rows: SkuRows =
            ledgers.into_iter().map(|(node, ledger)| (node, ledger.rows().clone())).collect();
        let request = TransferId(self.rights.ids.uuid());
        let asker = self.rights.own;
        TransferRequest { request, asker, sku: sku(name), node: None, need, want: need, rows }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for region in &self.regions {
            region.tasks.stopping().cancel();
        }
    }
}
