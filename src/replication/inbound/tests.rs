use proptest::prelude::*;

use super::*;
use crate::replication::envelope::tests::envelope;
use crate::replication::{NewEnvelope, PAYLOAD_BYTES_MAX};
use crate::types::Epoch;

fn at(epoch: u32, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence }
}

fn inbound() -> Inbound {
    Inbound::new("b".parse().unwrap(), Position::START)
}

/// Envelope `sequence` of `epoch`, after `follows`, with a payload of some size and schema.
fn special(
    epoch: u32,
    sequence: u64,
    follows: Option<Position>,
    bytes: usize,
    schema: u16,
) -> Envelope {
    let plain = envelope("b", epoch, sequence);
    let payload = if bytes == 0 { plain.payload.clone() } else { vec![b' '; bytes].into() };
    Envelope::seal(NewEnvelope {
        origin: plain.origin,
        position: plain.position(),
        follows,
        hlc: plain.hlc,
        schema_version: schema,
        payload,
    })
    .unwrap()
}

/// What the origin wrote: some envelopes in each of several epochs, some of them empty.
fn history(epochs: &[u64]) -> Vec<Envelope> {
    let mut all: Vec<Envelope> = Vec::new();
    for (epoch, length) in (1..).zip(epochs) {
        let follows = all.last().map(Envelope::position);
        for sequence in 1..=*length {
            all.push(special(epoch, sequence, follows.filter(|_| sequence == 1), 0, 1));
        }
    }
    all
}

fn answer(all: &[Envelope], request: PullRequest, most: usize) -> Vec<Envelope> {
    let wanted = all.iter().filter(|envelope| {
        envelope.epoch == request.from.epoch && envelope.sequence >= request.from.sequence
    });
    wanted.take(most.min(request.count as usize)).cloned().collect()
}

fn apply_one_batch(inbound: &mut Inbound, applied: &mut Vec<Position>) {
    let batch = inbound.next_batch();
    if let Some(last) = batch.last() {
        applied.extend(batch.iter().map(Envelope::position));
        inbound.applied(last.position());
    }
}

#[test]
fn early_ones_wait_and_copies_are_dropped() {
    let mut inbound = inbound();
    assert_eq!(inbound.receive(envelope("b", 1, 2)), Receipt::Waiting);
    assert_eq!(inbound.receive(envelope("b", 1, 2)), Receipt::Waiting);
    assert!(inbound.next_batch().is_empty());
    assert_eq!(inbound.receive(envelope("b", 1, 1)), Receipt::Waiting);
    let batch: Vec<_> = inbound.next_batch().iter().map(|one| one.sequence).collect();
    assert_eq!(batch, [1, 2]);
    inbound.applied(at(1, 2));
    assert_eq!(inbound.receive(envelope("b", 1, 2)), Receipt::AlreadyApplied);
    assert_eq!(inbound.counts().duplicates, 2);
    assert_eq!(inbound.counts().conflicts, 0);
    assert_eq!(inbound.receive(envelope("c", 1, 3)), Receipt::Refused);
    assert_eq!(inbound.receive(envelope("b", 1, 0)), Receipt::Refused);
}

#[test]
fn a_sequence_used_twice_is_counted_as_a_conflict() {
    let mut inbound = inbound();
    inbound.receive(envelope("b", 1, 1));
    assert_eq!(inbound.receive(special(1, 1, None, 9, 1)), Receipt::Waiting);
    assert_eq!(inbound.counts().conflicts, 1);
    assert_eq!(inbound.next_batch(), [envelope("b", 1, 1)]);
}

