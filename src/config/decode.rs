//! From TOML to [`Config`]: each table's shape. What concerns several tables is in [`super::check`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::check::{self, Located};
use super::reader::{Problem, Report, Section};
use super::{
    Auth, Config, DatabaseLocation, Escrow, Limits, LinkLatency, NatsLocation, Orders, Payments,
    PeerLocation, Programs, Reconciliation, Region, Replication, Routing, Server,
};
use crate::types::{RegionId, RegionNumber};

/// Connections to PostgreSQL of one region's server unless the file says otherwise: two writers of
/// groups, the rest for reads and workers; a connection costs PostgreSQL some 2 MB.
const DATABASE_CONNECTIONS: u32 = 12;

/// Reads files relative to the folder of the configuration file.
struct Files<'a> {
    folder: &'a Path,
}

impl Files<'_> {
    fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    fn read(&self, section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
        section.text_if_any(key).map(|text| self.path(text.get_ref()))
    }

    /// A file that must be there, because a region is run with it.
    fn existing(
        &self,
        section: &mut Section<'_>,
        key: &'static str,
        report: &Report<'_>,
    ) -> Option<PathBuf> {
        let text = section.text_if_any(key)?;
        let path = self.path(text.get_ref());
        if let Err(error) = std::fs::File::open(&path) {
            let message = format!(
                "`{key}`: cannot read {} ({error}); create it, or name another file",
                path.display()
            );
            report.problem(text.span().start, message);
        }
        Some(path)
    }
}

/// Reads and checks the whole document.
pub(super) fn decode(text: &str, path: &Path) -> Result<Config, Vec<Problem>> {
    let report = Report::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        report.problem(offset, error.message().replace('\n', ", "));
    }
    let config = if errors.is_empty() { read(&document, path, &report) } else { None };
    let problems = report.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(problems),
    }
}

/// `None` when something that nothing can stand in for is missing; then a problem says what.
fn read(document: &Spanned<DeTable<'_>>, path: &Path, report: &Report<'_>) -> Option<Config> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let files = Files { folder };
    let mut root = Section::root(document, report);

    let mut deployment = root.section("deployment");
    let name = deployment.text("name");
    let default_region = deployment.parsed::<RegionId>("default_region");
    deployment.finish();

    let auth = read_auth(root.section("auth"), &files, report);
    let payments = read_payments(root.section("payments"), &files, report);
    let countries = read_countries(&root.section("countries"), report);
    let mut load_balancer = root.section("load_balancer");
    let balancer_listen = check::listen(&mut load_balancer, "listen", report);
    load_balancer.finish();
    let link_latencies: Vec<_> =
        root.sections("link_latencies").into_iter().filter_map(read_latency).collect();
    let programs = read_programs(root.section("programs"), &files);
    let limits = Limits::read(root.section("limits"));
    let orders = Orders::read(root.section("orders"));
    let replication = Replication::read(root.section("replication"));
    let escrow = Escrow::read(root.section("escrow"));
    let reconciliation = Reconciliation::read(root.section("reconciliation"));
    let routing = Routing::read(root.section("routing"));

    let sections = root.sections("regions");
    let regions_given = sections.len();
    let mut regions = Vec::with_capacity(regions_given);
    for section in sections {
        let offset = section.offset();
        if let Some(region) = read_region(section, &files, report) {
            regions.push(Located { offset, value: region });
        }
    }
    let whole = check::Whole {
        default_region: default_region.as_ref(),
        countries: &countries,
        load_balancer: balancer_listen.as_ref(),
        has_auth: auth.is_some(),
        has_payments: payments.is_some(),
        regions_given,
        regions: &regions,
    };
    whole.check(report);
    root.finish();

    Some(Config {
        file: path.to_owned(),
        deployment: name?.into_inner(),
        default_region: default_region?.into_inner(),
        auth,
        payments,
        countries: countries
            .into_iter()
            .map(|(country, region)| (country, region.into_inner()))
            .collect(),
        load_balancer: balancer_listen.map(Spanned::into_inner),
        link_latencies,
        programs,
        limits,
        orders,
        replication,
        escrow,
        reconciliation,
        routing,
        regions: regions.into_iter().map(|region| region.value).collect(),
    })
}

fn read_auth(mut section: Section<'_>, files: &Files<'_>, report: &Report<'_>) -> Option<Auth> {
    if !section.is_present() {
        return None;
    }
    let issuer = section.text("issuer");
    let audience = section.text("audience");
    if !section.has("jwks_file") {
        section.problem("`jwks_file` is missing: the issuer's public keys");
    }
    let jwks_file = files.existing(&mut section, "jwks_file", report);
    section.finish();
    Some(Auth {
        issuer: issuer?.into_inner(),
        audience: audience?.into_inner(),
        jwks_file: jwks_file?,
    })
}

fn read_payments(
    mut section: Section<'_>,
    files: &Files<'_>,
    report: &Report<'_>,
) -> Option<Payments> {
    if !section.is_present() {
        return None;
    }
    let url = check::url(&mut section, "url", &["http", "https"], report);
    let webhook_secret_file = files.existing(&mut section, "webhook_secret_file", report);
    let answer_timeout = section.millis("answer_timeout_ms", 3_000, 100..=60_000);
    section.finish();
    Some(Payments { url: url?, webhook_secret_file, answer_timeout })
}

