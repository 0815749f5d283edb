//! The copies that this region holds, against what their origins hold.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reconciler, Scope};
use crate::ports::StoreError;
use crate::reconcile::{
    Answer, Ask, Class, ENTRIES_MAX, Entry, Flaw, Found, Kind, RANGE_ROWS, RANGES_MAX, Range,
    Repair, Report, Sum, Verdict, compare, judge,
};
use crate::replication::Position;
use crate::types::RegionId;

/// Suspects of one kind and peer that are looked at again in one run. So many have one cause, and each round of
/// looks is bounded.
const SUSPECTS_MAX: usize = 2_000;

/// How often a copy that keeps changing is looked at. It has overtaken what its origin said each time.
const LOOKS_MAX: u32 = 3;

/// Why a peer is not compared any further.
pub(super) enum Stop {
    /// The own database.
    Store(StoreError),
    /// The peer.
    LeftOut(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::LeftOut(why)
    }
}

/// A suspect and what was last said of it.
struct Suspect {
    verdict: Verdict,
    ours: Option<Entry>,
    theirs: Option<Entry>,
}

pub(super) type Entries = BTreeMap<String, Entry>;

impl Reconciler {
    /// Compares all copies with one peer.
    pub(super) async fn compare_with(
        &self,
        report: &mut Report,
        scope: Scope,
        peer: RegionId,
    ) -> Result<(), StoreError> {
        for kind in Kind::ALL {
            match self.compare_kind(report, scope, peer, *kind).await {
                Ok(()) => {}
                Err(Stop::Store(error)) => return Err(error),
                Err(Stop::LeftOut(why)) => {
                    report.leave_out(self.region.id, peer.to_string(), why);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn compare_kind(
        &self,
        report: &mut Report,
        scope: Scope,
        peer: RegionId,
        kind: Kind,
    ) -> Result<(), Stop> {
        // Envelopes above the watermark are on their way; those of an incarnation that is over are what its database
        // forgot, and were told again.
        let (begin, end) = match kind {
            Kind::Envelopes => {
                let watermark = self.watermark(peer).await?;
                (key_of(Position { sequence: 0, ..watermark }), Some(key_of(watermark)))
            }
            Kind::Orders | Kind::Rights | Kind::Products | Kind::Nodes => (String::new(), None),
        };
        let mut suspects = BTreeSet::new();
        let mut after = match scope {
            Scope::Round if kind == Kind::Envelopes => {
                self.progress().envelopes.get(&peer).cloned().unwrap_or_default().max(begin)
            }
            Scope::Round | Scope::Everything => begin,
        };
        let mut is_last = false;
        while !is_last && suspects.len() <= SUSPECTS_MAX {
            let (mut ranges, mut sums) = (Vec::new(), Vec::new());
            while !is_last && ranges.len() < RANGES_MAX {
                let mut range = Range { kind, owner: peer, after, upto: end.clone() };
                let entries = self.store.entries(&range, RANGE_ROWS).await?;
                report.checked.copies += entries.len() as u64;
                is_last = entries.len() < RANGE_ROWS;
                after = entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
                if !is_last {
                    range.upto = Some(after.clone());
                }
                sums.push(Sum::of(&entries));
                ranges.push(range);
            }
            let Answer::Sums(theirs) = self.ask(peer, &Ask::Sums(ranges.clone())).await? else {
                return Err(nonsense());
            };
            for ((range, ours), theirs) in ranges.into_iter().zip(sums).zip(theirs) {
                if ours != theirs {
                    self.find_suspects(&mut suspects, peer, range).await?;
                }
            }
        }
        if suspects.len() > SUSPECTS_MAX {
            let why = format!("only the first of many {}s that differ were compared", kind.noun());
            report.leave_out(self.region.id, peer.to_string(), why);
        }
        if let Some(end) = end.filter(|_| scope == Scope::Round && suspects.is_empty()) {
            self.progress().envelopes.insert(peer, end);
        }
        let keys: Vec<String> = suspects.into_iter().take(SUSPECTS_MAX).collect();
        self.look_again(report, peer, kind, keys).await?;
        if kind == Kind::Envelopes {
            // Whether anything arrives at all does not depend on what it would change.
            let head = self.head_of(peer).await?;
            self.catch_up(report, peer, kind, &Entries::new(), head).await?;
        }
        Ok(())
    }

    /// Adds the keys of a range at which the two sides differ now.
    async fn find_suspects(
        &self,
        suspects: &mut BTreeSet<String>,
        peer: RegionId,
        mut range: Range,
    ) -> Result<(), Stop> {
        while suspects.len() <= SUSPECTS_MAX {
            let Answer::Entries { entries: theirs, .. } =
                self.ask(peer, &Ask::Entries(range.clone())).await?
            else {
                return Err(nonsense());
            };
            let is_last = theirs.len() < ENTRIES_MAX;
            let last = theirs.last().map(|entry| entry.key.clone());
            let upto = if is_last { range.upto.clone() } else { last.clone() };
            let ours = Range { upto, ..range.clone() };
            let ours = self.store.entries(&ours, ENTRIES_MAX).await?;
            suspects.extend(compare(&ours, &theirs).into_iter().map(|mismatch| mismatch.key));
            match last {
                Some(last) if !is_last => range.after = last,
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// Looks at suspects as [`judge`] wants it, until each is decided or has moved every time.
    async fn look_again(
        &self,
        report: &mut Report,
        peer: RegionId,
        kind: Kind,
        mut keys: Vec<String>,
    ) -> Result<(), Stop> {
        for _ in 0..LOOKS_MAX {
            if keys.is_empty() {
                return Ok(());
            }
            let looked = self.look_once(report, peer, kind, &keys).await?;
            keys.clear();
            for (key, suspect) in looked {
                match suspect.verdict {
                    Verdict::Equal => {}
                    Verdict::Moving => keys.push(key),
                    Verdict::Missing | Verdict::Behind | Verdict::Differs | Verdict::Forgotten => {
                        self.enter_copy(report, peer, kind, &key, suspect).await?;
                    }
                }
            }
        }
        report.checked.moving += keys.len() as u64;
        Ok(())
    }

    async fn look_once(
        &self,
        report: &mut Report,
        peer: RegionId,
        kind: Kind,
        keys: &[String],
    ) -> Result<BTreeMap<String, Suspect>, Stop> {
        let before = self.own_entries(kind, peer, keys).await?;
        let ask = Ask::EntriesOf { kind, owner: peer, keys: keys.to_vec() };
        let Answer::Entries { entries, head } = self.ask(peer, &ask).await? else {
            return Err(nonsense());
        };
        let theirs = by_key(entries);
        let judged = self.catch_up(report, peer, kind, &theirs, head).await?;
        let after = self.own_entries(kind, peer, keys).await?;
        let mut looked = BTreeMap::new();
        for key in keys {
            let (before, theirs, after) = (before.get(key), theirs.get(key), after.get(key));
            let verdict = judge(kind, before, theirs, after);
            // What may still be on its way is no evidence; what has been forgotten is, anyhow.
            if judged || verdict == Verdict::Forgotten {
                let (ours, theirs) = (after.cloned(), theirs.cloned());
                looked.insert(key.clone(), Suspect { verdict, ours, theirs });
            }
        }
        Ok(looked)
    }

    pub(super) async fn own_entries(
        &self,
        kind: Kind,
        owner: RegionId,
        keys: &[String],
    ) -> Result<Entries, StoreError> {
        Ok(by_key(self.store.entries_of(kind, owner, keys).await?))
    }

    async fn enter_copy(
        &self,
        report: &mut Report,
        peer: RegionId,
        kind: Kind,
        key: &str,
        suspect: Suspect,
    ) -> Result<(), Stop> {
        let Suspect { verdict, ours, theirs } = suspect;
        let class = class_of(kind, verdict);
        let subject = format!(
            "{} {}",
            kind.noun(),
            key.replacen('\u{1f}', " at ", 1).replace('\u{1f}', " of incarnation ")
        );
        let text = |entry: Option<&Entry>| match entry {
            None => "none".to_owned(),
            Some(entry) if entry.stamp.is_empty() => format!("hash {}", entry.hash),
            Some(entry) => format!("version {}, hash {}", short(&entry.stamp), entry.hash),
        };
        let flaw = Flaw {
            class,
            expected: format!("{} at {peer}", text(theirs.as_ref())),
            found: text(ours.as_ref()),
        };
        let found = Found { peer: Some(peer), subject, flaw };
        match kind {
            Kind::Orders if class.repair() == Repair::Safe => {
                let version = theirs.and_then(|entry| entry.stamp.parse().ok()).unwrap_or(0);
                self.enter_order_copy(report, peer, key, version, found).await
            }
            Kind::Rights if class.repair() == Repair::Safe => {
                let mend = async {
                    let pulled = self.helpers.pull_rights(peer).await?;
                    Ok(format!("pulled {pulled} rows of rights from {peer}"))
                };
                self.enter(report, found, mend).await;
                Ok(())
            }
            Kind::Products | Kind::Nodes => {
                self.enter(report, found, self.pull_document(peer, kind, key)).await;
                Ok(())
            }
            Kind::Orders | Kind::Rights | Kind::Envelopes => {
                report.add(self.region.id, found);
                Ok(())
            }
        }
    }
}

fn class_of(kind: Kind, verdict: Verdict) -> Class {
    match (kind, verdict) {
        (Kind::Orders, Verdict::Forgotten) => Class::OrderForgotten,
        (Kind::Orders, Verdict::Missing) => Class::OrderCopyMissing,
        (Kind::Orders, _) => Class::OrderCopyDiffers,
        (Kind::Rights, Verdict::Forgotten) => Class::RightsForgotten,
        (Kind::Rights, Verdict::Differs) => Class::RightsCellDiffers,
        (Kind::Rights, _) => Class::RightsCopyBehind,
        (Kind::Envelopes, Verdict::Forgotten) => Class::InboxUnknownToOrigin,
        (Kind::Envelopes, Verdict::Missing) => Class::OutboxNotApplied,
        (Kind::Envelopes, _) => Class::EnvelopeDiffers,
        (Kind::Products, _) => Class::ProductDiffers,
        (Kind::Nodes, _) => Class::NodeDiffers,
    }
}

/// The key of an envelope, as the database makes it.
fn key_of(position: Position) -> String {
    format!("{:010}/{:020}", position.epoch.0, position.sequence)
}

/// Without the zeros that make stamps sort.
fn short(stamp: &str) -> String {
    let parts: Vec<_> = stamp.split('.').map(|part| part.trim_start_matches('0')).collect();
    parts.join(".")
}

fn by_key(entries: Vec<Entry>) -> Entries {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

pub(super) fn nonsense() -> Stop {
    Stop::LeftOut("it answered something else than it was asked".to_owned())
}
