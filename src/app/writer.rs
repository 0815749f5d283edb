//! Group commit: many decisions, one lock round, one multi-row write.
//!
//! Commands wait in one bounded queue. Each of a few writer tasks takes what is there (no waiting for a
//! fuller group: an idle region commits at once, a busy one in large groups), loads the union of the
//! needs, lets every command decide, and commits. A commit that finds its state changed is decided again
//! from a fresh load; one whose outcome is not known as well, since every command recognizes its own
//! work (an intent's record, a version) when it is already there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::domain::inventory::StockDeltas;
use crate::mutants::{Mutant, is_on};
use crate::ports::{CommitError, Needs, Stamp, Store, StoreError};
use crate::runtime::TaskSet;

use super::{Command, Region, Signals, Workspace};

/// How often a group is decided again because others were faster, before it is given up. Each time
/// somebody else has made progress, so with a handful of writers a group is through after two or three.
const DECISIONS_MAX: u32 = 20;

/// From so many commands on a group shows a busy region: there is more to come at once.
const BUSY_JOBS: usize = 4;
/// How far apart the groups of one writer then begin at least. What comes meanwhile shares the next
/// group's statements and its commit: at half of the highest rate that saves a third of the work, and
/// an order takes a few milliseconds longer. A region that is not busy waits for nothing.
const PACE_MS: u64 = 10;

/// How the writer is set up.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// Commands in one group.
    pub group_max: usize,
    /// Groups under way at once.
    pub writers: usize,
    /// Commands that may wait.
    pub queue_max: usize,
}

/// Why a command has no answer. Its caller must not assume that nothing was written unless it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The queue is full. Nothing was written.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The database can't be reached. What became of the command is to be looked up under its idempotency key.
    #[error("{0}")]
    Unavailable(String),
    /// The region was fenced. Nothing was written.
    #[error("this region was fenced and writes nothing any more")]
    Fenced,
    /// The region's database was set back, or may have been. Nothing was written.
    #[error("this region's database was set back, or may have been: nothing is written")]
    NotTrusted,
    /// A bug. Nothing was written.
    #[error("{0}")]
    Broken(String),
}

/// Accepts commands.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Starts the writer tasks.
    #[expect(clippy::needless_pass_by_value, reason = "the writer owns what it writes with")]
    pub fn start(
        tasks: &TaskSet,
        region: Arc<Region>,
        store: Arc<dyn Store>,
        signals: Signals,
        settings: WriterSettings,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(settings.queue_max);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..settings.writers {
            let group = Group {
                region: Arc::clone(&region),
                store: Arc::clone(&store),
                signals: signals.clone(),
                jobs_max: settings.group_max,
            };
            tasks.spawn("writer", group.run(Arc::clone(&receiver), tasks.stopping()));
        }
        Self { queue: sender }
    }

    /// Decides a command and makes it durable. The second part of the answer is the outbox sequence of
    /// its group. Dropping this future doesn't stop the command.
    pub async fn submit<C>(&self, command: C) -> Result<(C::Answer, Option<u64>), WriteError>
    where
        C: Command + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { command, answer: None, reply });
        self.queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => WriteError::Unavailable(STOPPING.to_owned()),
        })?;
        answer.await.map_err(|_| WriteError::Unavailable(UNANSWERED.to_owned()))?
    }
}

const STOPPING: &str = "the server is stopping";
const UNANSWERED: &str = "the server stopped before it was known what became of the request";

/// A command of any type with somebody who waits.
trait Job: Send {
    fn needs(&self, needs: &mut Needs, attempt: u32);
    fn decide(&mut self, workspace: &mut Workspace<'_>);
    fn reply(self: Box<Self>, outcome: Result<Option<u64>, WriteError>);
}

type Answered<C> = Result<(<C as Command>::Answer, Option<u64>), WriteError>;

struct Pending<C: Command> {
    command: C,
    answer: Option<C::Answer>,
    reply: oneshot::Sender<Answered<C>>,
}

impl<C: Command> Job for Pending<C> {
    fn needs(&self, needs: &mut Needs, attempt: u32) {
        self.command.needs(needs, attempt);
    }

    fn decide(&mut self, workspace: &mut Workspace<'_>) {
        self.answer = Some(self.command.decide(workspace));
    }

