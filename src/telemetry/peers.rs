//! Metrics of replication: set from the table of peers whenever they are read, counted nowhere else.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::replication::{LinkState, PeerView};

/// The labels of everything about one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PeerLabels {
    /// Its name.
    pub peer: String,
}

type Gauges = Family<PeerLabels, Gauge<i64, AtomicI64>>;
type Counters = Family<PeerLabels, Counter<u64, AtomicU64>>;

/// One number of each peer.
#[derive(Debug, Default)]
pub(super) struct PeerMetrics {
    up: Gauges,
    heard_ms_ago: Gauges,
    round_trip_ms: Gauges,
    lag_events: Gauges,
    lag_ms: Gauges,
    behind_us_events: Gauges,
    waiting: Gauges,
    stands_still: Gauges,
    duplicates: Counters,
    refused: Counters,
    no_room: Counters,
    conflicts: Counters,
    pulls: Counters,
    pulls_in_vain: Counters,
}

impl PeerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("peer_up", "1 when the peer is heard and hears this region", &self.up),
            ("peer_heard_ago_milliseconds", "Since the peer's last heartbeat", &self.heard_ms_ago),
            ("peer_round_trip_milliseconds", "Of heartbeats", &self.round_trip_ms),
            ("replication_lag_events", "Envelopes of the peer not applied here", &self.lag_events),
            (
                "replication_lag_milliseconds",
                "How long the oldest of them has been known, or the peer has been silent",
                &self.lag_ms,
            ),
            (
                "replication_peer_lag_events",
                "Envelopes of this region not applied at the peer",
                &self.behind_us_events,
            ),
            ("replication_waiting", "Envelopes of the peer that wait here", &self.waiting),
            (
                "replication_stands_still",
                "1 when an envelope of the peer can't be applied (I-18)",
                &self.stands_still,
            ),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
        let counters = [
            ("replication_duplicates", "Envelopes received again", &self.duplicates),
            ("replication_refused", "Envelopes of an epoch that is over", &self.refused),
            ("replication_no_room", "Envelopes let go for lack of room", &self.no_room),
            ("replication_conflicts", "Places with two payloads (I-18)", &self.conflicts),
            ("replication_pulls", "Questions to the peer's outbox", &self.pulls),
            (
                "replication_pulls_in_vain",
                "Questions that failed or brought nothing",
                &self.pulls_in_vain,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
    }

    pub(super) fn set(&self, view: &PeerView) {
        let labels = PeerLabels { peer: view.region.to_string() };
        let counts = view.replicator.counts;
        let gauges = [
            (&self.up, u64::from(view.link == LinkState::Up)),
            (&self.heard_ms_ago, view.heard_ms_ago.unwrap_or(u64::MAX)),
            (&self.round_trip_ms, view.round_trip_ms.unwrap_or_default()),
            (&self.lag_events, view.lag_events),
            (&self.lag_ms, view.lag_ms),
            (&self.behind_us_events, view.behind_us_events),
            (&self.waiting, view.replicator.waiting as u64),
            (&self.stands_still, u64::from(view.replicator.stands_still)),
        ];
        for (family, value) in gauges {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let counters = [
            (&self.duplicates, counts.duplicates),
            (&self.refused, counts.refused),
            (&self.no_room, counts.no_room),
            (&self.conflicts, counts.conflicts),
            (&self.pulls, counts.pulls),
            (&self.pulls_in_vain, counts.pulls_in_vain),
        ];
        for (family, value) in counters {
            family.get_or_create(&labels).inner().store(value, Ordering::Relaxed);
        }
    }
}
