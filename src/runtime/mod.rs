//! The real clock, ids and task set; the only callers of the functions that clippy bans elsewhere.
