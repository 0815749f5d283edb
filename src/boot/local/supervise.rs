//! Keeps one program running: starts it, starts it again when it dies, and stops, freezes or kills
//! it when told to.
//!
//! One task owns each child and takes [`Order`]s. A child that was stopped on purpose stays down
//! until it is told to start; one that dies by itself comes back after a pause that doubles with
//! every death and is forgotten once it has run for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Child as Process;
use tokio::sync::{mpsc, oneshot, watch};

use super::process::{Identity, Registry, Spec, signal_all, tree, wait_gone};
use crate::ports::Clock;
use crate::runtime::{SystemClock, spawn_named};

/// The pause before the first restart; a program that was killed is back at once, as far as a user
/// can tell.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a server that waits for its database to recover is back at most this much later,
/// and a program that can't start at all costs one attempt in two seconds.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A program that ran this long was healthy; its next death starts over with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// How long the kernel may take to end processes that were killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Orders waiting for one child; they come from people and scripts, one at a time.
const ORDERS_MAX: usize = 16;

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running(Identity),
    /// It was frozen with SIGSTOP on purpose.
    Frozen(Identity),
    /// It died by itself and is about to be started again.
    Restarting,
    /// It was stopped or killed on purpose and stays down until it is started.
    Down,
}

impl State {
    pub(crate) fn pid(self) -> Option<i32> {
        match self {
            Self::Running(process) | Self::Frozen(process) => Some(process.pid),
            Self::Restarting | Self::Down => None,
        }
    }
}

/// A child's state and history.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// How often it died by itself.
    pub(crate) deaths: u32,
    /// How it ended last, if it died by itself.
    pub(crate) last_death: Option<String>,
}

/// What a child is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Run: start it again, or thaw it.
    Start,
    /// SIGSTOP to it and all its descendants.
    Freeze,
    /// SIGKILL to it and all its descendants; it stays down.
    Kill,
    /// Stop in order; it stays down.
    Stop,
}

/// A supervised program. Dropping it ends the supervision, not the program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) spec: Arc<Spec>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    status: watch::Receiver<Status>,
}

impl Child {
    /// Starts a program and keeps it running.
    pub(crate) fn start(spec: Spec, setpriv: PathBuf, registry: Arc<Registry>) -> Self {
        let spec = Arc::new(spec);
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let (sender, status) =
            watch::channel(Status { state: State::Restarting, deaths: 0, last_death: None });
        let keeper = Keeper {
            spec: Arc::clone(&spec),
            setpriv,
            registry,
            clock: SystemClock::new(),
            inbox,
            status: sender,
        };
        drop(spawn_named("supervise", keeper.run()));
        Self { spec, orders, status }
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) async fn tell(&self, order: Order) {
        let (done, wait) = oneshot::channel();
        if self.orders.send((order, done)).await.is_ok() {
            // The keeper answers every order, or is gone with the program.
            drop(wait.await);
        }
    }
}

