//! Who is heard, who hears us, and how fresh every copy is.
//!
//! A TCP connection tells little: over a black hole it stays open for minutes, and of a one-way cut
//! only one side learns anything. So every region says several times a second that it is there and
//! whom it hears. A peer that was not heard for `silence_ms` is silent; one that is heard but doesn't
//! hear us is at the far end of a one-way cut. All of it is measured on this region's monotonic
//! clock: nothing depends on what time a peer thinks it is.
//!
//! Lag is measured here, too. A heartbeat's head is remembered together with when it was heard;
//! the oldest head not applied yet tells how many milliseconds this copy is behind. A broker's own
//! figures are never asked: one that lost messages reports no lag.

use std::collections::{BTreeMap, VecDeque};

use super::envelope::Position;
use super::heartbeat::{Head, Hearing, Heartbeat, Watermark};
use super::inbound::InboundCounts;
use crate::mutants::{Mutant, is_on};
use crate::types::{Epoch, HlcTimestamp, RegionId};

/// How many heads of a peer are remembered while they wait to be applied. At four heartbeats a
/// second that is half a minute at full resolution; beyond, every second one is forgotten, which
/// costs precision of a lag that is large anyway.
const HEADS_MAX: usize = 128;

/// The state of the link between this region and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Not heard since this process started.
    NeverHeard,
    /// Heard, and it hears us.
    Up,
    /// Heard, but it does not hear us: what we send gets lost.
    OneWay,
    /// Was heard, but not lately.
    Silent,
}

/// How the replicator of one peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicatorState {
    /// Envelopes that wait.
    pub waiting: usize,
    /// The next envelope can't be applied by this program.
    pub stands_still: bool,
    /// What went by.
    pub counts: InboundCounts,
}

/// One peer, as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Whose.
    pub region: RegionId,
    /// Can we talk with it?
    pub link: LinkState,
    /// How long ago it was heard.
    pub heard_ms_ago: Option<u64>,
    /// The last measured round trip of a heartbeat, its time at the peer taken out.
    pub round_trip_ms: Option<u64>,
    /// It takes no new orders.
    pub draining: bool,
    /// The newest that it is known to have written.
    pub head: Option<Head>,
    /// What of it has been applied here.
    pub applied: Position,
    /// How many of its envelopes are known and not applied here.
    pub lag_events: u64,
    /// How long the oldest of these has been known; while the peer is silent, at least how long.
    pub lag_ms: u64,
    /// Everything the peer wrote up to this stamp is applied here.
    pub fresh_as_of: Option<HlcTimestamp>,
    /// What it has applied of this region's.
    pub its_watermark: Option<Position>,
    /// How many of this region's envelopes it has not applied, as far as it told.
    pub behind_us_events: u64,
    /// What it has applied of every region it told of.
    pub its_watermarks: BTreeMap<RegionId, Position>,
    /// How applying its envelopes goes.
    pub replicator: ReplicatorState,
}

#[derive(Debug, Default)]
struct Peer {
    last: Option<(Heartbeat, u64)>,
    round_trip_ms: Option<u64>,
    /// Heads heard and not applied yet, with the time they were heard first.
    heads: VecDeque<(Head, u64)>,
    applied: Option<Watermark>,
    fresh_as_of: Option<HlcTimestamp>,
    replicator: ReplicatorState,
}

/// The table of all peers of one region.
#[derive(Debug)]
pub struct Peers {
    own: RegionId,
    own_head: Option<Head>,
    silence_ms: u64,
    table: BTreeMap<RegionId, Peer>,
}

impl Peers {
    /// A table in which nobody was heard yet. `silence_ms` is how long a peer may be quiet before it
    /// counts as silent: three heartbeats at least, so that one lost message doesn't raise an alarm.
    pub fn new(own: RegionId, peers: impl IntoIterator<Item = RegionId>, silence_ms: u64) -> Self {
        let peers = peers.into_iter().filter(|peer| *peer != own);
        let table = peers.map(|peer| (peer, Peer::default())).collect();
        Self { own, own_head: None, silence_ms, table }
    }

    /// A peer's heartbeat arrived. Of a region that is no peer: ignored.
    pub fn heard(&mut self, beat: Heartbeat, now_ms: u64) {
        let own = self.own;
        let Some(peer) = self.table.get_mut(&beat.region) else { return };
        if let Some(echo) = beat.hearing.get(&own) {
            // An echo of a former process of ours may lie in our future.
            let round_trip = now_ms.checked_sub(echo.echo_ms.saturating_add(echo.held_ms));
            peer.round_trip_ms = round_trip.or(peer.round_trip_ms);
        }
        peer.head_heard(beat.head, now_ms);
        peer.last = Some((beat, now_ms));
    }

