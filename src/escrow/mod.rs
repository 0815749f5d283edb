//! The rights ledger and its protocol, pure. See `docs/adr` and the module docs.
