//! One process of one region's server: the production parts on simulated ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::app::adoption::Adoption;
use crate::app::evacuate::Evacuation;
use crate::app::rejoin::{REJOIN, Rejoin, RejoinHandler};
use crate::app::retire::Retire;
use crate::app::rights::{Board, Granter, Raises, Rights, Waiting};
use crate::app::{
    App, AppSettings, Completions, INTENT_REQUEST, IntentHandler, IntentLookup, LeaseHandler,
    ORDER_LEASE, OrderLease, Region, SagaRunner, Signals, Stops, Verification, Writer,
    WriterSettings,
};
use crate::escrow::{Autonomy, Voters};
use crate::ports::{
    Bus, Ids, Mark, Marker, MarkerError, Reachability, RejoinStore, RetirementStore,
};
use crate::replication::{LinkState, Peers};
use crate::runtime::TaskSet;
use crate::types::{Actor, Epoch, RegionId, RegionNumber};
use crate::workers;
use crate::workers::grants::RightsTimes;

use super::bus::{Hub, Port};
use super::database::{Condition, Database};
use super::dice::Dice;
use super::life::Life;
use super::memory::{Memory, Tables};
use super::provider::{Gateway, Provider};
use super::shared::Shared;
use super::time::{SimClock, SimIds, Skew};

// The defaults of `config::settings`, but for the digests, which are compared as often as in the local
// deployment, so that a run need not last minutes.
const WRITER: WriterSettings = WriterSettings { group_max: 256, writers: 2, queue_max: 8_192 };
const SAGA_LEASE: Duration = Duration::from_secs(10);
const SAGA_STUCK: Duration = Duration::from_mins(5);
const SAGAS_RUNNING_MAX: usize = 4_096;
const HEARTBEAT: Duration = Duration::from_millis(200);
const PEER_SILENT_MS: u64 = 1_000;
const REQUEST_TIMEOUT: Duration = Duration::from_millis(800);
const GRANT_WAIT: Duration = Duration::from_secs(5);
const RIGHTS_TIMES: RightsTimes = RightsTimes {
    row_ship: Duration::from_millis(50),
    digest_interval: Duration::from_secs(5),
    rebalance: Duration::from_millis(200),
    transfer_interval: Duration::from_secs(1),
};

/// Less than the plans' larger stocks, so that ceilings are raised under way.
const AUTONOMY: Autonomy = Autonomy { units_least: 10, time_ms: 10_000 };

/// What a region keeps when its server dies.
pub struct Site {
    /// Which.
    pub region: RegionId,
    /// Its database.
    pub memory: Memory,
    /// What is wrong with it.
    pub condition: Arc<Condition>,
    /// Its machine's clock.
    pub skew: Arc<Skew>,
    /// What its servers keep outside of the database.
    marker: Arc<SimMarker>,
    /// How often a server was started.
    boots: Mutex<u64>,
}

/// What the servers of all regions run on.
pub struct Surroundings {
    /// Time, trace, rules.
    pub shared: Arc<Shared>,
    /// Brokers and links.
    pub hub: Arc<Hub>,
    /// The payment provider.
    pub provider: Arc<Provider>,
    /// Every region.
    pub numbers: BTreeMap<RegionId, RegionNumber>,
    /// The one that sells nothing.
    pub witness: Option<RegionId>,
    /// Of everything random.
    pub seed: u64,
}

/// A running process.
pub struct Server {
    /// Everything that can be asked of it.
    pub app: Arc<App>,
    /// Its rights.
    pub rights: Arc<Rights>,
    /// The way back of a database that was set back.
    pub rejoin: Arc<Rejoin>,
    /// Whether its database is to be trusted.
    pub verification: Arc<Verification>,
    /// Takes over from lost regions.
    pub adoption: Arc<Adoption>,
    /// Gives the region up.
    pub evacuation: Arc<Evacuation>,
    /// Ends regions that are gone for good.
    pub retire: Arc<Retire>,
    /// Ends when it is killed.
    pub life: Life,
    tasks: TaskSet,
}

impl Site {
    /// A region with an empty database.
    pub fn new(region: RegionId, seed: u64) -> Self {
        let dice = Dice::of(seed, &format!("database {region}"));
        Self {
            region,
            memory: Memory::new(region),
            condition: Arc::new(Condition::new(dice)),
            skew: Arc::default(),
            marker: Arc::default(),
            boots: Mutex::new(0),
        }
    }

    /// Loses everything.
    pub fn wipe(&self) {
        self.memory.wipe();
        *self.marker.0.lock().expect("no panic while held") = None;
    }

    /// What its servers kept shows that a copy of its database is old.
    pub fn marker_tells(&self, backup: &Tables) -> bool {
        let kept = self.marker.0.lock().expect("no panic while held");
        kept.as_ref().is_some_and(|kept| kept.head > backup.head())
    }