#[test]
fn a_gap_is_asked_for_after_the_patience_and_again_with_growing_pauses() {
    let mut inbound = inbound();
    inbound.receive(envelope("b", 1, 1));
    inbound.receive(envelope("b", 1, 5));
    assert_eq!(inbound.poll_pull(100), None);
    assert_eq!(inbound.poll_pull(100 + PATIENCE_MS - 1), None);
    let request = inbound.poll_pull(100 + PATIENCE_MS).unwrap();
    assert_eq!(request, PullRequest { from: at(1, 2), count: 3 });
    assert_eq!(inbound.poll_pull(10_000), None, "one question at a time");
    let mut now_ms = 10_000;
    for pause_ms in [500, 1_000, 2_000, 4_000, 4_000] {
        inbound.pull_failed(now_ms);
        assert_eq!(inbound.poll_pull(now_ms + pause_ms - 1), None);
        now_ms += pause_ms;
        assert_eq!(inbound.poll_pull(now_ms).unwrap().from, at(1, 2));
    }
    // An answer that brings something is followed at once by the next question.
    inbound.pull_answered(vec![envelope("b", 1, 2)], now_ms);
    assert_eq!(inbound.poll_pull(now_ms), Some(PullRequest { from: at(1, 3), count: 2 }));
    inbound.pull_answered(vec![envelope("b", 1, 3), envelope("b", 1, 4)], now_ms);
    assert_eq!(inbound.poll_pull(now_ms), None);
    assert_eq!(inbound.next_batch().len(), 5);
}

#[test]
fn a_stream_that_moves_on_is_not_interrupted_by_pulls() {
    let mut inbound = inbound();
    inbound.heard_head(at(1, 200));
    for sequence in 1..=200 {
        let now_ms = sequence * (PATIENCE_MS - 1);
        assert_eq!(inbound.poll_pull(now_ms), None);
        inbound.receive(envelope("b", 1, sequence));
        inbound.applied(at(1, sequence));
    }
}

#[test]
fn the_head_in_a_heartbeat_shows_that_the_last_ones_got_lost() {
    let mut inbound = inbound();
    inbound.heard_head(at(1, 3));
    assert_eq!(inbound.poll_pull(0), None);
    let request = inbound.poll_pull(PATIENCE_MS).unwrap();
    assert_eq!(request, PullRequest { from: at(1, 1), count: 3 });
}

#[test]
fn an_old_epoch_is_refused_and_a_new_one_waits_for_the_old_ones_end() {
    let all = history(&[3, 0, 2]);
    let mut inbound = inbound();
    inbound.receive(all[0].clone());
    inbound.receive(all[4].clone());
    // The new epoch's first envelope first: it tells where the old one ended.
    inbound.poll_pull(0);
    let request = inbound.poll_pull(PATIENCE_MS).unwrap();
    assert_eq!(request, PullRequest { from: at(3, 1), count: 1 });
    inbound.pull_answered(answer(&all, request, 9), 600);
    let request = inbound.poll_pull(600).unwrap();
    assert_eq!(request, PullRequest { from: at(1, 2), count: 2 });
    inbound.pull_answered(answer(&all, request, 9), 700);

    let mut applied = Vec::new();
    apply_one_batch(&mut inbound, &mut applied);
    assert_eq!(applied, [at(1, 1), at(1, 2), at(1, 3)], "one batch, one epoch");
    apply_one_batch(&mut inbound, &mut applied);
    assert_eq!(applied[3..], [at(3, 1), at(3, 2)]);
    assert_eq!(inbound.receive(envelope("b", 1, 4)), Receipt::Refused);
}

#[test]
fn what_the_origin_forgot_does_not_hold_up_its_next_incarnation() {
    let mut inbound = Inbound::new("b".parse().unwrap(), at(1, 50));
    inbound.receive(special(2, 1, Some(at(1, 40)), 0, 1));
    assert_eq!(inbound.next_batch().len(), 1);
    inbound.applied(at(2, 1));
    assert_eq!(inbound.receive(envelope("b", 1, 51)), Receipt::Refused);
}

#[test]
fn an_unknown_schema_is_parked_at_its_place_and_never_dropped() {
    let mut inbound = inbound();
    inbound.receive(envelope("b", 1, 1));
    assert_eq!(inbound.receive(special(1, 2, None, 0, SCHEMA_VERSION + 1)), Receipt::Waiting);
    inbound.receive(envelope("b", 1, 3));
    assert_eq!(inbound.next_batch().len(), 1);
    assert!(inbound.parked().is_none(), "what stands before it goes on");
    inbound.applied(at(1, 1));
    assert!(inbound.next_batch().is_empty());
    assert_eq!(inbound.parked().map(Envelope::position), Some(at(1, 2)));
    assert_eq!(inbound.waiting(), 2);
}

