//! The life of one process. A process that is dead does nothing any more.
//!
//! Its tasks can't be taken away, but everything they could do goes through the ports, and a port of a
//! dead process never answers. So whatever was under way stops right where it was: between a decision and
//! its commit, or between the commit and its answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Shared by everything that belongs to one process.
#[derive(Debug, Clone, Default)]
pub struct Life(CancellationToken);

impl Life {
    /// It is killed.
    pub fn end(&self) {
        self.0.cancel();
    }

    /// It was killed.
    pub fn is_over(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Answers when it is killed.
    pub async fn over(&self) {
        self.0.cancelled().await;
    }

    /// Answers at once while it lives, and never when it doesn't.
    pub async fn go_on(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets time pass, and then goes on if it still lives.
    pub async fn pass(&self, time: Duration) {
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        self.go_on().await;
    }
}