    fn next_boot(&self) -> u64 {
        let mut boots = self.boots.lock().expect("no panic while held");
        *boots += 1;
        *boots
    }

    /// Starts a server.
    pub fn start(&self, around: &Surroundings) -> Server {
        let boot = self.next_boot();
        let (life, tasks) = (Life::default(), TaskSet::new());
        let clock = Arc::new(SimClock::new(around.shared.time, Arc::clone(&self.skew)));
        let dice = Dice::of(around.seed, &format!("ids {} {boot}", self.region));
        let ids: Arc<dyn Ids> = Arc::new(SimIds::new(Arc::clone(&clock), dice));
        let start = self.memory.start();
        let region =
            Region::new(self.region, around.numbers.clone(), start.epoch, start.floor, clock, ids);
        let region = Arc::new(region.with_witness(around.witness));
        let database = Arc::new(Database::new(
            Arc::clone(&around.shared),
            Arc::clone(&self.condition),
            life.clone(),
            self.memory.clone(),
            start.epoch,
        ));
        let stops = Arc::new(Stops::new(
            Arc::clone(&region),
            Arc::clone(&database) as Arc<dyn crate::ports::StopStore>,
            tasks.clone(),
            start.draining,
            start.set_back.as_deref(),
        ));
        let peers: Vec<RegionId> =
            around.numbers.keys().copied().filter(|peer| *peer != self.region).collect();
        let (hub, own) = (Arc::clone(&around.hub), self.region);
        let bus: Arc<dyn Bus> =
            Arc::new(Port { hub, own, peers: peers.clone(), life: life.clone() });
        let gateway = Gateway { provider: Arc::clone(&around.provider), life: life.clone() };
        let begin = {
            let tables = self.memory.tables();
            let (fenced, latest) = (tables.registers.fenced(), tables.incarnations.clone());
            let voters = tables.registers.voters().clone();
            Begin { is_first: start.is_first, fenced, latest, voters }
        };
        let marker = Arc::new(Kept { life: life.clone(), marker: Arc::clone(&self.marker) });
        let parts =
            Parts { region, database, stops, bus, gateway, marker, tasks: tasks.clone(), begin };
        parts.put_together(peers, life)
    }
}

impl Server {
    /// Kills it: from this moment on nothing of it has any effect.
    pub fn kill(&self) {
        self.life.end();
        self.tasks.stopping().cancel();
    }
}

struct Parts {
    region: Arc<Region>,
    database: Arc<Database>,
    stops: Arc<Stops>,
    bus: Arc<dyn Bus>,
    gateway: Gateway,
    marker: Arc<Kept>,
    tasks: TaskSet,
    begin: Begin,
}

/// What the database says when a process starts.
struct Begin {
    /// The first process of its incarnation.
    is_first: bool,
    fenced: BTreeSet<Actor>,
    latest: BTreeMap<RegionId, Epoch>,
    voters: Voters,
}

