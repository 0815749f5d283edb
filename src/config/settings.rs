//! Limits and times, each with the default and the reason for it.
//!
//! All of them can be left out of a file. Times end in `_ms` there and are [`Duration`]s here.

use std::time::Duration;

use super::reader::Section;

/// `[limits]`: what one client, and all together, may ask of the HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body; 256 KiB hold an order of 200 lines ten times over. Beyond: 413.
    pub request_body_bytes_max: usize,
    /// Open connections of one server; at some 20 KiB each, 4,096 cost 80 MiB at worst. Beyond: 503 with
    /// `Retry-After`, and the connection is closed.
    pub connections_max: usize,
    /// From a connection's first byte to the end of the request's head. A phone on a bad line needs
    /// one or two seconds; who needs more is holding connections.
    pub header_timeout: Duration,
    /// For the whole body once the head is there: 256 KiB at 25 KiB/s.
    pub body_timeout: Duration,
    /// How long an idle keep-alive connection is kept; longer than a load balancer's own time.
    pub idle_timeout: Duration,
    /// Requests a second of one shopper (token subject) on average, eight seconds' worth at once; 0 is no
    /// limit. No shopper makes 50; a runaway script does. Staff may do 25 times, services and operators
    /// 1,000 times as much.
    pub rate_limit_per_s: u32,
    /// The longest a database call may take before its outcome counts as unknown and its connection
    /// is closed. A commit takes milliseconds, so 3 s is a database that hangs, not a slow one.
    pub database_deadline: Duration,
    /// How long open requests are waited for when the server is told to stop.
    pub shutdown_grace: Duration,
}

impl Limits {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let limits = Self {
            request_body_bytes_max: section.size(
                "request_body_bytes_max",
                262_144,
                1024..=16_777_216,
            ),
            connections_max: section.size("connections_max", 4096, 16..=65_535),
            header_timeout: section.millis("header_timeout_ms", 5_000, 100..=60_000),
            body_timeout: section.millis("body_timeout_ms", 10_000, 100..=120_000),
            idle_timeout: section.millis("idle_timeout_ms", 75_000, 1_000..=600_000),
            rate_limit_per_s: section.count("rate_limit_per_s", 50, 0..=1_000_000),
            database_deadline: section.millis("database_deadline_ms", 3_000, 100..=60_000),
            shutdown_grace: section.millis("shutdown_grace_ms", 5_000, 0..=60_000),
        };
        section.finish();
        limits
    }
}

/// `[orders]`: group commit, sagas, waiting clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// Commands decided and committed together. 256 orders share one commit at some 14,000 orders/s
    /// on one connection; larger groups gain nothing and wait longer.
    pub group_max: usize,
    /// Groups under way at once: the second is decided while the first one's commit is on its way to
    /// the disk. More wait for each other's stock rows.
    pub group_writers: usize,
    /// Commands waiting for a group; at 3,000 a second 8,192 are under 3 s of waiting. Beyond: 503
    /// with `Retry-After`.
    pub queue_max: usize,
    /// How long `POST /orders` waits for the saga before it answers 202.
    pub order_wait: Duration,
    /// How long one worker owns a saga; after a crash another takes over when it is past. Longer
    /// than any step's own time-out, so that no saga has two workers.
    pub saga_lease: Duration,
    /// A saga without progress for this long is on the stuck list.
    pub saga_stuck: Duration,
    /// Sagas one server works on at once; each is a small task that mostly waits for the payment
    /// provider, so the bound only keeps a provider's outage from filling the memory.
    pub sagas_running_max: usize,
}

impl Orders {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let orders = Self {
            group_max: section.size("group_max", 256, 1..=4_096),
            group_writers: section.size("group_writers", 2, 1..=16),
            queue_max: section.size("queue_max", 8_192, 1..=1_000_000),
            order_wait: section.millis("order_wait_ms", 2_000, 0..=30_000),
            saga_lease: section.millis("saga_lease_ms", 10_000, 1_000..=300_000),
            saga_stuck: section.millis("saga_stuck_ms", 300_000, 1_000..=3_600_000),
            sagas_running_max: section.size("sagas_running_max", 4_096, 1..=100_000),
        };
        section.finish();
        orders
    }
}

