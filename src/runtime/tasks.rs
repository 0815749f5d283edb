//! Every task has a name and an owner.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one process: told to stop together, awaited together.
#[derive(Debug, Clone, Default)]
pub struct TaskSet {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl TaskSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task until it ends by itself. It should watch [`TaskSet::stopping`].
    #[expect(clippy::disallowed_methods, reason = "the one owner of tasks")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tracing::trace!(task = name, "task starts");
        tokio::spawn(self.tracker.track_future(future))
    }

    /// Is done once the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to stop and waits for them, at most `limit`. Says whether all ended.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Runs a future as a task of its own whose end the caller awaits: what it has begun is carried on
/// when the caller is dropped (a client that hangs up must not interrupt a transaction).
#[expect(clippy::disallowed_methods, reason = "a named task, awaited by its caller")]
pub fn spawn_named<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "task starts");
    tokio::spawn(future)
}
