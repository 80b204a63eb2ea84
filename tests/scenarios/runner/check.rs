//! Compares what happened with what was to happen.

use std::fmt::{Debug, Display};
use std::time::Duration;

use http::Uri;
use tower_reauth::{CloseError, Error, ErrorKind, ReauthFailure, TokenEnd};

use super::accounts;
use super::format::{
    Action, Clause, Condition, ErrorOrNone, FIRST, List, Outcome, Outcomes, Scenario, Then,
    Why as ExpectedWhy,
};
use super::record::{Answered, Brought, Caller, Ended, Record, chain};
use super::values::{Count, OrNone, show_time};

/// What is not as it should be, in words.
pub(crate) fn check(scenario: &Scenario, records: &[(String, Record)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, record) in records {
        let mut diff = Diff::default();
        diff.found.extend(record.wrong.iter().cloned());
        always(scenario, record, &mut diff);
        let then = match name == FIRST {
            true => Some(&scenario.then),
            false => scenario.then.sessions.0.get(name),
        };
        if let Some(then) = then {
            expected(then, record, &mut diff);
        }
        found.extend(match records.len() {
            1 => diff.found,
            _ => diff
                .found
                .into_iter()
                .map(|found| format!("session {name:?}: {found}"))
                .collect(),
        });
    }
    found
}

#[derive(Default)]
struct Diff {
    found: Vec<String>,
}

impl Diff {
    fn differs(&mut self, what: impl Display, expected: impl Debug, happened: impl Debug) {
        self.found.push(format!(
            "{what}:\n      expected {expected:?}\n      happened {happened:?}"
        ));
    }

    fn equal<T: PartialEq + Debug>(&mut self, what: impl Display, expected: &T, happened: &T) {
        if expected != happened {
            self.differs(what, expected, happened);
        }
    }

    fn wrong(&mut self, what: String) {
        self.found.push(what);
    }
}

