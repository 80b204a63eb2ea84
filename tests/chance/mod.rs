//! Numbers that chance gives.

/// Those of the environment variable `SEED`; and the same ones each time without
/// it, so that what fails does so because of a change.
pub(crate) fn chance() -> fastrand::Rng {
    let seed = std::env::var("SEED").map_or(0, |seed| seed.parse().unwrap());
    fastrand::Rng::with_seed(seed)
}
