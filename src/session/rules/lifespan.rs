//! When a token expires, and when it is refreshed ahead of that.
//!
//! Two clocks may run for a token: its lifetime, which nothing extends, and its
//! idle lifetime, which each accepted request starts anew. No request reads a
//! clock for that: only the first request in each twentieth of the idle lifetime
//! reports when it was sent and that it was accepted.

use std::time::Duration;

use super::rng::Rng;
use super::time::{BRIEFLY, Timestamp};

/// A token with no more than this left when it arrives counts as expired.
const ALMOST_OVER: Duration = Duration::from_millis(100);

const LONGEST_AHEAD: Duration = Duration::from_secs(300);

/// The lifetimes of a token, as its login reported them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifetimes {
    pub(crate) absolute: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    /// When the server asks for the refresh.
    pub(crate) refresh_in: Option<Duration>,
    /// How long before its end to refresh it, if that is set.
    pub(crate) refresh_before: Option<Duration>,
    /// Whether it has data of the provider, which outlives it: a refresh token, say.
    pub(crate) has_data: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Lifespan {
    pub(super) ends: Option<Timestamp>,
    pub(super) due: Option<Timestamp>,
    /// Whether any request has used the token.
    pub(super) used: bool,
    /// Whether something is left on the server when it has expired.
    pub(super) has_data: bool,
    // Boxed: most tokens have none.
    pub(super) idle: Option<Box<Idle>>,
}

#[derive(Clone, Debug)]
pub(super) struct Idle {
    pub(super) lifetime: Duration,
    pub(super) ahead: Duration,
    /// When the token was obtained: no token is refreshed at once.
    pub(super) obtained: Timestamp,
    pub(super) ends: Timestamp,
    /// Until when no accepted request needs to be reported.
    pub(super) sampled_until: Timestamp,
    /// Whether that time is not over yet.
    pub(super) sampled: bool,
}

impl Lifespan {
    /// Creates the lifespan of a token whose login was sent at `sent` and that
    /// arrived `now`.
    pub(super) fn new(
        lifetimes: Lifetimes,
        sent: Timestamp,
        now: Timestamp,
        rng: &mut Rng,
    ) -> Self {
        let mut lifespan = Self {
            ends: None,
            due: None,
            used: false,
            has_data: lifetimes.has_data,
            idle: None,
        };
        if let Some(lifetime) = lifetimes.absolute {
            lifespan.set_lifetime(lifetime, lifetimes.refresh_before, sent, now, rng);
        }
        if let Some(due) = lifetimes
            .refresh_in
            .and_then(|delay| sent.checked_add(delay))
        {
            lifespan.due = Some(due.max(now + BRIEFLY));
        }
        lifespan.idle = lifetimes.idle.and_then(|lifetime| {
            Some(Box::new(Idle {
                lifetime,
                ahead: ahead_of(lifetime, rng),
                obtained: now,
                ends: end_of(lifetime, sent, now)?,
                sampled_until: now,
                sampled: false,
            }))
        });
        lifespan
    }

    /// Sets the lifetime, counted from `sent`, whatever it was before.
    pub(super) fn set_lifetime(
        &mut self,
        lifetime: Duration,
        refresh_before: Option<Duration>,
        sent: Timestamp,
        now: Timestamp,
        rng: &mut Rng,
    ) {
        self.ends = end_of(lifetime, sent, now);
        // A time that would take most of the lifetime would refresh all the time.
        let ahead = match refresh_before {
            Some(ahead) => ahead.min(lifetime / 2),
            None => ahead_of(lifetime, rng),
        };
        self.due = self
            .ends
            .map(|ends| ends.saturating_sub(ahead).max(now + BRIEFLY));
    }