fn expected(then: &Then, record: &Record, diff: &mut Diff) {
    let until = record.until;
    let logins: Vec<_> = record.logins[..until.logins]
        .iter()
        .map(|login| {
            let at = show_time(login.began.at);
            format!("{at} {} with password {:?}", login.reason, login.password)
        })
        .collect();
    each("logins", &then.logins, &logins, diff, |expected, n| {
        let login = &record.logins[n];
        expected.at.is_none_or(|at| at.contains(login.began.at))
            && expected
                .reason
                .is_none_or(|reason| format!("{reason:?}") == login.reason)
            && fits(&expected.password, login.password.as_deref())
    });

    let logouts: Vec<_> = record.logouts[..until.logouts]
        .iter()
        .map(|logout| format!("{} of token {:?}", show_time(logout.began.at), logout.token))
        .collect();
    each("logouts", &then.logouts, &logouts, diff, |expected, n| {
        let logout = &record.logouts[n];
        expected.at.is_none_or(|at| at.contains(logout.began.at))
            && numbered(&expected.token, logout.token)
    });

    let changes: Vec<_> = record.changes[..until.changes]
        .iter()
        .map(|change| {
            let at = show_time(change.at);
            let (from, to) = (&change.from, &change.to);
            format!("{at} from {from:?} to {to:?} with token {:?}", change.token)
        })
        .collect();
    let name = "password_changes";
    each(
        name,
        &then.password_changes,
        &changes,
        diff,
        |expected, n| {
            let change = &record.changes[n];
            expected.at.is_none_or(|at| at.contains(change.at))
                && numbered(&expected.token, change.token)
                && fits(&expected.from, change.from.as_deref())
                && fits(&expected.to, Some(&change.to))
        },
    );

    let arrivals: Vec<_> = record.arrivals[..until.arrivals]
        .iter()
        .filter(|arrival| arrival.caller.is_some())
        .collect();
    let requests: Vec<_> = arrivals
        .iter()
        .map(|arrival| {
            let at = show_time(arrival.when.at);
            let (method, uri, token) = (&arrival.method, &arrival.uri, arrival.token);
            let value = arrival.value.as_deref().unwrap_or("none");
            format!("{at} {method} {uri} with token {token:?} of value {value}")
        })
        .collect();
    each(
        "requests",
        &then.requests,
        &requests,
        diff,
        |expected, n| {
            let arrival = arrivals[n];
            expected.at.is_none_or(|at| at.contains(arrival.when.at))
                && expected
                    .method
                    .as_ref()
                    .is_none_or(|method| method.0 == arrival.method)
                && fits(&expected.path, Some(arrival.uri.path()))
                && expected.uri.as_ref().is_none_or(|uri| uri.0 == arrival.uri)
                && expected
                    .token
                    .as_ref()
                    .is_none_or(|carried| carried.fits(arrival.token))
                && fits(
                    &expected.value,
                    Some(arrival.value.as_deref().unwrap_or("none")),
                )
                && fits(&expected.body, Some(&arrival.body))
        },
    );
    let reads: Vec<_> = record.reads[..until.reads]
        .iter()
        .map(|(at, password)| format!("{} yields {password:?}", show_time(*at)))
        .collect();
    each(
        "source_reads",
        &then.source_reads,
        &reads,
        diff,
        |expected, n| {
            let (at, password) = &record.reads[n];
            expected.at.is_none_or(|expected| expected.contains(*at))
                && fits(&expected.password, password.as_deref())
                && expected
                    .fails
                    .is_none_or(|fails| fails == password.is_none())
        },
    );
    if let (Some(expected), Some(stats)) = (&then.ended, &record.stats) {
        let ends = [
            (expected.logged_out, TokenEnd::LoggedOut),
            (expected.rejected, TokenEnd::Rejected),
            (expected.expired, TokenEnd::Expired),
            (expected.continued, TokenEnd::Continued),
            (expected.abandoned, TokenEnd::Abandoned),
        ];
        for (expected, end) in ends {
            let happened = stats.ended(end);
            if let Some(expected) = expected
                && !expected.contains(usize::try_from(happened).unwrap_or(usize::MAX))
            {
                diff.found.push(format!(
                        "tokens that ended {end:?}:\n      expected {expected}\n      happened {happened}"
                    ));
            }
        }
    }
    for (path, count) in &then.requests_by_path.0 {
        let there = arrivals
            .iter()
            .filter(|arrival| arrival.uri.path() == path)
            .count();
        if !count.contains(there) {
            diff.found.push(format!(
                "requests to {path}:\n      expected {count}\n      happened {there}"
            ));
        }
    }

    for (name, outcomes) in &then.callers.0 {
        callers(name, outcomes, record, diff);
    }
    if let Some(password) = &then.source {
        diff.equal("source", &Some(password), &record.source.as_ref());
    }
    if let (Some(expected), Some(status)) = (&then.status, &record.status) {
        if let Some(state) = expected.state {
            diff.equal(
                "status: state",
                &format!("{state:?}"),
                &format!("{:?}", status.state),
            );
        }
        if let Some(generation) = expected.generation
            && generation != status.generation
        {
            diff.differs("status: generation", generation, status.generation);
        }
        if let Some(error) = expected.last_error {
            let kind = status.last_error.as_ref().map(Error::kind);
            let happened = match kind {
                Some(kind) => format!("{kind:?}"),
                None => format!("{:?}", ErrorOrNone::None),
            };
            diff.equal("status: last_error", &format!("{error:?}"), &happened);
        }
    }
}

fn fits(expected: &Option<String>, happened: Option<&str>) -> bool {
    expected
        .as_deref()
        .is_none_or(|expected| happened == Some(expected))
}

fn numbered(expected: &Option<super::values::Numbers>, happened: Option<u64>) -> bool {
    expected
        .as_ref()
        .is_none_or(|numbers| happened.is_some_and(|number| numbers.contains(number)))
}

/// Compares a list, or its length.
fn each<T: Debug>(
    what: &str,
    expected: &Option<List<T>>,
    happened: &[String],
    diff: &mut Diff,
    fits: impl Fn(&T, usize) -> bool,
) {
    let count = match expected {
        None => return,
        Some(List::Count(count)) => *count,
        Some(List::Each(list)) => Count::exactly(list.len() as u64),
    };
    if !count.contains(happened.len()) {
        diff.found.push(format!(
            "{what}:\n      expected {count}\n      happened {}: {happened:#?}",
            happened.len()
        ));
        return;
    }
    if let Some(List::Each(list)) = expected {
        for (n, expected) in list.iter().enumerate() {
            if !fits(expected, n) {
                diff.found.push(format!(
                    "{what}, number {}:\n      expected {}\n      happened {}",
                    n + 1,
                    brief(expected),
                    happened[n]
                ));
            }
        }
    }
}

