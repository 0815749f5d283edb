//! One region's server: what `entrepot serve` runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::{
    App, AppSettings, Completions, Region, SagaRunner, Signals, Writer, WriterSettings,
};
use crate::config::RegionConfig;
use crate::domain::inventory::Shortage;
use crate::gateways::SimulatorClient;
use crate::http;
use crate::ports::{Clock, Ids, Obtained, RightsSource};
use crate::replication::Peers;
use crate::runtime::{RandomIds, SystemClock, TaskSet};
use crate::store::{PgStore, SchemaState, schema_state};
use crate::telemetry::metrics::Metrics;
use crate::workers;

use super::health::RegionHealth;

/// Calls to the payment provider at once. At 3,000 orders a second and 50 ms an answer 150 are under
/// way; more than this and the provider is in trouble, and a longer queue helps nobody.
const PROVIDER_CALLS_MAX: usize = 512;

/// Runs one region's server until `stop` is done, then drains.
pub async fn run(
    config: RegionConfig,
    stop: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
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
    let tasks = TaskSet::new();
    let region = Arc::new(Region::new(
        config.region,
        config.regions.clone(),
        start.epoch,
        start.floor,
        Arc::clone(&clock),
        Arc::clone(&ids),
    ));
    let app = app(&config, &tasks, Arc::clone(&region), &store)?;
    start_workers(&tasks, &app);

    let listener = TcpListener::bind(config.http_listen)
        .await
        .with_context(|| format!("cannot listen on {}; is the port taken?", config.http_listen))?;
    let door = http::door(context(&config, &app, clock, ids)?);
    tracing::info!(region = %config.region, address = %config.http_listen, epoch = %start.epoch, "region serves");
    let limits = http_limits(&config);
    http::server::serve(listener, door, limits, stop).await;
    if !tasks.shut_down(config.limits.shutdown_grace).await {
        tracing::warn!("work was left when the server stopped; it goes on at the next start");
    }
    store.close().await;
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

fn app(
    config: &RegionConfig,
    tasks: &TaskSet,
    region: Arc<Region>,
    store: &PgStore,
) -> anyhow::Result<Arc<App>> {
    let signals = Signals::default();
    let orders = &config.orders;
    let settings = WriterSettings {
        group_max: orders.group_max,
        writers: orders.group_writers,
        queue_max: orders.queue_max,
    };
    let store = Arc::new(store.clone());
    let writer = Writer::start(tasks, Arc::clone(&region), store.clone(), signals, settings);
    let gateway = SimulatorClient::new(
        &config.payments_url,
        config.payments_answer_timeout,
        PROVIDER_CALLS_MAX,
    )?;
    let sagas = Arc::new(SagaRunner {
        region: Arc::clone(&region),
        writer: writer.clone(),
        gateway: Arc::new(gateway),
        reader: store.clone(),
        queue: store.clone(),
        completions: Arc::new(Completions::default()),
        tasks: tasks.clone(),
        running: Arc::new(Semaphore::new(orders.sagas_running_max)),
        lease: orders.saga_lease,
    });
    let silence_ms = u64::try_from(config.replication.peer_silent_after.as_millis())?;
    let peers = config.peers.iter().map(|peer| peer.name);
    let peers = Arc::new(Mutex::new(Peers::new(config.region, peers, silence_ms)));
    let settings = AppSettings {
        grant_wait: config.escrow.grant_wait,
        saga_lease: orders.saga_lease,
        saga_stuck: orders.saga_stuck,
    };
    Ok(Arc::new(App::new(region, store, writer, sagas, Arc::new(Alone), peers, None, settings)))
}

fn start_workers(tasks: &TaskSet, app: &Arc<App>) {
    let stop = tasks.stopping();
    tasks.spawn("saga recovery", workers::saga_recovery(Arc::clone(&app.sagas), stop.clone()));
    tasks.spawn("stuck sagas", workers::stuck_sagas(Arc::clone(app), stop.clone()));
    tasks.spawn("contested", workers::contested(Arc::clone(app), stop));
}

fn context(
    config: &RegionConfig,
    app: &Arc<App>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> anyhow::Result<http::Context> {
    let settings = http::auth::Settings {
        issuer: config.auth.issuer.clone(),
        audience: config.auth.audience.clone(),
        jwks_file: config.auth.jwks_file.clone(),
    };
    Ok(http::Context::new(http::ContextParts {
        region: config.region,
        verifier: http::auth::Verifier::new(settings, Arc::clone(&clock))?,
        clock,
        ids,
        limiter: http::rate_limit::RateLimiter::new(http::rate_limit::Rates::default()),
        metrics: Arc::new(Metrics::new(config.region.as_str())),
        health: Arc::new(RegionHealth { app: Arc::clone(app) }),
        body_timeout: http::json::BodyTimeout(config.limits.body_timeout),
    }))
}

fn http_limits(config: &RegionConfig) -> http::server::Limits {
    http::server::Limits {
        connections: config.limits.connections_max,
        head_read: config.limits.header_timeout,
        drain: config.limits.shutdown_grace,
        ..http::server::Limits::default()
    }
}

/// A region without peers: there is nobody to ask.
struct Alone;

#[async_trait]
impl RightsSource for Alone {
    async fn obtain(&self, _shortages: &[Shortage], _patience: Duration) -> Obtained {
        Obtained { gained: false, elsewhere: BTreeMap::new() }
    }
}