impl Parts {
    fn put_together(self, peers: Vec<RegionId>, life: Life) -> Server {
        let Self { region, database, stops, bus, gateway, marker, tasks, begin } = self;
        let signals = Signals::default();
        let heard = Arc::new(Mutex::new(Peers::new(region.id, peers, PEER_SILENT_MS)));
        let rights = rights(&region, &database, &stops, &bus, &heard, &signals, begin);
        let writer = Writer::start(
            &tasks,
            Arc::clone(&region),
            Arc::clone(&database) as Arc<dyn crate::ports::Store>,
            signals.clone(),
            WRITER,
        );
        let evacuation = Arc::new(Evacuation {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            reader: Arc::clone(&database) as Arc<dyn crate::ports::Reader>,
            store: Arc::clone(&database) as Arc<dyn crate::ports::Store>,
            signals: signals.clone(),
            stops: Arc::clone(&stops),
            log: Arc::clone(&database) as Arc<dyn crate::ports::ReplicationStore>,
            bus: Arc::clone(&bus),
            tasks: tasks.clone(),
            known: Arc::clone(&database) as Arc<dyn crate::ports::EvacuationStore>,
            telling: tokio::sync::Mutex::default(),
        });
        let gateway = Arc::new(gateway);
        let sagas = Arc::new(SagaRunner {
            region: Arc::clone(&region),
            writer: writer.clone(),
            gateway: gateway.clone(),
            reader: Arc::clone(&database) as Arc<dyn crate::ports::Reader>,
            queue: Arc::clone(&database) as Arc<dyn crate::ports::SagaQueue>,
            completions: Arc::new(Completions::default()),
            tasks: tasks.clone(),
            running: Arc::new(Semaphore::new(SAGAS_RUNNING_MAX)),
            lease: SAGA_LEASE,
        });
        let lookup = IntentLookup {
            bus: Arc::clone(&bus),
            peers: Arc::clone(&heard),
            clock: Arc::clone(&region.clock),
            patience: REQUEST_TIMEOUT,
        };
        let app = Arc::new(App::new(
            Arc::clone(&region),
            Arc::clone(&database) as Arc<dyn crate::ports::Reader>,
            writer,
            sagas,
            Arc::new(Granter::new(Arc::clone(&rights), tasks.clone())),
            Arc::clone(&heard),
            Arc::clone(&stops),
            Some(lookup),
            AppSettings { grant_wait: GRANT_WAIT, saga_lease: SAGA_LEASE, saga_stuck: SAGA_STUCK },
        ));
        let lease = Arc::new(OrderLease::new(
            Arc::clone(&region),
            Arc::clone(&rights),
            Arc::clone(&database) as Arc<dyn crate::ports::ReplicationStore>,
            Arc::clone(&bus),
        ));
        let renewing = workers::order_lease(Arc::clone(&lease), tasks.stopping());
        tasks.spawn("order lease", renewing);
        let adoption = Arc::new(Adoption {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            store: Arc::clone(&database) as Arc<dyn crate::ports::Store>,
            known: Arc::clone(&database) as Arc<dyn RejoinStore>,
            retirements: Arc::clone(&database) as Arc<dyn RetirementStore>,
            reader: Arc::clone(&database) as Arc<dyn crate::ports::Reader>,
            bus: Arc::clone(&bus),
            signals: signals.clone(),
            lease,
            lost: Mutex::default(),
            alone: tokio::sync::Mutex::default(),
        });
        let retire = Arc::new(Retire {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            adoption: Arc::clone(&adoption),
            store: Arc::clone(&database) as Arc<dyn crate::ports::Store>,
            known: Arc::clone(&database) as Arc<dyn RejoinStore>,
            records: Arc::clone(&database) as Arc<dyn RetirementStore>,
            ledger: gateway,
            bus: Arc::clone(&bus),
            alone: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
        });
        let rejoin = Arc::new(Rejoin {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            store: Arc::clone(&database) as Arc<dyn RejoinStore>,
            retirements: Arc::clone(&database) as Arc<dyn RetirementStore>,
            log: Arc::clone(&database) as Arc<dyn crate::ports::ReplicationStore>,
            reader: Arc::clone(&database) as Arc<dyn crate::ports::Reader>,
            bus: Arc::clone(&bus),
            alone: tokio::sync::Mutex::default(),
            // Who asked for it kills the process and starts another one.
            on_begun: Box::new(|| {}),
        });
        let verification = Arc::new(Verification::begin(
            Arc::clone(&region),
            Arc::clone(&rights),
            Arc::clone(&database) as Arc<dyn RejoinStore>,
            Arc::clone(&database) as Arc<dyn RetirementStore>,
            Arc::clone(&stops),
            Some(marker),
            // Who lets an incarnation begin kills the process as well.
            Box::new(|| {}),
        ));
        let looking = workers::verification(Arc::clone(&verification), tasks.stopping());
        tasks.spawn("verification", looking);
        let replication =
            workers::Replication { region, bus, store: database, peers: heard, stops };
        let knower = Arc::new(RejoinHandler {
            region: Arc::clone(&rejoin.region),
            rights: Arc::clone(&rights),
            store: Arc::clone(&rejoin.store),
            retirements: Arc::clone(&retire.records),
            reader: Arc::clone(&rejoin.reader),
        });
        start_workers(&tasks, &app, &rights, knower, &adoption, &replication, &signals);
        Server { app, rights, rejoin, verification, adoption, evacuation, retire, life, tasks }
    }
}

fn rights(
    region: &Arc<Region>,
    database: &Arc<Database>,
    stops: &Arc<Stops>,
    bus: &Arc<dyn Bus>,
    heard: &Arc<Mutex<Peers>>,
    signals: &Signals,
    Begin { is_first, fenced, latest, voters }: Begin,
) -> Arc<Rights> {
    let (alarmed, of_region) = (Arc::clone(stops), Arc::clone(region));
    let fenced_region = Arc::clone(region);
    if fenced.contains(&Actor { region: region.id, epoch: region.epoch }) {
        region.set_fenced(true);
    }
    Arc::new(Rights {
        own: Actor { region: region.id, epoch: region.epoch },
        witness: region.witness,
        store: Arc::clone(database) as Arc<dyn crate::ports::RightsStore>,
        registers: Arc::clone(database) as Arc<dyn crate::ports::RegisterStore>,
        bus: Arc::clone(bus),
        reachability: Arc::new(Heard { peers: Arc::clone(heard), region: Arc::clone(region) }),
        clock: Arc::clone(&region.clock),
        ids: Arc::clone(&region.ids),
        dirty: Arc::clone(&signals.rows),
        board: Board::new(Actor { region: region.id, epoch: region.epoch }),
        waiting: Waiting::default(),
        raises: Raises::new(Actor { region: region.id, epoch: region.epoch }, AUTONOMY, is_first),
        fenced: Mutex::new(fenced),
        voters: Mutex::new(Rights::voters_of(&latest, voters)),
        latest: Mutex::new(latest),
        fences: Mutex::default(),
        on_fenced: Box::new(move |fenced| fenced_region.set_fenced(fenced)),
        sums: tokio::sync::Mutex::default(),
        takes_orders: {
            let region = Arc::clone(region);
            Box::new(move || !region.is_draining())
        },
        may_give: Box::new(move || of_region.may_write()),
        sums_age: RIGHTS_TIMES.digest_interval / 6,
        request_timeout: REQUEST_TIMEOUT,
        on_amnesia: Box::new(move |proof| alarmed.set_back(proof)),
    })
}

