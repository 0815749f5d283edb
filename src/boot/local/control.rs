//! How `status`, `down` and `chaos` talk to a running supervisor: one JSON line each way on a Unix
//! socket that only its user can open.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::layout::Layout;
use super::links::Fault;
use crate::types::RegionId;

/// The longest request; they are a few words.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// The longest wait for an answer: stopping PostgreSQL in order may take 20 s.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// What a supervisor can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    /// What runs where.
    Status,
    /// Stop everything in order; answered at once.
    Down,
    /// A fault on a link.
    Link {
        /// One end.
        from: RegionId,
        /// The other.
        to: RegionId,
        /// Only what travels from `from` to `to`.
        one_way: bool,
        /// What to change.
        change: LinkChange,
    },
    /// A fault on a region's programs.
    Component {
        /// The region.
        region: RegionId,
        /// Which of its programs.
        component: Component,
        /// What to do.
        action: Action,
    },
}

/// A change of a link's faults; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkChange {
    /// Back to how the deployment started.
    pub(crate) heal: bool,
    /// Nothing passes any more.
    pub(crate) cut: bool,
    pub(crate) latency_us: Option<u64>,
    pub(crate) jitter_us: Option<u64>,
    pub(crate) loss_per_10_000: Option<u32>,
}

impl LinkChange {
    /// The fault after this change of `fault`; `base` is how the deployment started.
    pub(crate) fn apply(self, fault: Fault, base: Fault) -> Fault {
        let mut changed = if self.heal { base } else { fault };
        changed.cut |= self.cut;
        changed.latency_us = self.latency_us.unwrap_or(changed.latency_us);
        changed.jitter_us = self.jitter_us.unwrap_or(changed.jitter_us);
        changed.loss_per_10_000 = self.loss_per_10_000.unwrap_or(changed.loss_per_10_000);
        changed
    }
}

/// A program of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Component {
    /// `entrepot serve`.
    Server,
    /// Its database.
    Postgres,
    /// Its NATS server.
    Nats,
    /// All three: the region.
    All,
}

/// What to do to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// SIGKILL; it stays down until it is started.
    Kill,
    /// SIGSTOP; it stays frozen until it is started.
    Stop,
    /// Run again, whichever of the two it was.
    Start,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Good(serde_json::Value),
    Refused(String),
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Begins to listen. The lock is held, so a socket that is there already is a dead one's.
    pub(crate) fn bind(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.control_socket();
        let bind = || -> std::io::Result<UnixListener> {
            if path.exists() {
                std::fs::remove_file(&path)?;
            }
            let folder = File::open(layout.data_dir())?;
            let listener = UnixListener::bind(short(&folder, &path))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Answers requests one after the other, for ever.
    #[expect(clippy::infinite_loop, reason = "it serves until it is dropped")]
    pub(crate) async fn serve<F>(&self, answer: F) -> std::convert::Infallible
    where
        F: AsyncFn(Request) -> anyhow::Result<serde_json::Value>,
    {
        loop {
            let served = async {
                let (stream, _) = self.listener.accept().await?;
                let limited = tokio::time::timeout(ANSWER_LIMIT, serve_one(stream, &answer));
                limited.await.context("it took too long")?
            };
            if let Err(error) = served.await {
                tracing::warn!("a control request failed: {error:#}");
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}

async fn serve_one<F>(mut stream: UnixStream, answer: &F) -> anyhow::Result<()>
where
    F: AsyncFn(Request) -> anyhow::Result<serde_json::Value>,
{
    let (reads, mut writes) = stream.split();
    let mut line = String::new();
    BufReader::new(reads.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let answered = match serde_json::from_str::<Request>(&line) {
        Ok(request) => match answer(request).await {
            Ok(value) => Answer::Good(value),
            Err(error) => Answer::Refused(format!("{error:#}")),
        },
        Err(error) => Answer::Refused(format!(
            "the running supervisor does not know this request ({error}): it is of another version; \
             stop it with `entrepot down` and start again"
        )),
    };
    let mut text = serde_json::to_vec(&answered)?;
    text.push(b'\n');
    writes.write_all(&text).await?;
    Ok(())
}

/// Asks the supervisor of a data directory.
pub(crate) async fn ask(layout: &Layout, request: &Request) -> anyhow::Result<serde_json::Value> {
    let path = layout.control_socket();
    let connect = async {
        let folder = File::open(layout.data_dir())?;
        UnixStream::connect(short(&folder, &path)).await
    };
    let mut stream = connect.await.map_err(|_| {
        anyhow::anyhow!(
            "no deployment runs on {}: start one with `entrepot up`, or name its folder with \
             --data-dir",
            layout.data_dir().display()
        )
    })?;
    let exchange = async {
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::ensure!(!answer.is_empty(), "the supervisor stopped before it answered");
        anyhow::Ok(serde_json::from_slice::<Answer>(&answer)?)
    };
    match tokio::time::timeout(ANSWER_LIMIT, exchange)
        .await
        .context("the supervisor is stuck")??
    {
        Answer::Good(value) => Ok(value),
        Answer::Refused(reason) => anyhow::bail!(reason),
    }
}

/// A socket's path may have 107 bytes only; by way of its open folder any folder will do.
fn short(folder: &File, path: &Path) -> PathBuf {
    let name = path.file_name().expect("a socket has a name");
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spawn_named;

    #[tokio::test]
    async fn questions_are_answered_also_in_a_folder_with_a_long_name() {
        let folder = std::env::temp_dir().join(format!(
            "entrepot control {} {}",
            std::process::id(),
            "x".repeat(150)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let layout = Layout::new(folder.clone());
        let nobody = ask(&layout, &Request::Status).await.unwrap_err().to_string();
        assert!(nobody.contains("entrepot up"), "{nobody}");
        let socket = ControlSocket::bind(&layout).unwrap();
        let server = spawn_named("control", async move {
            match socket
                .serve(async |request| match request {
                    Request::Status => Ok(serde_json::json!({"good": true})),
                    Request::Down | Request::Link { .. } | Request::Component { .. } => {
                        anyhow::bail!("not now")
                    }
                })
                .await {}
        });
        assert_eq!(ask(&layout, &Request::Status).await.unwrap()["good"], true);
        let refused = ask(&layout, &Request::Down).await.unwrap_err();
        assert_eq!(refused.to_string(), "not now");
        server.abort();
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_change_leaves_the_rest_of_a_fault_alone() {
        let base = Fault { latency_us: 35_250, ..Fault::default() };
        let lossy = LinkChange { loss_per_10_000: Some(500), ..LinkChange::default() };
        let cut = LinkChange { cut: true, ..LinkChange::default() };
        let heal = LinkChange { heal: true, ..LinkChange::default() };
        let worse = cut.apply(lossy.apply(base, base), base);
        assert_eq!(worse, Fault { cut: true, loss_per_10_000: 500, ..base });
        assert_eq!(heal.apply(worse, base), base);
    }
}
