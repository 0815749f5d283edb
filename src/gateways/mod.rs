//! Adapters of payment providers; one file each.
