//! When a token ends, and when it is to be renewed ahead of that.
//!
//! Two clocks may run for a token: its lifetime, which nothing extends, and
//! its idle time, which each accepted request starts anew. No request reads a
//! clock for that: the first one of each twentieth of the idle time reports
//! when it was sent and that it was accepted, and the others do not.

use std::time::Duration;

#[cfg(test)]
use super::explore::canon::{Canon, Canonical};
use super::jitter::Jitter;
use super::lifecycle::Moment;

/// How long a token is used that was over when it arrived, and the shortest
/// time between two renewals ahead.
pub(super) const BRIEFLY: Duration = Duration::from_secs(1);

/// What a token has left at most that counts as over when it arrives.
const ALL_BUT_OVER: Duration = Duration::from_millis(100);

const LONGEST_AHEAD: Duration = Duration::from_secs(300);

/// What the login that brought a token says of its lifetimes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lifetimes {
    pub(crate) absolute: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Lifespan {
    ends: Option<Moment>,
    due: Option<Moment>,
    /// Whether any request has carried the token.
    used: bool,
    // Boxed, as most tokens have none.
    idle: Option<Box<Idle>>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Idle {
    lifetime: Duration,
    ahead: Duration,
    /// When it was obtained: nothing is renewed ahead at once.
    obtained: Moment,
    ends: Moment,
    /// Until when no request is of interest.
    fed_until: Moment,
    /// Whether that time is not over yet.
    fed: bool,
}

impl Lifespan {
    /// Of a token whose login was sent at `sent` and that arrived `now`.
    pub(super) fn new(
        lifetimes: Lifetimes,
        sent: Moment,
        now: Moment,
        jitter: &mut Jitter,
    ) -> Self {
        let mut lifespan = Self {
            ends: None,
            due: None,
            used: false,
            idle: None,
        };
        if let Some(lifetime) = lifetimes.absolute {
            lifespan.lives_for(lifetime, sent, now, jitter);
        }
        lifespan.idle = lifetimes.idle.and_then(|lifetime| {
            Some(Box::new(Idle {
                lifetime,
                ahead: ahead_of(lifetime, jitter),
                obtained: now,
                ends: end_of(lifetime, sent, now)?,
                fed_until: now,
                fed: false,
            }))
        });
        lifespan
    }

    /// It has this lifetime from `sent` on, whatever it had before.
    pub(super) fn lives_for(
        &mut self,
        lifetime: Duration,
        sent: Moment,
        now: Moment,
        jitter: &mut Jitter,
    ) {
        self.ends = end_of(lifetime, sent, now);
        self.due = self.ends.map(|ends| {
            let due = ends.saturating_sub(ahead_of(lifetime, jitter));
            due.max(now + BRIEFLY)
        });
    }

    /// When the token is over, if nothing else happens.
    pub(super) fn ends(&self) -> Option<Moment> {
        let idle = self.idle.as_ref().map(|idle| idle.ends);
        match (self.ends, idle) {
            (Some(absolute), Some(idle)) => Some(absolute.min(idle)),
            (ends, None) | (None, ends) => ends,
        }
    }

    /// When the token is over although it is used.
    pub(super) fn ends_in_any_case(&self) -> Option<Moment> {
        self.ends
    }

    /// When it is to be renewed: ahead of its end, if somebody uses it. The
    /// end of its idle time comes only to those that nobody uses.
    pub(super) fn due(&self, keep_alive: bool) -> Option<Moment> {
        let absolute = self.due.filter(|_| self.used || keep_alive);
        let idle = self.idle.as_ref().filter(|_| keep_alive).map(|idle| {
            let due = idle.ends.saturating_sub(idle.ahead);
            due.max(idle.obtained + BRIEFLY)
        });
        let due = match (absolute, idle) {
            (Some(absolute), Some(idle)) => absolute.min(idle),
            (due, None) | (None, due) => due?,
        };
        // One that can only be renewed after its end is not: it just ends.
        self.ends().is_none_or(|ends| due < ends).then_some(due)
    }

    /// A request carries it.
    pub(super) fn used(&mut self) {
        self.used = true;
    }

    /// The server accepted a request with it that was sent at `sent`.
    pub(super) fn accepted(&mut self, sent: Moment, now: Moment) {
        let Some(idle) = &mut self.idle else {
            return;
        };
        let Some(ends) = sent.checked_add(idle.lifetime) else {
            return;
        };
        idle.ends = idle.ends.max(ends);
        idle.fed_until = idle.fed_until.max(sent + idle.lifetime / 20);
        idle.fed = idle.fed_until > now;
    }

    /// When requests are of interest again, if they are not.
    pub(super) fn hungry(&self) -> Option<Moment> {
        let idle = self.idle.as_ref()?;
        idle.fed.then_some(idle.fed_until)
    }

    /// That time has come.
    pub(super) fn starve(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.fed = false;
        }
    }

    /// Whether the session wants to hear of the next request.
    pub(super) fn is_watched(&self) -> bool {
        !self.used || self.idle.as_ref().is_some_and(|idle| !idle.fed)
    }
}

/// When a lifetime that began at `sent` is over.
///
/// One beyond what a clock can tell is none. What is over, or all but over, when
/// it arrives is used for a moment all the same: were it dropped at once, each
/// request would log in.
pub(super) fn end_of(lifetime: Duration, sent: Moment, now: Moment) -> Option<Moment> {
    let ends = sent.checked_add(lifetime)?;
    Some(match ends > now + ALL_BUT_OVER {
        true => ends,
        false => now + BRIEFLY,
    })
}

