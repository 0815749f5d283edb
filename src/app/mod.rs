//! Use cases: one file each, load → decide → commit.