struct Keeper {
    spec: Arc<Spec>,
    setpriv: PathBuf,
    registry: Arc<Registry>,
    clock: SystemClock,
    inbox: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    status: watch::Sender<Status>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let started_ms = self.clock.monotonic_ms();
            let death = match self.spec.spawn(&self.setpriv) {
                Ok(process) => match self.watch(process).await {
                    End::Died(death) => death,
                    End::Stopped => {
                        if !self.wait_for_start().await {
                            return;
                        }
                        backoff = BACKOFF_FIRST;
                        continue;
                    }
                    End::Abandoned => return,
                },
                Err(error) => format!("{error:#}"),
            };
            let ran = Duration::from_millis(self.clock.monotonic_ms() - started_ms);
            if ran >= HEALTHY_AFTER {
                backoff = BACKOFF_FIRST;
            }
            tracing::warn!(
                program = %self.spec.name, pause_ms = backoff.as_millis(),
                "{} died ({death}); it is started again; its log is {}",
                self.spec.name, self.spec.log.display()
            );
            self.status.send_modify(|status| {
                status.state = State::Restarting;
                status.deaths += 1;
                status.last_death = Some(death);
            });
            if !self.pause(backoff).await {
                return;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Watches a running process until it is gone.
    async fn watch(&mut self, mut process: Process) -> End {
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(identity) = pid.and_then(Identity::of) else {
            return End::Died("it ended at once".to_owned());
        };
        self.note(self.registry.started(&self.spec.name, identity));
        self.set(State::Running(identity));
        let end = loop {
            tokio::select! {
                ended = process.wait() => {
                    break End::Died(ended.map_or_else(|error| error.to_string(), |s| s.to_string()));
                }
                order = self.inbox.recv() => {
                    let Some((order, done)) = order else { break End::Abandoned };
                    match order {
                        Order::Start => {
                            signal_all(&tree(identity.pid), Signal::SIGCONT);
                            self.set(State::Running(identity));
                        }
                        Order::Freeze => {
                            freeze(identity).await;
                            self.set(State::Frozen(identity));
                        }
                        Order::Kill | Order::Stop => {
                            self.end(&mut process, identity, order == Order::Stop).await;
                            self.set(State::Down);
                            self.note(self.registry.ended(&self.spec.name));
                            answer(done);
                            return End::Stopped;
                        }
                    }
                    answer(done);
                }
            }
        };
        self.note(self.registry.ended(&self.spec.name));
        end
    }

    async fn end(&self, process: &mut Process, identity: Identity, in_order: bool) {
        let mut processes = tree(identity.pid);
        if in_order {
            signal_all(&[identity], self.spec.stop_signal);
            // A frozen program can't answer a signal.
            signal_all(&processes, Signal::SIGCONT);
            if tokio::time::timeout(self.spec.stop_grace, process.wait()).await.is_ok() {
                wait_gone(&processes, KILL_LIMIT).await;
                return;
            }
            tracing::warn!(program = %self.spec.name, "{} did not stop in time", self.spec.name);
            processes = tree(identity.pid);
        }
        signal_all(&processes, Signal::SIGKILL);
        drop(process.wait().await);
        if !wait_gone(&processes, KILL_LIMIT).await {
            tracing::error!(program = %self.spec.name, "killed processes are still there");
        }
    }

    /// Stays down until told to start; false when nobody can tell it any more.
    async fn wait_for_start(&mut self) -> bool {
        while let Some((order, done)) = self.inbox.recv().await {
            answer(done);
            if order == Order::Start {
                return true;
            }
        }
        false
    }

    /// Waits before a restart; an order cuts it short. False when nobody can give orders any more.
    async fn pause(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            order = self.inbox.recv() => match order {
                None => false,
                Some((Order::Start, done)) => {
                    answer(done);
                    true
                }
                Some((Order::Freeze | Order::Kill | Order::Stop, done)) => {
                    self.set(State::Down);
                    answer(done);
                    self.wait_for_start().await
                }
            }
        }
    }

    fn set(&self, state: State) {
        self.status.send_modify(|status| status.state = state);
    }

    /// The list of children only matters after a crash; failing to write it stops nothing.
    fn note(&self, written: anyhow::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(program = %self.spec.name, "{error:#}");
        }
    }
}

/// Tells whoever gave an order that it was carried out, if anybody still waits.
fn answer(done: oneshot::Sender<()>) {
    if done.send(()).is_err() {
        tracing::trace!("nobody waits for this order any more");
    }
}

enum End {
    Died(String),
    Stopped,
    Abandoned,
}

/// Stops the parent first, then looks again: what it started meanwhile is stopped as well.
async fn freeze(identity: Identity) {
    let mut known = 0;
    loop {
        let processes = tree(identity.pid);
        signal_all(&processes, Signal::SIGSTOP);
        if processes.len() == known {
            return;
        }
        known = processes.len();
        tokio::task::yield_now().await;
    }
}