fn read_countries(
    section: &Section<'_>,
    report: &Report<'_>,
) -> BTreeMap<String, Spanned<RegionId>> {
    let mut countries = BTreeMap::new();
    for (country, region) in section.texts() {
        let code = country.get_ref();
        if code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let message =
                format!("[countries]: `{code}` is not an ISO 3166 code of two capital letters");
            report.problem(country.span().start, message);
        }
        match region.get_ref().parse::<RegionId>() {
            Ok(id) => {
                countries.insert(country.into_inner(), Spanned::new(region.span(), id));
            }
            Err(error) => report.problem(region.span().start, format!("[countries]: {error}")),
        }
    }
    countries
}

fn read_latency(mut section: Section<'_>) -> Option<LinkLatency> {
    let between = section.parsed::<RegionId>("between");
    let and = section.parsed::<RegionId>("and");
    let round_trip_us = section.number("round_trip_us", 0..=10_000_000);
    section.finish();
    Some(LinkLatency {
        between: between?.into_inner(),
        and: and?.into_inner(),
        round_trip: Duration::from_micros(round_trip_us?.into_inner()),
    })
}

fn read_programs(mut section: Section<'_>, files: &Files<'_>) -> Programs {
    let programs = Programs {
        postgres_bin: files.read(&mut section, "postgres_bin"),
        nats_server: files.read(&mut section, "nats_server"),
        haproxy: files.read(&mut section, "haproxy"),
    };
    section.finish();
    programs
}

fn read_region(mut section: Section<'_>, files: &Files<'_>, report: &Report<'_>) -> Option<Region> {
    let name = section.parsed::<RegionId>("name");
    let number = section.number("number", 1..=255);
    let witness = section.flag("witness");
    let runs = SERVER_KEYS.iter().any(|key| section.has(key));
    let server = if runs { read_server(&mut section, files, report) } else { None };
    if !runs {
        // So that the message about an unknown key names them too.
        for key in SERVER_KEYS {
            section.know(key);
        }
    }
    section.finish();
    let number = u8::try_from(number?.into_inner()).ok().and_then(std::num::NonZeroU8::new);
    Some(Region { name: name?.into_inner(), number: RegionNumber(number?), witness, server })
}

/// Any of these in a `[[regions]]` means that this file runs the region, and needs the rest.
const SERVER_KEYS: [&str; 13] = [
    "http_listen",
    "http_url",
    "database_url",
    "database_password_file",
    "migration_url",
    "migration_password_file",
    "database_connections",
    "nats_url",
    "nats_user",
    "nats_password_file",
    "nats_credentials_file",
    "marker_file",
    "peers",
];

fn read_server(
    section: &mut Section<'_>,
    files: &Files<'_>,
    report: &Report<'_>,
) -> Option<Server> {
    const POSTGRES: &[&str] = &["postgres", "postgresql"];
    if !section.has("http_listen") {
        section.problem("`http_listen` is missing");
    }
    let http_listen = check::listen(section, "http_listen", report);
    let http_url = check::url(section, "http_url", &["http", "https"], report);
    let database_url = check::url(section, "database_url", POSTGRES, report);
    let database_password = files.existing(section, "database_password_file", report);
    let migration = if section.has("migration_url") {
        let url = check::url(section, "migration_url", POSTGRES, report);
        let password_file = files.existing(section, "migration_password_file", report);
        url.map(|url| DatabaseLocation { url, password_file })
    } else {
        section.know("migration_url");
        None
    };
    let database_connections =
        section.count("database_connections", DATABASE_CONNECTIONS, 4..=1_000);
    let nats = read_nats(section, files, report);
    let marker_file = section.text_if_any("marker_file").map(|text| files.path(text.get_ref()));
    let mut peers = Vec::new();
    for mut peer in section.sections("peers") {
        let name = peer.parsed::<RegionId>("name");
        let http_url = check::url(&mut peer, "http_url", &["http", "https"], report);
        let nats = read_nats(&mut peer, files, report);
        peer.finish();
        if let (Some(name), Some(http_url), Some(nats)) = (name, http_url, nats) {
            peers.push(PeerLocation { name: name.into_inner(), http_url, nats });
        }
    }
    let database = DatabaseLocation { url: database_url?, password_file: database_password };
    Some(Server {
        http_listen: http_listen?.into_inner(),
        http_url: http_url?,
        migration: migration.unwrap_or_else(|| database.clone()),
        database,
        database_connections,
        nats: nats?,
        marker_file,
        peers,
    })
}

fn read_nats(
    section: &mut Section<'_>,
    files: &Files<'_>,
    report: &Report<'_>,
) -> Option<NatsLocation> {
    let url = check::url(section, "nats_url", &["nats", "tls"], report);
    let user = section.text_if_any("nats_user").map(Spanned::into_inner);
    let password_file = files.existing(section, "nats_password_file", report);
    let credentials_file = files.existing(section, "nats_credentials_file", report);
    if user.is_some() && credentials_file.is_some() {
        section.problem("give `nats_user` or `nats_credentials_file`, not both");
    }
    if user.is_none() && password_file.is_some() {
        section.problem("`nats_password_file` needs `nats_user`");
    }
    Some(NatsLocation { url: url?, user, password_file, credentials_file })
}
