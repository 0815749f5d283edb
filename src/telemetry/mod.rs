//! Logs and metrics.
//!
//! Messages are for people, fields and metrics for machines. No log line holds a token, a body, an
//! address or another secret or personal datum: what is logged of a request is its route, status and
//! trace id.

pub mod metrics;
mod peers;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For a terminal.
    #[default]
    Human,
    /// One JSON object a line, for a collector.
    Json,
}

/// What is logged when nobody says otherwise.
const FILTER_DEFAULT: &str = "info,sqlx=warn,async_nats=warn,hyper=warn";

/// Begins logging to standard error. `filter` as in `RUST_LOG`. Only the first call of a process counts.
pub fn start(format: LogFormat, filter: Option<&str>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter.unwrap_or(FILTER_DEFAULT))
        .map_err(|error| anyhow::anyhow!("the log filter is not valid: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A line that can't be written, as on a full disk, is lost. Telling so would go to standard error
        // as well, and a print that fails there is a panic.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Human => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging had begun already");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_refused() {
        assert!(start(LogFormat::Human, Some("info,=[")).is_err());
    }
}
