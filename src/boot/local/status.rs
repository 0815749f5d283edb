//! What `entrepot status` shows: the contract's fields and what helps to understand them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// A whole deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) load_balancer: String,
    pub(crate) console: String,
    pub(crate) payment_simulator: String,
    pub(crate) data_dir: String,
    pub(crate) phase: Phase,
    pub(crate) supervisor_pid: u32,
    pub(crate) load_balancer_pid: Option<i32>,
    pub(crate) payment_simulator_pid: Option<i32>,
    pub(crate) regions: Vec<RegionReport>,
    /// Links with a fault, and only those.
    pub(crate) link_faults: Vec<LinkReport>,
    /// What has been done so far, for whoever waits for the start.
    pub(crate) progress: Vec<String>,
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Not everything has been ready yet.
    Starting,
    /// Everything has been ready; what state it is in now, each region says.
    Started,
    /// On the way down.
    Stopping,
}

/// One region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RegionReport {
    pub(crate) name: String,
    pub(crate) url: String,
    /// As the schema's owner, password included: a local deployment belongs to its user.
    pub(crate) database_url: String,
    /// As the auditor, who reads the schema `evidence` only.
    pub(crate) auditor_database_url: String,
    pub(crate) nats_url: String,
    pub(crate) pids: Pids,
    /// `ready` when `/readyz` answers 200; otherwise what stands in the way.
    pub(crate) state: String,
    /// How often each program died by itself, and how last.
    pub(crate) deaths: Vec<Death>,
}

/// The processes of a region; `null` for one that is down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pids {
    pub(crate) server: Option<i32>,
    pub(crate) postgres: Option<i32>,
    pub(crate) nats: Option<i32>,
}

/// A program that died by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Death {
    pub(crate) program: String,
    pub(crate) count: u32,
    pub(crate) last: String,
}

/// The fault of one direction of a link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LinkReport {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) cut: bool,
    pub(crate) latency_us: u64,
    pub(crate) jitter_us: u64,
    pub(crate) loss_per_10_000: u32,
}

impl Report {
    /// Whether every region is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Started && self.regions.iter().all(|region| region.state == "ready")
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![["region".into(), "address".into(), "state".into()]];
        for region in &self.regions {
            rows.push([region.name.clone(), region.url.clone(), region.state.clone()]);
        }
        let state = |pid: Option<i32>| if pid.is_some() { "running" } else { "down" }.to_owned();
        rows.push([
            "load balancer".into(),
            self.load_balancer.clone(),
            state(self.load_balancer_pid),
        ]);
        rows.push([
            "payment simulator".into(),
            self.payment_simulator.clone(),
            state(self.payment_simulator_pid),
        ]);
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        let mut text = String::new();
        for [name, address, state] in &rows {
            writeln!(text, "{name:first$}  {address:second$}  {state}").expect("writing to memory");
        }
        for link in &self.link_faults {
            let mut faults = Vec::new();
            if link.cut {
                faults.push("cut".to_owned());
            }
            if link.latency_us + link.jitter_us > 0 {
                let ms = |us: u64| format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10);
                let jitter = match link.jitter_us {
                    0 => String::new(),
                    us => format!(" and up to {} more", ms(us)),
                };
                faults.push(format!("{}{jitter} later", ms(link.latency_us)));
            }
            if link.loss_per_10_000 > 0 {
                let loss = link.loss_per_10_000;
                faults.push(format!("{}.{:02} % lost", loss / 100, loss % 100));
            }
            writeln!(text, "link {} → {}: {}", link.from, link.to, faults.join(", "))
                .expect("writing to memory");
        }
        for region in &self.regions {
            for Death { program, count, last } in &region.deaths {
                writeln!(text, "{}: {program} died {count} times, last: {last}", region.name)
                    .expect("writing to memory");
            }
        }
        text
    }
}