    fn reply(self: Box<Self>, outcome: Result<Option<u64>, WriteError>) {
        let answer = self.answer;
        let outcome =
            outcome.map(|sequence| (answer.expect("decided before it replies"), sequence));
        // Nobody waits any more when the client hung up; the work is done all the same.
        drop(self.reply.send(outcome));
    }
}

type Jobs = Vec<Box<dyn Job>>;

struct Group {
    region: Arc<Region>,
    store: Arc<dyn Store>,
    signals: Signals,
    jobs_max: usize,
}

impl Group {
    async fn run(
        self,
        queue: Arc<Mutex<mpsc::Receiver<Box<dyn Job>>>>,
        stopping: tokio_util::sync::CancellationToken,
    ) {
        loop {
            let mut jobs = Vec::new();
            {
                let mut queue = queue.lock().await;
                tokio::select! {
                    biased;
                    taken = queue.recv_many(&mut jobs, self.jobs_max) => if taken == 0 { return },
                    () = stopping.cancelled() => return,
                }
            }
            let (begun_ms, busy) = (self.region.clock.monotonic_ms(), jobs.len() >= BUSY_JOBS);
            // A bug in one decision must not end the region's writing: its group gets no answer, which
            // its callers know as an unknown outcome.
            if AssertUnwindSafe(self.process(jobs)).catch_unwind().await.is_err() {
                tracing::error!("a group of commands ended in a panic: a bug");
            }
            let taken_ms = self.region.clock.monotonic_ms() - begun_ms;
            if busy && taken_ms < PACE_MS {
                tokio::time::sleep(Duration::from_millis(PACE_MS - taken_ms)).await;
            }
        }
    }

    /// A group that the database refuses as a whole is taken apart, so that only the culprit fails.
    async fn process(&self, mut jobs: Jobs) {
        let outcome = self.decide_and_commit(&mut jobs).await;
        if matches!(outcome, Err(WriteError::Broken(_))) && jobs.len() > 1 {
            for job in jobs {
                let mut alone = vec![job];
                let outcome = self.decide_and_commit(&mut alone).await;
                reply(alone, &outcome);
            }
        } else {
            reply(jobs, &outcome);
        }
    }

    async fn decide_and_commit(&self, jobs: &mut Jobs) -> Result<Option<u64>, WriteError> {
        let mut last = String::new();
        let mut in_doubt: Option<StockDeltas> = None;
        for attempt in 0..DECISIONS_MAX {
            // What is decided on what was forgotten parts from what the others know.
            if !self.region.may_write() && in_doubt.is_none() {
                return Err(WriteError::NotTrusted);
            }
            let mut needs = Needs::default();
            for job in jobs.iter() {
                job.needs(&mut needs, attempt);
            }
            let view = match self.store.load(&needs).await {
                Ok(view) => view,
                Err(error) => {
                    // What is in doubt may have been written.
                    self.signals.rows.mark(&in_doubt.unwrap_or_default());
                    return Err(match error {
                        StoreError::Unavailable(why) => WriteError::Unavailable(why),
                        StoreError::Broken(why) => WriteError::Broken(why),
                    });
                }
            };
            let mut workspace = Workspace::new(view, &self.region);
            for job in jobs.iter_mut() {
                job.decide(&mut workspace);
            }
            if workspace.changes.is_empty() {
                if let Some(stock) = in_doubt {
                    // It was written.
                    self.signals.rows.mark(&stock);
                    self.signals.outbox.notify_one();
                }
                return Ok(None);
            }
            let stamp = Stamp {
                epoch: self.region.epoch,
                hlc: workspace.last_stamp(),
                now_ms: workspace.now_ms,
            };
            let told = self.region.told_of_draining();
            match self.store.commit(&workspace.changes, stamp).await {
                Ok(committed) => {
                    self.signals.rows.mark(&in_doubt.unwrap_or_default());
                    self.signals.rows.mark(&workspace.changes.stock);
                    self.signals.outbox.notify_one();
                    return Ok(committed.sequence);
                }
                Err(CommitError::Conflict(what)) => what.clone_into(&mut last),
                Err(CommitError::Unknown(_)) if is_on(Mutant::UnknownCommitTakenForDone) => {
                    return Ok(None);
                }
                Err(CommitError::Unknown(why)) if is_on(Mutant::UnknownCommitTakenForFailed) => {
                    return Err(WriteError::Unavailable(why));
                }
                Err(CommitError::Unknown(why)) => {
                    tracing::warn!(%why, "the outcome of a commit is not known: looking it up");
                    in_doubt.get_or_insert_default().append(&mut workspace.changes.stock);
                    last = why;
                }
                Err(CommitError::Unavailable(why)) => return Err(WriteError::Unavailable(why)),
                // Another process drained the region: decided again, nobody's order is placed.
                Err(CommitError::Draining) => {
                    self.region.was_refused(told);
                    "the region is drained".clone_into(&mut last);
                }
                Err(CommitError::Fenced) => return Err(WriteError::Fenced),
                Err(CommitError::Broken(why)) => return Err(WriteError::Broken(why)),
            }
        }
        Err(WriteError::Unavailable(format!("gave up after {DECISIONS_MAX} decisions: {last}")))
    }
}

fn reply(jobs: Jobs, outcome: &Result<Option<u64>, WriteError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, commands = jobs.len(), "a group of commands was not carried out");
    }
    for job in jobs {
        job.reply(outcome.clone());
    }
}