/// What was said of the expectation, without what was left free.
fn brief(expected: &impl Debug) -> String {
    let shown = format!("{expected:?}");
    let (name, fields) = match shown.split_once('{') {
        Some((name, fields)) => (name.trim(), fields.trim().trim_end_matches('}').trim()),
        None => return shown,
    };
    // A value may hold a comma, so only what surely is a free field goes.
    let said: Vec<_> = fields
        .split(", ")
        .filter(|field| !field.trim_end_matches(',').ends_with(": None"))
        .collect();
    format!("{name} {{ {} }}", said.join(", "))
}

fn callers(name: &str, outcomes: &Outcomes, record: &Record, diff: &mut Diff) {
    let group: Vec<_> = (0..record.callers.len())
        .filter(|caller| record.callers[*caller].name == name)
        .collect();
    let show = |caller: usize| {
        let ended = match &record.callers[caller].ended {
            Some((at, ended)) => format!("at {}: {}", show_time(*at), ended.show()),
            None => "still waits".to_owned(),
        };
        format!("{} {ended}", record.name_of(caller))
    };
    match outcomes {
        Outcomes::All(outcome) => {
            if let Some(count) = outcome.count {
                diff.equal(format!("callers of {name:?}"), &count, &group.len());
            }
            if group.is_empty() {
                diff.wrong(format!("callers: {name:?} never called"));
            }
            for caller in group {
                let unmet = unmet(outcome, caller, record);
                if !unmet.is_empty() {
                    diff.found.push(format!(
                        "callers: {name:?}\n      expected {}\n      happened {}",
                        unmet.join(", "),
                        show(caller)
                    ));
                }
            }
        }
        Outcomes::Counted(outcomes) => {
            let mut counts = vec![0; outcomes.len()];
            for caller in &group {
                let fitting = outcomes
                    .iter()
                    .position(|outcome| unmet(outcome, *caller, record).is_empty());
                match fitting {
                    Some(fitting) => counts[fitting] += 1,
                    None => diff.found.push(format!(
                        "callers: {name:?}\n      expected one of the {} outcomes\n      happened {}",
                        outcomes.len(),
                        show(*caller)
                    )),
                }
            }
            for (outcome, count) in outcomes.iter().zip(counts) {
                if outcome.count != Some(count) {
                    diff.found.push(format!(
                        "callers: {name:?}\n      expected {}\n      happened {count} times",
                        brief(outcome)
                    ));
                }
            }
        }
    }
}

