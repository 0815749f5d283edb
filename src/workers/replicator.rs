//! Applies one peer's envelopes here, once each and in order (I-18).
//!
//! [`Inbound`] decides, this loop carries out: it reads the peer's stream, answers of pulls and the
//! heads told by heartbeats; it applies what is next, and acknowledges what is applied. The watermark
//! in the database has the last word, whatever this process believes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Replication;
use crate::ports::{
    Acknowledge, Applied, Delivery, ReplicationError, ReplicationStore, RequestHandler, RequestKind,
};
use crate::replication::{
    BATCH_ENVELOPES_MAX, Envelope, Inbound, Position, PullAnswer, PullRequest, Receipt,
    ReplicatorState, Watermark,
};
use crate::types::RegionId;

/// Between looks at what is missing. A pull waits for half a second anyway.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks for intents that two regions took.
const TICKS_PER_CONTEST: u32 = 20;
/// A pull brings up to 4 MiB: a second on 50 Mbit/s, and some round trips.
const PULL_LIMIT: Duration = Duration::from_secs(5);
/// The first pause after the database did not do it; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest such pause: a database that comes back is used within it.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A batch from this size on shows a busy origin.
const BUSY_BYTES: usize = 64 * 1024;
/// How long nothing is applied after such a batch, unless a full one waits. An order's placement and its
/// confirmation then mostly come together and are one write of its copy instead of two, and commits
/// are few: a busy region costs its peers half as much. Copies get that much later.
const REST: Duration = Duration::from_millis(200);
/// Between tries of an envelope that can't be applied. Only a newer program or an operator helps.
const PAUSE_BLOCKED: Duration = Duration::from_secs(30);

/// Runs until `stop`. What is being applied then is finished first.
pub(super) async fn replicator(
    ctx: Replication,
    origin: RegionId,
    stream: BoxStream<'static, Delivery>,
    stop: CancellationToken,
) {
    let Some(watermark) = stop.run_until_cancelled(first_watermark(&ctx, origin)).await else {
        return;
    };
    let inbound = Inbound::new(origin, watermark.position);
    ctx.peers().applied(origin, watermark);
    let worker = Worker {
        ctx,
        origin,
        inbound,
        acks: BTreeMap::new(),
        pause: PAUSE_FIRST,
        not_before_ms: 0,
        rest_until_ms: 0,
        careful: false,
        blocked_at: None,
    };
    worker.run(stream, stop).await;
}

async fn first_watermark(ctx: &Replication, origin: RegionId) -> Watermark {
    let nothing_yet =
        Watermark { position: Position::START, hlc: crate::types::HlcTimestamp::origin(origin) };
    loop {
        match ctx.store.watermarks().await {
            Ok(watermarks) => return watermarks.get(&origin).copied().unwrap_or(nothing_yet),
            Err(error) => tracing::warn!(peer.region = %origin, %error, "no watermark yet"),
        }
        tokio::time::sleep(PAUSE_FIRST).await;
    }
}

struct Worker {
    ctx: Replication,
    origin: RegionId,
    inbound: Inbound,
    /// How to acknowledge what waits.
    acks: BTreeMap<Position, Vec<Box<dyn Acknowledge>>>,
    /// The next pause after a failure.
    pause: Duration,
    /// Nothing is applied earlier.
    not_before_ms: u64,
    /// Nothing is applied earlier, unless much waits.
    rest_until_ms: u64,
    /// The last batch failed as a whole: go one by one until one is through.
    careful: bool,
    /// Here it stands still; told once.
    blocked_at: Option<Position>,
}

type Pull = BoxFuture<'static, Result<Vec<Envelope>, String>>;

