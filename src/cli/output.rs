//! Standard output that may be closed: `entrepot status | head -1` is no reason to panic.

use std::io::{ErrorKind, Write as _};

/// Prints a line. A reader who has gone has seen enough.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "standard output can't be written");
    }
}
