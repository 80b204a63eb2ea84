//! What happened in a run, in the order in which it happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use tokio::time::Instant;
use tower_reauth::{BoxError, CloseError, Error, Reauth, Stats, Status, TokenEnd};

use super::values::show_time;

/// The record that provider, service and callers write into.
#[derive(Clone)]
pub(crate) struct Recorder {
    start: Instant,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) timeline: Vec<(Duration, String)>,
    pub(crate) logins: Vec<Login>,
    pub(crate) logouts: Vec<Logout>,
    pub(crate) changes: Vec<Change>,
    pub(crate) arrivals: Vec<Arrival>,
    /// When the source was read, and what it said, if it said something.
    pub(crate) reads: Vec<(Duration, Option<String>)>,
    pub(crate) callers: Vec<Caller>,
    /// How many callers share a name.
    groups: BTreeMap<String, usize>,
    /// When `login()` and `logout()` were called.
    pub(crate) opened: Vec<(Moment, bool)>,
    /// When `close()` was called.
    pub(crate) closed: Vec<Moment>,
    /// When the last handles were dropped; at the run's end at the latest.
    pub(crate) dropped: Option<Moment>,
    /// The tokens that callers of `token()` held.
    pub(crate) holds: Vec<Hold>,
    /// The tokens that were rejected by hand.
    pub(crate) rejected: Vec<u64>,
    /// The tokens that were accepted by hand.
    pub(crate) accepted: Vec<u64>,
    /// How tokens ended, as the session's events tell it.
    pub(crate) ends: Vec<(Moment, u64, TokenEnd)>,
    /// What lies behind these numbers came after the run's end.
    pub(crate) until: Counts,
    /// How many tasks were left long after the last handle was dropped.
    pub(crate) tasks_left: usize,
    /// What was seen to be wrong at once.
    pub(crate) wrong: Vec<String>,
    /// All that a log might show.
    pub(crate) shown: Vec<String>,
    pub(crate) status: Option<Status>,
    pub(crate) stats: Option<Stats>,
    pub(crate) source: Option<String>,
    /// How many calls of the provider are under way.
    pub(crate) under_way: usize,
    /// Those among them that log out a replaced token.
    pub(crate) beside: usize,
    order: usize,
}

/// How much of everything there was at the run's end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) logins: usize,
    pub(crate) logouts: usize,
    pub(crate) changes: usize,
    pub(crate) arrivals: usize,
    pub(crate) reads: usize,
    /// Calls of the provider that were under way then.
    pub(crate) under_way: usize,
}

/// A token that somebody held.
pub(crate) struct Hold {
    pub(crate) caller: usize,
    pub(crate) token: u64,
    pub(crate) from: Moment,
    pub(crate) until: Option<Moment>,
}

/// When something happened. The order tells apart what has the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    order: usize,
}

pub(crate) struct Login {
    pub(crate) began: Moment,
    pub(crate) reason: String,
    pub(crate) password: Option<String>,
    pub(crate) ended: Option<Moment>,
    pub(crate) brought: Brought,
    /// How long the token lives that it brought.
    pub(crate) lives_for: Option<Duration>,
    /// How long it lives without being used.
    pub(crate) idles_out_after: Option<Duration>,
    /// Whether it goes on with the session of the one before.
    pub(crate) continues: bool,
    /// Whether the token has data of the provider's.
    pub(crate) has_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    Nothing,
    Refusal,
    Token(u64),
    /// The token of this number once more.
    SameToken(u64),
}

pub(crate) struct Logout {
    pub(crate) began: Moment,
    pub(crate) token: Option<u64>,
    pub(crate) outcome: Over,
}

/// How a logout went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    NotYet,
    /// The token is dead, by this or already.
    Dead,
    Failed,
}

pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) token: Option<u64>,
    pub(crate) from: Option<String>,
    pub(crate) to: String,
    /// When the server said that it was done.
    pub(crate) done: Option<Moment>,
}

