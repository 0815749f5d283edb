//! Standard output and standard error that may be closed or full: `entrepot status | head -1`, or a log
//! on a full disk, are no reason to panic.

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

/// Prints a line to standard error. Nobody can be told that telling failed.
pub(super) fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
