//! Long transactions: log, next step, compensation. Pure.
