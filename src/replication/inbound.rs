//! One origin's envelopes, from any order and any number of copies to a clean run (I-18).
//!
//! Whatever the transport does, the applier sees each envelope once and in order: what comes twice
//! is dropped, what comes early waits, what doesn't come is asked for. The transport is believed in
//! nothing: not in its order, not in its de-duplication, and not in its silence, since the heads in
//! heartbeats show when the *last* messages got lost.
//!
//! **Gaps.** The first missing place is watched. If it stays the same for [`PATIENCE_MS`] the origin
//! is asked for the run; while answers bring something, the next question follows at once, so that
//! a stream that was wiped is replaced by pulling at full speed. A failing pull is tried again with
//! growing pauses, for ever, since without the missing piece nothing behind it may be applied.
//!
//! **Epochs.** What an older incarnation of the origin wrote is refused. A newer one begins at
//! sequence 1, and its first envelope names the last one of the epoch before; what is missing up to
//! there is fetched first. If more was applied here than the origin remembers, the new epoch goes on
//! from there: what the origin forgot stays true here.
//!
//! **Parking.** An envelope of a newer payload schema than this program reads waits at its place,
//! and everything behind it as well: skipping it would break the order. It is not acknowledged, is
//! counted, and raises an alert; a newer program goes on from there.
//!
//! **Bounds.** At most [`PENDING_ENVELOPES_MAX`] envelopes and [`PENDING_BYTES_MAX`] bytes wait. When
//! that is full the furthest ones are let go, without acknowledgement, and come again.

use std::collections::BTreeMap;

use super::envelope::{Envelope, Position, SCHEMA_VERSION};
use super::pull::{PULL_ENVELOPES_MAX, PullRequest};
use crate::mutants::{Mutant, is_on};
use crate::types::RegionId;

/// How many envelopes of one origin wait at most: 20 s of a region at 3,000 orders a second in
/// groups of 256, which is what a database may take to come back from a checkpoint or a fail-over.
pub const PENDING_ENVELOPES_MAX: usize = 256;
/// How many bytes of one origin wait at most. Times eleven peers that is 176 MiB in the worst case;
/// in the usual one it is nothing.
pub const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most envelopes applied in one transaction: enough to spread the commit's cost, few enough that
/// readers don't wait behind a second's worth of writing.
pub const BATCH_ENVELOPES_MAX: usize = 16;
/// The most bytes applied in one transaction, a single larger envelope excepted.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the first missing place may stay missing before the origin is asked. A message that was
/// overtaken arrives within milliseconds, also behind a 4 MiB one on a 100 Mbit/s link; the broker
/// itself would bring it again after 30 s at the earliest.
pub const PATIENCE_MS: u64 = 500;
/// The first pause after a pull that failed or brought nothing. It doubles with each failure.
const RETRY_MS_FIRST: u64 = 500;
/// The longest pause between two pulls: well within the 30 s in which regions have to be equal again
/// after healing, and next to no traffic while a link is down.
const RETRY_MS_MAX: u64 = 4_000;

/// What became of a received envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It waits for its turn, or its copy does: acknowledge it once it is applied.
    Waiting,
    /// It was applied before: acknowledge it.
    AlreadyApplied,
    /// It is of an epoch that is over, or of another origin, or has no place at all: acknowledge it,
    /// and it is counted.
    Refused,
    /// There is no room so far ahead. Don't acknowledge it: it comes again.
    NoRoom,
}

/// What went by, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboundCounts {
    /// Copies of what was applied or waits already.
    pub duplicates: u64,
    /// Of an epoch that is over, or of another origin.
    pub refused: u64,
    /// Let go for lack of room.
    pub no_room: u64,
    /// Two different payloads for one place: the origin used a sequence twice. Raises an alert.
    pub conflicts: u64,
    /// Questions to the origin.
    pub pulls: u64,
    /// Questions that failed or brought nothing.
    pub pulls_in_vain: u64,
}

/// The replicator of one origin.
#[derive(Debug)]
pub struct Inbound {
    origin: RegionId,
    applied: Position,
    pending: BTreeMap<Position, Envelope>,
    pending_bytes: usize,
    head: Position,
    repair: Repair,
    counts: InboundCounts,
}

/// Where the questions to the origin stand.
#[derive(Debug, Default)]
struct Repair {
    /// The first missing place and since when it is the first.
    missing_since: Option<(Position, u64)>,
    /// A question is under way.
    asked: bool,
    /// The last answer brought something: ask for the rest at once.
    eager: bool,
    /// Not before.
    retry_at_ms: u64,
    in_vain_in_a_row: u32,
}

