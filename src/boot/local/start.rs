//! Brings a deployment up: everything is checked before the first program starts, what does not
//! depend on each other starts together, and a step that fails says what to do.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::deployment::{Deployment, Part};
use super::haproxy::{self, LoadBalancer};
use super::layout::{Layout, Ports, Service};
use super::links::{End, Fault, Links, Way};
use super::lock::Lock;
use super::nats::Nats;
use super::postgres::{Postgres, RolePasswords};
use super::probe::{self, WITNESS};
use super::process::{Registry, Spec};
use super::programs::Programs;
use super::{Options, clocks, effective, secrets};
use crate::config::Config;
use crate::http::auth::issuer;
use crate::types::RegionId;

/// For programs that are ready in well under a second; a crashed database may have to replay its log.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// For a server: its pools, its subscriptions and the amnesia checks.
const SERVER_READY_LIMIT: Duration = Duration::from_secs(30);
/// A server that says this of itself has come up; what keeps it from taking orders does not end by itself, and is no reason
/// to stop the other regions.
const STAYS: [&str; 5] = ["ready", WITNESS, "draining", "fenced", "set_back"];
/// A server that says this does not know yet.
const IN_DOUBT: &str = "in_doubt";
/// Longer than a server's own grace for open requests (5 s).
const SERVER_STOP_GRACE: Duration = Duration::from_secs(8);
/// The simulator writes every answer down before it gives it.
const SIMULATOR_STOP_GRACE: Duration = Duration::from_secs(3);
/// It has nothing to finish.
const FOLLOWER_STOP_GRACE: Duration = Duration::from_secs(1);

/// The configuration that `up` uses when none is named and there is none in the current directory.
const BUILT_IN: &str = include_str!("../../../region-config/local.toml");
/// Where `up` looks for it.
pub(crate) const DEFAULT_CONFIG: &str = "region-config/local.toml";

/// Checks everything that can be checked, and prepares the files. Nothing runs yet. The lock must be
/// kept for as long as the deployment runs.
pub(crate) async fn open(
    options: &Options,
    show_progress: fn(&str),
) -> anyhow::Result<(Deployment, Lock)> {
    let (source, config) = read_config(options.config.as_deref())?;
    effective::check(&config)?;
    let ports = Ports::new(options.base_port)?;
    let programs = Programs::find(&config.programs, options.fake_clocks)?;
    let layout = Layout::new(std::path::absolute(&options.data_dir)?);
    std::fs::create_dir_all(layout.logs_dir())
        .with_context(|| format!("cannot create {}", layout.data_dir().display()))?;
    let lock = match Lock::take(&layout.lock_file())? {
        Ok(lock) => lock,
        Err(pid) => anyhow::bail!(
            "a deployment already runs on {} (pid {pid}): look at it with `entrepot status`, stop it \
             with `entrepot down`, or start another one with its own --data-dir and --base-port",
            layout.data_dir().display()
        ),
    };
    check_regions_unchanged(&layout, &config)?;
    let registry = Registry::take_over(layout.children_file()).await?;
    check_ports(ports, config.regions.len())?;
    prepare_secrets(&layout, &config)?;
    let rendered = effective::render(&source, &config, &layout, ports)?;
    std::fs::write(layout.config_file(), &rendered)
        .with_context(|| format!("cannot write {}", layout.config_file().display()))?;
    let effective = Config::load(&layout.config_file())?;
    let names: Vec<_> = config.regions.iter().map(|region| region.name).collect();
    let links = Links::new(&names, |way| {
        if options.wan { measured_latency(&config, way) } else { Fault::default() }
    });
    let deployment =
        Deployment::new(layout, ports, effective, programs, registry, links, show_progress);
    Ok((deployment, lock))
}

fn read_config(named: Option<&Path>) -> anyhow::Result<(String, Config)> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    if named.is_none() && !path.exists() {
        let config = Config::parse(BUILT_IN, Path::new("region-config/local.toml (built in)"))?;
        return Ok((BUILT_IN.to_owned(), config));
    }
    let config = Config::load(path)?;
    let source =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok((source, config))
}

/// A region's number is in its orders' ids, so that it can't change on the same data.
fn check_regions_unchanged(layout: &Layout, config: &Config) -> anyhow::Result<()> {
    let Ok(before) = Config::load(&layout.config_file()) else { return Ok(()) };
    for old in &before.regions {
        let now = config.region(old.name).map(|region| region.number);
        anyhow::ensure!(
            now == Some(old.number),
            "{} holds the data of region {} with number {}, which {} does not have. Use the \
             configuration of that data, or another --data-dir",
            layout.data_dir().display(),
            old.name,
            old.number.0,
            config.file.display()
        );
    }
    Ok(())
}