pub(crate) struct Arrival {
    pub(crate) when: Moment,
    /// Whose request it is; `None` for one of the provider's own.
    pub(crate) caller: Option<usize>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) token: Option<u64>,
    /// The value that a response has given the token.
    pub(crate) value: Option<String>,
    pub(crate) body: String,
    pub(crate) answer: Option<Answered>,
}

pub(crate) struct Answered {
    pub(crate) at: Moment,
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: http::HeaderMap,
}

pub(crate) struct Caller {
    pub(crate) name: String,
    /// Which of those who share the name it is, from 1.
    number: usize,
    pub(crate) began: Moment,
    /// What it sends, if it sends something.
    pub(crate) sends: Option<Sent>,
    pub(crate) ended: Option<(Duration, Ended)>,
}

#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) body: String,
    pub(crate) anonymous: bool,
}

pub(crate) enum Ended {
    Response {
        status: StatusCode,
        headers: http::HeaderMap,
        body: String,
        trailers: http::HeaderMap,
        /// How the body ended, if not whole.
        body_error: Option<BoxError>,
        reauth: Option<Reauth>,
    },
    Token {
        number: Option<u64>,
        generation: u64,
    },
    Status(Status),
    Done,
    Failed(BoxError),
    Dropped,
    Panicked,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            record: Arc::default(),
        }
    }

    /// The recorder of another session in the same run.
    pub(crate) fn of_another_session(&self) -> Self {
        Self {
            start: self.start,
            record: Arc::default(),
        }
    }

    /// When `time` of the scenario is.
    pub(crate) fn moment(&self, time: Duration) -> Instant {
        self.start + time
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        // A scripted panic may unwind while something else is being recorded.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Moment {
        let at = self.elapsed();
        let mut record = self.record();
        record.order += 1;
        Moment {
            at,
            order: record.order,
        }
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        let at = self.elapsed();
        self.record().timeline.push((at, what.into()));
    }

    /// Something must never be, and is.
    pub(crate) fn wrong(&self, what: &str) {
        let at = self.elapsed();
        let mut record = self.record();
        record.timeline.push((at, format!("WRONG: {what}")));
        record.wrong.push(format!("at {}: {what}", show_time(at)));
    }

    pub(crate) fn show(&self, shown: String) {
        self.record().shown.push(shown);
    }

    pub(crate) fn show_error(&self, error: &BoxError) {
        self.show(format!("{error:?}: {}", chain(&**error)));
    }

    /// One call of the provider, until what it returns is dropped.
    pub(crate) fn enter_provider(&self, what: &'static str) -> UnderWay {
        self.enter(what, false)
    }

    /// The logout of a replaced token, which may run beside another call but not beside
    /// another logout.
    pub(crate) fn enter_beside(&self) -> UnderWay {
        self.enter("logout", true)
    }

    fn enter(&self, what: &'static str, beside: bool) -> UnderWay {
        let already = {
            let mut record = self.record();
            let is_logout = what == "logout";
            let others = match beside {
                true => record.beside,
                false if is_logout => record.under_way,
                false => record.under_way - record.beside,
            };
            record.under_way += 1;
            record.beside += usize::from(beside);
            others > 0
        };
        if already {
            self.wrong(&format!(
                "the provider's {what} is called while another call of it is under way"
            ));
        }
        UnderWay {
            recorder: self.clone(),
            what,
            beside,
            answered: false,
        }
    }

    pub(crate) fn add_caller(&self, name: &str, sends: Option<Sent>) -> usize {
        let began = self.now();
        let mut record = self.record();
        let size = record.groups.entry(name.to_owned()).or_default();
        *size += 1;
        let number = *size;
        record.callers.push(Caller {
            name: name.to_owned(),
            number,
            began,
            sends,
            ended: None,
        });
        record.callers.len() - 1
    }

    pub(crate) fn end_caller(&self, caller: usize, ended: Ended) {
        let at = self.elapsed();
        match &ended {
            Ended::Failed(error) => self.show_error(error),
            Ended::Status(status) => self.show(format!("{status:?} {status}")),
            Ended::Response {
                body_error, reauth, ..
            } => {
                self.show(format!("{reauth:?}"));
                body_error.iter().for_each(|error| self.show_error(error));
            }
            Ended::Token { .. } | Ended::Done | Ended::Dropped | Ended::Panicked => {}
        }
        let mut record = self.record();
        let name = record.name_of(caller);
        record
            .timeline
            .push((at, format!("{name} ends: {}", ended.show())));
        record.callers[caller].ended = Some((at, ended));
    }

    /// Nobody's word counts any more but the unasked assertions'.
    pub(crate) fn end(&self) {
        self.note("the run ends");
        let mut record = self.record();
        record.until = Counts {
            logins: record.logins.len(),
            logouts: record.logouts.len(),
            changes: record.changes.len(),
            arrivals: record.arrivals.len(),
            reads: record.reads.len(),
            under_way: record.under_way,
        };
    }

    /// The last handles are dropped.
    pub(crate) fn drop_handles(&self) {
        let now = self.now();
        let mut record = self.record();
        if record.dropped.is_none() {
            record.dropped = Some(now);
            record
                .timeline
                .push((now.at, "the last handles are dropped".to_owned()));
        }
    }

    pub(crate) fn take(&self) -> Record {
        std::mem::take(&mut *self.record())
    }
}

