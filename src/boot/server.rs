//! One region's server: what `entrepot serve` runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::adoption::Adoption;
use crate::app::evacuate::Evacuation;
use crate::app::reconcile::{RECONCILE_REQUEST, ReconcileHandler, ReconcileTimes, Reconciler};
use crate::app::rejoin::{REJOIN, Rejoin, RejoinHandler};
use crate::app::retire::Retire;
use crate::app::rights::{Board, Granter, Raises, Rights, Waiting};
use crate::app::witness;
use crate::app::{
    App, AppSettings, Completions, INTENT_REQUEST, IntentHandler, IntentLookup, LeaseHandler,
    ORDER_LEASE, OrderLease, Region, Routing, SagaRunner, Signals, Stops, Verification, Writer,
    WriterSettings,
};
use crate::bus::{NatsAddresses, NatsBus};
use crate::config::RegionConfig;
use crate::escrow::Autonomy;
use crate::gateways::SimulatorClient;
use crate::http;
use crate::http::rate_limit::{RateLimiter, Rates};
use crate::ports::{
    Bus, Clock, Ids, Marker, Reachability, RegisterStore, RejoinStore, RetirementStore, RightsStore,
};
use crate::replication::{LinkState, Peers};
use crate::runtime::{FileMarker, RandomIds, SystemClock, TaskSet, Trust};
use crate::store::{PgRights, PgStore, SchemaState, schema_state};
use crate::telemetry::metrics::Metrics;
use crate::types::{Actor, Epoch, RegionId};
use crate::workers;

use super::health::RegionHealth;
use super::mending::Mending;

/// Calls to the payment provider at once. At 3,000 orders a second and 50 ms an answer 150 are under
/// way; more than this and the provider is in trouble, and a longer queue helps nobody.
const PROVIDER_CALLS_MAX: usize = 512;

/// Sums of all rows serve for this part of the time between two comparisons with a peer: 5 of 30 s.
const SUMS_PER_INTERVAL: u32 = 6;

/// How long a copy may be missing before it counts as lost: I-20's bound.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Why a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Its database belongs to a later incarnation: a new process is to be started on it.
    IncarnationOver,
}

/// Runs one region's server until `stop` is done, or its incarnation is over, then drains.
pub async fn run(
    config: RegionConfig,
    stop: tokio_util::sync::CancellationToken,
) -> anyhow::Result<Ended> {
    check_schema(&config).await?;
    let clock = SystemClock::new();
    let ids: Arc<dyn Ids> = Arc::new(RandomIds::new(clock));
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let store = PgStore::connect(
        config.region,
        &config.database,
        config.database_connections,
        config.limits.database_deadline,
    )
    .context("`database_url` can't be used")?;
    let start = store.start(config.number).await?;
    if config.witness == Some(config.region) {
        ensure_empty(&store, Actor { region: config.region, epoch: start.epoch }).await?;
    }
    let tasks = TaskSet::new();
    let region = Region::new(
        config.region,
        config.regions.clone(),
        start.epoch,
        start.floor,
        Arc::clone(&clock),
        Arc::clone(&ids),
    );
    let region = Arc::new(region.with_witness(config.witness));
    let stops = Arc::new(Stops::new(
        Arc::clone(&region),
        Arc::new(store.clone()),
        tasks.clone(),
        start.draining,
        start.set_back.as_deref(),
    ));
    let over = Arc::new(AtomicBool::new(false));
    let end = (Arc::clone(&over), stop.clone());
    let parts = parts(&config, &tasks, region, &store, stops, start.is_first, end).await?;
    start_workers(&config, &tasks, &parts)?;

    let listener = TcpListener::bind(config.http_listen)
        .await
        .with_context(|| format!("cannot listen on {}; is the port taken?", config.http_listen))?;
    let door = http::door(context(&config, &parts, clock, ids)?);
    tracing::info!(deployment = %config.deployment, region = %config.region, address = %config.http_listen, epoch = %start.epoch, "region serves");
    let limits = http_limits(&config);
    http::server::serve(listener, door, limits, stop).await;
    if !tasks.shut_down(config.limits.shutdown_grace).await {
        tracing::warn!("work was left when the server stopped; it goes on at the next start");
    }
    store.close().await;
    let is_over = over.load(Ordering::Relaxed);
    Ok(if is_over { Ended::IncarnationOver } else { Ended::Stopped })
}