impl Worker {
    async fn run(mut self, mut stream: BoxStream<'static, Delivery>, stop: CancellationToken) {
        let mut pull: Option<Pull> = None;
        let mut ticks: u32 = 0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                // What comes seldom goes first, so that a busy stream holds nothing up.
                biased;
                () = stop.cancelled() => return,
                answer = answer_of(&mut pull) => {
                    pull = None;
                    self.pulled(answer);
                }
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    let is_due = ticks.is_multiple_of(TICKS_PER_CONTEST);
                    if is_due {
                        self.find_contests().await;
                    }
                    if is_due || self.hears_a_new_incarnation() {
                        self.follow_a_new_incarnation().await;
                    }
                }
                Some(delivery) = stream.next(), if self.inbound.has_room() => {
                    self.take(delivery).await;
                    // What has arrived together is applied together.
                    while let Some(delivery) = self.more(&mut stream) {
                        self.take(delivery).await;
                    }
                }
            }
            self.apply_what_is_next(&stop).await;
            self.tell();
            let head = self.ctx.peers().head_of(self.origin);
            if let Some(head) = head {
                self.inbound.heard_head(head.position);
            }
            if pull.is_none() {
                let request = self.inbound.poll_pull(self.now_ms());
                pull = request.map(|request| self.ask(request));
            }
        }
    }

    /// For whoever looks: metrics, operators.
    fn tell(&self) {
        let state = ReplicatorState {
            waiting: self.inbound.waiting(),
            stands_still: self.blocked_at.is_some(),
            counts: self.inbound.counts(),
        };
        self.ctx.peers().replicator(self.origin, state);
    }

    fn now_ms(&self) -> u64 {
        self.ctx.region.clock.monotonic_ms()
    }

    /// A delivery that is there already.
    fn more(&self, stream: &mut BoxStream<'static, Delivery>) -> Option<Delivery> {
        if self.inbound.has_room() { stream.next().now_or_never().flatten() } else { None }
    }

    async fn take(&mut self, delivery: Delivery) {
        let Delivery { envelope, ack } = delivery;
        let position = envelope.position();
        match self.inbound.receive(envelope) {
            Receipt::Waiting => self.acks.entry(position).or_default().push(ack),
            Receipt::AlreadyApplied => ack.acknowledge().await,
            Receipt::Refused => {
                tracing::warn!(
                    peer.region = %self.origin, %position,
                    "an envelope of {} at {position} is refused: its epoch is over", self.origin
                );
                ack.acknowledge().await;
            }
            Receipt::NoRoom => {}
        }
        // What was let go comes again with an acknowledgement of its own.
        if let Some(furthest) = self.inbound.furthest() {
            drop(self.acks.split_off(&furthest.next()));
        }
    }

    fn ask(&self, request: PullRequest) -> Pull {
        let (bus, origin) = (Arc::clone(&self.ctx.bus), self.origin);
        tracing::info!(
            peer.region = %origin, from = %request.from, count = request.count,
            "asking {origin} for what is missing"
        );
        async move {
            let kind = RequestKind::PULL_ENVELOPES;
            let answer = bus.request(origin, kind, request.encode(), PULL_LIMIT).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let answer = PullAnswer::decode(answer).map_err(|error| error.to_string())?;
            Ok(answer.envelopes)
        }
        .boxed()
    }

    fn pulled(&mut self, answer: Result<Vec<Envelope>, String>) {
        let now_ms = self.now_ms();
        match answer {
            Ok(envelopes) => self.inbound.pull_answered(envelopes, now_ms),
            Err(reason) => {
                tracing::debug!(peer.region = %self.origin, reason, "a pull failed");
                self.inbound.pull_failed(now_ms);
            }
        }
    }

    async fn apply_what_is_next(&mut self, stop: &CancellationToken) {
        let rests = |worker: &Self| {
            worker.now_ms() < worker.rest_until_ms && worker.inbound.waiting() < BATCH_ENVELOPES_MAX
        };
        while self.now_ms() >= self.not_before_ms && !rests(self) && !stop.is_cancelled() {
            let mut batch = self.inbound.next_batch();
            if self.careful {
                batch.truncate(1);
            }
            if batch.is_empty() {
                self.look_for_a_parked_one().await;
                return;
            }
            self.apply(batch).await;
        }
    }

    async fn apply(&mut self, mut batch: Vec<Envelope>) {
        loop {
            let Some(last) = batch.last() else { return };
            let watermark = Watermark { position: last.position(), hlc: last.hlc };
            let after = self.inbound.watermark();
            let now_ms = self.ctx.region.clock.wall_ms();
            match self.ctx.store.apply(after, &batch, now_ms).await {
                Ok(Applied::Done) => {
                    let bytes: usize = batch.iter().map(|envelope| envelope.payload.len()).sum();
                    if bytes >= BUSY_BYTES {
                        self.rest_until_ms = self.now_ms().saturating_add(millis(REST));
                    }
                    return self.applied(watermark).await;
                }
                Ok(Applied::WatermarkIsAt(position)) => {
                    tracing::info!(
                        peer.region = %self.origin, %position,
                        "the watermark of {} is at {position}: going on from there", self.origin
                    );
                    return self.applied(Watermark { position, ..watermark }).await;
                }
                Err(ReplicationError::CantApply { position, .. })
                    if position > batch[0].position() =>
                {
                    // What stands before it is not to blame.
                    batch.retain(|envelope| envelope.position() < position);
                }
                Err(error) => return self.failed(&batch, &error).await,
            }
        }
    }

    async fn applied(&mut self, watermark: Watermark) {
        self.pause = PAUSE_FIRST;
        self.careful = false;
        self.blocked_at = None;
        self.inbound.applied(watermark.position);
        self.ctx.peers().applied(self.origin, watermark);
        if let Err(drift) = self.ctx.region.observe(watermark.hlc) {
            tracing::warn!(peer.region = %self.origin, ahead_ms = drift.ahead_ms, "{drift}");
        }
        let waiting = self.acks.split_off(&watermark.position.next());
        let done = std::mem::replace(&mut self.acks, waiting);
        for ack in done.into_values().flatten() {
            ack.acknowledge().await;
        }
    }

    async fn failed(&mut self, batch: &[Envelope], error: &ReplicationError) {
        let first = &batch[0];
        let pause = match error {
            ReplicationError::Unavailable(_) => {
                tracing::warn!(peer.region = %self.origin, %error, "will apply later");
                // A slow database may be able to do less at a time.
                self.careful = true;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.pause
            }
            ReplicationError::Corrupt(_) if batch.len() > 1 => {
                self.careful = true;
                Duration::ZERO
            }
            ReplicationError::CantApply { .. } | ReplicationError::Corrupt(_) => {
                self.stand_still(first, &error.to_string()).await;
                PAUSE_BLOCKED
            }
        };
        self.not_before_ms = self.now_ms().saturating_add(millis(pause));
    }

    async fn look_for_a_parked_one(&mut self) {
        if let Some(parked) = self.inbound.parked().cloned() {
            let reason =
                format!("payload schema {} is newer than this program", parked.schema_version);
            self.stand_still(&parked, &reason).await;
        }
    }

    /// Nothing behind this envelope may be applied before it. It stays in the origin's outbox, is kept
    /// for the operator, and nothing of it is acknowledged.
    async fn stand_still(&mut self, envelope: &Envelope, reason: &str) {
        let position = envelope.position();
        if self.blocked_at == Some(position) {
            return;
        }
        self.blocked_at = Some(position);
        tracing::error!(
            invariant = "I-18", peer.region = %self.origin, %position, reason,
            "the copies of {} stand still at {position}: update this region's program, or look \
             into the table `parked`", self.origin
        );
        let now_ms = self.ctx.region.clock.wall_ms();
        if let Err(error) = self.ctx.store.park(envelope, reason, now_ms).await {
            tracing::warn!(peer.region = %self.origin, %error, "it could not be kept in `parked`");
        }
    }

    fn hears_a_new_incarnation(&self) -> bool {
        let head = self.ctx.peers().head_of(self.origin);
        head.is_some_and(|head| head.position.epoch > self.inbound.watermark().epoch)
    }

    /// Of an origin that began anew, or is gone for good, nothing older is applied, so the watermark in the database has moved on: what waits
    /// behind a hole that nobody can fill any more is let go.
    async fn follow_a_new_incarnation(&mut self) {
        let at = self.inbound.watermark();
        let known = self.ctx.store.watermarks().await;
        let watermark = known.ok().and_then(|known| known.get(&self.origin).copied());
        if let Some(watermark) = watermark.filter(|known| known.position.epoch > at.epoch) {
            self.applied(watermark).await;
        }
    }

    async fn find_contests(&self) {
        let now_ms = self.ctx.region.clock.wall_ms();
        if let Err(error) = self.ctx.store.find_contests(now_ms).await {
            tracing::warn!(%error, "intents that two regions took can't be looked for");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The answer of the pull under way; never, when there is none.
async fn answer_of(pull: &mut Option<Pull>) -> Result<Vec<Envelope>, String> {
    match pull {
        Some(pull) => pull.await,
        None => futures::future::pending().await,
    }
}

/// Answers the peers' pulls from this region's outbox.
pub(super) struct PullServer {
    pub(super) store: Arc<dyn ReplicationStore>,
}

#[async_trait]
impl RequestHandler for PullServer {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let request = PullRequest::decode(&request).map_err(|error| error.to_string())?;
        let rows = self.store.outbox(request.from, request.count).await;
        let envelopes = rows.map_err(|error| error.to_string())?;
        tracing::debug!(peer.region = %from, from = %request.from, rows = envelopes.len(), "pulled");
        Ok(PullAnswer::fitting(envelopes).encode())
    }
}