fn check_ports(ports: Ports, regions: usize) -> anyhow::Result<()> {
    let mut all = vec![
        (ports.load_balancer(), "the load balancer".to_owned()),
        (ports.payment_simulator(), "the payment simulator".to_owned()),
    ];
    for region in 0..regions {
        all.push((ports.http(region), "a region's HTTP server".to_owned()));
        all.push((ports.postgres(region), "a region's PostgreSQL".to_owned()));
        all.push((ports.nats(region), "a region's NATS server".to_owned()));
        for other in (0..regions).filter(|other| *other != region) {
            for service in [Service::Http, Service::Nats] {
                all.push((ports.link(region, other, service), "a link".to_owned()));
            }
        }
    }
    for (port, user) in all {
        if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            anyhow::bail!(
                "port {port}, meant for {user}, can't be used ({error}). Stop the program that uses \
                 it (`ss -ltnp 'sport = :{port}'` shows which), or choose other ports with --base-port"
            );
        }
    }
    Ok(())
}

fn prepare_secrets(layout: &Layout, config: &Config) -> anyhow::Result<()> {
    secrets::private_dir(&layout.secrets_dir())?;
    secrets::private_dir(&layout.issuer_dir())?;
    issuer::create(&layout.issuer_dir())?;
    secrets::webhook_secret(&layout.webhook_secret())?;
    for region in &config.regions {
        for what in ["superuser", "owner", "app", "auditor", "nats"] {
            secrets::secret(&layout.region_secret(region.name, what))?;
        }
    }
    Ok(())
}

/// Half of the measured round trip each way.
fn measured_latency(config: &Config, way: Way) -> Fault {
    let link = config.link_latencies.iter().find(|link| {
        (link.between, link.and) == (way.from, way.to)
            || (link.and, link.between) == (way.from, way.to)
    });
    let one_way = link.map_or(Duration::ZERO, |link| link.round_trip / 2);
    let latency_us = u64::try_from(one_way.as_micros()).expect("at most ten seconds");
    Fault { latency_us, ..Fault::default() }
}

impl Deployment {
    /// Starts everything. On an error, what was started is still running: stop it.
    pub(crate) async fn start_all(self: &Arc<Self>) -> anyhow::Result<()> {
        let names: Vec<_> = self.config.regions.iter().map(|region| region.name).collect();
        let stores = names.iter().enumerate().map(|(index, name)| self.start_stores(index, *name));
        let links = self.open_links(&names);
        let simulator = self.start_simulator();
        futures::try_join!(futures::future::try_join_all(stores), links, simulator)?;
        let servers = names.iter().enumerate().map(|(index, name)| self.start_server(index, *name));
        futures::future::try_join_all(servers).await?;
        self.start_load_balancer().await
    }

