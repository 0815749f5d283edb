//! A region's database in memory, behind the same ports as PostgreSQL.
//!
//! It keeps what the contract of the ports promises and nothing else: guards, conflicts, one outbox
//! sequence without a gap, a watermark that moves in one step with what it stands for. One suite of tests
//! runs on it and on PostgreSQL (`tests/it/store_contract`), so that what the simulator proves is proved
//! of the real thing as far as that suite goes. Tests of handlers use it as well.
//!
//! Every call is done at once and never fails by itself; delays, crashes and lost answers are added by
//! whoever wraps it. A clone of the [`Tables`] is a backup.

mod commit;
mod contests;
mod evacuation;
mod load;
mod read;
mod registers;
mod rejoin;
mod replication;
mod retirement;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::order::{Event, OrderRecord, OrderStatus};
use crate::replication::retirement::Retirement;
use crate::replication::{Envelope, Position, Watermark};
use crate::saga::SagaRecord;
use crate::store::Start;
use crate::types::{Actor, Epoch, HlcTimestamp, NodeId, OrderId, RegionId, SagaId, Sku};

use evacuation::LastEvacuation;
pub use registers::RegisterTables;
pub use rights::{MemoryRights, RightsTables};

/// Everything a region has stored.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Own orders and copies.
    pub orders: BTreeMap<OrderId, Arc<OrderRecord>>,
    /// Of each order, oldest first.
    pub events: BTreeMap<OrderId, Vec<Event>>,
    /// Own sagas, with the time at which each is due.
    pub sagas: BTreeMap<SagaId, (SagaRecord, u64)>,
    /// One record a region that took the intent, the earliest first.
    pub intents: BTreeMap<IntentKey, Vec<IntentRecord>>,
    /// Orders by channel and the channel's own reference.
    references: BTreeMap<(String, String), BTreeSet<OrderId>>,
    /// Own orders and those of other regions that can't stand beside them; `true` once that is settled.
    contested: BTreeMap<(OrderId, OrderId), bool>,
    /// The escrow ledger.
    pub rights: RightsTables,
    /// This database as an acceptor of ceilings.
    pub registers: RegisterTables,
    /// The catalogue.
    pub products: BTreeMap<Sku, Product>,
    /// Units that an operator keeps here, by SKU.
    pub pins: BTreeMap<Sku, u64>,
    /// Places that hold stock.
    pub nodes: BTreeMap<NodeId, Node>,
    /// What was decided here.
    pub outbox: BTreeMap<Position, Envelope>,
    head: Position,
    /// What was applied of others: the hash of each envelope.
    pub inbox: BTreeMap<(RegionId, Position), String>,
    /// The latest incarnation of every region that ever began anew.
    pub incarnations: BTreeMap<RegionId, Epoch>,
    /// Regions that are gone for good: by region, the incarnation that ends them, and when it was asked for.
    pub retirements: BTreeMap<(RegionId, Epoch, u64), Retirement>,
    /// Histories that gave way to others.
    pub parted: BTreeMap<(OrderId, String), Vec<Event>>,
    floor: Option<HlcTimestamp>,
    /// Another one after each restore that begins a new history.
    history: u64,
    /// How far each origin is applied.
    pub watermarks: BTreeMap<RegionId, Watermark>,
    parked: BTreeMap<(RegionId, Position), String>,
    boots: u64,
    /// An operator said so.
    draining: bool,
    canary: Option<u8>,
    evacuation: Option<LastEvacuation>,
    /// It was begun, and neither aborted nor the region resumed since.
    evacuating: bool,
    set_back: Option<String>,
}

/// A region's database. Cheap to clone: the clones share the tables.
#[derive(Debug, Clone)]
pub struct Memory {
    own: RegionId,
    tables: Arc<Mutex<Tables>>,
}

