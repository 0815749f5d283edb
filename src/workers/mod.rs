//! Reconcilers, one file each: woken by timer or nudge, without input, safe to run twice.