    /// Returns when the token expires, if nothing else happens.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        let idle = self.idle.as_ref().map(|idle| idle.ends);
        match (self.ends, idle) {
            (Some(absolute), Some(idle)) => Some(absolute.min(idle)),
            (ends, None) | (None, ends) => ends,
        }
    }

    /// Returns when the token expires even if it is used, if that leaves nothing on the
    /// server.
    pub(super) fn absolute_end(&self) -> Option<Timestamp> {
        self.ends.filter(|_| !self.has_data)
    }

    /// Returns when to refresh the token ahead of its expiry, if it is used. Only
    /// an unused token reaches the end of its idle lifetime, so that counts only
    /// with `keep_alive`.
    pub(super) fn due(&self, keep_alive: bool) -> Option<Timestamp> {
        let absolute = self.due.filter(|_| self.used || keep_alive);
        let idle = self.idle.as_ref().filter(|_| keep_alive).map(|idle| {
            let due = idle.ends.saturating_sub(idle.ahead);
            due.max(idle.obtained + BRIEFLY)
        });
        let due = match (absolute, idle) {
            (Some(absolute), Some(idle)) => absolute.min(idle),
            (due, None) | (None, due) => due?,
        };
        // A token that expires before it may be refreshed just expires.
        self.ends().is_none_or(|ends| due < ends).then_some(due)
    }

    /// A request uses the token.
    pub(super) fn used(&mut self) {
        self.used = true;
    }

    /// A refresh ahead has yielded a token that has expired before this one.
    pub(super) fn refresh_failed(&mut self, now: Timestamp) {
        self.used = false;
        self.due = self.due.map(|due| due.max(now + BRIEFLY));
    }

    /// The server accepted a request that was sent with the token at `sent`.
    pub(super) fn accepted(&mut self, sent: Timestamp, now: Timestamp) {
        let Some(idle) = &mut self.idle else {
            return;
        };
        let Some(ends) = sent.checked_add(idle.lifetime) else {
            return;
        };
        idle.ends = idle.ends.max(ends);
        idle.sampled_until = idle.sampled_until.max(sent + idle.lifetime / 20);
        idle.sampled = idle.sampled_until > now;
    }

    /// Returns when the next accepted request is to be reported, unless it is
    /// already.
    pub(super) fn next_sample(&self) -> Option<Timestamp> {
        let idle = self.idle.as_ref()?;
        idle.sampled.then_some(idle.sampled_until)
    }

    /// From now on the next accepted request is to be reported.
    pub(super) fn sample_use(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.sampled = false;
        }
    }

    /// Returns whether the next request is to be reported.
    pub(super) fn is_reported(&self) -> bool {
        !self.used || self.idle.as_ref().is_some_and(|idle| !idle.sampled)
    }
}

/// Returns when a lifetime that began at `sent` is over, or `None` if the clock
/// cannot represent it.
///
/// A token that has expired, or almost, when it arrives is still used for a
/// moment: otherwise each request would log in.
pub(super) fn end_of(lifetime: Duration, sent: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let ends = sent.checked_add(lifetime)?;
    Some(match ends > now + ALMOST_OVER {
        true => ends,
        false => now + BRIEFLY,
    })
}

