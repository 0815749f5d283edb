//! Keeps a load balancer on the newest routes: asks every region who serves whose shoppers, and tells `HAProxy`.
//!
//! `HAProxy` takes a region out by itself when its `/readyz` says no, or nobody answers. What it can't see is that a region
//! that answers has been given up by the others, and that one that is back is to be trusted with a few shoppers at first.
//! [`Places`] decides which of the answers counts; what was followed last is kept in a file, so that a start when only a
//! lost region can be asked does not go back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::local::haproxy::{ROUTING_MAP, mapped, nearest_first};
use crate::config::Config;
use crate::domain::routing::{Place, Places, Told};
use crate::runtime::{Connector, Trust};
use crate::types::RegionId;

/// Between two rounds. A fence, and each step of a way back, is followed within this and one answer.
const ROUND: Duration = Duration::from_millis(500);
/// A region that takes longer tells nothing this time.
const ANSWER_LIMIT: Duration = Duration::from_millis(800);
/// Of an answer; ten regions take 2 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// For `HAProxy` on the same machine.
const APPLY_LIMIT: Duration = Duration::from_secs(2);
/// A balancer that was started again has forgotten what it was told: it is told every so many rounds in any case.
const ROUNDS_UNTOLD_MAX: u32 = 4;
/// A region that takes orders for so many rounds is up for `HAProxy` too, which looks twice within 400 ms.
const READY_ROUNDS: u32 = 3;

/// Follows; see the module.
pub(crate) struct Follower {
    client: Client<Connector, Empty<Bytes>>,
    regions: BTreeMap<RegionId, Uri>,
    /// Who is nearest to each region, itself first.
    nearest: BTreeMap<RegionId, Vec<RegionId>>,
    socket: PathBuf,
    state: PathBuf,
    places: Places,
    /// In how many rounds, up to the last one, a region said that it takes orders.
    ready: BTreeMap<RegionId, u32>,
    /// What `HAProxy` was told last.
    told: String,
}

impl Follower {
    /// `socket` is where `HAProxy` takes commands, `state` the file of what was followed last.
    pub(crate) fn new(config: &Config, socket: PathBuf, state: PathBuf) -> anyhow::Result<Self> {
        let mut regions = BTreeMap::new();
        for region in &config.regions {
            let server = region.server.as_ref().with_context(|| {
                format!("{} has no `http_url` for {}", config.file.display(), region.name)
            })?;
            let url = format!("{}/routing", server.http_url.trim_end_matches('/'));
            regions.insert(region.name, url.parse().with_context(|| format!("`{url}`"))?);
        }
        let urls = config.regions.iter().filter_map(|region| region.server.as_ref());
        let trust = Trust::for_addresses(urls.map(|server| server.http_url.as_str()))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(ROUND * 4)
            .build(trust.connector(ANSWER_LIMIT));
        let sellers = config.sellers().map(|region| region.name);
        let nearest = sellers.map(|name| (name, nearest_first(config, name))).collect();
        let places = read(&state)?;
        let (ready, told) = Default::default();
        Ok(Self { client, regions, nearest, socket, state, places, ready, told })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (mut rounds, mut failed) = (0, String::new());
        loop {
            match self.round(rounds % ROUNDS_UNTOLD_MAX == 0).await {
                Ok(()) => failed.clear(),
                Err(error) => {
                    let why = format!("{error:#}");
                    if why != failed {
                        tracing::warn!("the balancer does not follow: {why}");
                    }
                    // It is told again in the next round.
                    (self.told, failed) = (String::new(), why);
                }
            }
            rounds += 1;
            if stop.run_until_cancelled(tokio::time::sleep(ROUND)).await.is_none() {
                return;
            }
        }
    }

    /// Where shoppers go, as far as the regions that answer now, and the file, say.
    pub(crate) async fn look(&mut self) -> Places {
        let asked = self.regions.iter().map(|(region, url)| self.ask(*region, url));
        let told: Vec<Told> = join_all(asked).await.into_iter().flatten().collect();
        let ready = told.iter().filter(|told| told.ready).map(|told| told.region);
        let before = std::mem::take(&mut self.ready);
        let count = |region| before.get(&region).copied().unwrap_or(0).saturating_add(1);
        self.ready = ready.map(|region| (region, count(region))).collect();
        let mut places = self.places.clone();
        places.learn(&told);
        places
    }

    async fn round(&mut self, in_any_case: bool) -> anyhow::Result<()> {
        let next = self.look().await;
        if next != self.places {
            // Kept first: who forgets what it has followed may go back.
            write(&self.state, &next)?;
            for (region, place) in &next.0 {
                if self.places.0.get(region) != Some(place) {
                    tracing::info!(%region, round = place.ballot.round, fenced = place.fenced, share = place.share,
                        "{region} serves {} % of its shoppers", place.share);
                }
            }
            self.places = next;
        }
        let commands = commands(&self.places, &self.ready, &self.nearest);
        if in_any_case || commands != self.told {
            self.apply(&commands).await?;
            self.told = commands;
        }
        Ok(())
    }