/// A witness holds nothing. Where that can't be seen in time (all rows of all regions are looked at), its vote is needed more.
async fn ensure_empty(store: &PgStore, own: Actor) -> anyhow::Result<()> {
    let (region, rights) = (own.region, PgRights::new(store.clone(), own.epoch));
    let held = witness::held(store, &rights, own).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "whether this region holds anything, which a witness must not, can't be read: {error}");
        None
    });
    if let Some(what) = held {
        anyhow::bail!(
            "{region} is to be the witness, and has {what}: let it sell again (without `witness = true`), \
             evacuate it (`entrepot region evacuate {region}`) and switch its nodes off, or give the witness a \
             database of its own"
        )
    }
    Ok(())
}

async fn check_schema(config: &RegionConfig) -> anyhow::Result<()> {
    let region = config.region;
    match schema_state(&config.database).await? {
        SchemaState::Current => Ok(()),
        SchemaState::Older => bail!(
            "the database's schema is older than this program: run `entrepot migrate --config FILE --region {region}`"
        ),
        SchemaState::NewerOrForeign => bail!(
            "the database's schema is newer than this program, or not this program's: run the version that migrated it"
        ),
    }
}

/// What one region runs on, put together.
struct Parts {
    app: Arc<App>,
    rights: Arc<Rights>,
    replication: workers::Replication,
    reconciler: Arc<Reconciler>,
    rejoin: Arc<Rejoin>,
    lease: Arc<OrderLease>,
    adoption: Arc<Adoption>,
    evacuation: Arc<Evacuation>,
    retire: Arc<Retire>,
    routing: Arc<Routing>,
    verification: Arc<Verification>,
    metrics: Arc<Metrics>,
    signals: Signals,
}

