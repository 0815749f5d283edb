//! Keeps a load balancer on the newest routes: asks every region who serves whose shoppers, and tells `HAProxy`.
//!
//! `HAProxy` takes a region out by itself when its `/readyz` says no, or nobody answers. What it can't see is that a region
//! that answers has been given up by the others, and that one that is back is to be trusted with a few shoppers at first.
//! [`Places`] decides which of the answers counts; what was followed last is kept in a file, so that a start when only a
//! lost region can be asked does not go back.
//!
//! `HAProxy` is told everything in every round: one that was started again has forgotten what it was told.

use std::collections::{BTreeMap, BTreeSet};
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
/// In one line for `HAProxy`, which reads 16 KiB at once; the longest command has 60 bytes.
const COMMANDS_PER_LINE: usize = 128;
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
    /// What the file holds, as far as is known.
    kept: Option<Places>,
    /// In how many rounds, up to the last one, a region said that it takes orders.
    ready: BTreeMap<RegionId, u32>,
    /// Who told nothing in the last round.
    silent: BTreeSet<RegionId>,
}

impl Follower {
    /// `socket` is where `HAProxy` takes commands, `state` the file of what was followed last. One that can't be read
    /// is as none: a balancer that follows nobody would be worse off.
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
        let kept = read(&state).inspect_err(|error| {
            tracing::error!("{error:#}: what was followed before is not known, and what the regions say now is followed");
        });
        let kept = kept.ok();
        let places = kept.clone().unwrap_or_default();
        let (ready, silent) = Default::default();
        Ok(Self { client, regions, nearest, socket, state, places, kept, ready, silent })
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failed = String::new();
        loop {
            let why = self.round().await.err().map(|error| format!("{error:#}"));
            let why = why.unwrap_or_default();
            if why != failed {
                if why.is_empty() {
                    tracing::info!("the balancer follows what the regions have agreed on again");
                } else {
                    tracing::warn!("{why}; it is tried again every {} ms", ROUND.as_millis());
                }
                failed = why;
            }
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
        let all: BTreeSet<RegionId> = self.regions.keys().copied().collect();
        let heard: BTreeSet<RegionId> = told.iter().map(|told| told.region).collect();
        self.note_silent(all.difference(&heard).copied().collect());
        let mut places = self.places.clone();
        places.learn(&all, &told);
        places
    }

    /// Who told nothing when it was looked last: of these what others say, or was followed before, is shown.
    pub(crate) fn silent(&self) -> &BTreeSet<RegionId> {
        &self.silent
    }

    fn note_silent(&mut self, silent: BTreeSet<RegionId>) {
        for region in silent.difference(&self.silent) {
            let url = &self.regions[region];
            tracing::warn!(%region, %url, "{region} does not tell who serves whose shoppers: what the others say of it counts");
        }
        for region in self.silent.difference(&silent) {
            tracing::info!(%region, "{region} tells again who serves whose shoppers");
        }
        self.silent = silent;
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        let next = self.look().await;
        for (region, place) in &next.0 {
            if self.places.0.get(region) != Some(place) {
                tracing::info!(%region, round = place.ballot.round, fenced = place.fenced, share = place.share,
                    "{region} serves {} % of its shoppers", place.share);
            }
        }
        self.places = next;
        // Kept first: who forgets what it has followed may go back. But shoppers of a lost region don't wait for a disk.
        let kept = self.keep();
        self.apply(&commands(&self.places, &self.ready, &self.nearest)).await?;
        kept
    }