fn start_workers(
    tasks: &TaskSet,
    app: &Arc<App>,
    rights: &Arc<Rights>,
    knower: Arc<RejoinHandler>,
    adoption: &Arc<Adoption>,
    replication: &workers::Replication,
    signals: &Signals,
) {
    let stop = || tasks.stopping();
    tasks.spawn("saga recovery", workers::saga_recovery(Arc::clone(&app.sagas), stop()));
    tasks.spawn("stuck sagas", workers::stuck_sagas(Arc::clone(app), stop()));
    tasks.spawn("contested", workers::contested(Arc::clone(app), stop()));
    let outbox = Arc::clone(&signals.outbox);
    replication.start(tasks, outbox, HEARTBEAT).expect("every peer has a broker");
    workers::grants::start(tasks, rights, RIGHTS_TIMES);
    let intents = Arc::new(IntentHandler {
        reader: Arc::clone(&app.reader),
        in_flight: Arc::clone(&app.in_flight),
        region: app.region.id,
    });
    let (bus, until) = (Arc::clone(&replication.bus), stop());
    tasks.spawn("rejoin server", async move { bus.serve(REJOIN, knower, until).await });
    tasks.spawn("adoption", workers::adoption(Arc::clone(adoption), stop()));
    let (rights, log) = (Arc::clone(rights), Arc::clone(&replication.store));
    let asked = Arc::new(LeaseHandler { rights, log });
    let (bus, until) = (Arc::clone(&replication.bus), stop());
    tasks.spawn("order lease server", async move { bus.serve(ORDER_LEASE, asked, until).await });
    let (bus, stop) = (Arc::clone(&replication.bus), stop());
    tasks.spawn("intent server", async move { bus.serve(INTENT_REQUEST, intents, stop).await });
}

/// A file beside the database.
#[derive(Default)]
struct SimMarker(Mutex<Option<Mark>>);

/// The same, as one process sees it.
struct Kept {
    life: Life,
    marker: Arc<SimMarker>,
}

#[async_trait]
impl Marker for Kept {
    async fn read(&self) -> Result<Option<Mark>, MarkerError> {
        self.life.go_on().await;
        Ok(self.marker.0.lock().expect("no panic while held").clone())
    }

    async fn write(&self, mark: &Mark) -> Result<(), MarkerError> {
        self.life.go_on().await;
        *self.marker.0.lock().expect("no panic while held") = Some(mark.clone());
        Ok(())
    }
}

/// Peers that the heartbeats show to be there in both directions.
struct Heard {
    peers: Arc<Mutex<Peers>>,
    region: Arc<Region>,
}

impl Reachability for Heard {
    fn reachable(&self) -> Vec<RegionId> {
        let now_ms = self.region.clock.monotonic_ms();
        let peers = self.peers.lock().expect("no panic while held");
        let others = self.region.numbers.keys().filter(|region| **region != self.region.id);
        others.copied().filter(|region| peers.reachable(*region, now_ms)).collect()
    }

    fn heard(&self) -> Vec<RegionId> {
        let now_ms = self.region.clock.monotonic_ms();
        let peers = self.peers.lock().expect("no panic while held");
        let is_heard = |peer: &RegionId| {
            matches!(peers.link(*peer, now_ms), LinkState::Up | LinkState::OneWay)
        };
        let others = self.region.numbers.keys().filter(|region| **region != self.region.id);
        others.copied().filter(is_heard).collect()
    }

    fn heard_by_anybody(&self, region: RegionId) -> bool {
        let now_ms = self.region.clock.monotonic_ms();
        self.peers.lock().expect("no panic while held").heard_by_anybody(region, now_ms)
    }

    fn epoch_of(&self, peer: RegionId) -> Option<Epoch> {
        let peers = self.peers.lock().expect("no panic while held");
        peers.head_of(peer).map(|head| head.position.epoch)
    }
}