impl Record {
    /// A caller's name, with its number where several share it.
    pub(crate) fn name_of(&self, caller: usize) -> String {
        let Caller { name, number, .. } = &self.callers[caller];
        match self.groups.get(name) {
            Some(1) | None => format!("<{name}>"),
            Some(_) => format!("<{name} #{number}>"),
        }
    }

    pub(crate) fn arrivals_of(&self, caller: usize) -> impl Iterator<Item = &Arrival> {
        self.arrivals
            .iter()
            .filter(move |arrival| arrival.caller == Some(caller))
    }
}

/// A call of the provider that is under way.
pub(crate) struct UnderWay {
    recorder: Recorder,
    what: &'static str,
    beside: bool,
    answered: bool,
}

impl UnderWay {
    pub(crate) fn answers(mut self, what: impl Into<String>) {
        self.answered = true;
        let what = what.into();
        self.recorder
            .note(format!("the provider's {}: {what}", self.what));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        {
            let mut record = self.recorder.record();
            record.under_way -= 1;
            record.beside -= usize::from(self.beside);
        }
        if !self.answered {
            self.recorder
                .note(format!("the provider's {} ends without answer", self.what));
        }
    }
}

impl Ended {
    pub(crate) fn show(&self) -> String {
        match self {
            Ended::Response {
                status,
                body,
                body_error,
                reauth,
                ..
            } => {
                let body = match body.char_indices().nth(40) {
                    Some((at, _)) => format!("{:?}..", &body[..at]),
                    None => format!("{body:?}"),
                };
                let why = match reauth {
                    Some(reauth) => format!(
                        ", Reauth {{ generation {:?}, replayed {}, {:?} }}",
                        reauth.generation, reauth.replayed, reauth.failure
                    ),
                    None => String::new(),
                };
                let broken = match body_error {
                    Some(error) => format!(", then an error: {}", chain(&**error)),
                    None => String::new(),
                };
                format!("{} {body}{broken}{why}", status.as_u16())
            }
            Ended::Token { number, generation } => {
                format!("token {number:?} of generation {generation}")
            }
            Ended::Status(status) => format!("{status:?}"),
            Ended::Done => "ok".to_owned(),
            Ended::Failed(error) if error.is::<CloseError>() => chain(&**error),
            Ended::Failed(error) => match Error::find(&**error) {
                Some(ours) => format!("{:?}: {}", ours.kind(), chain(&**error)),
                None => format!("the service's error: {}", chain(&**error)),
            },
            Ended::Dropped => "dropped".to_owned(),
            Ended::Panicked => "panicked".to_owned(),
        }
    }
}

/// An error and its causes, as a log would show them.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut shown = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        shown.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    shown
}