    fn keep(&mut self) -> anyhow::Result<()> {
        if self.kept.as_ref() != Some(&self.places) {
            write(&self.state, &self.places).with_context(|| {
                format!(
                    "cannot write {}: routes are followed, and forgotten with this process",
                    self.state.display()
                )
            })?;
            self.kept = Some(self.places.clone());
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
        tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().flatten()
    }

    /// Tells `HAProxy` everything.
    async fn apply(&self, commands: &[String]) -> anyhow::Result<()> {
        for line in commands.chunks(COMMANDS_PER_LINE) {
            let exchange = async {
                let mut stream = UnixStream::connect(&self.socket).await?;
                stream.write_all((line.join(";") + "\n").as_bytes()).await?;
                let mut said = String::new();
                stream.take(ANSWER_BYTES_MAX as u64).read_to_string(&mut said).await?;
                Ok::<_, std::io::Error>(said)
            };
            let whose = || {
                let socket = self.socket.display();
                format!("HAProxy at {socket} was not told who serves whose shoppers")
            };
            let said = tokio::time::timeout(APPLY_LIMIT, exchange).await.with_context(whose)?;
            let said = said.with_context(whose)?;
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(
                said.is_empty(),
                "HAProxy at {} refuses some of what it is told ({said}): its configuration and map are made from \
                 other regions than this configuration names",
                self.socket.display()
            );
        }
        Ok(())
    }
}

/// For `HAProxy`'s runtime interface.
fn commands(
    places: &Places,
    ready: &BTreeMap<RegionId, u32>,
    nearest: &BTreeMap<RegionId, Vec<RegionId>>,
) -> Vec<String> {
    let mut commands = Vec::new();
    let share = |region: &RegionId| places.0.get(region).map_or(100, |place| place.share);
    // A witness may have fenced a region, and takes nobody over.
    let sells = |region: &RegionId| nearest.contains_key(region);
    let is_whole = |region: &RegionId| sells(region) && share(region) == 100;
    // A lost region may be asked again when nobody else is there: what it sells is below its ceilings. The same goes for
    // one that is back, in place of others: those that it need not serve yet are not its own first.
    let is_there = |but: &RegionId, least: u8| {
        let mut seen = ready.iter().filter(|(_, rounds)| **rounds >= READY_ROUNDS);
        seen.any(|(region, _)| region != but && sells(region) && share(region) >= least)
    };
    for (region, place) in &places.0 {
        let Some(order) = nearest.get(region) else { continue };
        let Place { fenced, share, successor, .. } = place;
        let whole = order.iter().find(|other| *other != region && is_whole(other)).copied();
        let successor = successor.filter(sells);
        let rest = successor.filter(is_whole).or(whole).or(successor).unwrap_or(*region);
        commands.push(format!("set map {ROUTING_MAP} {region} {}", mapped(*share, rest)));
        let at_home = if *fenced && is_there(region, 1) { "drain" } else { "ready" };
        let elsewhere = if *share < 100 && is_there(region, 100) { "drain" } else { at_home };
        // What is under way there may end.
        let set = |backend: &RegionId| {
            let state = if backend == region { at_home } else { elsewhere };
            format!("set server {backend}/{region} state {state}")
        };
        commands.extend(nearest.keys().map(set));
    }
    commands
}

/// What was followed last.
pub(crate) fn read(file: &Path) -> anyhow::Result<Places> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} does not hold what was followed last", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Places::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// A reader never sees half of it, and a crash leaves what was there or what comes.
fn write(file: &Path, places: &Places) -> std::io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let mut open = std::fs::File::create(&partial)?;
    std::io::Write::write_all(&mut open, &serde_json::to_vec(places)?)?;
    open.sync_all()?;
    std::fs::rename(&partial, file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::boot::local::haproxy::tests::config_at;
    use crate::boot::local::haproxy::{self, SOCKET};
    use crate::boot::local::programs;
    use crate::domain::routing::Route;
    use crate::escrow::Ballot;

    fn name(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn place(fenced: bool, share: u8, successor: Option<&str>) -> Place {
        let ballot = Ballot { round: 1, region: name("a") };
        Place { ballot, sequence: 0, fenced, share, successor: successor.map(name) }
    }

    fn places(all: [Place; 3]) -> Places {
        Places(["a", "b", "c"].map(name).into_iter().zip(all).collect())
    }

    fn nearest() -> BTreeMap<RegionId, Vec<RegionId>> {
        let order = |names: [&str; 3]| (name(names[0]), names.map(name).to_vec());
        [order(["a", "b", "c"]), order(["b", "a", "c"]), order(["c", "a", "b"])].into()
    }

    fn ready(rounds: [(&str, u32); 2]) -> BTreeMap<RegionId, u32> {
        rounds.map(|(region, rounds)| (name(region), rounds)).into()
    }

    #[test]
    fn haproxy_is_told_who_serves_whom() {
        let places =
            places([place(false, 25, None), place(true, 0, Some("c")), place(false, 100, None)]);
        let told = commands(&places, &ready([("b", 9), ("c", READY_ROUNDS)]), &nearest());
        assert_eq!(
            told,
            [
                "set map routing.map a 25:c",
                "set server a/a state ready",
                "set server b/a state drain",
                "set server c/a state drain",
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

    #[test]
    fn whoever_is_the_last_one_serves() {
        let places =
            places([place(false, 25, None), place(true, 0, Some("c")), place(false, 100, None)]);
        let told = |rounds| commands(&places, &ready(rounds), &nearest()).join("\n");
        let only_lost = told([("a", READY_ROUNDS - 1), ("b", 9)]);
        assert!(!only_lost.contains("drain"), "{only_lost}");
        let few = told([("a", READY_ROUNDS), ("b", 9)]);
        assert!(few.contains("b/b state drain") && few.contains("c/a state ready"), "{few}");
    }

    #[test]
    fn a_successor_that_is_lost_or_only_just_back_takes_nobody_over() {
        let told =
            |all| commands(&places(all), &ready([("a", 9), ("c", 9)]), &nearest()).join("\n");
        for fenced in [true, false] {
            let share = if fenced { 0 } else { 5 };
            let successor = place(fenced, share, fenced.then_some("a"));
            let told = told([place(false, 100, None), successor, place(true, 0, Some("b"))]);
            assert!(told.contains("routing.map c 0:a"), "{told}");
        }
        let nobody =
            [place(true, 0, Some("b")), place(true, 0, Some("a")), place(true, 0, Some("b"))];
        assert!(told(nobody).contains("routing.map c 0:b"));
    }

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("e {name} {}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Regions that tell what they are given to tell, until they are given nothing.
    #[derive(Clone, Default)]
    struct Regions(Arc<Mutex<BTreeMap<RegionId, Told>>>);

    impl Regions {
        /// Answers the ports that they listen on.
        async fn serve(&self) -> [u16; 3] {
            let mut ports = Vec::new();
            for region in ["a", "b", "c"].map(name) {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ports.push(listener.local_addr().unwrap().port());
                let told = Arc::clone(&self.0);
                drop(crate::runtime::spawn_named("region", async move {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        let mut lines = BufReader::new(&mut stream).lines();
                        while lines
                            .next_line()
                            .await
                            .is_ok_and(|line| line.is_some_and(|line| !line.is_empty()))
                        {
                        }
                        let told = told.lock().unwrap().get(&region).cloned();
                        let (status, body) = match told {
                            Some(told) => (200, serde_json::to_string(&told).unwrap()),
                            None => (503, "{}".to_owned()),
                        };
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        drop(stream.write_all(answer.as_bytes()).await);
                    }
                }));
            }
            ports.try_into().unwrap()
        }

        /// Some say that `a` has fenced `c`, the others have not heard of it.
        fn tell(&self, fenced: &[&str], fine: &[&str]) {
            let told = |by: &&str, ballot: Ballot, fenced| {
                let route = Route {
                    region: name("c"),
                    ballot,
                    sequence: 0,
                    fenced,
                    steward: name("c"),
                    share: None,
                };
                (name(by), Told { region: name(by), ready: true, routes: vec![route] })
            };
            let lost = Ballot { round: 1, region: name("a") };
            let fenced = fenced.iter().map(|by| told(by, lost, true));
            let fine = fine.iter().map(|by| told(by, Ballot::birth(name("c")), false));
            *self.0.lock().unwrap() = fenced.chain(fine).collect();
        }
    }

    /// Takes commands, and keeps the last line.
    fn listen(socket: &Path) -> Arc<Mutex<String>> {
        let (listener, last) =
            (UnixListener::bind(socket).unwrap(), Arc::<Mutex<String>>::default());
        let kept = Arc::clone(&last);
        drop(crate::runtime::spawn_named("balancer", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut line = String::new();
                BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
                *kept.lock().unwrap() = line;
                drop(stream.write_all(b"\n").await);
            }
        }));
        last
    }

    #[tokio::test]
    async fn a_fence_is_followed_and_not_forgotten() {
        let folder = Folder::new("follow");
        let (socket, state) = (folder.0.join(SOCKET), folder.0.join("routing.json"));
        let (regions, told) = (Regions::default(), listen(&socket));
        let config = config_at(9080, regions.serve().await);
        let begin = || Follower::new(&config, socket.clone(), state.clone()).unwrap();
        let mut first = begin();
        regions.tell(&[], &["a", "b", "c"]);
        first.round().await.unwrap();
        assert!(told.lock().unwrap().contains("routing.map c 100:a"));
        regions.tell(&["a", "b"], &["c"]);
        first.round().await.unwrap();
        assert!(told.lock().unwrap().contains("routing.map c 0:a"));
        assert!(first.silent().is_empty());

        // Another process, when only the lost region can be asked.
        let mut second = begin();
        regions.tell(&[], &["c"]);
        second.round().await.unwrap();
        assert!(told.lock().unwrap().contains("routing.map c 0:a"));
        assert_eq!(*second.silent(), ["a", "b"].map(name).into());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_or_written_keeps_nobody_at_a_lost_region() {
        let folder = Folder::new("disk");
        let (socket, state) = (folder.0.join(SOCKET), folder.0.join("routing.json"));
        let (regions, told) = (Regions::default(), listen(&socket));
        let config = config_at(9080, regions.serve().await);
        regions.tell(&["a", "b"], &["c"]);
        std::fs::write(&state, "{ \"c\": ").unwrap();
        assert!(read(&state).is_err());
        let mut follower = Follower::new(&config, socket.clone(), state.clone()).unwrap();
        follower.round().await.unwrap();
        assert!(told.lock().unwrap().contains("routing.map c 0:a"));
        assert_eq!(read(&state).unwrap(), follower.places, "it is written anew");

        // Whatever a full disk does, a folder that is not there does as well.
        let gone = folder.0.join("gone/routing.json");
        let mut follower = Follower::new(&config, socket, gone.clone()).unwrap();
        told.lock().unwrap().clear();
        let error = follower.round().await.unwrap_err();
        assert!(format!("{error:#}").contains("forgotten with this process"), "{error:#}");
        assert!(told.lock().unwrap().contains("routing.map c 0:a"));
        std::fs::create_dir(gone.parent().unwrap()).unwrap();
        follower.round().await.unwrap();
        assert_eq!(read(&gone).unwrap(), follower.places, "it is tried again");
    }

    #[tokio::test]
    async fn haproxy_does_what_it_is_told_also_after_a_restart() {
        let Some(program) = programs::in_path("haproxy") else { return };
        let folder = Folder::new("balancer");
        let regions = Regions::default();
        // Below those that the system gives away by itself, also between two starts.
        let port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let config = config_at(port, regions.serve().await);
        std::fs::write(folder.0.join("haproxy.cfg"), haproxy::render(&config).unwrap()).unwrap();
        std::fs::write(folder.0.join(ROUTING_MAP), haproxy::first_map(&config)).unwrap();
        let (socket, state) = (folder.0.join(SOCKET), folder.0.join("routing.json"));
        let mut follower = Follower::new(&config, socket.clone(), state).unwrap();
        regions.tell(&["a", "b"], &["c"]);
        for _ in 0..2 {
            let mut command = tokio::process::Command::new(&program);
            let command = command.current_dir(&folder.0).args(["-db", "-f", "haproxy.cfg"]);
            let mut running = command.kill_on_drop(true).spawn().unwrap();
            let mut tries = 0;
            loop {
                let told = follower.round().await;
                // On a busy machine a region may answer too late, and count for nothing.
                if told.is_ok() && follower.silent().is_empty() {
                    break;
                }
                tries += 1;
                assert!(tries < 100, "{told:?}, silent: {:?}", follower.silent());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            stream.write_all(format!("show map {ROUTING_MAP}\n").as_bytes()).await.unwrap();
            let mut map = String::new();
            stream.read_to_string(&mut map).await.unwrap();
            assert!(map.contains("c 0:a"), "{map}");
            running.kill().await.unwrap();
        }
        let error = follower.round().await.unwrap_err();
        assert!(format!("{error:#}").contains("was not told"), "{error:#}");
    }

    #[tokio::test]
    async fn what_haproxy_does_not_know_is_told() {
        let folder = Folder::new("refuses");
        let socket = folder.0.join(SOCKET);
        let listener = UnixListener::bind(&socket).unwrap();
        let follower =
            Follower::new(&config_at(9080, [1, 2, 3]), socket, folder.0.join("s")).unwrap();
        let told = ["set map routing.map x 100:x".to_owned()];
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            BufReader::new(&mut stream).read_line(&mut String::new()).await.unwrap();
            stream.write_all(b"entry not found.\n\n\n").await.unwrap();
        };
        let (error, ()) = tokio::join!(follower.apply(&told), answering);
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("(entry not found.)") && error.contains("other regions"), "{error}");
    }
}
