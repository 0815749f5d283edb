//! The sans-IO replicator: sequences, watermarks, gap repair.