    /// This region wrote something, or told its peers that it didn't.
    pub fn own_head(&mut self, head: Head) {
        self.own_head = Some(head);
    }

    /// This region has applied a peer's envelopes up to here.
    pub fn applied(&mut self, origin: RegionId, watermark: Watermark) {
        if let Some(peer) = self.table.get_mut(&origin) {
            peer.applied = Some(watermark);
            peer.refresh();
        }
    }

    /// How the replicator of a peer is doing.
    pub fn replicator(&mut self, origin: RegionId, state: ReplicatorState) {
        if let Some(peer) = self.table.get_mut(&origin) {
            peer.replicator = state;
        }
    }

    /// What this region's next heartbeat says of whom it hears.
    pub fn hearing(&self, now_ms: u64) -> BTreeMap<RegionId, Hearing> {
        let hearing = |peer: &Peer| {
            let (beat, heard_ms) = peer.last.as_ref()?;
            Some(Hearing { echo_ms: beat.sent_ms, held_ms: now_ms.saturating_sub(*heard_ms) })
        };
        self.table.iter().filter_map(|(region, peer)| Some((*region, hearing(peer)?))).collect()
    }

    /// What this region's next heartbeat says of what it has applied.
    pub fn watermarks(&self) -> BTreeMap<RegionId, Position> {
        let applied = |(region, peer): (&RegionId, &Peer)| Some((*region, peer.applied?.position));
        self.table.iter().filter_map(applied).collect()
    }

    /// Can this region and the peer talk with each other?
    pub fn link(&self, peer: RegionId, now_ms: u64) -> LinkState {
        let Some((beat, heard_ms)) = self.table.get(&peer).and_then(|peer| peer.last.as_ref())
        else {
            return LinkState::NeverHeard;
        };
        if now_ms.saturating_sub(*heard_ms) > self.silence_ms {
            return LinkState::Silent;
        }
        match beat.hearing.get(&self.own) {
            Some(hearing) if hearing.held_ms <= self.silence_ms => LinkState::Up,
            _ => LinkState::OneWay,
        }
    }

    /// Is a region heard, here or by a peer that is heard here?
    pub fn heard_by_anybody(&self, region: RegionId, now_ms: u64) -> bool {
        let is_fresh = |ms: u64| ms <= self.silence_ms;
        self.table.iter().any(|(peer, known)| {
            let Some((beat, heard_ms)) = &known.last else { return false };
            let ago_ms = now_ms.saturating_sub(*heard_ms);
            let at_peer =
                beat.hearing.get(&region).map(|hearing| hearing.held_ms.saturating_add(ago_ms));
            (*peer == region && is_fresh(ago_ms)) || at_peer.is_some_and(is_fresh)
        })
    }

    /// Is a request to the peer worth its time-out?
    pub fn reachable(&self, peer: RegionId, now_ms: u64) -> bool {
        self.link(peer, now_ms) == LinkState::Up
    }

    /// Has a peer applied this region's envelope at `position` (`durability: remote`)?
    pub fn held_elsewhere(&self, position: Position) -> bool {
        let held = |peer: &Peer| peer.holds_of(self.own).is_some_and(|at| at >= position);
        self.table.values().any(held) || is_on(Mutant::RemoteNotAwaited)
    }

    /// The furthest envelope of this region that any peer ever told to have applied. A database that
    /// does not know it has forgotten what it wrote.
    pub fn furthest_elsewhere(&self) -> Option<Position> {
        self.table.values().filter_map(|peer| peer.holds_of(self.own)).max()
    }

    /// The least that any peer heard has applied of this region's `epoch`: where a publisher whose
    /// stream was wiped goes on. `None` when nobody was heard.
    pub fn lowest_watermark_elsewhere(&self, epoch: Epoch) -> Option<u64> {
        let of_epoch = |position: Position| match position.epoch.cmp(&epoch) {
            std::cmp::Ordering::Equal => position.sequence,
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => u64::MAX,
        };
        self.table.values().filter_map(|peer| peer.holds_of(self.own)).map(of_epoch).min()
    }

    /// Everything the origin wrote up to this stamp is applied here (`stale_as_of`).
    pub fn fresh_as_of(&self, origin: RegionId) -> Option<HlcTimestamp> {
        self.table.get(&origin)?.fresh_as_of
    }

    /// The newest that this region wrote, as it last told.
    pub fn last_own_head(&self) -> Option<Head> {
        self.own_head
    }

    /// The newest that a peer is known to have written.
    pub fn head_of(&self, region: RegionId) -> Option<Head> {
        let (beat, _) = self.table.get(&region)?.last.as_ref()?;
        Some(beat.head)
    }

    /// Every peer as seen from here.
    pub fn views(&self, now_ms: u64) -> Vec<PeerView> {
        self.table.keys().filter_map(|region| self.view(*region, now_ms)).collect()
    }

