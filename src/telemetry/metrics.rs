//! Every metric of the program: name, labels, help text.
//!
//! One file, so that dashboards and alerts have one place to look. Names carry their unit; counters
//! get `_total` from the encoder.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::peers::PeerMetrics;
use crate::reconcile::{Class, Report};
use crate::replication::PeerView;

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the latency buckets, in seconds: the goals (p99 500 ms, fail-over 3 s) are among them.
const LATENCY_BUCKETS_S: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0];

/// The labels of one route's answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// The route's pattern, never an address with ids in it.
    pub route: &'static str,
    /// The method.
    pub method: &'static str,
    /// The status.
    pub status: u16,
}

/// The labels of one route's latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern.
    pub route: &'static str,
    /// The method.
    pub method: &'static str,
}

/// How placing an order ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `confirmed`, `running` or the code of the refusal.
    pub outcome: &'static str,
}

/// What reconciliation found in this region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DifferenceLabels {
    /// The class of the difference.
    pub class: &'static str,
    /// The rule that is broken, e.g. `I-01`.
    pub invariant: &'static str,
}

#[derive(Debug, Clone)]
struct LatencyBuckets;

impl MetricConstructor<Histogram> for LatencyBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(LATENCY_BUCKETS_S)
    }
}

/// All metrics. Cheap to clone: every clone counts into the same numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    http_requests: Family<HttpLabels, Counter>,
    http_duration: Family<RouteLabels, Histogram, LatencyBuckets>,
    /// Connections that are open.
    pub http_connections: Gauge,
    /// Connections refused because the cap was reached.
    pub http_connections_refused: Counter,
    /// Requests refused as ambiguous.
    pub http_ambiguous_requests: Counter,
    orders_placed: Family<OutcomeLabels, Counter>,
    differences: Family<DifferenceLabels, Gauge>,
    /// When a run of reconciliation last ended, in seconds since 1970: one that is old is an alert as well.
    pub reconciled_at_seconds: Gauge,
    peers: PeerMetrics,
}

impl Metrics {
    /// All metrics at zero, labelled with the region.
    pub fn new(region: &str) -> Self {
        let labels = std::iter::once(("region".into(), region.to_owned().into()));
        let mut registry = Registry::with_prefix_and_labels("entrepot", labels);
        let http_requests = Family::default();
        registry.register("http_requests", "Answers by route and status", http_requests.clone());
        let http_duration = Family::new_with_constructor(LatencyBuckets);
        registry.register(
            "http_request_duration_seconds",
            "From the head of a request to its answer",
            http_duration.clone(),
        );
        let http_connections = Gauge::default();
        registry.register("http_connections", "Open connections", http_connections.clone());
        let http_connections_refused = Counter::default();
        registry.register(
            "http_connections_refused",
            "Connections refused because the cap was reached",
            http_connections_refused.clone(),
        );
        let http_ambiguous_requests = Counter::default();
        registry.register(
            "http_ambiguous_requests",
            "Requests with both Content-Length and Transfer-Encoding",
            http_ambiguous_requests.clone(),
        );
        let orders_placed = Family::default();
        registry.register(
            "orders_placed",
            "Orders by how placing them ended",
            orders_placed.clone(),
        );
        let differences = Family::default();
        registry.register(
            "reconciliation_differences",
            "Differences that the last run found, by class and invariant",
            differences.clone(),
        );
        let reconciled_at_seconds = Gauge::default();
        registry.register(
            "reconciled_at_seconds",
            "When a run of reconciliation last ended, since 1970",
            reconciled_at_seconds.clone(),
        );
        let peers = PeerMetrics::default();
        peers.register(&mut registry);
        Self {
            registry,
            http_requests,
            http_duration,
            http_connections,
            http_connections_refused,
            http_ambiguous_requests,
            orders_placed,
            differences,
            reconciled_at_seconds,
            peers,
        }
    }

    /// Counts one answer.
    pub fn http_answer(&self, route: RouteLabels, status: u16, took: Duration) {
        self.http_duration.get_or_create(&route).observe(took.as_secs_f64());
        let RouteLabels { route, method } = route;
        self.http_requests.get_or_create(&HttpLabels { route, method, status }).inc();
    }

    /// Counts one order.
    pub fn order_placed(&self, outcome: &'static str) {
        self.orders_placed.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Takes over what a run of reconciliation found in this region.
    pub fn reconciled(&self, part: &Report) {
        for class in Class::ALL {
            let labels =
                DifferenceLabels { class: class.code(), invariant: class.invariant().code() };
            let count = part.counts.get(class).copied().unwrap_or(0);
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.differences.get_or_create(&labels).set(count);
        }
        let ended_s = part.finished_at_ms.unwrap_or(0) / 1_000;
        self.reconciled_at_seconds.set(i64::try_from(ended_s).unwrap_or(i64::MAX));
    }

    /// Takes over how the peers are seen now.
    pub fn peers<'a>(&self, peers: impl IntoIterator<Item = &'a PeerView>) {
        peers.into_iter().for_each(|peer| self.peers.set(peer));
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry).expect("a String takes any text");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_names_labels_and_values() {
        let metrics = Metrics::new("eu-west");
        let route = RouteLabels { route: "/api/v1/orders", method: "POST" };
        metrics.http_answer(route, 201, Duration::from_millis(30));
        metrics.order_placed("confirmed");
        let text = metrics.text();
        for line in [
            r#"entrepot_http_requests_total{region="eu-west",route="/api/v1/orders",method="POST",status="201"} 1"#,
            r#"entrepot_http_request_duration_seconds_bucket{region="eu-west",le="0.05",route="/api/v1/orders",method="POST"} 1"#,
            r#"entrepot_orders_placed_total{region="eu-west",outcome="confirmed"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
        }
    }
}