/// What of `outcome` a caller does not meet.
fn unmet(outcome: &Outcome, caller: usize, record: &Record) -> Vec<String> {
    let Some((at, ended)) = &record.callers[caller].ended else {
        return vec!["an end".to_owned()];
    };
    let carried = record.arrivals_of(caller).last().map(|last| last.token);
    let mut unmet = Vec::new();
    let mut expect = |what: &str, expected: String, is_met: bool| {
        if !is_met {
            unmet.push(format!("{what} {expected}"));
        }
    };
    let mut response = None;
    let mut fields = None;
    let mut reauth = None;
    let mut error = None;
    let mut broken = None;
    let mut given = None;
    let mut status = None;
    match ended {
        Ended::Response {
            status,
            headers,
            body,
            trailers,
            body_error,
            reauth: extension,
        } => {
            response = Some((*status, body));
            fields = Some((headers, trailers));
            broken = body_error.as_ref();
            reauth = extension.as_ref();
        }
        Ended::Token { number, generation } => given = Some((*number, *generation)),
        Ended::Status(seen) => status = Some(seen),
        Ended::Failed(seen) => error = Some(seen),
        Ended::Done | Ended::Dropped | Ended::Panicked => {}
    }
    let ours = error.and_then(|error| Error::find(&**error));
    if let Some(time) = outcome.at {
        expect("at", time.to_string(), time.contains(*at));
    }
    if let Some(ok) = outcome.ok {
        let is_ok = match ended {
            Ended::Response { .. } => broken.is_none(),
            Ended::Token { .. } | Ended::Status(_) | Ended::Done => true,
            Ended::Failed(_) | Ended::Dropped | Ended::Panicked => false,
        };
        expect("ok", ok.to_string(), is_ok == ok);
    }
    if let Some(expected) = outcome.status {
        let is_met = response.is_some_and(|(happened, _)| happened == expected.0);
        expect("status", expected.0.as_u16().to_string(), is_met);
    }
    for (name, value) in &outcome.headers.0 {
        let is_met = fields.is_some_and(|(headers, _)| headers.get(name) == Some(value));
        expect("headers", format!("{name}: {value:?}"), is_met);
    }
    for (name, value) in &outcome.trailers.0 {
        let is_met = fields.is_some_and(|(_, trailers)| trailers.get(name) == Some(value));
        expect("trailers", format!("{name}: {value:?}"), is_met);
    }
    if let Some(part) = &outcome.body {
        let is_met = response.is_some_and(|(_, body)| body.contains(part));
        expect("body", format!("{part:?}"), is_met);
    }
    if let Some(kind) = outcome.body_error {
        let kind = format!("{kind:?}");
        let broken = broken.and_then(|error| Error::find(&**error));
        let is_met = broken.is_some_and(|error| format!("{:?}", error.kind()) == kind);
        expect("body_error", kind, is_met);
    }
    if let Some(token) = &outcome.token {
        let happened = given.map(|(number, _)| number).or(carried);
        let is_met = happened.is_some_and(|happened| token.fits(happened));
        expect("token", format!("{token:?}"), is_met);
    }
    if let Some(kind) = outcome.error {
        let kind = format!("{kind:?}");
        let is_met = ours.is_some_and(|error| format!("{:?}", error.kind()) == kind);
        expect("error", kind, is_met);
    }
    if let Some(part) = &outcome.service_error {
        let is_met =
            ours.is_none() && error.is_some_and(|error| chain(&**error).contains(part.as_str()));
        expect("service_error", format!("{part:?}"), is_met);
    }
    if let Some(part) = &outcome.says {
        let renewal = reauth.and_then(|reauth| match &reauth.failure {
            ReauthFailure::RenewalFailed(error) => Some(chain(error)),
            _ => None,
        });
        let said = error.map(|error| chain(&**error)).or(renewal);
        let is_met = said.is_some_and(|said| said.contains(part.as_str()));
        expect("says", format!("{part:?}"), is_met);
    }
    if let Some(retry_after) = outcome.retry_after {
        let happened = ours.and_then(Error::retry_after);
        let is_met = match (retry_after, happened) {
            (OrNone::None, happened) => ours.is_some() && happened.is_none(),
            (OrNone::Some(_), None) => false,
            (OrNone::Some(span), Some(happened)) => span.contains(happened),
        };
        expect("retry_after", format!("{retry_after:?}"), is_met);
    }
    if let Some(why) = outcome.why {
        let is_met =
            response.is_some() && why_of(reauth.map(|reauth| &reauth.failure)) == Some(why);
        expect("why", format!("{why:?}"), is_met);
    }
    if let Some(kind) = outcome.renewal_error {
        let kind = format!("{kind:?}");
        let is_met = reauth.is_some_and(|reauth| match &reauth.failure {
            ReauthFailure::RenewalFailed(error) => format!("{:?}", error.kind()) == kind,
            _ => false,
        });
        expect("renewal_error", kind, is_met);
    }
    if let Some(replayed) = outcome.replayed {
        let is_met = match reauth {
            Some(reauth) => reauth.replayed == replayed,
            None => response.is_some() && (record.arrivals_of(caller).count() > 1) == replayed,
        };
        expect("replayed", replayed.to_string(), is_met);
    }
    if let Some(generation) = outcome.generation {
        let happened = given
            .map(|(_, generation)| generation)
            .or(reauth.and_then(|reauth| reauth.generation));
        expect(
            "generation",
            generation.to_string(),
            happened == Some(generation),
        );
    }
    if let Some(dropped) = outcome.dropped {
        let is_met = matches!(ended, Ended::Dropped) == dropped;
        expect("dropped", dropped.to_string(), is_met);
    }
    if let Some(count) = outcome.in_use {
        let closed = error.and_then(|error| error.downcast_ref::<CloseError>());
        let in_use = closed.map_or(0, CloseError::in_use);
        expect("in_use", count.to_string(), count.contains(in_use));
    }
    if let Some(count) = outcome.tokens {
        let closed = error.and_then(|error| error.downcast_ref::<CloseError>());
        let tokens = closed.map_or(0, CloseError::tokens);
        expect("tokens", count.to_string(), count.contains(tokens));
    }
    if let Some(state) = outcome.state {
        let state = format!("{state:?}");
        let is_met = status.is_some_and(|status| format!("{:?}", status.state) == state);
        expect("state", state, is_met);
    }
    unmet
}

