//! What became of each token, told from what provider and service saw.

use std::time::Duration;

use http::StatusCode;
use tower_reauth::TokenEnd;

use super::check::{rejects, rejects_in_trailers};
use super::format::{Ends, Scenario};
use super::record::{Answered, Brought, Login, Logout, Moment, Over, Record};
use super::values::show_time;

/// A renewal ahead comes this soon before the end at the earliest.
const LONGEST_AHEAD: Duration = Duration::from_secs(5 * 60);

/// And this soon after the login before it.
const BETWEEN_LOGINS: Duration = Duration::from_secs(1);

/// What is wrong with the account of the tokens.
pub(super) fn check(scenario: &Scenario, record: &Record) -> Vec<String> {
    let book = Book { scenario, record };
    let mut wrong = Vec::new();
    for login in &record.logins {
        if login.reason == "Expiring" {
            wrong.extend(book.ahead_of_time(login));
        }
    }
    for logout in &record.logouts {
        wrong.extend(book.logged_out(logout));
    }
    for (at, token, end) in &record.ends {
        wrong.extend(book.ended(*at, *token, *end));
    }
    for token in book.issued() {
        wrong.extend(book.accounted_for(token));
    }
    wrong
}

/// When a token's life is over, by what is known at `at`: the last thing that
/// the provider said of it, and the responses that it was good for.
pub(super) fn end_of(
    scenario: &Scenario,
    record: &Record,
    token: u64,
    at: Moment,
) -> Option<Duration> {
    let life = Book { scenario, record }.life(token, at)?;
    match (life.absolute(), life.idle()) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether this token, which was refreshed ahead of time, is not published at `at`: the
/// one before was proven, and it is not.
pub(super) fn is_candidate(scenario: &Scenario, record: &Record, token: u64, at: Moment) -> bool {
    let book = Book { scenario, record };
    let brought = |login: &&Login| login.brought == Brought::Token(token);
    let Some(login) = record.logins.iter().find(brought) else {
        return false;
    };
    let may_wait =
        login.reason == "Expiring" && !login.continues && !scenario.given.profile.single_session;
    let is_proven = |token: u64, at: Moment| {
        let mut arrivals = record.arrivals.iter();
        arrivals.any(|arrival| {
            let answer = arrival.answer.as_ref().filter(|answer| answer.at < at);
            arrival.token == Some(token) && answer.is_some_and(|answer| book.proves(answer))
        }) || record.accepted.contains(&token)
    };
    let landed = login.ended.unwrap_or(at);
    may_wait && is_proven(token - 1, landed) && !is_proven(token, at)
}

struct Book<'a> {
    scenario: &'a Scenario,
    record: &'a Record,
}

/// A token's lifetimes.
struct Life {
    from: Duration,
    lives_for: Option<Duration>,
    idles_out_after: Option<Duration>,
    /// When the last request was sent that was accepted.
    fed: Duration,
}

impl Life {
    fn absolute(&self) -> Option<Duration> {
        Some(self.from.saturating_add(self.lives_for?))
    }

    fn idle(&self) -> Option<Duration> {
        Some(
            self.fed
                .max(self.from)
                .saturating_add(self.idles_out_after?),
        )
    }
}