    /// One peer as seen from here.
    pub fn view(&self, region: RegionId, now_ms: u64) -> Option<PeerView> {
        let peer = self.table.get(&region)?;
        let last = peer.last.as_ref();
        let heard_ms_ago = last.map(|(_, heard_ms)| now_ms.saturating_sub(*heard_ms));
        let head = last.map(|(beat, _)| beat.head);
        let applied = peer.applied.map_or(Position::START, |applied| applied.position);
        let behind_ms = peer.heads.front().map_or(0, |(_, at)| now_ms.saturating_sub(*at));
        let silent_ms = heard_ms_ago.filter(|ago| *ago > self.silence_ms).unwrap_or(0);
        Some(PeerView {
            region,
            link: self.link(region, now_ms),
            heard_ms_ago,
            round_trip_ms: peer.round_trip_ms,
            draining: last.is_some_and(|(beat, _)| beat.draining),
            head,
            applied,
            lag_events: head.map_or(0, |head| events_between(applied, head.position)),
            lag_ms: behind_ms.max(silent_ms),
            fresh_as_of: peer.fresh_as_of,
            its_watermark: peer.holds_of(self.own),
            behind_us_events: self.own_head.map_or(0, |head| {
                let holds = peer.holds_of(self.own).unwrap_or(Position::START);
                events_between(holds, head.position)
            }),
            replicator: peer.replicator,
            its_watermarks: last.map(|(beat, _)| beat.watermarks.clone()).unwrap_or_default(),
        })
    }
}

/// How many envelopes lie between; over epochs, at least how many.
fn events_between(applied: Position, head: Position) -> u64 {
    match applied.epoch.cmp(&head.epoch) {
        std::cmp::Ordering::Equal => head.sequence.saturating_sub(applied.sequence),
        std::cmp::Ordering::Less => head.sequence,
        std::cmp::Ordering::Greater => 0,
    }
}

impl Peer {
    fn holds_of(&self, origin: RegionId) -> Option<Position> {
        let (beat, _) = self.last.as_ref()?;
        beat.watermarks.get(&origin).copied()
    }

