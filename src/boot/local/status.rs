//! What `entrepot status` shows: the contract's fields and what helps to understand them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::probe::WITNESS;

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
    /// `ready` when `/readyz` answers 200; otherwise what stands in the way, in the words of `/readyz` where it answers.
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
    /// Everything has come up; a region may take no orders all the same.
    pub(crate) fn has_started(&self) -> bool {
        self.phase == Phase::Started
    }

    /// Whether every region is ready; a witness is when it votes.
    pub(crate) fn is_ready(&self) -> bool {
        let is_ready = |region: &RegionReport| ["ready", WITNESS].contains(&region.state.as_str());
        self.has_started() && self.regions.iter().all(is_ready)
    }

    /// For people, with what one needs to look into a program: its pid, and the database's URL. The password
    /// is in the JSON only.
    pub(crate) fn details(&self) -> String {
        let mut text = self.table();
        let pid = |pid: Option<i32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        text.push('\n');
        for region in &self.regions {
            let Pids { server, postgres, nats } = &region.pids;
            let (server, postgres, nats) = (pid(*server), pid(*postgres), pid(*nats));
            let database = without_password(&region.database_url);
            let (name, broker) = (&region.name, without_password(&region.nats_url));
            writeln!(text, "{name}: server pid {server}").expect("writing to memory");
            writeln!(text, "{name}: postgres pid {postgres}, {database}")
                .expect("writing to memory");
            writeln!(text, "{name}: nats pid {nats}, {broker}").expect("writing to memory");
        }
        for (name, of) in [
            ("load balancer", self.load_balancer_pid),
            ("payment simulator", self.payment_simulator_pid),
            ("supervisor", i32::try_from(self.supervisor_pid).ok()),
        ] {
            writeln!(text, "{name}: pid {}", pid(of)).expect("writing to memory");
        }
        writeln!(text, "data: {}", self.data_dir).expect("writing to memory");
        text
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

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((login, place)) = rest.split_once('@') else { return url.to_owned() };
    let user = login.split_once(':').map_or(login, |(user, _)| user);
    format!("{scheme}://{user}@{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_runs_where_and_no_password() {
        let report = Report {
            load_balancer: "http://127.0.0.1:8080".to_owned(),
            console: "http://127.0.0.1:8080/console".to_owned(),
            payment_simulator: "http://127.0.0.1:8090".to_owned(),
            data_dir: "/tmp/entrepot".to_owned(),
            phase: Phase::Started,
            supervisor_pid: 1,
            load_balancer_pid: Some(2),
            payment_simulator_pid: None,
            regions: vec![RegionReport {
                name: "eu-west".to_owned(),
                url: "http://127.0.0.1:8102".to_owned(),
                database_url: "postgres://owner:secret@127.0.0.1:8121/entrepot".to_owned(),
                auditor_database_url: "postgres://auditor:secret@127.0.0.1:8121/entrepot"
                    .to_owned(),
                nats_url: "nats://entrepot:secret@127.0.0.1:8131".to_owned(),
                pids: Pids { server: Some(3), postgres: Some(4), nats: None },
                state: "nats is down".to_owned(),
                deaths: Vec::new(),
            }],
            link_faults: Vec::new(),
            progress: Vec::new(),
        };
        expect_test::expect![[r"
            region             address                state
            eu-west            http://127.0.0.1:8102  nats is down
            load balancer      http://127.0.0.1:8080  running
            payment simulator  http://127.0.0.1:8090  down

            eu-west: server pid 3
            eu-west: postgres pid 4, postgres://owner@127.0.0.1:8121/entrepot
            eu-west: nats pid -, nats://entrepot@127.0.0.1:8131
            load balancer: pid 2
            payment simulator: pid -
            supervisor: pid 1
            data: /tmp/entrepot
        "]]
        .assert_eq(&report.details());
    }
}