impl Book<'_> {
    fn life(&self, token: u64, at: Moment) -> Option<Life> {
        let brought = self.record.logins.iter().rfind(|login| {
            let is_it = login.brought == Brought::Token(token)
                || login.brought == Brought::SameToken(token);
            is_it && login.ended.is_some_and(|ended| ended < at)
        });
        let fed = self
            .record
            .arrivals
            .iter()
            .filter(|arrival| arrival.token == Some(token))
            .filter(|arrival| {
                let answer = arrival.answer.as_ref();
                answer.is_some_and(|answer| answer.at < at && !self.rejects(answer))
            })
            .map(|arrival| arrival.when.at)
            .max()
            .unwrap_or_default();
        let initial = &self.scenario.given.session.initial;
        match (brought, initial) {
            (Some(login), _) => Some(Life {
                from: login.began.at,
                lives_for: login.lives_for,
                idles_out_after: login.idles_out_after,
                fed,
            }),
            (None, Some(initial)) if token == 1 => Some(Life {
                from: Duration::ZERO,
                lives_for: initial.lives_for.map(|time| time.0),
                idles_out_after: initial.idles_out_after.map(|time| time.0),
                fed,
            }),
            (None, _) => None,
        }
    }

    fn rejects(&self, answer: &Answered) -> bool {
        let clauses = &self.scenario.given.profile.rejection;
        rejects(clauses, answer) || rejects_in_trailers(clauses, answer)
    }

    /// All tokens that there were.
    fn issued(&self) -> Vec<u64> {
        let initial = self.scenario.given.session.initial.is_some();
        let logins = self.record.logins.iter();
        initial
            .then_some(1)
            .into_iter()
            .chain(logins.filter_map(|login| match login.brought {
                Brought::Token(token) => Some(token),
                Brought::Nothing | Brought::Refusal | Brought::SameToken(_) => None,
            }))
            .collect()
    }

    /// The token that the last login before `at` brought, and that login's end.
    fn newest(&self, at: Moment) -> Option<(u64, Duration)> {
        let mut logins = self.record.logins.iter().filter_map(|login| {
            let ended = login.ended.filter(|ended| *ended < at)?;
            match login.brought {
                Brought::Token(token) | Brought::SameToken(token) => Some((token, ended.at)),
                Brought::Nothing | Brought::Refusal => None,
            }
        });
        let initial = self.scenario.given.session.initial.as_ref();
        logins.next_back().or(initial.map(|_| (1, Duration::ZERO)))
    }

    /// Whether `logout()` was called since then, or `close()` at any time.
    fn was_asked_to_end(&self, since: Option<Moment>, until: Moment) -> bool {
        let mut logouts = self.record.opened.iter().filter(|(_, opens)| !opens);
        logouts.any(|(at, _)| since.is_none_or(|since| since.at <= at.at) && *at < until)
            || self.record.closed.iter().any(|closed| *closed < until)
    }

    /// Whether no handle is left at `at`; a caller under way has one, too.
    fn all_are_gone(&self, at: Moment) -> bool {
        let mut callers = self.record.callers.iter();
        self.record.dropped.is_some_and(|dropped| dropped < at)
            // A caller that still waits at the run's end is dropped then.
            && callers.all(|caller| caller.ended.as_ref().is_none_or(|(end, _)| *end < at.at))
    }

    /// A renewal ahead of time is made in the last part of a life, of a token
    /// that was used.
    fn ahead_of_time(&self, login: &Login) -> Option<String> {
        let at = login.began;
        let what = format!("at {}: a renewal ahead of time", show_time(at.at));
        let Some((token, landed)) = self.newest(at) else {
            return Some(format!("{what} of no token"));
        };
        let life = self.life(token, at)?;
        let keep_alive = self.scenario.given.session.keep_alive;
        let ahead_of = |end: Option<Duration>, length: Option<Duration>| {
            Some(end?.saturating_sub((length? / 5).min(LONGEST_AHEAD)))
        };
        let absolute = ahead_of(life.absolute(), life.lives_for);
        // Its use alone keeps it alive, unless nobody uses it.
        let idle = ahead_of(life.idle(), life.idles_out_after).filter(|_| keep_alive);
        let due = match (absolute, idle) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => match one.or(other) {
                Some(due) => due,
                None => return Some(format!("{what} of token {token}, which has no end")),
            },
        };
        // The end of an idle life is known a little too early.
        let early = life
            .idles_out_after
            .filter(|_| keep_alive)
            .unwrap_or_default()
            / 20;
        if at.at + early < due {
            return Some(format!(
                "{what} of token {token}, which is due at {}",
                show_time(due)
            ));
        }
        if at.at < landed + BETWEEN_LOGINS {
            return Some(format!(
                "{what} of token {token}, which came at {}",
                show_time(landed)
            ));
        }
        let carried = self.record.arrivals.iter().any(|arrival| {
            arrival.token == Some(token) && arrival.when < at && landed <= arrival.when.at
        });
        let handed_out = self
            .record
            .holds
            .iter()
            .any(|hold| hold.token == token && hold.from < at && landed <= hold.from.at);
        let changed =
            self.record.changes.iter().any(|change| {
                change.token == Some(token) && landed <= change.at && change.at <= at.at
            });
        if keep_alive || carried || handed_out || changed {
            return None;
        }
        Some(format!("{what} of token {token}, which nobody has used"))
    }

    /// A token is logged out only by a logout, or after it was replaced and
    /// nobody uses it any more.
    fn logged_out(&self, logout: &Logout) -> Option<String> {
        let at = logout.began;
        let token = logout.token?;
        let what = format!("at {}: token {token} is logged out", show_time(at.at));
        let brought = self
            .record
            .logins
            .iter()
            .find(|login| login.brought == Brought::Token(token));
        let earlier = self.record.logouts.iter().filter(|other| {
            other.token == Some(token) && other.began < at && other.outcome == Over::Dead
        });
        if earlier.count() > 0 {
            return Some(format!("{what}, and was before"));
        }
        if self.was_asked_to_end(brought.map(|login| login.began), at) {
            return None;
        }
        if self.all_are_gone(at) {
            let landed = brought.and_then(|login| login.ended);
            return match landed {
                Some(landed) if self.all_are_gone(landed) => None,
                Some(_) | None => Some(format!("{what} after the last handle was dropped")),
            };
        }
        match self.newest(at) {
            Some((newest, _)) if newest > token => {}
            _ => return Some(format!("{what}, and is in use")),
        }
        if self.scenario.given.profile.logout_ends == Ends::User {
            return Some(format!("{what}, which ends the one that replaced it"));
        }
        // One that was over when it came is used for a moment all the same,
        // and one that idles out may have been used in ways that nobody knows.
        let landed = brought
            .and_then(|login| login.ended)
            .map_or(Duration::ZERO, |landed| landed.at);
        let end = self.life(token, at).and_then(|life| life.absolute());
        let end = end.filter(|_| !self.has_data(token));
        if end.is_some_and(|end| landed < end && end < at.at) {
            return Some(format!("{what}, and has expired"));
        }
        if self.is_continued(token) {
            return Some(format!("{what}, and was continued"));
        }
        self.user_of(token, at)
            .map(|user| format!("{what}, and {user} uses it still"))
    }

    /// Whether it may be alive on the server when it has expired.
    fn has_data(&self, token: u64) -> bool {
        let initial = self.scenario.given.session.initial.as_ref();
        let is_initial = token == 1 && initial.is_some_and(|token| token.with_data.is_some());
        let mut logins = self.record.logins.iter();
        is_initial || logins.any(|login| login.brought == Brought::Token(token) && login.has_data)
    }

    fn is_continued(&self, token: u64) -> bool {
        let next = self.record.logins.iter().find(|login| match login.brought {
            Brought::Token(next) => next > token,
            Brought::Nothing | Brought::Refusal | Brought::SameToken(_) => false,
        });
        next.is_some_and(|login| login.continues)
    }

    /// Who uses a token at `at`.
    fn user_of(&self, token: u64, at: Moment) -> Option<String> {
        for (number, caller) in self.record.callers.iter().enumerate() {
            let last = self
                .record
                .arrivals_of(number)
                .filter(|arrival| arrival.when < at)
                .last();
            let carries = last.is_some_and(|last| {
                let given_back = last
                    .answer
                    .as_ref()
                    .is_some_and(|answer| self.rejects(answer));
                last.token == Some(token) && !given_back
            });
            // At that very millisecond either may be first.
            let has_ended = caller.ended.as_ref().is_some_and(|(end, _)| *end <= at.at);
            if carries && !has_ended {
                return Some(self.record.name_of(number));
            }
        }
        let held = self.record.holds.iter().any(|hold| {
            hold.token == token && hold.from < at && hold.until.is_none_or(|until| at.at < until.at)
        });
        held.then(|| "a holder".to_owned())
    }

    fn was_rejected(&self, token: u64) -> bool {
        let by_service = self.record.arrivals.iter().any(|arrival| {
            let answer = arrival.answer.as_ref();
            arrival.token == Some(token) && answer.is_some_and(|answer| self.rejects(answer))
        });
        let answers = &self.scenario.given.provider;
        let by_provider = answers
            .change_password
            .iter()
            .any(|answer| answer.0.answer == super::format::Kind::TokenRejected);
        by_service || by_provider || self.record.rejected.contains(&token)
    }

    /// Whether an answer shows that its token is good.
    fn proves(&self, answer: &Answered) -> bool {
        let says_nothing =
            answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS;
        !self.rejects(answer) && !says_nothing
    }

    /// Whether a later token was proven, or a login has failed.
    fn is_succeeded(&self, token: u64) -> bool {
        let is_proven = self.record.arrivals.iter().any(|arrival| {
            let is_later = arrival.token.is_some_and(|later| later > token);
            let answer = arrival.answer.as_ref();
            is_later && answer.is_some_and(|answer| self.proves(answer))
        });
        let is_accepted = self.record.accepted.iter().any(|later| *later > token);
        let has_failed =
            |login: &Login| matches!(login.brought, Brought::Nothing | Brought::Refusal);
        is_proven || is_accepted || self.record.logins.iter().any(has_failed)
    }

    /// What the session says of a token's end must be so.
    fn ended(&self, at: Moment, token: u64, end: TokenEnd) -> Option<String> {
        let what = format!(
            "at {}: token {token} is told to be {end:?}",
            show_time(at.at)
        );
        let ends = self.record.ends.iter();
        if ends.filter(|(_, other, _)| *other == token).count() > 1 {
            return Some(format!("{what}, which is not its only end"));
        }
        let mut logouts = self
            .record
            .logouts
            .iter()
            .filter(|logout| logout.token == Some(token));
        let is_so = match end {
            TokenEnd::LoggedOut => logouts.any(|logout| logout.outcome == Over::Dead),
            TokenEnd::Rejected => self.was_rejected(token),
            TokenEnd::Continued => self.is_continued(token),
            TokenEnd::Expired => {
                let life = self.life(token, at).filter(|_| !self.has_data(token));
                life.is_some_and(|life| {
                    let absolute = life.absolute().is_some_and(|end| end <= at.at);
                    let early = life.idles_out_after.unwrap_or_default() / 20;
                    absolute || life.idle().is_some_and(|end| end <= at.at + early)
                })
            }
            TokenEnd::Abandoned => {
                let ends_others = self.scenario.given.profile.logout_ends == Ends::User;
                // With the last handle, what is in use is given up.
                let is_dropped = self.record.dropped.is_some_and(|dropped| dropped < at);
                ends_others || is_dropped || logouts.any(|logout| logout.outcome != Over::Dead)
            }
            other => return Some(format!("{what}, and {other:?} is unknown here")),
        };
        (!is_so).then(|| format!("{what}, and was not"))
    }

    /// Every token is in use, or has ended.
    fn accounted_for(&self, token: u64) -> Option<String> {
        let what = format!("token {token} is not accounted for");
        let mut logouts = self
            .record
            .logouts
            .iter()
            .filter(|logout| logout.token == Some(token));
        let dropped = self.record.dropped?;
        let brought = self
            .record
            .logins
            .iter()
            .find(|login| login.brought == Brought::Token(token));
        let landed = brought.and_then(|login| login.ended);
        if landed.is_some_and(|landed| self.all_are_gone(landed)) {
            let is_logged_out = logouts.next().is_some();
            return (!is_logged_out)
                .then(|| format!("{what}: it came after the last handle was dropped"));
        }
        let mut ends = self
            .record
            .ends
            .iter()
            .filter(|(_, other, _)| *other == token);
        let Some((ended, ..)) = ends.next() else {
            // Nobody is told of a logout that outlives the last handle.
            return (logouts.next().is_none())
                .then(|| format!("{what}, though all handles were dropped"));
        };
        // A session that was dropped earlier told nothing more.
        let status = self.record.status.as_ref()?;
        // A newer one waits until it is proven.
        if status.generation.is_some_and(|current| current <= token) || *ended < dropped {
            return None;
        }
        let is_waited_for = self.user_of(token, dropped).is_some();
        let is_tried = logouts.next().is_some();
        let waits_its_turn = self.record.until.under_way > 0;
        // Whether it was dead shows only when that request is made again.
        let waits_for_a_verdict = self.was_rejected(token) || !self.is_succeeded(token);
        let is_newest = self.record.ends.iter().all(|(_, other, _)| *other <= token);
        let is_spent = self.has_data(token) && is_newest && status.generation.is_none();
        (!is_waited_for && !is_tried && !waits_its_turn && !waits_for_a_verdict && !is_spent)
            .then(|| format!("{what}: it was replaced, and nothing became of it"))
    }
}
