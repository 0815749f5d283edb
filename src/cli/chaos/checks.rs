//! What a scenario must show, by when it must hold: at any time while things break, eventually once they are
//! healed, and finally at rest. Each check says what it looked at and which orders, keys or regions break it.

pub(super) mod anytime;
pub(super) mod eventually;
pub(super) mod finally;
pub(super) mod lost;
pub(super) mod moved;
pub(super) mod sale;
#[cfg(test)]
mod testing;