/// How long before its end it is renewed.
fn ahead_of(lifetime: Duration, jitter: &mut Jitter) -> Duration {
    let ahead = (lifetime / 5).min(LONGEST_AHEAD);
    ahead - jitter.quarter_of(ahead)
}

#[cfg(test)]
impl Canonical for Lifespan {
    fn write(&self, to: &mut Canon) {
        let Self {
            ends,
            due,
            used,
            idle,
        } = self;
        to.option(*ends, Canon::moment);
        to.option(*due, Canon::moment);
        to.flag(*used);
        to.option(idle.as_ref(), |to, idle| {
            let Idle {
                lifetime,
                ahead,
                obtained,
                ends,
                fed_until,
                fed,
            } = &**idle;
            to.length(*lifetime);
            to.length(*ahead);
            to.moment(*obtained + BRIEFLY);
            to.moment(*ends);
            to.moment(*fed_until);
            to.flag(*fed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Duration::from_secs(1000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lifespan(absolute: Option<u64>, idle: Option<u64>) -> Lifespan {
        let lifetimes = Lifetimes {
            absolute: absolute.map(seconds),
            idle: idle.map(seconds),
        };
        let mut lifespan = Lifespan::new(lifetimes, NOW, NOW, &mut Jitter::new(7));
        lifespan.used();
        lifespan
    }

    #[test]
    fn the_last_fifth_of_a_lifetime_is_ahead_of_its_end_but_five_minutes_at_most() {
        for (lifetime, earliest, latest) in
            [(100, 80, 85), (3600, 3300, 3375), (86_400, 86_100, 86_175)]
        {
            let due = lifespan(Some(lifetime), None).due(false).unwrap();
            assert!(due >= NOW + seconds(earliest) && due <= NOW + seconds(latest));
        }
    }

    #[test]
    fn jitter_spreads_renewals() {
        let due = |seed| {
            let lifetimes = Lifetimes {
                absolute: Some(seconds(3600)),
                idle: None,
            };
            let mut lifespan = Lifespan::new(lifetimes, NOW, NOW, &mut Jitter::new(seed));
            lifespan.used();
            lifespan.due(false)
        };
        assert_ne!(due(1), due(2));
    }

    #[test]
    fn what_can_only_be_renewed_after_its_end_is_not_renewed_ahead() {
        assert_eq!(lifespan(Some(1), None).due(false), None);
        assert!(lifespan(Some(2), None).due(false).is_some());
        assert_eq!(lifespan(Some(0), None).due(false), None);
        assert_eq!(lifespan(Some(0), None).ends(), Some(NOW + BRIEFLY));
    }

    #[test]
    fn what_has_a_tenth_of_a_second_left_is_over_and_used_for_a_second() {
        let tenth = Duration::from_millis(100);
        let more = tenth + Duration::from_millis(1);
        for (left, ends) in [(tenth, BRIEFLY), (more, more)] {
            assert_eq!(end_of(left, NOW, NOW), Some(NOW + ends));
        }
    }

    #[test]
    fn a_lifetime_of_centuries_is_none() {
        let lifespan = lifespan(Some(u64::MAX), Some(u64::MAX));
        assert_eq!(lifespan.ends(), None);
        assert_eq!(lifespan.due(true), None);
    }

    #[test]
    fn an_accepted_request_starts_the_idle_time_anew_and_a_lifetime_never() {
        let mut lifespan = lifespan(Some(300), Some(200));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(200)));
        lifespan.accepted(NOW + seconds(50), NOW + seconds(51));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(250)));
        lifespan.accepted(NOW + seconds(150), NOW + seconds(151));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(300)));
    }

    #[test]
    fn a_late_answer_to_an_early_request_takes_nothing_back() {
        let mut lifespan = lifespan(None, Some(200));
        lifespan.accepted(NOW + seconds(100), NOW + seconds(101));
        lifespan.accepted(NOW + seconds(50), NOW + seconds(102));
        assert_eq!(lifespan.ends(), Some(NOW + seconds(300)));
        assert!(!lifespan.is_watched());
    }

    #[test]
    fn requests_are_of_interest_once_in_a_twentieth_of_the_idle_time() {
        let mut lifespan = lifespan(None, Some(200));
        assert!(lifespan.is_watched());
        lifespan.accepted(NOW, NOW + seconds(1));
        assert!(!lifespan.is_watched());
        assert_eq!(lifespan.hungry(), Some(NOW + seconds(10)));
        lifespan.starve();
        assert!(lifespan.is_watched());
        assert_eq!(lifespan.hungry(), None);
    }

    #[test]
    fn an_answer_that_took_that_long_leaves_the_next_of_interest() {
        for took in [10, 30] {
            let mut lifespan = lifespan(None, Some(200));
            lifespan.accepted(NOW, NOW + seconds(took));
            assert!(lifespan.is_watched());
        }
    }

    #[test]
    fn only_keeping_it_alive_renews_a_token_ahead_of_the_end_of_its_idle_time() {
        let lifespan = lifespan(None, Some(200));
        assert_eq!(lifespan.due(false), None);
        let due = lifespan.due(true).unwrap();
        assert!(due >= NOW + seconds(160) && due <= NOW + seconds(170));
    }

    #[test]
    fn an_idle_time_that_ends_within_a_second_is_not_renewed_ahead() {
        assert_eq!(lifespan(None, Some(1)).due(true), None);
        assert!(lifespan(None, Some(2)).due(true).is_some());
    }
}