async fn parts(
    config: &RegionConfig,
    tasks: &TaskSet,
    region: Arc<Region>,
    store: &PgStore,
    stops: Arc<Stops>,
    is_first: bool,
    (over, stop): (Arc<AtomicBool>, tokio_util::sync::CancellationToken),
) -> anyhow::Result<Parts> {
    let signals = Signals::default();
    let store = Arc::new(store.clone());
    let silence_ms = u64::try_from(config.replication.peer_silent_after.as_millis())?;
    let names = config.peers.iter().map(|peer| peer.name);
    let peers = Arc::new(Mutex::new(Peers::new(config.region, names, silence_ms)));
    let bus: Arc<dyn Bus> = Arc::new(bus(config).await?);
    let alarmed = Arc::clone(&stops);
    let own = Actor { region: config.region, epoch: region.epoch };
    let rows = Arc::new(PgRights::new(store.as_ref().clone(), region.epoch));
    let fenced = rows.fenced().await.context("cannot read who was fenced")?;
    let latest = rows.incarnations().await.context("cannot read which incarnations there are")?;
    let voters = rows.voters().await.context("cannot read how far the others have voted")?;
    let autonomy = Autonomy {
        units_least: config.escrow.autonomy_units_least.into(),
        time_ms: u64::try_from(config.escrow.autonomy.as_millis())?,
    };
    if fenced.contains(&own) {
        region.set_fenced(true);
    }
    let fenced_region = Arc::clone(&region);
    let rights = Arc::new(Rights {
        own,
        witness: config.witness,
        store: Arc::clone(&rows) as Arc<dyn RightsStore>,
        registers: Arc::clone(&rows) as Arc<dyn RegisterStore>,
        bus: Arc::clone(&bus),
        reachability: Arc::new(Heard { peers: Arc::clone(&peers), region: Arc::clone(&region) }),
        clock: Arc::clone(&region.clock),
        ids: Arc::clone(&region.ids),
        dirty: Arc::clone(&signals.rows),
        board: Board::new(own),
        waiting: Waiting::default(),
        raises: Raises::new(own, autonomy, is_first),
        fenced: Mutex::new(fenced),
        voters: Mutex::new(Rights::voters_of(&latest, voters)),
        latest: Mutex::new(latest),
        fences: Mutex::default(),
        on_fenced: Box::new(move |fenced| fenced_region.set_fenced(fenced)),
        sums: tokio::sync::Mutex::default(),
        takes_orders: {
            let region = Arc::clone(&region);
            Box::new(move || !region.is_draining())
        },
        may_give: {
            let region = Arc::clone(&region);
            Box::new(move || region.may_write())
        },
        sums_age: config.replication.digest_interval / SUMS_PER_INTERVAL,
        request_timeout: config.replication.peer_request_timeout,
        on_amnesia: Box::new(move |proof| alarmed.set_back(proof)),
    });
    let orders = &config.orders;
    let settings = WriterSettings {
        group_max: orders.group_max,
        writers: orders.group_writers,
        queue_max: orders.queue_max,
    };
    let writer =
        Writer::start(tasks, Arc::clone(&region), store.clone(), signals.clone(), settings);
    let lease = Arc::new(OrderLease::new(
        Arc::clone(&region),
        Arc::clone(&rights),
        store.clone(),
        Arc::clone(&bus),
    ));
    let adoption = Arc::new(Adoption {
        region: Arc::clone(&region),
        rights: Arc::clone(&rights),
        store: store.clone(),
        known: Arc::clone(&rows) as Arc<dyn RejoinStore>,
        retirements: Arc::clone(&rows) as Arc<dyn RetirementStore>,
        reader: store.clone(),
        bus: Arc::clone(&bus),
        signals: signals.clone(),
        lease: Arc::clone(&lease),
        lost: Mutex::default(),
        alone: tokio::sync::Mutex::default(),
    });
    let evacuation = Arc::new(Evacuation {
        region: Arc::clone(&region),
        rights: Arc::clone(&rights),
        reader: store.clone(),
        store: store.clone(),
        signals: signals.clone(),
        stops: Arc::clone(&stops),
        log: store.clone(),
        bus: Arc::clone(&bus),
        tasks: tasks.clone(),
        known: store.clone(),
        telling: tokio::sync::Mutex::default(),
    });
    let gateway = Arc::new(SimulatorClient::new(
        &config.payments_url,
        config.payments_answer_timeout,
        PROVIDER_CALLS_MAX,
        &Trust::for_addresses([config.payments_url.as_str()])?,
    )?);
    let retire = Arc::new(Retire {
        region: Arc::clone(&region),
        rights: Arc::clone(&rights),
        adoption: Arc::clone(&adoption),
        store: store.clone(),
        known: Arc::clone(&rows) as Arc<dyn RejoinStore>,
        records: Arc::clone(&rows) as Arc<dyn RetirementStore>,
        ledger: gateway.clone(),
        bus: Arc::clone(&bus),
        alone: tokio::sync::Mutex::default(),
        failure: Mutex::default(),
    });
    let sagas = Arc::new(SagaRunner {
        region: Arc::clone(&region),
        writer: writer.clone(),
        gateway: gateway.clone(),
        reader: store.clone(),
        queue: store.clone(),
        completions: Arc::new(Completions::default()),
        tasks: tasks.clone(),
        running: Arc::new(Semaphore::new(orders.sagas_running_max)),
        lease: orders.saga_lease,
    });
    let settings = AppSettings {
        grant_wait: config.escrow.grant_wait,
        saga_lease: orders.saga_lease,
        saga_stuck: orders.saga_stuck,
    };
    let granter = Arc::new(Granter::new(Arc::clone(&rights), tasks.clone()));
    let lookup = IntentLookup {
        bus: Arc::clone(&bus),
        peers: Arc::clone(&peers),
        clock: Arc::clone(&region.clock),
        patience: config.replication.peer_request_timeout,
    };
    let app = App::new(
        Arc::clone(&region),
        store.clone(),
        writer,
        sagas,
        granter,
        Arc::clone(&peers),
        Arc::clone(&stops),
        Some(lookup),
        settings,
    );
    let app = Arc::new(app);
    let metrics = Arc::new(Metrics::new(config.region.as_str()));
    let (helped, counted) = (Arc::clone(&rights), Arc::clone(&metrics));
    let reconciler = Arc::new(Reconciler {
        region: Arc::clone(&region),
        store: store.clone(),
        replication: store.clone(),
        reader: store.clone(),
        bus: Arc::clone(&bus),
        reachability: Arc::clone(&rights.reachability),
        gateway: gateway.clone(),
        ledger: gateway,
        retirements: Arc::clone(&rows) as Arc<dyn RetirementStore>,
        helpers: Arc::new(Mending { app: Arc::clone(&app), rights: helped, metrics: counted }),
        tasks: tasks.clone(),
        times: ReconcileTimes { catch_up: CATCH_UP, saga_stuck: orders.saga_stuck },
        progress: Mutex::default(),
    });
    let ended = move || {
        over.store(true, Ordering::Relaxed);
        stop.cancel();
    };
    let marker = config.marker_file.clone().map(FileMarker::new);
    let verification = Arc::new(Verification::begin(
        Arc::clone(&region),
        Arc::clone(&rights),
        Arc::clone(&rows) as Arc<dyn RejoinStore>,
        Arc::clone(&rows) as Arc<dyn RetirementStore>,
        Arc::clone(&stops),
        marker.map(|marker| Arc::new(marker) as Arc<dyn Marker>),
        Box::new(ended.clone()),
    ));
    verification.look().await;
    let rejoin = Arc::new(Rejoin {
        region: Arc::clone(&region),
        rights: Arc::clone(&rights),
        retirements: Arc::clone(&rows) as Arc<dyn RetirementStore>,
        store: rows,
        log: store.clone(),
        reader: store.clone(),
        bus: Arc::clone(&bus),
        alone: tokio::sync::Mutex::default(),
        on_begun: Box::new(ended),
    });
    let routing = Arc::new(Routing {
        region: Arc::clone(&region),
        rights: Arc::clone(&rights),
        store: store.clone(),
        step: config.routing.canary_step,
        since: Mutex::default(),
        told: tokio::sync::Mutex::default(),
    });
    let replication = workers::Replication { region, bus, store, peers, stops };
    Ok(Parts {
        app,
        rights,
        replication,
        reconciler,
        rejoin,
        lease,
        adoption,
        evacuation,
        retire,
        routing,
        verification,
        metrics,
        signals,
    })
}

