//! Measuring side by side: many short rounds, in each of which every subject
//! has its turn, so that what disturbs the machine disturbs all alike.

use std::time::Instant;

/// One subject's turn; it says for how long it ran, in seconds.
pub(crate) type Turn<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Runs `turn` and says for how long.
pub(crate) fn timed(turn: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    turn();
    begun.elapsed().as_secs_f64()
}

/// For each subject, what it said in each round. Who comes first goes round,
/// and each second round is backwards.
pub(crate) fn interleaved(turns: &mut [Turn<'_>], rounds: usize) -> Vec<Vec<f64>> {
    let count = turns.len();
    let mut said = vec![Vec::with_capacity(rounds); count];
    for turn in turns.iter_mut() {
        // Warms up.
        turn();
    }
    for round in 0..rounds {
        for place in 0..count {
            let place = match round % 2 {
                0 => place,
                _ => count - 1 - place,
            };
            let subject = (place + round / 2) % count;
            said[subject].push(turns[subject]());
        }
    }
    said
}

/// The value that a share of `share` is below.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() - 1) as f64 * share;
    sorted[place.round() as usize]
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Round by round.
pub(crate) fn pairwise(left: &[f64], right: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    left.iter()
        .zip(right)
        .map(|(left, right)| f(*left, *right))
        .collect()
}