/// `None` for a reason that the format does not know yet.
fn why_of(failure: Option<&ReauthFailure>) -> Option<ExpectedWhy> {
    Some(match failure {
        None => ExpectedWhy::None,
        Some(ReauthFailure::NotReplayable) => ExpectedWhy::NotReplayable,
        Some(ReauthFailure::Unsure) => ExpectedWhy::Unsure,
        Some(ReauthFailure::CoolingDown) => ExpectedWhy::CoolingDown,
        Some(ReauthFailure::RenewalFailed(_)) => ExpectedWhy::RenewalFailed,
        Some(ReauthFailure::StillRejected) => ExpectedWhy::StillRejected,
        Some(ReauthFailure::LoggedOut) => ExpectedWhy::LoggedOut,
        Some(_) => return None,
    })
}

/// What every run must keep to.
fn always(scenario: &Scenario, record: &Record, diff: &mut Diff) {
    let places = Destinations::of(scenario);
    for (number, caller) in record.callers.iter().enumerate() {
        each_caller(scenario, record, number, caller, diff);
    }
    for arrival in &record.arrivals {
        let Some(caller) = arrival.caller else {
            continue;
        };
        let anonymous = record.callers[caller]
            .sends
            .as_ref()
            .is_some_and(|sent| sent.anonymous);
        let what = format!(
            "at {}: {} {} of {} with token {:?}",
            show_time(arrival.when.at),
            arrival.method,
            arrival.uri,
            record.name_of(caller),
            arrival.token
        );
        match (places.find(&arrival.uri), anonymous, arrival.token) {
            (Destination::Allowed, false, Some(_))
            | (Destination::Foreign, _, None)
            | (Destination::Allowed | Destination::Insecure | Destination::Unknown, true, None) => {
            }
            (Destination::Allowed, false, None) => {
                diff.wrong(format!("{what}: goes to an allowed origin without a token"));
            }
            (_, true, Some(_)) => diff.wrong(format!("{what}: is anonymous and has a token")),
            (Destination::Foreign, false, Some(_)) => {
                diff.wrong(format!("{what}: takes the token to a foreign origin"));
            }
            (Destination::Insecure, false, _) => {
                diff.wrong(format!("{what}: goes over plain http"));
            }
            (Destination::Unknown, false, _) => {
                diff.wrong(format!("{what}: goes to an unknown destination"));
            }
        }
        let closed = record.closed.first();
        let came_later = closed.is_some_and(|closed| *closed < record.callers[caller].began);
        if came_later && !anonymous && arrival.token.is_some() {
            diff.wrong(format!("{what}: came after the session was closed"));
        }
        if let Some(token) = arrival.token {
            stale(scenario, record, token, arrival.when, &what, diff);
        }
    }
    refused_again(record, diff);
    diff.found.extend(accounts::check(scenario, record));
    if record.tasks_left > 0 {
        diff.wrong(format!(
            "{} tasks are left long after the last handle was dropped",
            record.tasks_left
        ));
    }
    for shown in &record.shown {
        let has_token = shown.match_indices("token-").any(|(at, found)| {
            let rest = &shown[at + found.len()..];
            rest.starts_with(|c: char| c.is_ascii_digit())
        });
        if has_token || shown.contains("secret-") {
            diff.wrong(format!("a secret is shown: {shown}"));
        }
    }
}