impl Inbound {
    /// Goes on after what the watermark in the database says.
    pub fn new(origin: RegionId, applied: Position) -> Self {
        let (pending, counts, repair) = Default::default();
        Self { origin, applied, pending, pending_bytes: 0, head: applied, repair, counts }
    }

    /// The last envelope applied.
    pub fn watermark(&self) -> Position {
        self.applied
    }

    /// What went by so far.
    pub fn counts(&self) -> InboundCounts {
        self.counts
    }

    /// How many envelopes wait.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The furthest envelope that waits. What was received and lies behind it has been let go.
    pub fn furthest(&self) -> Option<Position> {
        self.pending.last_key_value().map(|(position, _)| *position)
    }

    /// Whether the transport should be read on. If not, what is missing is still asked for.
    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_ENVELOPES_MAX && self.pending_bytes < PENDING_BYTES_MAX
    }

    /// An envelope arrived, by whatever way.
    pub fn receive(&mut self, envelope: Envelope) -> Receipt {
        let position = envelope.position();
        let is_old = position.epoch < self.applied.epoch && !is_on(Mutant::OldEpochsTaken);
        if envelope.origin != self.origin || is_old || !has_a_place(&envelope) {
            self.counts.refused += 1;
            return Receipt::Refused;
        }
        if position <= self.applied {
            self.counts.duplicates += 1;
            return Receipt::AlreadyApplied;
        }
        if let Some(waiting) = self.pending.get(&position) {
            self.counts.duplicates += 1;
            self.counts.conflicts += u64::from(*waiting != envelope);
            return Receipt::Waiting;
        }
        self.pending_bytes += envelope.payload.len();
        self.pending.insert(position, envelope);
        self.let_go_what_has_no_room();
        if self.pending.contains_key(&position) { Receipt::Waiting } else { Receipt::NoRoom }
    }

    /// The origin says that it has written this much.
    pub fn heard_head(&mut self, head: Position) {
        self.head = self.head.max(head);
    }

    /// The next envelopes to apply, in order, all of one epoch; empty when the next one is missing
    /// or parked. The same again until [`Inbound::applied`] is called.
    pub fn next_batch(&self) -> Vec<Envelope> {
        let mut batch: Vec<Envelope> = Vec::new();
        let mut bytes = 0;
        let mut at = self.applied;
        while let Some(envelope) = self.follower(at) {
            let position = envelope.position();
            let other_epoch = batch.first().is_some_and(|first| first.epoch != position.epoch);
            bytes += envelope.payload.len();
            let full = batch.len() == BATCH_ENVELOPES_MAX
                || (!batch.is_empty() && bytes > BATCH_BYTES_MAX);
            if other_epoch || full || is_unreadable(envelope) {
                break;
            }
            batch.push(envelope.clone());
            at = position;
        }
        batch
    }

    /// The envelope that can't be read by this program and holds up what is behind it.
    pub fn parked(&self) -> Option<&Envelope> {
        self.follower(self.applied).filter(|envelope| is_unreadable(envelope))
    }

    /// The database now has everything up to `through`: after a batch was applied, or because the
    /// watermark there turned out to be another one than expected.
    pub fn applied(&mut self, through: Position) {
        self.applied = through;
        self.head = self.head.max(through);
        let kept = self.pending.split_off(&through.next());
        let done = std::mem::replace(&mut self.pending, kept);
        self.pending_bytes -= done.values().map(|done| done.payload.len()).sum::<usize>();
    }

    /// What to ask the origin for now, if anything. Answer with [`Inbound::pull_answered`] or
    /// [`Inbound::pull_failed`]; there is one question at a time.
    pub fn poll_pull(&mut self, now_ms: u64) -> Option<PullRequest> {
        let Some((from, through)) = self.missing() else {
            self.repair = Repair { asked: self.repair.asked, ..Repair::default() };
            return None;
        };
        if self.repair.missing_since.is_none_or(|(missing, _)| missing != from) {
            self.repair.missing_since = Some((from, now_ms));
        }
        let (_, since_ms) = self.repair.missing_since?;
        let patience_ms = if self.repair.eager { 0 } else { PATIENCE_MS };
        let fills_a_hole = self.furthest().is_some_and(|furthest| furthest > from);
        if is_on(Mutant::NothingIsPulled)
            || self.repair.asked
            || now_ms < self.repair.retry_at_ms.max(since_ms + patience_ms)
            || !(fills_a_hole || self.has_room())
        {
            return None;
        }
        self.repair.asked = true;
        self.counts.pulls += 1;
        let count = (through - from.sequence + 1).min(u64::from(PULL_ENVELOPES_MAX));
        Some(PullRequest { from, count: u32::try_from(count).expect("at most PULL_ENVELOPES_MAX") })
    }

    /// The origin answered a pull. Envelopes that were let go again come with a later pull.
    pub fn pull_answered(&mut self, envelopes: Vec<Envelope>, now_ms: u64) {
        let before = self.missing();
        for envelope in envelopes {
            self.receive(envelope);
        }
        if self.missing() == before {
            self.pull_failed(now_ms);
        } else {
            self.repair = Repair { eager: true, ..Repair::default() };
        }
    }

    /// The origin could not be asked.
    pub fn pull_failed(&mut self, now_ms: u64) {
        let pause_ms = RETRY_MS_FIRST << self.repair.in_vain_in_a_row.min(8);
        self.repair.in_vain_in_a_row += 1;
        self.repair.retry_at_ms = now_ms + pause_ms.min(RETRY_MS_MAX);
        self.repair.asked = false;
        self.repair.eager = false;
        self.counts.pulls_in_vain += 1;
    }

    /// The waiting envelope that may be applied right after `at`.
    fn follower(&self, at: Position) -> Option<&Envelope> {
        if let Some(next) = self.pending.get(&at.next()) {
            return Some(next);
        }
        if is_on(Mutant::GapSkipped) {
            return self.pending.range(at.next()..).next().map(|(_, envelope)| envelope);
        }
        let (_, first) = self.pending.range(next_epoch(at)..).next()?;
        let is_reached = first.follows.is_none_or(|follows| follows <= at);
        (first.sequence == 1 && is_reached).then_some(first)
    }

    /// The first run that is known to exist and is neither applied nor waiting, as its first place
    /// and its last sequence.
    fn missing(&self) -> Option<(Position, u64)> {
        let mut end = self.applied;
        while let Some(envelope) = self.follower(end) {
            end = envelope.position();
        }
        let next = end.next();
        let same_epoch = self.pending.range(next..next_epoch(end)).next();
        if let Some((later, _)) = same_epoch {
            return Some((next, later.sequence - 1));
        }
        let newer = self.pending.range(next_epoch(end)..).next().map(|(_, envelope)| envelope);
        match newer {
            // The first envelope of a newer epoch says what comes before it.
            Some(first) if first.sequence == 1 => {
                let follows = first.follows?;
                let from = if follows.epoch == end.epoch {
                    next
                } else {
                    Position { epoch: follows.epoch, sequence: 1 }
                };
                Some((from, follows.sequence))
            }
            Some(later) => Some((Position { sequence: 1, ..later.position() }, later.sequence - 1)),
            None if self.head <= end || self.head.sequence == 0 => None,
            None if self.head.epoch == end.epoch => Some((next, self.head.sequence)),
            None => Some((Position { sequence: 1, ..self.head }, self.head.sequence)),
        }
    }

    fn let_go_what_has_no_room(&mut self) {
        while self.pending.len() > PENDING_ENVELOPES_MAX
            || (self.pending_bytes > PENDING_BYTES_MAX && self.pending.len() > 1)
        {
            let Some((_, furthest)) = self.pending.pop_last() else { return };
            self.pending_bytes -= furthest.payload.len();
            self.counts.no_room += 1;
        }
    }
}

fn is_unreadable(envelope: &Envelope) -> bool {
    envelope.schema_version > SCHEMA_VERSION && !is_on(Mutant::UnreadableApplied)
}

/// Sequences begin at 1, and only the first one of an epoch follows another epoch's last.
fn has_a_place(envelope: &Envelope) -> bool {
    let follows_well = envelope.follows.is_none_or(|follows| {
        envelope.sequence == 1 && follows.epoch < envelope.epoch && follows.sequence > 0
    });
    envelope.sequence > 0 && follows_well
}

/// The place before everything of later epochs than `at`'s.
fn next_epoch(at: Position) -> Position {
    Position { epoch: crate::types::Epoch(at.epoch.0.saturating_add(1)), sequence: 0 }
}

#[cfg(test)]
mod tests;
