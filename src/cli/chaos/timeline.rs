//! The picture of a run: what was broken when, over orders a second, replication lag and rights of each region.
//!
//! A scalable vector graphic, written by hand: three charts over one time axis. Whole numbers only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::faults::Window;
use super::history::Wish;
use super::samples::Sample;
use super::scenario::Fault;
use crate::types::RegionId;

/// In pixels.
const WIDTH: u64 = 1_000;
const LEFT: u64 = 70;
const RIGHT: u64 = 20;
const TOP: u64 = 64;
/// One line of names of faults.
const NAME_HEIGHT: u64 = 18;
const CHART_HEIGHT: u64 = 150;
const CHART_GAP: u64 = 46;
const BOTTOM: u64 = 40;

/// Told apart also by people who don't see all colors (Okabe and Ito).
const COLORS: &[&str] = &["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A point of a line: time and value.
type Points = Vec<(u64, u64)>;

/// Names, title and lines by region.
struct Chart {
    title: &'static str,
    lines: BTreeMap<RegionId, Points>,
}

/// What is drawn.
pub(super) struct Timeline<'a> {
    pub(super) title: &'a str,
    pub(super) regions: &'a [RegionId],
    pub(super) faults: &'a [Fault],
    pub(super) windows: &'a [Window],
    pub(super) history: &'a [Wish],
    pub(super) samples: &'a [Sample],
    /// The whole time that is shown.
    pub(super) end_ms: u64,
}

impl Timeline<'_> {
    /// The picture as a document.
    pub(super) fn svg(&self) -> String {
        let charts = [
            Chart { title: "orders acknowledged in a second", lines: self.throughput() },
            Chart { title: "replication lag, ms", lines: self.line(|sample| Some(sample.lag_ms)) },
            Chart { title: "rights, units", lines: self.line(|sample| sample.rights) },
        ];
        let names = self.windows.len() as u64 * NAME_HEIGHT;
        let top = TOP + names;
        let charts_height = charts.len() as u64 * (CHART_HEIGHT + CHART_GAP);
        let height = top + charts_height + BOTTOM;
        let mut svg = String::new();
        let mut put = |text: String| {
            writeln!(svg, "{text}").expect("writing to memory");
        };
        put(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
        ));
        put("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>".to_owned());
        put(format!("<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>", escaped(self.title)));
        for (index, region) in self.regions.iter().enumerate() {
            let x = LEFT + index as u64 * 120;
            let color = color(index);
            put(format!("<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{color}\"/>"));
            put(format!("<text x=\"{}\" y=\"47\">{region}</text>", x + 18));
        }
        self.bands(top + charts_height - CHART_GAP / 2, &mut put);
        for (index, chart) in charts.iter().enumerate() {
            let y = top + CHART_GAP / 2 + index as u64 * (CHART_HEIGHT + CHART_GAP);
            self.chart(chart, y, &mut put);
        }
        let axis = height - BOTTOM;
        for second in (0..=self.end_ms / 1_000).step_by(self.tick_s()) {
            let x = self.x(second * 1_000);
            put(format!("<text x=\"{x}\" y=\"{axis}\" text-anchor=\"middle\">{second} s</text>"));
        }
        put("</svg>".to_owned());
        svg
    }

    /// Faults as bands over all charts, each with its name on a line of its own.
    fn bands(&self, bottom: u64, put: &mut dyn FnMut(String)) {
        for (index, window) in self.windows.iter().enumerate() {
            let to_ms = window.to_ms.unwrap_or(self.end_ms);
            let (x, end) = (self.x(window.from_ms), self.x(to_ms));
            let y = TOP + index as u64 * NAME_HEIGHT;
            put(format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"#b00020\" fill-opacity=\"0.10\"/>",
                (end - x).max(1),
                bottom - y
            ));
            // Beside the band where there is more room.
            let (at, anchor) = if x < WIDTH / 2 { (x + 4, "start") } else { (end - 4, "end") };
            put(format!(
                "<text x=\"{at}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"#7a0016\">{}</text>",
                y + 13,
                escaped(&self.faults[window.fault].inflict.to_string())
            ));
        }
    }

    fn chart(&self, chart: &Chart, y: u64, put: &mut dyn FnMut(String)) {
        let values = chart.lines.values().flatten().map(|(_, value)| *value);
        let max = round_up(values.max().unwrap_or(0).max(1));
        let right = WIDTH - RIGHT;
        put(format!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", y - 6, chart.title));
        for (share, value) in [(0, 0), (1, max / 2), (2, max)] {
            let line = y + CHART_HEIGHT - CHART_HEIGHT * share / 2;
            put(format!("<path d=\"M{LEFT} {line}H{right}\" stroke=\"#cccccc\" fill=\"none\"/>"));
            let (x, text) = (LEFT - 6, line + 4);
            put(format!("<text x=\"{x}\" y=\"{text}\" text-anchor=\"end\">{value}</text>"));
        }
        for (index, region) in self.regions.iter().enumerate() {
            let mut path = String::new();
            let mut before_ms = None;
            for (at_ms, value) in chart.lines.get(region).into_iter().flatten() {
                // A line is broken where nothing was seen.
                let follows = before_ms.is_some_and(|before_ms| at_ms - before_ms <= GAP_MS);
                let command = if follows { 'L' } else { 'M' };
                let at_y = y + CHART_HEIGHT - CHART_HEIGHT * value / max;
                write!(path, "{command}{} {at_y}", self.x(*at_ms)).expect("writing to memory");
                before_ms = Some(*at_ms);
            }
            let color = color(index);
            put(format!(
                "<path d=\"{path}\" stroke=\"{color}\" stroke-width=\"1.5\" fill=\"none\"/>"
            ));
        }
    }

    /// Orders by the second in which they were acknowledged, by the region that did.
    fn throughput(&self) -> BTreeMap<RegionId, Points> {
        let mut counts: BTreeMap<RegionId, BTreeMap<u64, u64>> = BTreeMap::new();
        for order in self.history.iter().filter_map(Wish::acknowledged) {
            if let Some(by) = order.by {
                *counts.entry(by).or_default().entry(order.at_ms / 1_000).or_default() += 1;
            }
        }
        let seconds = self.end_ms / 1_000;
        let points = |counts: BTreeMap<u64, u64>| {
            (0..seconds).map(|s| (s * 1_000 + 500, counts.get(&s).copied().unwrap_or(0))).collect()
        };
        counts.into_iter().map(|(region, counts)| (region, points(counts))).collect()
    }

    fn line(&self, value: fn(&Sample) -> Option<u64>) -> BTreeMap<RegionId, Points> {
        let mut lines: BTreeMap<RegionId, Points> = BTreeMap::new();
        for sample in self.samples {
            if let Some(value) = value(sample) {
                lines.entry(sample.region).or_default().push((sample.at_ms, value));
            }
        }
        lines
    }

    fn x(&self, at_ms: u64) -> u64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at_ms.min(self.end_ms) / self.end_ms.max(1)
    }

    /// Seconds between two numbers at the axis: some ten of them.
    fn tick_s(&self) -> usize {
        match self.end_ms / 10_000 {
            0..=2 => 2,
            3..=7 => 5,
            8..=14 => 10,
            _ => 20,
        }
    }
}