fn each_caller(
    scenario: &Scenario,
    record: &Record,
    number: usize,
    caller: &Caller,
    diff: &mut Diff,
) {
    let name = record.name_of(number);
    let arrivals: Vec<_> = record.arrivals_of(number).collect();
    let Some((_, ended)) = &caller.ended else {
        diff.wrong(format!("{name} still waits at the end of the run"));
        return;
    };
    if arrivals.len() > 2 {
        diff.wrong(format!("{name} was sent {} times", arrivals.len()));
    }
    let clauses = &scenario.given.profile.rejection;
    if let [first, _, ..] = arrivals[..] {
        let rejected = first
            .answer
            .as_ref()
            .is_some_and(|answer| rejects(clauses, answer));
        if !rejected {
            diff.wrong(format!("{name} was sent again without being rejected"));
        }
    }
    if let Some(sent) = &caller.sends {
        for arrival in &arrivals {
            diff.equal(
                format!("the body of {name} as it reached the service"),
                &sent.body,
                &arrival.body,
            );
        }
    }
    match ended {
        Ended::Response {
            status,
            headers,
            body,
            trailers,
            body_error,
            reauth,
        } => {
            let last = arrivals.last().and_then(|last| last.answer.as_ref());
            let Some(last) = last else {
                diff.wrong(format!("{name} has a response that the service never gave"));
                return;
            };
            diff.equal(format!("the status that {name} got"), &last.status, status);
            diff.equal(
                format!("the headers that {name} got"),
                &last.headers,
                headers,
            );
            if body_error.is_none() {
                diff.equal(
                    format!("the trailers that {name} got"),
                    &last.trailers,
                    trailers,
                );
            }
            let is_right = match body_error {
                None => *body == last.body,
                Some(error) => {
                    let ours = Error::find(&**error).map(Error::kind);
                    ours == Some(ErrorKind::Truncated)
                        && reauth.as_ref().is_some_and(|reauth| !reauth.replayed)
                        && body.len() < last.body.len()
                        && last.body.starts_with(body)
                }
            };
            if !is_right {
                let lengths = (last.body.len(), body.len());
                diff.differs(
                    format!("the body that {name} got, in bytes"),
                    lengths.0,
                    lengths.1,
                );
            }
            if let Some(reauth) = reauth {
                diff.equal(
                    format!("`Reauth` of {name}: replayed"),
                    &(arrivals.len() > 1),
                    &reauth.replayed,
                );
                if !rejects(clauses, last) {
                    diff.wrong(format!("{name} has a `Reauth` and was not rejected"));
                }
            }
        }
        Ended::Failed(error) if caller.sends.is_some() && Error::find(&**error).is_some() => {
            if !arrivals.is_empty() {
                diff.wrong(format!(
                    "{name} got an error of the session's, and its request reached the service"
                ));
            }
        }
        Ended::Token { number, generation } => {
            diff.equal(
                format!("the token that {name} got, by its generation"),
                &Some(*generation),
                number,
            );
        }
        Ended::Panicked => diff.wrong(format!("{name} panicked")),
        Ended::Failed(_) | Ended::Status(_) | Ended::Done | Ended::Dropped => {}
    }
}

/// Whether a token that travelled should not have.
fn stale(
    scenario: &Scenario,
    record: &Record,
    token: u64,
    when: super::record::Moment,
    what: &str,
    diff: &mut Diff,
) {
    if let Some(end) = accounts::end_of(scenario, record, token, when) {
        // One that is over when it arrives is nothing that a session could have prevented.
        let arrived = record.logins.iter().rfind(|login| {
            login.brought == Brought::Token(token) || login.brought == Brought::SameToken(token)
        });
        let arrived = match arrived {
            Some(login) => login.ended.map(|ended| ended.at),
            None => Some(Duration::ZERO),
        };
        // Nor is one whose timer could not run.
        let is_late = scenario.when.iter().any(|step| match &step.action {
            Action::Block(time) => step.at <= end && when.at <= step.at + *time,
            Action::Request(_) | Action::Call(_) | Action::Source(_) | Action::DropSession => false,
        });
        if end < when.at && !is_late && arrived.is_none_or(|arrived| arrived < end) {
            diff.wrong(format!("{what}: its lifetime ended at {}", show_time(end)));
        }
    }
    let is_candidate = |newer| accounts::is_candidate(scenario, record, newer, when);
    let seen_before = record
        .arrivals
        .iter()
        .filter(|other| other.when < when)
        .filter_map(|other| other.token)
        .filter(|newer| !is_candidate(*newer))
        .max();
    if seen_before.is_some_and(|newer| newer > token) {
        diff.wrong(format!("{what}: a newer token was in use already"));
        return;
    }
    for login in &record.logins {
        let ended = login.ended.map_or(Duration::MAX, |ended| ended.at);
        if let Brought::Token(newer) = login.brought
            && newer > token
            && ended < when.at
            && !is_candidate(newer)
        {
            diff.wrong(format!("{what}: token {newer} has replaced it"));
        }
        if login.reason == "Rejected" && login.began.at < when.at && when.at < ended {
            diff.wrong(format!("{what}: it is suspended"));
        }
    }
    // Of what happens in one millisecond, only an opening surely comes first.
    let opened = record.opened.iter().rfind(|(at, opens)| match opens {
        true => *at < when,
        false => at.at < when.at,
    });
    if let Some((_, false)) = opened {
        diff.wrong(format!("{what}: the session is logged out"));
    }
}

