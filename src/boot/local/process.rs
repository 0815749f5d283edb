//! One child process: how it is started, signalled with all its descendants, and recognized later.
//!
//! Every child is started through `setpriv`, which replaces itself by the program after asking the
//! kernel to signal it when the supervisor dies, and after giving up root where the program refuses
//! it. So nothing outlives a supervisor that is killed, and no unsafe code is needed here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

/// A log that is longer when its program starts is moved aside, so that logs stay below twice this.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Between two looks whether processes are gone.
const GONE_POLL: Duration = Duration::from_millis(10);
/// How long what a killed supervisor left behind may take to stop before it is killed.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);

/// A user to run a program as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The program must pass folders that only root may enter on the way to its data.
    pub(crate) passes_closed_folders: bool,
}

/// How to run a program and how to stop it.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// For messages and the log's name: `us-east.postgres`.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) directory: PathBuf,
    pub(crate) log: PathBuf,
    /// Asks the program to stop in order; also sent by the kernel when the supervisor dies.
    pub(crate) stop_signal: Signal,
    /// How long stopping in order may take before the program is killed.
    pub(crate) stop_grace: Duration,
}

impl Spec {
    /// The command, not started.
    pub(crate) fn command(&self, setpriv: &Path) -> std::process::Command {
        let mut command = std::process::Command::new(setpriv);
        command.arg("--pdeathsig").arg(self.stop_signal.as_str().trim_start_matches("SIG"));
        if let Some(user) = &self.run_as {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            command.arg("--clear-groups");
            if user.passes_closed_folders {
                command.args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]);
            }
        }
        command.arg("--").arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command.current_dir(&self.directory);
        command
    }

    /// Starts it in a process group of its own, so that Ctrl-C in the terminal reaches only the
    /// supervisor, which then stops everything in order.
    pub(crate) fn spawn(&self, setpriv: &Path) -> anyhow::Result<Child> {
        use std::os::unix::process::CommandExt;
        let (out, err) = open_log(&self.log)?;
        let mut command = self.command(setpriv);
        command.stdin(std::process::Stdio::null()).stdout(out).stderr(err).process_group(0);
        Command::from(command)
            .spawn()
            .with_context(|| format!("cannot start {} for {}", self.program.display(), self.name))
    }

    /// Runs it to its end. An error has the end of its log.
    pub(crate) async fn run_once(&self, setpriv: &Path) -> anyhow::Result<()> {
        let status = self.spawn(setpriv)?.wait().await?;
        anyhow::ensure!(
            status.success(),
            "{} failed ({status}):\n{}",
            self.name,
            log_tail(&self.log)
        );
        Ok(())
    }
}

fn open_log(path: &Path) -> anyhow::Result<(std::fs::File, std::fs::File)> {
    if std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1")).context("moving an old log aside")?;
    }
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write the log {}", path.display()))?;
    Ok((file.try_clone()?, file))
}

/// The last lines of a log, indented, for an error message.
pub(crate) fn log_tail(path: &Path) -> String {
    const LINES: usize = 8;
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(LINES).collect();
    let mut tail = String::new();
    for line in lines.iter().rev() {
        tail.push_str("    ");
        tail.push_str(line);
        tail.push('\n');
    }
    tail + "    (the whole log: " + &path.to_string_lossy() + ")"
}

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// In clock ticks since the machine booted.
    started: u64,
}

impl Identity {
    /// Of a process that runs now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether it still runs (a zombie does not).
    pub(crate) fn is_alive(self) -> bool {
        Stat::read(self.pid)
            .is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// What `/proc` says about a process.
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may itself contain anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// A process and all its descendants; PostgreSQL's are in sessions of their own, so that a signal to
/// a process group would miss them.
pub(crate) fn tree(root: i32) -> Vec<Identity> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found.into_iter().filter_map(Identity::of).collect()
}

/// Sends a signal to each process that is still the one it was.
pub(crate) fn signal_all(processes: &[Identity], signal: Signal) {
    for process in processes.iter().filter(|process| process.is_alive()) {
        if let Err(error) = signal::kill(Pid::from_raw(process.pid), signal) {
            // It has just gone and needs no signal, or it is not ours to signal.
            tracing::debug!(pid = process.pid, %error, "a signal was not sent");
        }
    }
}

/// Waits until all are gone, at most `limit`. Says whether they are.
pub(crate) async fn wait_gone(processes: &[Identity], limit: Duration) -> bool {
    let wait = async {
        while processes.iter().any(|process| process.is_alive()) {
            tokio::time::sleep(GONE_POLL).await;
        }
    };
    tokio::time::timeout(limit, wait).await.is_ok()
}

/// The running children, written down so that a later supervisor finds what a killed one left.
#[derive(Debug)]
pub(crate) struct Registry {
    file: PathBuf,
    running: Mutex<BTreeMap<String, Identity>>,
}

impl Registry {
    /// Stops whatever an earlier supervisor, now dead, left running, and begins a new list.
    pub(crate) async fn take_over(file: PathBuf) -> anyhow::Result<Self> {
        let left: BTreeMap<String, Identity> = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(_) => BTreeMap::new(),
        };
        for (name, process) in left.iter().filter(|(_, process)| process.is_alive()) {
            let processes = tree(process.pid);
            tracing::warn!(program = %name, pid = process.pid, "stopping what an earlier run left");
            signal_all(&processes, Signal::SIGCONT);
            signal_all(&[*process], Signal::SIGINT);
            if !wait_gone(&processes, LEFTOVER_GRACE).await {
                signal_all(&processes, Signal::SIGKILL);
                anyhow::ensure!(
                    wait_gone(&processes, LEFTOVER_GRACE).await,
                    "{name} of an earlier run (pid {}) can't be stopped; stop it, then try again",
                    process.pid
                );
            }
        }
        let registry = Self { file, running: Mutex::default() };
        registry.write(&BTreeMap::new())?;
        Ok(registry)
    }

    pub(crate) fn started(&self, name: &str, process: Identity) -> anyhow::Result<()> {
        let mut running = self.running();
        running.insert(name.to_owned(), process);
        self.write(&running)
    }

    pub(crate) fn ended(&self, name: &str) -> anyhow::Result<()> {
        let mut running = self.running();
        running.remove(name);
        self.write(&running)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Identity>> {
        self.running.lock().expect("no panic while held")
    }

    /// Written beside and renamed, so that a reader never sees half of it.
    fn write(&self, running: &BTreeMap<String, Identity>) -> anyhow::Result<()> {
        let partial = self.file.with_extension("partial");
        let text = serde_json::to_vec_pretty(running)?;
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, &self.file))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}
