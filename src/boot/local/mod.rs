//! A whole deployment on one machine: what `entrepot up` runs.
//!
//! A supervisor process starts, for each region, a PostgreSQL, a NATS server and `entrepot serve`,
//! beside them the payment simulator and the load balancer, and carries all traffic between regions
//! itself, over [`links`] that can be slowed and cut. Children that die are started again
//! ([`supervise`]); everything is told to a running supervisor over a socket in the data directory
//! ([`control`]).
//!
//! What is not here: anything a region needs to work. A region only ever sees a configuration file
//! with addresses, and can't tell a local deployment from production.

pub(crate) mod clocks;
mod control;
mod deployment;
mod effective;
pub(crate) mod haproxy;
mod layout;
mod links;
mod lock;
mod nats;
mod postgres;
mod probe;
mod process;
pub(crate) mod programs;
mod run;
mod secrets;
mod start;
mod status;
mod supervise;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;

use crate::types::RegionId;

pub(crate) use control::{Action, Component, LinkChange, Request};
pub(crate) use run::{detach, down, report, request, run};
pub(crate) use status::{RegionReport, Report};

/// What to bring up, and where.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The configuration; without one, that of the current directory or the built-in one.
    pub(crate) config: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    pub(crate) base_port: u16,
    /// Links have the measured latencies of the configuration.
    pub(crate) wan: bool,
    /// Clocks of regions can be set ([`clocks`]).
    pub(crate) fake_clocks: bool,
    /// Done once everything runs for the first time on this data directory.
    pub(crate) first_start: FirstStart,
}

/// Where a region keeps its data.
pub(crate) fn region_folder(data_dir: &Path, region: RegionId) -> std::io::Result<PathBuf> {
    Ok(layout::Layout::new(std::path::absolute(data_dir)?).region_dir(region))
}

/// Where a region's NATS server keeps its streams. Nothing may be changed there while it runs.
pub(crate) fn broker_store(data_dir: &Path, region: RegionId) -> std::io::Result<PathBuf> {
    let layout = layout::Layout::new(std::path::absolute(data_dir)?);
    Ok(layout.nats_dir(region).join("jetstream"))
}

/// Where a region's PostgreSQL keeps its data, and where its server keeps how far that was. Nothing may be changed there
/// while they run.
pub(crate) fn database_files(
    data_dir: &Path,
    region: RegionId,
) -> std::io::Result<(PathBuf, PathBuf)> {
    let layout = layout::Layout::new(std::path::absolute(data_dir)?);
    Ok((layout.postgres_dir(region), layout.marker_file(region)))
}

/// Gets the data directory.
pub(crate) type FirstStart = fn(PathBuf) -> BoxFuture<'static, anyhow::Result<()>>;

impl Options {
    /// The command line that means the same.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["up".into(), "--data-dir".into(), self.data_dir.clone().into()];
        arguments.extend(["--base-port".into(), self.base_port.to_string().into()]);
        if let Some(config) = &self.config {
            arguments.extend(["--config".into(), config.clone().into()]);
        }
        if self.wan {
            arguments.extend(["--latency-profile".into(), "wan".into()]);
        }
        if self.fake_clocks {
            arguments.push("--fake-clocks".into());
        }
        arguments
    }
}