    async fn start_stores(&self, index: usize, name: RegionId) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.layout.region_dir(name))
            .with_context(|| format!("cannot create {}", self.layout.region_dir(name).display()))?;
        futures::try_join!(self.start_postgres(index, name), self.start_nats(index, name))?;
        Ok(())
    }

    async fn start_postgres(&self, index: usize, name: RegionId) -> anyhow::Result<()> {
        let program = format!("{name}.postgres");
        let secret = |what: &str| secrets::secret(&self.layout.region_secret(name, what));
        let postgres = Arc::new(Postgres {
            log: self.layout.log_file(&program),
            name: program,
            bin: self.programs.postgres.clone(),
            setpriv: self.programs.setpriv.clone(),
            data: self.layout.postgres_dir(name),
            port: self.ports.postgres(index),
            superuser_password: secret("superuser")?,
        });
        self.remember_database(name, Arc::clone(&postgres));
        postgres.prepare().await?;
        let spec = postgres.spec()?;
        let part = Part::Postgres(name);
        self.start(part, spec, READY_LIMIT, async || postgres.is_ready().await).await?;
        let passwords = RolePasswords {
            owner: secret("owner")?,
            app: secret("app")?,
            auditor: secret("auditor")?,
        };
        postgres.create_roles(&passwords).await?;
        let migrate = self.entrepot(&format!("{name}.migrate"), name, "migrate");
        migrate.run_once(&self.programs.setpriv).await?;
        self.progress(&format!("{name}: PostgreSQL is ready, the schema is current"));
        Ok(())
    }

    fn clock(&self, region: RegionId) -> anyhow::Result<Vec<(&'static str, String)>> {
        clocks::prepare(&self.layout, self.programs.fake_clocks.as_deref(), region)
    }

    async fn start_nats(&self, index: usize, name: RegionId) -> anyhow::Result<()> {
        let program = format!("{name}.nats");
        let nats = Nats {
            log: self.layout.log_file(&program),
            name: program,
            region: name.to_string(),
            program: self.programs.nats_server.clone(),
            folder: self.layout.nats_dir(name),
            port: self.ports.nats(index),
            password: secrets::secret(&self.layout.region_secret(name, "nats"))?,
        };
        nats.prepare()?;
        let part = Part::Nats(name);
        self.start(part, nats.spec(), READY_LIMIT, async || nats.is_ready().await).await?;
        self.progress(&format!("{name}: NATS is ready"));
        Ok(())
    }

    async fn open_links(&self, names: &[RegionId]) -> anyhow::Result<()> {
        for (from_index, from) in names.iter().enumerate() {
            for (to_index, to) in names.iter().enumerate().filter(|(_, to)| *to != from) {
                let way = Way { from: *from, to: *to };
                for (service, target) in [
                    (Service::Http, self.ports.http(to_index)),
                    (Service::Nats, self.ports.nats(to_index)),
                ] {
                    let port = self.ports.link(from_index, to_index, service);
                    self.links.open(End { way, port, target }, &self.link_tasks).await?;
                }
            }
        }
        Ok(())
    }

    async fn start_simulator(&self) -> anyhow::Result<()> {
        let folder = self.layout.simulator_dir();
        secrets::private_dir(&folder)?;
        let port = self.ports.payment_simulator();
        let mut spec = Spec {
            name: "payment-simulator".to_owned(),
            program: self.programs.entrepot.clone(),
            arguments: vec!["payment-simulator".into(), "--listen".into()],
            environment: Vec::new(),
            run_as: None,
            directory: folder.clone(),
            log: self.layout.log_file("payment-simulator"),
            stop_signal: Signal::SIGTERM,
            stop_grace: SIMULATOR_STOP_GRACE,
        };
        spec.arguments.push(format!("127.0.0.1:{port}").into());
        spec.arguments.extend(["--ledger".into(), folder.join("ledger.jsonl").into()]);
        spec.arguments
            .extend(["--webhook-secret-file".into(), self.layout.webhook_secret().into()]);
        // Every region that sells is told; the order's home applies it, the others answer 202.
        let regions = self.config.regions.iter().enumerate().filter(|(_, region)| !region.witness);
        for (index, _) in regions {
            let address = format!("127.0.0.1:{}", self.ports.http(index));
            spec.arguments.push("--webhook-url".into());
            spec.arguments
                .push(format!("http://{address}/api/v1/webhooks/payments/simulator").into());
        }
        let is_ready = async || probe::status(port, "/ledger").await == Some(200);
        self.start(Part::PaymentSimulator, spec, READY_LIMIT, is_ready).await?;
        self.progress("payment simulator is ready");
        Ok(())
    }

    async fn start_server(&self, index: usize, name: RegionId) -> anyhow::Result<()> {
        let mut spec = self.entrepot(&format!("{name}.server"), name, "serve");
        spec.environment.extend(self.clock(name)?);
        let port = self.ports.http(index);
        let has_come_up = async || STAYS.contains(&probe::readiness(port).await.as_str());
        let started = self.start(Part::Server(name), spec, SERVER_READY_LIMIT, has_come_up).await;
        let state = probe::readiness(port).await;
        // It waits for others, which may be waiting for an operator.
        if state != IN_DOUBT {
            started?;
        }
        self.progress(&match state.as_str() {
            "ready" => format!("{name}: server is ready"),
            WITNESS => format!("{name}: the witness is ready; it votes, and sells nothing"),
            other => format!("{name}: server runs, and takes no orders: {other}"),
        });
        Ok(())
    }

    async fn start_load_balancer(&self) -> anyhow::Result<()> {
        let config = self.layout.haproxy_config();
        std::fs::write(&config, haproxy::render(&self.config)?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let map = self.layout.data_dir().join(haproxy::ROUTING_MAP);
        std::fs::write(&map, haproxy::first_map(&self.config))
            .with_context(|| format!("cannot write {}", map.display()))?;
        let balancer = LoadBalancer {
            program: self.programs.haproxy.clone(),
            config,
            folder: self.layout.data_dir().to_owned(),
            log: self.layout.log_file("load-balancer"),
            port: self.ports.load_balancer(),
        };
        let is_ready = async || balancer.is_ready().await;
        self.start(Part::LoadBalancer, balancer.spec(), READY_LIMIT, is_ready).await?;
        self.start(Part::Follower, self.follower(), READY_LIMIT, async || true).await?;
        self.progress("load balancer is ready");
        Ok(())
    }

    /// Runs in the data directory, so that the path of the socket is short.
    fn follower(&self) -> Spec {
        let mut arguments = vec!["routing".into(), "--follow".into(), haproxy::SOCKET.into()];
        arguments.extend(["--config".into(), self.layout.config_file().into()]);
        arguments.extend(["--state".into(), self.layout.routing_state().into()]);
        Spec {
            name: "follower".to_owned(),
            program: self.programs.entrepot.clone(),
            arguments,
            environment: Vec::new(),
            run_as: None,
            directory: self.layout.data_dir().to_owned(),
            log: self.layout.log_file("follower"),
            stop_signal: Signal::SIGTERM,
            stop_grace: FOLLOWER_STOP_GRACE,
        }
    }

    /// This program itself, with a command that takes the effective configuration and a region.
    fn entrepot(&self, name: &str, region: RegionId, command: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            program: self.programs.entrepot.clone(),
            arguments: vec![
                command.into(),
                "--config".into(),
                self.layout.config_file().into(),
                "--region".into(),
                region.to_string().into(),
            ],
            environment: Vec::new(),
            run_as: None,
            directory: PathBuf::from("/"),
            log: self.layout.log_file(name),
            stop_signal: Signal::SIGTERM,
            stop_grace: SERVER_STOP_GRACE,
        }
    }
}
