//! The protocol of ceilings, checked exhaustively in small worlds (`docs/adr/0080`), and with each of its
//! rules dropped, to see that the rule is needed and that the check would notice.

#![expect(clippy::cast_possible_truncation, reason = "there are at most six of anything")]
#![expect(clippy::unused_self, reason = "a step is a step of a world")]
#![expect(clippy::unwrap_in_result, reason = "a step that is not possible is no error")]
#![expect(clippy::disallowed_methods, reason = "how long to look is told by the environment")]
#![expect(clippy::print_stdout, reason = "how much was looked at is the result")]

mod effects;
mod properties;
mod rules;
mod steps;
mod world;
mod worlds;