#[test]
fn batches_and_what_waits_are_bounded() {
    let mut inbound = inbound();
    for sequence in 1..=1_000 {
        inbound.receive(envelope("b", 1, sequence));
    }
    assert_eq!(inbound.waiting(), PENDING_ENVELOPES_MAX);
    assert_eq!(inbound.next_batch().len(), BATCH_ENVELOPES_MAX);
    assert!(!inbound.has_room());
    assert_eq!(inbound.receive(envelope("b", 1, 2_000)), Receipt::NoRoom);

    let mut inbound = Inbound::new("b".parse().unwrap(), Position::START);
    for sequence in (1..=20).rev() {
        inbound.receive(special(1, sequence, None, PAYLOAD_BYTES_MAX, 1));
    }
    assert_eq!(inbound.waiting(), PENDING_BYTES_MAX / PAYLOAD_BYTES_MAX);
    assert_eq!(inbound.furthest(), Some(at(1, 4)), "the nearest are kept");
    assert_eq!(inbound.next_batch().len(), 1);
}

#[test]
fn the_database_has_the_last_word() {
    let mut inbound = inbound();
    for sequence in 1..=4 {
        inbound.receive(envelope("b", 1, sequence));
    }
    // Another process of this region applied up to 3.
    inbound.applied(at(1, 3));
    assert_eq!(inbound.next_batch(), [envelope("b", 1, 4)]);
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(prop::sample::Index),
    Apply,
    HearHead(prop::sample::Index),
    Wait(u64),
    AnswerPull(usize),
    LosePull,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<prop::sample::Index>().prop_map(Step::Deliver),
        3 => Just(Step::Apply),
        1 => any::<prop::sample::Index>().prop_map(Step::HearHead),
        2 => (0u64..700).prop_map(Step::Wait),
        2 => (0usize..5).prop_map(Step::AnswerPull),
        1 => Just(Step::LosePull),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// I-18: whatever is lost, doubled, late or reordered, and however often this process restarts,
    /// every envelope is applied once, in order, and all of them once the origin can be asked.
    #[test]
    fn everything_is_applied_once_and_in_order(
        epochs in prop::collection::vec(0u64..40, 1..4),
        steps in steps(),
        stream_is_wiped in any::<bool>(),
    ) {
        let all = history(&epochs);
        prop_assume!(!all.is_empty());
        let expected: Vec<Position> = all.iter().map(Envelope::position).collect();
        let mut applied = Vec::new();
        let mut now_ms = 0;
        let mut inbound = inbound();
        for step in steps {
            match step {
                Step::Deliver(index) => { inbound.receive(index.get(&all).clone()); }
                Step::Apply => apply_one_batch(&mut inbound, &mut applied),
                Step::HearHead(index) => inbound.heard_head(*index.get(&expected)),
                Step::Wait(ms) => now_ms += ms,
                Step::AnswerPull(most) => if let Some(request) = inbound.poll_pull(now_ms) {
                    inbound.pull_answered(answer(&all, request, most), now_ms);
                },
                Step::LosePull => if inbound.poll_pull(now_ms).is_some() {
                    inbound.pull_failed(now_ms);
                },
                Step::Restart => inbound = Inbound::new(inbound.origin, inbound.applied),
            }
            prop_assert_eq!(&applied[..], &expected[..applied.len()]);
        }
        // Healed: heartbeats arrive and pulls are answered.
        let rounds_max = 10 * (all.len() + 5);
        for _ in 0..rounds_max {
            inbound.heard_head(*expected.last().unwrap());
            if !stream_is_wiped {
                for envelope in all.iter().rev().take(3) { inbound.receive(envelope.clone()); }
            }
            if let Some(request) = inbound.poll_pull(now_ms) {
                inbound.pull_answered(answer(&all, request, 7), now_ms);
            }
            apply_one_batch(&mut inbound, &mut applied);
            now_ms += PATIENCE_MS;
        }
        prop_assert_eq!(applied, expected);
        prop_assert_eq!(inbound.poll_pull(now_ms + 100_000), None);
        prop_assert_eq!(inbound.waiting(), 0);
        prop_assert_eq!(inbound.pending_bytes, 0);
    }
}