impl Tables {
    fn new() -> Self {
        Self {
            orders: BTreeMap::new(),
            events: BTreeMap::new(),
            sagas: BTreeMap::new(),
            intents: BTreeMap::new(),
            references: BTreeMap::new(),
            contested: BTreeMap::new(),
            rights: RightsTables::default(),
            registers: RegisterTables::default(),
            products: BTreeMap::new(),
            pins: BTreeMap::new(),
            nodes: BTreeMap::new(),
            outbox: BTreeMap::new(),
            head: Position::START,
            inbox: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            retirements: BTreeMap::new(),
            parted: BTreeMap::new(),
            floor: None,
            history: 1,
            watermarks: BTreeMap::new(),
            parked: BTreeMap::new(),
            boots: 0,
            draining: false,
            canary: None,
            evacuation: None,
            evacuating: false,
            set_back: None,
        }
    }

    /// The last envelope written here.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The region knows that this database was set back.
    pub fn is_set_back(&self) -> bool {
        self.set_back.is_some()
    }

    /// It takes no new orders.
    fn is_stopped(&self) -> bool {
        self.draining || self.evacuating || self.is_set_back()
    }

    /// Pairs of an order of `own` and another one that can't stand beside each other and are not settled.
    pub fn open_contests(&self, own: RegionId) -> usize {
        let is_own = |id| self.orders.get(id).is_some_and(|it| it.order.home_region == own);
        let open = self.contested.iter().filter(|((id, _), settled)| !**settled && is_own(id));
        open.count()
    }

    /// Orders that stand under a channel's reference.
    fn standing(&self, reference: &(String, String)) -> impl Iterator<Item = &Arc<OrderRecord>> {
        let ids = self.references.get(reference).into_iter().flatten();
        ids.filter_map(|id| self.orders.get(id)).filter(|record| stands(record))
    }

    /// Stores an order as it is now, its own name in its channel with it.
    fn keep_order(&mut self, record: Arc<OrderRecord>) {
        let order = &record.order;
        if let Some(reference) = order.channel_order_ref.clone() {
            self.references.entry((order.channel.clone(), reference)).or_default().insert(order.id);
        }
        self.orders.insert(order.id, record);
    }
}

fn stands(record: &OrderRecord) -> bool {
    record.order.status() != OrderStatus::Cancelled
}

impl Tables {
    /// Who writes here now.
    pub fn actor(&self, region: RegionId) -> Actor {
        Actor { region, epoch: self.head.epoch }
    }
}

impl Memory {
    /// An empty database of region `own`, in its first incarnation.
    pub fn new(own: RegionId) -> Self {
        Self { own, tables: Arc::new(Mutex::new(Tables::new())) }
    }

    /// Whose.
    pub fn region(&self) -> RegionId {
        self.own
    }

    /// What is stored.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no panic while held")
    }

    /// The first look of a process: where did the one before it leave off?
    pub fn start(&self) -> Start {
        let mut tables = self.tables();
        tables.boots += 1;
        let written = tables.outbox.values().map(|envelope| envelope.hlc).max();
        let floor = written.max(tables.floor);
        Start {
            epoch: tables.head.epoch,
            floor: floor.unwrap_or_else(|| HlcTimestamp::origin(self.own)),
            is_first: tables.boots == 1,
            draining: tables.is_stopped(),
            set_back: tables.set_back.clone(),
        }
    }

    /// The region comes back as another incarnation: what the old one still has under way is refused.
    pub fn begin_epoch(&self, epoch: Epoch) {
        let mut tables = self.tables();
        tables.head = Position { epoch, sequence: 0 };
        tables.boots = 0;
    }

    /// Loses everything.
    pub fn wipe(&self) {
        *self.tables() = Tables::new();
    }

    /// Puts another state of the database in place of this one, as its files were copied, or as a restore that
    /// begins a new history.
    pub fn restore(&self, backup: Tables, new_history: bool) {
        let mut tables = self.tables();
        let history = tables.history + u64::from(new_history);
        *tables = backup;
        tables.history = history;
    }

    /// Stores another region's order as if it had been copied, and notes what it contests.
    pub fn put_copy(&self, record: Arc<OrderRecord>) {
        let mut tables = self.tables();
        tables.keep_order(record);
        tables.find_all_contests(self.own);
    }
}
