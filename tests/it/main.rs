//! One region's parts as real processes.

mod payment_simulator;