    fn head_heard(&mut self, head: Head, now_ms: u64) {
        match self.heads.back_mut() {
            // The same end again: known for longer, and fresher.
            Some((last, _)) if last.position == head.position => last.hlc = head.hlc.max(last.hlc),
            _ => self.heads.push_back((head, now_ms)),
        }
        if self.heads.len() > HEADS_MAX {
            let mut index = 0;
            self.heads.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.refresh();
    }

    /// Heads that are applied by now tell how fresh the copy is.
    fn refresh(&mut self) {
        let Some(applied) = self.applied else { return };
        let mut fresh = self.fresh_as_of.max(Some(applied.hlc));
        while let Some((head, _)) = self.heads.front() {
            if head.position > applied.position {
                break;
            }
            fresh = fresh.max(Some(head.hlc));
            self.heads.pop_front();
        }
        self.fresh_as_of = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn at(sequence: u64) -> Position {
        Position { epoch: Epoch(1), sequence }
    }

    fn hlc(name: &str, wall_ms: u64) -> HlcTimestamp {
        HlcTimestamp { wall_ms, logical: 0, region: region(name) }
    }

    /// A heartbeat of `b` with its head; `hears` is how long ago it heard `a`.
    fn beat(sent_ms: u64, head: u64, wall_ms: u64, hears: Option<(u64, u64)>) -> Heartbeat {
        let hearing = hears.map(|(echo_ms, held_ms)| (region("a"), Hearing { echo_ms, held_ms }));
        Heartbeat {
            region: region("b"),
            sent_ms,
            head: Head { position: at(head), hlc: hlc("b", wall_ms) },
            watermarks: [(region("a"), at(head / 2))].into(),
            hearing: hearing.into_iter().collect(),
            draining: false,
        }
    }

    fn table() -> Peers {
        Peers::new(region("a"), [region("a"), region("b"), region("c")], 1_000)
    }

    #[test]
    fn a_black_hole_is_noticed_after_the_silence_and_a_one_way_cut_from_both_ends() {
        let mut peers = table();
        let b = region("b");
        assert_eq!(peers.link(b, 0), LinkState::NeverHeard);
        peers.heard(beat(1, 0, 0, Some((90, 5))), 100);
        assert_eq!(peers.link(b, 1_100), LinkState::Up);
        assert_eq!(peers.link(b, 1_101), LinkState::Silent);
        // b is heard again, but has not heard a for longer than the silence, or never.
        peers.heard(beat(2, 0, 0, Some((90, 1_001))), 1_200);
        assert_eq!(peers.link(b, 1_200), LinkState::OneWay);
        assert!(!peers.reachable(b, 1_200));
        peers.heard(beat(3, 0, 0, None), 1_300);
        assert_eq!(peers.link(b, 1_300), LinkState::OneWay);
    }

    #[test]
    fn a_region_is_heard_while_anybody_who_is_heard_hears_it() {
        let mut peers = table();
        let (b, c) = (region("b"), region("c"));
        assert!(!peers.heard_by_anybody(c, 0));
        let hears_c = |held_ms| {
            let hearing = [(c, Hearing { echo_ms: 0, held_ms })].into();
            Heartbeat { hearing, ..beat(1, 0, 0, None) }
        };
        peers.heard(hears_c(400), 100);
        assert!(peers.heard_by_anybody(b, 1_100) && peers.heard_by_anybody(c, 700));
        assert!(!peers.heard_by_anybody(c, 701), "what it heard grows old with what it told");
        peers.heard(hears_c(1_001), 800);
        assert!(!peers.heard_by_anybody(c, 800) && peers.heard_by_anybody(b, 800));
        assert!(!peers.heard_by_anybody(b, 1_801));
    }

    #[test]
    fn round_trips_leave_the_time_at_the_peer_out() {
        let mut peers = table();
        peers.heard(beat(1, 0, 0, Some((100, 30))), 210);
        assert_eq!(peers.view(region("b"), 210).unwrap().round_trip_ms, Some(80));
        // A restarted process hears an echo of the former one's clock.
        peers.heard(beat(2, 0, 0, Some((1_000_000, 30))), 220);
        assert_eq!(peers.view(region("b"), 220).unwrap().round_trip_ms, Some(80));
        assert_eq!(peers.hearing(250)[&region("b")], Hearing { echo_ms: 2, held_ms: 30 });
    }

    #[test]
    fn lag_counts_from_the_oldest_head_that_is_not_applied() {
        let mut peers = table();
        let b = region("b");
        peers.applied(b, Watermark { position: at(0), hlc: hlc("b", 0) });
        peers.heard(beat(1, 5, 50, None), 1_000);
        peers.heard(beat(2, 9, 90, None), 1_400);
        let view = peers.view(b, 1_500).unwrap();
        assert_eq!((view.lag_events, view.lag_ms), (9, 500));
        peers.applied(b, Watermark { position: at(6), hlc: hlc("b", 61) });
        let view = peers.view(b, 1_500).unwrap();
        assert_eq!((view.lag_events, view.lag_ms), (3, 100));
        assert_eq!(view.fresh_as_of, Some(hlc("b", 61)));
        peers.applied(b, Watermark { position: at(9), hlc: hlc("b", 88) });
        let view = peers.view(b, 1_500).unwrap();
        assert_eq!((view.lag_events, view.lag_ms), (0, 0));
        assert_eq!(view.fresh_as_of, Some(hlc("b", 90)));
        // Silence is lag that can't be measured.
        assert_eq!(peers.view(b, 5_000).unwrap().lag_ms, 3_600);
    }

    #[test]
    fn the_copy_of_an_idle_origin_stays_fresh() {
        let mut peers = table();
        let b = region("b");
        peers.applied(b, Watermark { position: at(5), hlc: hlc("b", 50) });
        for step in 1..10 {
            peers.heard(beat(step, 5, 50 + step * 100, None), step * 100);
            assert_eq!(peers.fresh_as_of(b), Some(hlc("b", 50 + step * 100)));
        }
        // A head not applied yet says nothing of freshness, however new.
        peers.heard(beat(10, 6, 9_000, None), 1_000);
        assert_eq!(peers.fresh_as_of(b), Some(hlc("b", 950)));
    }

    #[test]
    fn heads_are_bounded_and_the_oldest_is_kept() {
        let mut peers = table();
        let b = region("b");
        peers.applied(b, Watermark { position: at(0), hlc: hlc("b", 0) });
        for head in 1..10_000 {
            peers.heard(beat(head, head, head, None), head);
        }
        assert!(peers.table[&b].heads.len() <= HEADS_MAX);
        assert_eq!(peers.view(b, 9_999).unwrap().lag_ms, 9_998);
    }

    #[test]
    fn remote_durability_is_what_a_peer_says_it_applied() {
        let mut peers = table();
        assert!(!peers.held_elsewhere(at(1)));
        assert_eq!(peers.lowest_watermark_elsewhere(Epoch(1)), None);
        peers.heard(beat(1, 8, 0, None), 10);
        assert!(peers.held_elsewhere(at(4)) && !peers.held_elsewhere(at(5)));
        assert_eq!(peers.lowest_watermark_elsewhere(Epoch(1)), Some(4));
        assert_eq!(peers.lowest_watermark_elsewhere(Epoch(2)), Some(0));
    }
}
