//! Answers what peers ask for their comparison.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::Reconciler;
use crate::ports::RequestHandler;
use crate::reconcile::{
    Answer, Ask, CopiedOrder, ENTRIES_MAX, Entry, Kind, RANGE_ROWS, RANGES_MAX, Range, Report, Sum,
};
use crate::types::{RegionId, ReportId};

/// Answers the peers' requests.
pub struct ReconcileHandler {
    /// What they ask about.
    pub reconciler: Arc<Reconciler>,
}

#[async_trait]
impl RequestHandler for ReconcileHandler {
    async fn handle(&self, _from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let ask: Ask = serde_json::from_slice(&request)
            .map_err(|error| format!("not a question of reconciliation: {error}"))?;
        let answer = self.answer(ask).await?;
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| error.to_string())
    }
}

impl ReconcileHandler {
    async fn answer(&self, ask: Ask) -> Result<Answer, String> {
        let (store, reader) = (&self.reconciler.store, &self.reconciler.reader);
        match ask {
            Ask::Sums(ranges) if ranges.len() > RANGES_MAX => {
                Err(format!("at most {RANGES_MAX} ranges at once"))
            }
            Ask::Sums(ranges) => {
                let mut sums = Vec::with_capacity(ranges.len());
                for range in ranges {
                    sums.push(self.sum(range).await?);
                }
                Ok(Answer::Sums(sums))
            }
            Ask::Entries(range) => {
                let entries = store.entries(&range, ENTRIES_MAX).await;
                self.entries(entries.map_err(|error| error.to_string())?).await
            }
            Ask::EntriesOf { keys, .. } if keys.len() > ENTRIES_MAX => {
                Err(format!("at most {ENTRIES_MAX} keys at once"))
            }
            Ask::EntriesOf { kind, owner, keys } => {
                let entries = store.entries_of(kind, owner, &keys).await;
                self.entries(entries.map_err(|error| error.to_string())?).await
            }
            Ask::Order(id) => {
                let commits = store.commits(id).await.map_err(|error| error.to_string())?;
                let known = !commits.is_empty();
                Ok(Answer::Order(known.then_some(CopiedOrder { commits })))
            }
            Ask::Document { kind, key } => {
                let document = if kind == Kind::Products {
                    let sku = key.parse().map_err(|error| format!("{error}"))?;
                    let product = reader.product(&sku).await.map_err(|error| error.to_string())?;
                    product.map(serde_json::to_value)
                } else {
                    let node = key.parse().map_err(|error| format!("{error}"))?;
                    let node = reader.node(&node).await.map_err(|error| error.to_string())?;
                    node.map(serde_json::to_value)
                };
                Ok(Answer::Document(document.transpose().map_err(|error| error.to_string())?))
            }
            Ask::Start { run, repair, asked_by } => self.start(run, repair, &asked_by).await,
            Ask::Part(run) => {
                let part = store.report(run).await.map_err(|error| error.to_string())?;
                Ok(Answer::Part(part.map(Box::new)))
            }
        }
    }

    /// As many entries as a peer's range may have come to hold; more make another sum anyhow.
    async fn sum(&self, mut range: Range) -> Result<Sum, String> {
        let mut sum = Sum::default();
        loop {
            let entries = self.reconciler.store.entries(&range, RANGE_ROWS).await;
            let entries = entries.map_err(|error| error.to_string())?;
            sum.add(&entries);
            match entries.last() {
                Some(last) if entries.len() == RANGE_ROWS && sum.rows < ENTRIES_MAX as u64 => {
                    range.after.clone_from(&last.key);
                }
                Some(_) | None => return Ok(sum),
            }
        }
    }

    async fn entries(&self, entries: Vec<Entry>) -> Result<Answer, String> {
        // After the entries: whatever they show is in the outbox up to here.
        let head = self.reconciler.replication.head().await.map_err(|error| error.to_string())?;
        Ok(Answer::Entries { entries, head: head.position })
    }

    /// Heard twice, begins once: the part is kept under the run's name from the first moment.
    async fn start(&self, run: ReportId, repair: bool, asked_by: &str) -> Result<Answer, String> {
        let reconciler = &self.reconciler;
        let known = reconciler.store.report(run).await.map_err(|error| error.to_string())?;
        if known.is_some() {
            return Ok(Answer::Started);
        }
        let now_ms = reconciler.region.clock.wall_ms();
        let report = Report::begin(run, asked_by, repair, now_ms);
        reconciler.store.keep(&report).await.map_err(|error| error.to_string())?;
        let own = Arc::clone(reconciler);
        let stop = reconciler.tasks.stopping();
        drop(reconciler.tasks.spawn("reconcile part", async move {
            let stopped = report.clone();
            let Some(report) = stop.run_until_cancelled(own.run_own(report)).await else {
                return own.give_up(stopped).await;
            };
            if let Err(error) = own.store.keep(&report).await {
                tracing::warn!(%error, "a part of a reconciliation could not be stored");
            }
        }));
        Ok(Answer::Started)
    }
}