/// Returns how long before its expiry a token is refreshed, unless that is set.
fn ahead_of(lifetime: Duration, rng: &mut Rng) -> Duration {
    let ahead = (lifetime / 5).min(LONGEST_AHEAD);
    ahead - rng.quarter_of(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Duration::from_secs(1000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lifespan(absolute: Option<u64>, idle: Option<u64>) -> Lifespan {
        let lifetimes = Lifetimes {
            absolute: absolute.map(seconds),
            idle: idle.map(seconds),
            refresh_in: None,
            refresh_before: None,
            has_data: false,
        };
        let mut lifespan = Lifespan::new(lifetimes, NOW, NOW, &mut Rng::new(7));
        lifespan.used();
        lifespan
    }

    #[test]
    fn a_token_is_refreshed_a_fifth_of_its_lifetime_ahead_but_five_minutes_at_most() {
        for (lifetime, earliest, latest) in
            [(100, 80, 85), (3600, 3300, 3375), (86_400, 86_100, 86_175)]
        {
            let due = lifespan(Some(lifetime), None).due(false).unwrap();
            assert!(due >= NOW + seconds(earliest) && due <= NOW + seconds(latest));
        }
    }

    #[test]
    fn a_refresh_is_due_when_the_server_or_the_builder_set_it() {
        let due = |absolute: Option<u64>, refresh_in: Option<u64>, before: Option<u64>| {
            let lifetimes = Lifetimes {
                absolute: absolute.map(seconds),
                idle: None,
                refresh_in: refresh_in.map(seconds),
                refresh_before: before.map(seconds),
                has_data: false,
            };
            let mut lifespan = Lifespan::new(lifetimes, NOW, NOW, &mut Rng::new(7));
            lifespan.used();
            lifespan.due(false)
        };
        let at = |time| Some(NOW + seconds(time));
        assert_eq!(due(Some(3600), Some(60), None), at(60));
        assert_eq!(due(None, Some(60), None), at(60));
        assert_eq!(due(Some(3600), None, Some(600)), at(3000));
        assert_eq!(due(Some(3600), Some(60), Some(600)), at(60));
        // Not all the time, and not after the end.
        assert_eq!(due(Some(3600), None, Some(7200)), at(1800));
        assert_eq!(due(None, Some(0), None), at(1));
        assert_eq!(due(Some(60), Some(90), None), None);
    }

    #[test]
    fn jitter_spreads_refreshes() {
        let due = |seed| {
            let lifetimes = Lifetimes {
                absolute: Some(seconds(3600)),
                idle: None,
                refresh_in: None,
                refresh_before: None,
                has_data: false,
            };
            let mut lifespan = Lifespan::new(lifetimes, NOW, NOW, &mut Rng::new(seed));
            lifespan.used();
            lifespan.due(false)
        };
        assert_ne!(due(1), due(2));
    }

    #[test]
    fn a_token_that_expires_before_it_may_be_refreshed_just_expires() {
        assert_eq!(lifespan(Some(1), None).due(false), None);
        assert!(lifespan(Some(2), None).due(false).is_some());
        assert_eq!(lifespan(Some(0), None).due(false), None);
        assert_eq!(lifespan(Some(0), None).ends(), Some(NOW + BRIEFLY));
    }

    #[test]
    fn a_token_with_a_tenth_of_a_second_left_is_used_for_a_second() {
        let tenth = Duration::from_millis(100);
        let more = tenth + Duration::from_millis(1);
        for (left, ends) in [(tenth, BRIEFLY), (more, more)] {
            assert_eq!(end_of(left, NOW, NOW), Some(NOW + ends));
        }
    }

    #[test]
    fn a_lifetime_beyond_the_clock_counts_as_none() {
        let lifespan = lifespan(Some(u64::MAX), Some(u64::MAX));
        assert_eq!(lifespan.ends(), None);
        assert_eq!(lifespan.due(true), None);
    }

    #[test]
    fn an_accepted_request_extends_the_idle_lifetime_and_never_the_lifetime() {
        let mut lifespan = lifespan(Some(300), Some(200));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(200)));
        lifespan.accepted(NOW + seconds(50), NOW + seconds(51));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(250)));
        lifespan.accepted(NOW + seconds(150), NOW + seconds(151));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(300)));
    }

    #[test]
    fn a_late_response_to_an_early_request_shortens_nothing() {
        let mut lifespan = lifespan(None, Some(200));
        lifespan.accepted(NOW + seconds(100), NOW + seconds(101));
        lifespan.accepted(NOW + seconds(50), NOW + seconds(102));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(300)));
        assert!(!lifespan.is_reported());
    }

    #[test]
    fn one_request_in_each_twentieth_of_the_idle_lifetime_is_reported() {
        let mut lifespan = lifespan(None, Some(200));
        assert!(lifespan.is_reported());
        lifespan.accepted(NOW, NOW + seconds(1));
        assert!(!lifespan.is_reported());
        assert_eq!(lifespan.next_sample(), Some(NOW + seconds(10)));
        lifespan.sample_use();
        assert!(lifespan.is_reported());
        assert_eq!(lifespan.next_sample(), None);
    }

    #[test]
    fn a_response_that_took_that_long_leaves_the_next_request_reported() {
        for took in [10, 30] {
            let mut lifespan = lifespan(None, Some(200));
            lifespan.accepted(NOW, NOW + seconds(took));
            assert!(lifespan.is_reported());
        }
    }

    #[test]
    fn only_keep_alive_refreshes_a_token_ahead_of_its_idle_expiry() {
        let lifespan = lifespan(None, Some(200));
        assert_eq!(lifespan.due(false), None);
        let due = lifespan.due(true).unwrap();
        assert!(due >= NOW + seconds(160) && due <= NOW + seconds(170));
    }

    #[test]
    fn an_idle_lifetime_of_a_second_is_not_refreshed_ahead() {
        assert_eq!(lifespan(None, Some(1)).due(true), None);
        assert!(lifespan(None, Some(2)).due(true).is_some());
    }
}
