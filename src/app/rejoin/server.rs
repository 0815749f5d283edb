//! What the others answer to a region that begins anew.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::app::rights::Rights;
use crate::app::{Region, gone};
use crate::escrow::Voter;
use crate::ports::{Ending, Reader, RejoinStore, RequestHandler, RetirementStore, StoreError};
use crate::replication::Position;
use crate::replication::rejoin::{
    Answer, Ask, DOCUMENTS_MAX, HISTORIES_BYTES, HISTORIES_MAX, History, ITEMS_MAX, MARKS_MAX,
};
use crate::replication::retirement::Retirement;
use crate::types::RegionId;

/// Answers from this region's database.
pub struct RejoinHandler {
    /// This region.
    pub region: Arc<Region>,
    /// What is known of incarnations.
    pub rights: Arc<Rights>,
    /// What is told.
    pub store: Arc<dyn RejoinStore>,
    /// Where it is kept that a region is gone for good.
    pub retirements: Arc<dyn RetirementStore>,
    /// The catalogue.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl RequestHandler for RejoinHandler {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let ask: Ask = serde_json::from_slice(&request)
            .map_err(|error| format!("not a question of a region that begins anew: {error}"))?;
        // What was forgotten here might be missed there for ever. At a start everybody is in doubt, and asks.
        let asks_at_start = matches!(ask, Ask::Known) && !self.region.is_set_back();
        let answer = if self.region.may_write() || asks_at_start {
            self.answer(from, ask).await.map_err(|error| error.to_string())?
        } else {
            let why = "its database was set back itself, or may have been: see to that first";
            Answer::Refused(why.to_owned())
        };
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| error.to_string())
    }
}

impl RejoinHandler {
    async fn answer(&self, from: RegionId, ask: Ask) -> Result<Answer, StoreError> {
        let store = &self.store;
        let limit = u32::try_from(DOCUMENTS_MAX).unwrap_or(u32::MAX);
        Ok(match ask {
            Ask::Begin(epoch) => {
                let before = store.note_incarnation(from, epoch).await?;
                self.rights.note_incarnation(from, epoch.max(before));
                tracing::warn!(peer.region = %from, %epoch, %before, "{from} begins incarnation {epoch}");
                Answer::Noted { latest: epoch.max(before), now: before < epoch }
            }
            Ask::Known => {
                // Another process of this region may have counted more.
                let noted = self.rights.registers.voters().await?.remove(&from);
                let voter = noted.unwrap_or(Voter::UNKNOWN).max(self.rights.voter(from));
                let applied = store.applied(from).await?.unwrap_or(Position::START);
                let ended = gone::ended(self.retirements.as_ref()).await?;
                Answer::Known { applied, voter, ended }
            }
            Ask::Votes(after) => {
                let mut votes = store.votes(after.as_ref(), ITEMS_MAX).await?;
                if after.is_none() {
                    votes.incarnations = store.incarnations().await?;
                    votes.voters = self.rights.registers.voters().await?;
                    votes.voters.insert(self.region.id, store.mark().await?.voter);
                    // Until it is done the people's words may still turn out to be over.
                    let ended = self.retirements.ended().await?.into_iter();
                    votes.retirements = ended.filter(Retirement::is_done).collect();
                }
                Answer::Votes(votes)
            }
            Ask::Rows(of, after) => {
                Answer::Rows(store.rows_of(of, after.as_ref(), ITEMS_MAX).await?)
            }
            Ask::Retire(retirement) => {
                let region = retirement.region;
                if self.rights.reachability.heard().contains(&region) {
                    return Ok(Answer::Refused(format!("{region} is heard here: it is not gone")));
                }
                let (latest, now) = match self.retirements.note_retirement(&retirement).await? {
                    Ending::Noted => (retirement.ends, true),
                    Ending::BegunAnew(latest) => (latest, false),
                    Ending::TakenBack => {
                        let why = format!("that {region} is gone was taken back here");
                        return Ok(Answer::Refused(why));
                    }
                };
                self.rights.note_incarnation(region, latest);
                let (asked_by, confirmed_by) = (&retirement.asked_by, &retirement.confirmed_by);
                if now {
                    tracing::warn!(%region, asked_by, ?confirmed_by, "{from} retires {region}: it is gone for good");
                }
                Answer::Noted { latest, now }
            }
            Ask::Orders(of, after) => Answer::Orders(match self.region.numbers.get(&of) {
                Some(number) => store.marks(of, *number, after, MARKS_MAX).await?,
                None => Vec::new(),
            }),
            Ask::Marks(mut ids) => {
                ids.truncate(MARKS_MAX);
                Answer::Orders(store.marks_of(&ids).await?)
            }
            Ask::Histories(mut ids) => {
                ids.truncate(HISTORIES_MAX);
                Answer::Histories(fitting(store.histories(None, &ids).await?))
            }
            Ask::Products(after) => {
                Answer::Products(self.reader.products(after.as_ref(), limit).await?)
            }
            Ask::Nodes(after) => Answer::Nodes(self.reader.nodes(after.as_ref(), limit).await?),
        })
    }
}

/// The first of them, as many as one answer takes; one at least.
fn fitting(histories: Vec<History>) -> Vec<History> {
    let mut bytes = 0;
    let fits = |history: &History| {
        let is_first = bytes == 0;
        let events = history.commits.iter().flatten();
        bytes += events.map(|event| event.data.get().len() + 512).sum::<usize>().max(1);
        is_first || bytes <= HISTORIES_BYTES
    };
    histories.into_iter().take_while(fits).collect()
}