/// `[replication]`: what regions tell each other, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// Between heartbeats to a peer: five are lost before the peer counts as silent.
    pub heartbeat: Duration,
    /// A peer that was not heard of for this long counts as silent. Above the slowest link's round
    /// trip (182 ms) by far, below the 3 s of a failover.
    pub peer_silent_after: Duration,
    /// How long changed rights rows are gathered before they are shipped: twenty messages a second
    /// at most, whatever the number of orders.
    pub row_ship: Duration,
    /// Between comparisons of state digests with a peer; a difference is pulled at once.
    pub digest_interval: Duration,
    /// For an answer of a peer to one request: four of the slowest round trips. Who needs the answer
    /// and still hears the peer asks again.
    pub peer_request_timeout: Duration,
}

impl Replication {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let replication = Self {
            heartbeat: section.millis("heartbeat_ms", 200, 10..=10_000),
            peer_silent_after: section.millis("peer_silent_after_ms", 1_000, 50..=60_000),
            row_ship: section.millis("row_ship_ms", 50, 1..=10_000),
            digest_interval: section.millis("digest_interval_ms", 30_000, 100..=3_600_000),
            peer_request_timeout: section.millis("peer_request_timeout_ms", 800, 10..=30_000),
        };
        if replication.peer_silent_after < replication.heartbeat * 2 {
            section.problem(
                "`peer_silent_after_ms` must be at least twice `heartbeat_ms`, \
                 or one late heartbeat counts as a dead peer",
            );
        }
        section.finish();
        replication
    }
}

/// `[escrow]`: how rights move between regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrow {
    /// How long an order that lacks rights here waits for grants of peers that are heard. Seldom used
    /// up: a refusal comes as soon as every peer in reach has answered, one that is not heard is not
    /// waited for. So it is long, for an overloaded peer on the slowest link (182 ms a round trip):
    /// a refusal while units are left is the worse answer, as long as a shopper waits.
    pub grant_wait: Duration,
    /// Between looks at spending rates that may move rights ahead of demand.
    pub rebalance: Duration,
    /// Between two transfers of one key and pair ahead of demand, at least.
    pub transfer_interval: Duration,
    /// How far ceilings run ahead of what is sold: how long this region sells on at the present rate when every
    /// other is gone, and how much is stranded while it is gone itself. An hour is longer than nearly all
    /// cuts between regions, and little of a stock that is worth taking over.
    pub autonomy: Duration,
    /// Units of each key that it may sell alone however seldom that sells.
    pub autonomy_units_least: u32,
}

impl Escrow {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let escrow = Self {
            grant_wait: section.millis("grant_wait_ms", 5_000, 0..=30_000),
            rebalance: section.millis("rebalance_ms", 200, 10..=60_000),
            transfer_interval: section.millis("transfer_interval_ms", 1_000, 10..=600_000),
            autonomy: section.millis("autonomy_ms", 3_600_000, 0..=2_592_000_000),
            autonomy_units_least: section.count("autonomy_units_least", 100, 0..=1_000_000_000),
        };
        section.finish();
        escrow
    }
}

/// `[reconciliation]`: how often a region compares everything by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciliation {
    /// Between two rounds. What is broken is known within so long; each round reads every own order.
    pub interval: Duration,
}

impl Reconciliation {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let interval = section.millis("interval_ms", 300_000, 1_000..=86_400_000);
        section.finish();
        Self { interval }
    }
}

/// `[routing]`: how a region that was lost gets its shoppers back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// How long it serves 5, then 25, then 50 % of them before the next step: long enough for a person or an alert to
    /// stop it (`entrepot region drain`), short enough that the others are not overloaded for long.
    pub canary_step: Duration,
}

impl Routing {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let canary_step = section.millis("canary_step_ms", 60_000, 0..=86_400_000);
        section.finish();
        Self { canary_step }
    }
}