async fn bus(config: &RegionConfig) -> anyhow::Result<NatsBus> {
    let peers = config.peers.iter().map(|peer| (peer.name, peer.nats.clone()));
    let addresses =
        NatsAddresses { region: config.region, own: config.nats.clone(), peers: peers.collect() };
    Ok(NatsBus::connect(addresses).await?)
}

fn start_workers(config: &RegionConfig, tasks: &TaskSet, parts: &Parts) -> anyhow::Result<()> {
    let Parts { app, rights, replication, reconciler, rejoin, signals, .. } = parts;
    let looking = workers::verification(Arc::clone(&parts.verification), tasks.stopping());
    tasks.spawn("verification", looking);
    tasks.spawn("stops", workers::stops(Arc::clone(&app.stops), tasks.stopping()));
    let stop = || tasks.stopping();
    tasks.spawn("saga recovery", workers::saga_recovery(Arc::clone(&app.sagas), stop()));
    tasks.spawn("stuck sagas", workers::stuck_sagas(Arc::clone(app), stop()));
    tasks.spawn("contested", workers::contested(Arc::clone(app), stop()));
    let outbox = Arc::clone(&signals.outbox);
    replication.start(tasks, outbox, config.replication.heartbeat)?;
    let times = workers::grants::RightsTimes {
        row_ship: config.replication.row_ship,
        digest_interval: config.replication.digest_interval,
        rebalance: config.escrow.rebalance,
        transfer_interval: config.escrow.transfer_interval,
    };
    workers::grants::start(tasks, rights, times);
    let intents = Arc::new(IntentHandler {
        reader: Arc::clone(&app.reader),
        in_flight: Arc::clone(&app.in_flight),
        region: config.region,
    });
    let interval = config.reconciliation.interval;
    let rounds = workers::reconciliation(Arc::clone(reconciler), interval, stop());
    tasks.spawn("reconciliation", rounds);
    let asked = Arc::new(ReconcileHandler { reconciler: Arc::clone(reconciler) });
    let (bus, until) = (Arc::clone(&replication.bus), stop());
    let serving = async move { bus.serve(RECONCILE_REQUEST, asked, until).await };
    tasks.spawn("reconciliation server", serving);
    let asked = Arc::new(RejoinHandler {
        region: Arc::clone(&rejoin.region),
        rights: Arc::clone(rights),
        store: Arc::clone(&rejoin.store),
        retirements: Arc::clone(&parts.retire.records),
        reader: Arc::clone(&rejoin.reader),
    });
    let (bus, until) = (Arc::clone(&replication.bus), stop());
    let serving = async move { bus.serve(REJOIN, asked, until).await };
    tasks.spawn("rejoin server", serving);
    tasks.spawn("order lease", workers::order_lease(Arc::clone(&parts.lease), stop()));
    tasks.spawn("adoption", workers::adoption(Arc::clone(&parts.adoption), stop()));
    tasks.spawn("canary", workers::canary(Arc::clone(&parts.routing), stop()));
    let (rights, log) = (Arc::clone(rights), Arc::clone(&replication.store));
    let asked = Arc::new(LeaseHandler { rights, log });
    let (bus, until) = (Arc::clone(&replication.bus), stop());
    let serving = async move { bus.serve(ORDER_LEASE, asked, until).await };
    tasks.spawn("order lease server", serving);
    let (bus, stop) = (Arc::clone(&replication.bus), stop());
    tasks.spawn("intent server", async move { bus.serve(INTENT_REQUEST, intents, stop).await });
    Ok(())
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

fn context(
    config: &RegionConfig,
    parts: &Parts,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> anyhow::Result<http::Context> {
    let settings = http::auth::Settings {
        issuer: config.auth.issuer.clone(),
        audience: config.auth.audience.clone(),
        jwks_file: config.auth.jwks_file.clone(),
    };
    let orders = &config.orders;
    let peers = config.peers.iter().map(|peer| (peer.name, peer.http_url.clone()));
    let trust = Trust::for_addresses(config.peers.iter().map(|peer| peer.http_url.as_str()))?;
    let webhook_secret = config.webhook_secret.expose().parse().context("`webhook_secret_file`")?;
    Ok(http::Context::new(http::ContextParts {
        region: config.region,
        verifier: http::auth::Verifier::new(settings, Arc::clone(&clock))?,
        clock,
        ids,
        limiter: RateLimiter::new(Rates::per_person(config.limits.rate_limit_per_s)),
        metrics: Arc::clone(&parts.metrics),
        health: Arc::new(RegionHealth { app: Arc::clone(&parts.app) }),
        app: Arc::clone(&parts.app),
        rights: Some(Arc::clone(&parts.rights)),
        reconciler: Some(Arc::clone(&parts.reconciler)),
        rejoin: Some(Arc::clone(&parts.rejoin)),
        adoption: Some(Arc::clone(&parts.adoption)),
        evacuation: Some(Arc::clone(&parts.evacuation)),
        retire: Some(Arc::clone(&parts.retire)),
        routing: Some(Arc::clone(&parts.routing)),
        verification: Some(Arc::clone(&parts.verification)),
        outbox: Some(Arc::clone(&parts.replication.store)),
        forwarder: http::Forwarder::new(config.region, peers.collect(), &trust),
        webhook_secrets: BTreeMap::from([("simulator".to_owned(), webhook_secret)]),
        order_wait: orders.order_wait,
        body_limits: http::json::BodyLimits {
            bytes_max: config.limits.request_body_bytes_max,
            timeout: config.limits.body_timeout,
        },
    }))
}

fn http_limits(config: &RegionConfig) -> http::server::Limits {
    http::server::Limits {
        connections: config.limits.connections_max,
        head_read: config.limits.header_timeout,
        idle: config.limits.idle_timeout,
        drain: config.limits.shutdown_grace,
        ..http::server::Limits::default()
    }
}