/// A line is broken where two looks are further apart: one was missed.
const GAP_MS: u64 = 1_800;

fn color(region: usize) -> &'static str {
    COLORS[region % COLORS.len()]
}

/// To one, two or five and zeros.
fn round_up(value: u64) -> u64 {
    let mut power: u64 = 1;
    loop {
        for step in [1, 2, 5] {
            let rounded = power.saturating_mul(step);
            if rounded >= value {
                // Half of it is written at the axis.
                return rounded.max(2);
            }
        }
        power = power.saturating_mul(10);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::scenario::Scenario;

    #[test]
    fn everything_is_drawn_within_the_picture() {
        let text = "title = \"t\"\nseconds = 20\n[load]\norders_per_second = 1\n\
                    [[faults]]\nfrom = 1\nto = 2\ninflict.kill = { region = \"a\" }";
        let faults = Scenario::parse("t", text).unwrap().faults;
        let region: RegionId = "a".parse().unwrap();
        let sample = |at_ms, lag_ms| Sample { region, at_ms, lag_ms, rights: Some(7) };
        let timeline = Timeline {
            title: "a < b",
            regions: &[region],
            faults: &faults,
            windows: &[Window { fault: 0, from_ms: 1_000, to_ms: None }],
            history: &[],
            samples: &[sample(0, 3), sample(1_000, 9), sample(5_000, 1)],
            end_ms: 20_000,
        };
        let svg = timeline.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("a killed"), "{svg}");
        // Two looks that follow each other, and one after a pause: half of the highest value at the axis.
        assert!(svg.contains("M70 406L115 316M297 436"), "{svg}");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let rounded = [1, 3, 5, 6, 90, 101].map(round_up);
        assert_eq!(rounded, [2, 5, 5, 10, 100, 200]);
    }
}