/// Refused credentials that were sent again, unasked.
fn refused_again(record: &Record, diff: &mut Diff) {
    let mut refused: Vec<(&super::record::Login, super::record::Moment)> = Vec::new();
    for login in &record.logins {
        let changed = |since: super::record::Moment| {
            record.changes.iter().any(|change| {
                change
                    .done
                    .is_some_and(|done| since < done && done < login.began)
            })
        };
        let asked_for = |since: super::record::Moment| {
            record
                .opened
                .iter()
                .any(|(at, opens)| *opens && since < *at && *at < login.began)
        };
        let again = refused.iter().any(|(other, since)| {
            other.password == login.password && !changed(*since) && !asked_for(other.began)
        });
        if again {
            diff.wrong(format!(
                "at {}: refused credentials are sent again, password {:?}",
                show_time(login.began.at),
                login.password
            ));
        }
        match (login.brought, login.ended) {
            (Brought::Refusal, Some(ended)) => refused.push((login, ended)),
            (Brought::Token(_) | Brought::SameToken(_), _) => refused.clear(),
            (Brought::Refusal, None) | (Brought::Nothing, _) => {}
        }
    }
}

pub(crate) fn rejects(clauses: &[Clause], answer: &Answered) -> bool {
    clauses.iter().any(|clause| match &clause.condition {
        Condition::Status(status) | Condition::Closure(status) => answer.status == *status,
        Condition::Header(name, value) => answer
            .headers
            .get_all(name)
            .iter()
            .any(|other| other == value),
        // The caller has the response already: no request is replayed.
        Condition::Trailer(..) => false,
        Condition::BodyContains {
            status,
            text,
            within,
        } => {
            let start = &answer.body.as_bytes()[..answer.body.len().min(*within)];
            answer.status == *status && String::from_utf8_lossy(start).contains(text)
        }
    })
}

/// Whether the trailers of an answer reject the token of its request.
pub(crate) fn rejects_in_trailers(clauses: &[Clause], answer: &Answered) -> bool {
    clauses.iter().any(|clause| match &clause.condition {
        Condition::Trailer(name, value) => answer.trailers.get(name) == Some(value),
        Condition::Status(_)
        | Condition::BodyContains { .. }
        | Condition::Header(..)
        | Condition::Closure(_) => false,
    })
}

/// Where the token may go, told without the crate's own word for it.
struct Destinations {
    origins: Vec<(String, String, u16)>,
    bound: bool,
    plain_http: bool,
}

enum Destination {
    Allowed,
    Insecure,
    Foreign,
    Unknown,
}

impl Destinations {
    fn of(scenario: &Scenario) -> Self {
        let given = &scenario.given;
        let origins = given.profile.origins.iter().chain(&given.session.origin);
        Self {
            origins: origins
                .filter_map(|origin| origin_of(&origin.address))
                .collect(),
            bound: given.profile.bound,
            plain_http: given.profile.plain_http,
        }
    }

    fn find(&self, uri: &Uri) -> Destination {
        if self.bound {
            return Destination::Allowed;
        }
        match origin_of(uri) {
            None => Destination::Unknown,
            Some(_) if self.origins.is_empty() => Destination::Unknown,
            Some(origin) if !self.origins.contains(&origin) => Destination::Foreign,
            Some((scheme, host, _)) => {
                let this_machine =
                    host == "localhost" || host.starts_with("127.") || host == "[::1]";
                match scheme == "https" || this_machine || self.plain_http {
                    true => Destination::Allowed,
                    false => Destination::Insecure,
                }
            }
        }
    }
}

fn origin_of(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let host = uri.host()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => 0,
    };
    Some((scheme, host, uri.port_u16().unwrap_or(usual)))
}