    async fn ask(&self, region: RegionId, url: &Uri) -> Option<Told> {
        let exchange = async {
            let answer = self.client.get(url.clone()).await.ok()?;
            let is_good = answer.status() == StatusCode::OK;
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
            let told: Told = serde_json::from_slice(&body.to_bytes()).ok().filter(|_| is_good)?;
            (told.region == region).then_some(told)
        };
        let told = tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().flatten();
        if told.is_none() {
            tracing::debug!(%region, "{region} tells nothing");
        }
        told
    }

    /// Tells `HAProxy` everything.
    async fn apply(&self, commands: &str) -> anyhow::Result<()> {
        let exchange = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(commands.as_bytes()).await?;
            let mut said = String::new();
            stream.take(ANSWER_BYTES_MAX as u64).read_to_string(&mut said).await?;
            Ok::<_, std::io::Error>(said)
        };
        let said = tokio::time::timeout(APPLY_LIMIT, exchange).await.context("HAProxy is silent");
        let said = said?.with_context(|| format!("HAProxy at {}", self.socket.display()))?;
        let said = said.trim();
        ensure!(said.is_empty(), "HAProxy says: {}", said.lines().next().unwrap_or_default());
        Ok(())
    }
}

/// One line for `HAProxy`'s runtime interface.
fn commands(
    places: &Places,
    ready: &BTreeMap<RegionId, u32>,
    nearest: &BTreeMap<RegionId, Vec<RegionId>>,
) -> String {
    let mut commands = Vec::new();
    let is_fenced = |region: &RegionId| places.0.get(region).is_some_and(|place| place.fenced);
    let mut seen = ready.iter().filter(|(_, rounds)| **rounds >= READY_ROUNDS);
    let others_are_there = seen.any(|(region, _)| !is_fenced(region));
    let is_whole = |region: &RegionId| places.0.get(region).is_none_or(|place| place.share == 100);
    for (region, place) in &places.0 {
        let Some(order) = nearest.get(region) else { continue };
        let Place { fenced, share, successor, .. } = place;
        let whole = order.iter().find(|other| *other != region && is_whole(other));
        let successor = successor.or(whole.copied()).unwrap_or(*region);
        commands.push(format!("set map {ROUTING_MAP} {region} {}", mapped(*share, successor)));
        // It serves when nobody else is there: what it sells is below its ceilings. What is under way there may end.
        let state = if *fenced && others_are_there { "drain" } else { "ready" };
        let set = |backend: &RegionId| format!("set server {backend}/{region} state {state}");
        commands.extend(nearest.keys().map(set));
    }
    commands.join(";") + "\n"
}

fn read(file: &Path) -> anyhow::Result<Places> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} can't be read; remove it to begin with what the regions say now",
                file.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Places::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// A reader never sees half of it.
fn write(file: &Path, places: &Places) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let text = serde_json::to_vec(places)?;
    let write = || -> std::io::Result<()> {
        let mut open = std::fs::File::create(&partial)?;
        std::io::Write::write_all(&mut open, &text)?;
        open.sync_all()?;
        std::fs::rename(&partial, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escrow::Ballot;

    #[test]
    fn haproxy_is_told_who_serves_whom() {
        let name = |name: &str| name.parse::<RegionId>().unwrap();
        let (a, b, c) = (name("a"), name("b"), name("c"));
        let nearest = [(a, vec![a, b, c]), (b, vec![b, a, c]), (c, vec![c, a, b])].into();
        let place = |fenced, share, successor| {
            let ballot = Ballot { round: 1, region: a };
            Place { ballot, sequence: 0, fenced, share, successor }
        };
        let places = Places(
            [
                (a, place(false, 25, None)),
                (b, place(true, 0, Some(c))),
                (c, place(false, 100, None)),
            ]
            .into(),
        );
        let told = commands(&places, &[(a, READY_ROUNDS), (b, 9)].into(), &nearest);
        let alone = commands(&places, &[(a, READY_ROUNDS - 1), (b, 9)].into(), &nearest);
        assert!(told.contains("a/b state drain") && alone.contains("a/b state ready"), "{alone}");
        let told: Vec<&str> = told.trim().split(';').collect();
        assert_eq!(
            told,
            [
                "set map routing.map a 25:c",
                "set server a/a state ready",
                "set server b/a state ready",
                "set server c/a state ready",
                "set map routing.map b 0:c",
                "set server a/b state drain",
                "set server b/b state drain",
                "set server c/b state drain",
                "set map routing.map c 100:c",
                "set server a/c state ready",
                "set server b/c state ready",
                "set server c/c state ready",
            ]
        );
    }
}
