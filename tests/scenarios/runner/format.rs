//! A scenario as it is written. `README.md` in the folder above says what each field means.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tower_reauth::Origin;

use super::values::{Carried, Count, Numbers, OrNone, Span, Time};

/// The name of the first session, in conditions.
pub(crate) const FIRST: &str = "first";

/// The rules that there are.
const RULES: std::ops::RangeInclusive<u64> = 1..=22;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) rule: Numbers,
    pub(crate) story: String,
    #[serde(default)]
    pub(crate) given: Given,
    pub(crate) when: Vec<Step>,
    pub(crate) then: Then,
    until: Option<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Given {
    pub(crate) credentials: Option<GivenCredentials>,
    pub(crate) profile: GivenProfile,
    pub(crate) session: GivenSession,
    /// The names of further sessions, of the same settings.
    pub(crate) sessions: Vec<String>,
    pub(crate) provider: GivenProvider,
    pub(crate) service: GivenService,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenCredentials {
    pub(crate) password: String,
    #[serde(default = "user")]
    pub(crate) username: String,
    #[serde(default = "yes")]
    pub(crate) writable: bool,
    #[serde(default)]
    pub(crate) reads: Vec<Reading>,
}

/// How the source behaves when it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reading {
    pub(crate) from: Option<Time>,
    pub(crate) until: Option<Time>,
    pub(crate) calls: Option<Numbers>,
    pub(crate) after: Option<Time>,
    pub(crate) fails: Option<String>,
    #[serde(default)]
    pub(crate) never: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GivenProfile {
    pub(crate) origins: Vec<Site>,
    pub(crate) bound: bool,
    pub(crate) plain_http: bool,
    pub(crate) rejection: Vec<Clause>,
    pub(crate) logout_ends: Ends,
    pub(crate) rolling: bool,
    pub(crate) single_session: bool,
}

/// Which tokens a logout ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ends {
    Token,
    Session,
    #[default]
    User,
}

impl Default for GivenProfile {
    fn default() -> Self {
        Self {
            origins: vec![Site::try_from("https://api.test".to_owned()).expect("an origin")],
            bound: false,
            plain_http: false,
            rejection: vec![Clause {
                condition: Condition::Status(StatusCode::UNAUTHORIZED),
                sure: false,
            }],
            logout_ends: Ends::default(),
            rolling: false,
            single_session: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(pub(crate) Uri);

/// An origin, as the address that requests are sent to.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Site {
    pub(crate) address: Uri,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "ClauseAsWritten")]
pub(crate) struct Clause {
    pub(crate) condition: Condition,
    pub(crate) sure: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Status(StatusCode),
    BodyContains {
        status: StatusCode,
        text: String,
        within: usize,
    },
    Header(HeaderName, HeaderValue),
    Trailer(HeaderName, HeaderValue),
    Closure(StatusCode),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClauseAsWritten {
    status: Option<Status>,
    body_contains: Option<String>,
    within: Option<usize>,
    header: Option<String>,
    value: Option<String>,
    trailer: Option<String>,
    closure: Option<Status>,
    #[serde(default)]
    sure: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GivenSession {
    pub(crate) initial: Option<Initial>,
    pub(crate) origin: Option<Site>,
    pub(crate) login_deadline: Option<Time>,
    pub(crate) keep_alive: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Initial {
    pub(crate) lives_for: Option<Time>,
    pub(crate) idles_out_after: Option<Time>,
    pub(crate) with_data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GivenProvider {
    pub(crate) accepts_password: Option<String>,
    pub(crate) login: Vec<LoginAnswer>,
    pub(crate) logout: Vec<LogoutAnswer>,
    pub(crate) change_password: Vec<ChangeAnswer>,
}

/// An answer of the provider, whatever it is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) session: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<Numbers>,
    pub(crate) from: Option<Time>,
    pub(crate) until: Option<Time>,
    pub(crate) calls: Option<Numbers>,
    pub(crate) after: Option<Time>,
    #[serde(default)]
    pub(crate) answer: Kind,
    pub(crate) says: Option<String>,
    pub(crate) retry_after: Option<Time>,
    pub(crate) lives_for: Option<Time>,
    pub(crate) idles_out_after: Option<Time>,
    pub(crate) with_data: Option<String>,
    #[serde(default)]
    pub(crate) continues_previous: bool,
    pub(crate) takes_effect: Option<bool>,
    pub(crate) via_service: Option<Line>,
    pub(crate) asks_session: Option<Asks>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    #[default]
    Ok,
    Refused,
    Unavailable,
    TokenRejected,
    Protocol,
    Uncertain,
    Unsupported,
    Panic,
    Never,
    SameToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asks {
    Token,
    Request,
    AnonymousRequest,
    RequestOnATask,
    Login,
    Renew,
    Logout,
    ChangePassword,
    Close,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Answer")]
pub(crate) struct LoginAnswer(pub(crate) Answer);

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Answer")]
pub(crate) struct LogoutAnswer(pub(crate) Answer);

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Answer")]
pub(crate) struct ChangeAnswer(pub(crate) Answer);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GivenService {
    pub(crate) answers: Vec<ServiceAnswer>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) not_ready: Vec<Window>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    pub(crate) from: Time,
    pub(crate) until: Time,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceAnswer {
    pub(crate) session: Option<String>,
    pub(crate) token: Option<Carried>,
    pub(crate) method: Option<Verb>,
    pub(crate) path: Option<String>,
    pub(crate) from: Option<Time>,
    pub(crate) until: Option<Time>,
    pub(crate) calls: Option<Numbers>,
    pub(crate) after: Option<Time>,
    #[serde(default = "success")]
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) headers: Headers,
    #[serde(default)]
    pub(crate) trailers: Headers,
    pub(crate) rolls_to: Option<String>,
    pub(crate) body: Option<String>,
    #[serde(default = "once")]
    pub(crate) repeat: usize,
    pub(crate) body_after: Option<Time>,
    #[serde(default)]
    pub(crate) holds_place_until: PlaceUntil,
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) never: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlaceUntil {
    #[default]
    Head,
    Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Verb(pub(crate) Method);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub(crate) struct Status(pub(crate) http::StatusCode);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Map<String>")]
pub(crate) struct Headers(pub(crate) Vec<(HeaderName, HeaderValue)>);

/// `GET /jobs`, or with a whole URI.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Line {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) written: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "StepAsWritten")]
pub(crate) struct Step {
    pub(crate) at: Duration,
    /// Whose it is, if not the first session's.
    pub(crate) session: Option<String>,
    pub(crate) action: Action,
    pub(crate) name: String,
    pub(crate) times: usize,
    pub(crate) drop_at: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Request(Sending),
    Call(Call),
    Source(String),
    /// Nothing runs for this long, as while a machine sleeps.
    Block(Duration),
    /// The last handles are dropped.
    DropSession,
}

#[derive(Clone, Debug)]
pub(crate) struct Sending {
    pub(crate) line: Line,
    pub(crate) body: BodyKind,
    pub(crate) replay: Strategy,
    pub(crate) anonymous: bool,
    pub(crate) relative: bool,
    pub(crate) headers: Headers,
    /// How long the response's body is kept before it is read.
    pub(crate) read_after: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// With how long the token is held.
    Token {
        hold: Duration,
    },
    Close {
        deadline: Duration,
    },
    Login,
    Renew,
    Logout,
    Status,
    Reject {
        token_of: String,
    },
    Accept {
        token_of: String,
    },
    ChangePassword {
        to: String,
        from: Option<String>,
        unstored: bool,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BodyKind {
    #[default]
    Empty,
    Bytes,
    Stream,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    #[default]
    Auto,
    IfEmpty,
    Never,
    Function,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Token,
    Login,
    Renew,
    Logout,
    ChangePassword,
    Reject,
    Accept,
    Status,
    Close,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepAsWritten {
    at: Time,
    request: Option<Line>,
    call: Option<Operation>,
    source: Option<String>,
    block: Option<Time>,
    drop_session: Option<bool>,
    session: Option<String>,
    #[serde(rename = "as")]
    name: Option<String>,
    times: Option<usize>,
    drop_at: Option<Time>,
    body: Option<BodyKind>,
    replay: Option<Strategy>,
    anonymous: Option<bool>,
    relative: Option<bool>,
    headers: Option<Headers>,
    read_after: Option<Time>,
    hold: Option<Time>,
    deadline: Option<Time>,
    to: Option<String>,
    from: Option<String>,
    unstored: Option<bool>,
    token_of: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Then {
    pub(crate) logins: Option<List<ExpectedLogin>>,
    pub(crate) logouts: Option<List<ExpectedLogout>>,
    pub(crate) password_changes: Option<List<ExpectedChange>>,
    pub(crate) requests: Option<List<ExpectedRequest>>,
    #[serde(default)]
    pub(crate) requests_by_path: Map<Count>,
    #[serde(default)]
    pub(crate) callers: Map<Outcomes>,
    pub(crate) status: Option<ExpectedStatus>,
    pub(crate) ended: Option<ExpectedEnds>,
    pub(crate) source: Option<String>,
    pub(crate) source_reads: Option<List<ExpectedRead>>,
    /// The same for the further sessions.
    #[serde(default)]
    pub(crate) sessions: Map<Then>,
}

/// How many tokens ended in each way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedEnds {
    pub(crate) logged_out: Option<Count>,
    pub(crate) rejected: Option<Count>,
    pub(crate) expired: Option<Count>,
    pub(crate) continued: Option<Count>,
    pub(crate) abandoned: Option<Count>,
}

/// How many there are, and perhaps what each of them is.
#[derive(Debug)]
pub(crate) enum List<T> {
    Count(Count),
    Each(Vec<T>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedLogin {
    pub(crate) at: Option<Span>,
    pub(crate) reason: Option<Reason>,
    pub(crate) password: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedLogout {
    pub(crate) at: Option<Span>,
    pub(crate) token: Option<Numbers>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedChange {
    pub(crate) at: Option<Span>,
    pub(crate) token: Option<Numbers>,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedRead {
    pub(crate) at: Option<Span>,
    pub(crate) password: Option<String>,
    pub(crate) fails: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedRequest {
    pub(crate) at: Option<Span>,
    pub(crate) method: Option<Verb>,
    pub(crate) path: Option<String>,
    pub(crate) uri: Option<Address>,
    pub(crate) token: Option<Carried>,
    pub(crate) value: Option<String>,
    pub(crate) body: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectedStatus {
    pub(crate) state: Option<State>,
    pub(crate) generation: Option<OrNone<u64>>,
    pub(crate) last_error: Option<ErrorOrNone>,
}

/// The outcomes of a group.
#[derive(Debug)]
pub(crate) enum Outcomes {
    /// The whole group's.
    All(Box<Outcome>),
    /// So many each.
    Counted(Vec<Outcome>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outcome {
    pub(crate) count: Option<usize>,
    pub(crate) at: Option<Span>,
    pub(crate) ok: Option<bool>,
    pub(crate) status: Option<Status>,
    #[serde(default)]
    pub(crate) headers: Headers,
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) trailers: Headers,
    pub(crate) body_error: Option<Error>,
    pub(crate) token: Option<Carried>,
    pub(crate) error: Option<Error>,
    pub(crate) service_error: Option<String>,
    pub(crate) says: Option<String>,
    pub(crate) retry_after: Option<OrNone<Span>>,
    pub(crate) why: Option<Why>,
    pub(crate) renewal_error: Option<Error>,
    pub(crate) replayed: Option<bool>,
    pub(crate) generation: Option<u64>,
    pub(crate) dropped: Option<bool>,
    pub(crate) state: Option<State>,
    pub(crate) in_use: Option<Count>,
    pub(crate) tokens: Option<Count>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    Initial,
    Expiring,
    Expired,
    Rejected,
    Requested,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Idle,
    LoggingIn,
    Live,
    Renewing,
    BackingOff,
    Refused,
    LoggedOut,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    NotReplayable,
    Unsure,
    CoolingDown,
    RenewalFailed,
    StillRejected,
    LoggedOut,
    None,
}

macro_rules! error_kinds {
    ($($kind:ident),*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum Error {
            $($kind),*
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum ErrorOrNone {
            None,
            $($kind),*
        }
    };
}

error_kinds!(
    LoggedOut,
    Closed,
    Refused,
    Unavailable,
    Protocol,
    Uncertain,
    Unsupported,
    TokenRejected,
    DeadlineExceeded,
    ProviderPanicked,
    NoRuntime,
    Recursive,
    NoOrigin,
    InsecureOrigin,
    Truncated
);

/// Names and values. A name that stands twice is an error: the first would be lost.
#[derive(Clone, Debug)]
pub(crate) struct Map<T>(pub(crate) BTreeMap<String, T>);

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl Scenario {
    /// Reads a scenario, or says in which line it cannot be read and why.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let scenario: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        scenario
            .inconsistency()
            .map_or(Ok(scenario), |(what, name)| {
                // Names stand in `when` first, and what is wrong with them in `then`.
                let mut lines: Vec<_> = text.lines().collect();
                while lines.last().is_some_and(|line| !line.contains(&name)) {
                    lines.pop();
                }
                Err(match lines.len() {
                    0 => what,
                    line => format!("{what} at line {line}"),
                })
            })
    }

    /// When the run ends.
    pub(crate) fn end(&self) -> Duration {
        let last = self
            .when
            .iter()
            .map(|step| step.drop_at.unwrap_or(step.at).max(step.at))
            .max()
            .unwrap_or_default();
        self.until
            .map_or(last + Duration::from_secs(60), |until| until.0)
    }

    /// What no reading of a single field can find, and the text to look for.
    fn inconsistency(&self) -> Option<(String, String)> {
        let answers = &self.given.provider;
        let answers = (answers.login.iter().map(|answer| &answer.0))
            .chain(answers.logout.iter().map(|answer| &answer.0))
            .chain(answers.change_password.iter().map(|answer| &answer.0));
        let sessions = (self.when.iter().filter_map(|step| step.session.as_ref()))
            .chain(answers.filter_map(|answer| answer.session.as_ref()))
            .chain(
                self.given
                    .service
                    .answers
                    .iter()
                    .filter_map(|answer| answer.session.as_ref()),
            )
            .chain(self.then.sessions.0.keys());
        let is_unknown = |name: &&String| !self.given.sessions.contains(name) && *name != FIRST;
        if let Some(unknown) = sessions.into_iter().find(is_unknown) {
            return Some((
                format!("no session is called {unknown:?}: name it in `given.sessions`"),
                format!("\"{unknown}\""),
            ));
        }
        let names: Vec<_> = self
            .when
            .iter()
            .filter(|step| step.action.has_caller())
            .map(|step| step.name.as_str())
            .collect();
        let known = |name: &str| names.contains(&name) || name == "provider";
        let quoted = |name: &str| format!("\"{name}\"");
        if !self.rule.lie_within(RULES) {
            return Some((
                format!("`rule`: expected numbers from {} to {}", 1, RULES.end()),
                quoted("rule"),
            ));
        }
        if self.story.trim().is_empty() || self.story.contains('\n') {
            return Some(("`story`: expected one line of text".into(), quoted("story")));
        }
        if self.when.is_empty() {
            return Some(("`when`: expected at least one step".into(), quoted("when")));
        }
        let others = self.then.sessions.0.values();
        let mut callers = std::iter::once(&self.then)
            .chain(others)
            .flat_map(|then| then.callers.0.keys());
        if let Some(name) = callers.find(|name| !known(name)) {
            return Some((
                format!("`callers`: nobody is called {name:?}, expected one of {names:?}"),
                quoted(name),
            ));
        }
        for step in &self.when {
            if let Action::Call(Call::Reject { token_of } | Call::Accept { token_of }) =
                &step.action
                && !known(token_of)
            {
                return Some((
                    format!("`token_of`: nobody is called {token_of:?}"),
                    quoted(token_of),
                ));
            }
            if self.end() <= step.at {
                return Some((
                    "`until`: expected a time after the last step's".into(),
                    quoted("until"),
                ));
            }
        }
        let dropped = self
            .when
            .iter()
            .filter(|step| matches!(step.action, Action::DropSession))
            .map(|step| step.at)
            .min();
        if let Some(dropped) = dropped {
            let later = |step: &&Step| step.action.has_caller() && step.at >= dropped;
            if let Some(step) = self.when.iter().find(later) {
                return Some((
                    format!("`when`: {:?} comes after `drop_session`", step.name),
                    quoted(&step.name),
                ));
            }
            if self.then.status.is_some() || self.then.ended.is_some() {
                return Some((
                    "`then`: a session that is dropped has no `status` and no `ended`".into(),
                    quoted("then"),
                ));
            }
        }
        let says_of_a_source = [
            self.then.source.is_some(),
            self.then.source_reads.is_some(),
            self.when
                .iter()
                .any(|step| matches!(step.action, Action::Source(_))),
        ];
        if self.given.credentials.is_none() && says_of_a_source.contains(&true) {
            return Some((
                "`source`: there is none without `given.credentials`".into(),
                "\"source".into(),
            ));
        }
        let others = self.then.sessions.0.values();
        let empty = std::iter::once(&self.then)
            .chain(others)
            .flat_map(|then| then.callers.0.iter())
            .find(|(_, outcomes)| outcomes.assert_nothing());
        if let Some((name, _)) = empty {
            return Some((
                format!("`callers`: the outcome of {name:?} asserts nothing"),
                quoted(name),
            ));
        }
        if self.then.asserts_nothing() {
            return Some(("`then` asserts nothing".into(), quoted("then")));
        }
        None
    }
}

impl Then {
    fn asserts_nothing(&self) -> bool {
        self.logins.is_none()
            && self.logouts.is_none()
            && self.password_changes.is_none()
            && self.requests.is_none()
            && self.requests_by_path.0.is_empty()
            && self.callers.0.is_empty()
            && self.sessions.0.values().all(Then::asserts_nothing)
            && self.source.is_none()
            && self.source_reads.is_none()
            && self.ended.as_ref().is_none_or(|ended| {
                ended.logged_out.is_none()
                    && ended.rejected.is_none()
                    && ended.expired.is_none()
                    && ended.continued.is_none()
                    && ended.abandoned.is_none()
            })
            && self.status.as_ref().is_none_or(|status| {
                status.state.is_none() && status.generation.is_none() && status.last_error.is_none()
            })
    }
}

impl Outcomes {
    fn assert_nothing(&self) -> bool {
        match self {
            Outcomes::All(outcome) => outcome.asserts_nothing(),
            Outcomes::Counted(outcomes) => {
                outcomes.is_empty() || outcomes.iter().any(Outcome::asserts_nothing)
            }
        }
    }
}

impl Outcome {
    fn asserts_nothing(&self) -> bool {
        self.at.is_none()
            && self.ok.is_none()
            && self.status.is_none()
            && self.body.is_none()
            && self.body_error.is_none()
            && self.token.is_none()
            && self.error.is_none()
            && self.service_error.is_none()
            && self.says.is_none()
            && self.retry_after.is_none()
            && self.why.is_none()
            && self.renewal_error.is_none()
            && self.replayed.is_none()
            && self.generation.is_none()
            && self.dropped.is_none()
            && self.state.is_none()
            && self.in_use.is_none()
            && self.tokens.is_none()
            && self.headers.0.is_empty()
            && self.trailers.0.is_empty()
    }
}

impl Action {
    /// Whether somebody calls, whose outcome can be told.
    pub(crate) fn has_caller(&self) -> bool {
        match self {
            Action::Request(_) | Action::Call(_) => true,
            Action::Source(_) | Action::Block(_) | Action::DropSession => false,
        }
    }
}

impl TryFrom<StepAsWritten> for Step {
    type Error = String;

    fn try_from(written: StepAsWritten) -> Result<Self, String> {
        let StepAsWritten {
            at,
            request,
            call,
            source,
            block,
            drop_session,
            name,
            times,
            drop_at,
            body,
            replay,
            anonymous,
            relative,
            headers,
            read_after,
            hold,
            deadline,
            to,
            from,
            unstored,
            token_of,
            session,
        } = written;
        let of_requests = [
            ("body", body.is_some()),
            ("replay", replay.is_some()),
            ("anonymous", anonymous.is_some()),
            ("relative", relative.is_some()),
            ("headers", headers.is_some()),
            ("read_after", read_after.is_some()),
        ];
        let of_changes = [
            ("to", to.is_some()),
            ("from", from.is_some()),
            ("unstored", unstored.is_some()),
        ];
        let of_rejects = [("token_of", token_of.is_some())];
        let of_tokens = [("hold", hold.is_some())];
        let of_closes = [("deadline", deadline.is_some())];
        let of_callers = [
            ("as", name.is_some()),
            ("times", times.is_some()),
            ("drop_at", drop_at.is_some()),
            ("session", session.is_some()),
        ];
        let none_of = |fields: &[(&str, bool)], belong_to: &str| match fields
            .iter()
            .find(|(_, is_set)| *is_set)
        {
            Some((field, _)) => Err(format!("`{field}` belongs to {belong_to}")),
            None => Ok(()),
        };
        if request.is_none() {
            none_of(&of_requests, "a request")?;
        }
        if call != Some(Operation::ChangePassword) {
            none_of(&of_changes, "`\"call\": \"change_password\"`")?;
        }
        if !matches!(call, Some(Operation::Reject | Operation::Accept)) {
            none_of(&of_rejects, "`\"call\": \"reject\"` and `\"accept\"`")?;
        }
        if call != Some(Operation::Token) {
            none_of(&of_tokens, "`\"call\": \"token\"`")?;
        }
        if call != Some(Operation::Close) {
            none_of(&of_closes, "`\"call\": \"close\"`")?;
        }
        if drop_session == Some(false) {
            return Err("`drop_session`: expected true".into());
        }
        let (action, usual_name) = match (request, call, source, block, drop_session) {
            (Some(line), None, None, None, None) => {
                let usual_name = line.written.clone();
                let sending = Sending {
                    line,
                    body: body.unwrap_or_default(),
                    replay: replay.unwrap_or_default(),
                    anonymous: anonymous.unwrap_or_default(),
                    relative: relative.unwrap_or_default(),
                    headers: headers.unwrap_or_default(),
                    read_after: read_after.map(|after| after.0),
                };
                (Action::Request(sending), usual_name)
            }
            (None, Some(operation), None, None, None) => {
                let (call, usual_name) = match operation {
                    Operation::Token => {
                        let hold = hold.map_or(Duration::ZERO, |hold| hold.0);
                        (Call::Token { hold }, "token")
                    }
                    Operation::Close => {
                        let deadline = deadline.ok_or("missing field `deadline`")?.0;
                        (Call::Close { deadline }, "close")
                    }
                    Operation::Login => (Call::Login, "login"),
                    Operation::Renew => (Call::Renew, "renew"),
                    Operation::Logout => (Call::Logout, "logout"),
                    Operation::Status => (Call::Status, "status"),
                    Operation::Reject => {
                        let token_of = token_of.ok_or("missing field `token_of`")?;
                        (Call::Reject { token_of }, "reject")
                    }
                    Operation::Accept => {
                        let token_of = token_of.ok_or("missing field `token_of`")?;
                        (Call::Accept { token_of }, "accept")
                    }
                    Operation::ChangePassword => {
                        let change = Call::ChangePassword {
                            to: to.ok_or("missing field `to`")?,
                            from,
                            unstored: unstored.unwrap_or_default(),
                        };
                        (change, "change_password")
                    }
                };
                (Action::Call(call), usual_name.to_owned())
            }
            (None, None, Some(password), None, None) => {
                none_of(&of_callers, "a request or a call")?;
                (Action::Source(password), "source".to_owned())
            }
            (None, None, None, Some(block), None) => {
                none_of(&of_callers, "a request or a call")?;
                (Action::Block(block.0), "block".to_owned())
            }
            (None, None, None, None, Some(_)) => {
                none_of(&of_callers, "a request or a call")?;
                (Action::DropSession, "drop_session".to_owned())
            }
            _ => {
                return Err(
                    "a step has exactly one of `request`, `call`, `source`, `block` and \
                     `drop_session`"
                        .into(),
                );
            }
        };
        let name = name.unwrap_or(usual_name);
        if name == "provider" {
            return Err("`as`: the name \"provider\" is taken".into());
        }
        if drop_at.is_some_and(|drop_at| drop_at <= at) {
            return Err("`drop_at`: expected a time after `at`".into());
        }
        match times {
            Some(0) => Err("`times`: expected a number from 1".into()),
            Some(_) | None => Ok(Step {
                at: at.0,
                session,
                action,
                name,
                times: times.unwrap_or(1),
                drop_at: drop_at.map(|drop_at| drop_at.0),
            }),
        }
    }
}

/// Complains of fields that mean nothing in this answer.
fn unfit(answer: &Answer, fields: &[(&str, bool)], of: &str) -> Result<(), String> {
    if let Some((field, _)) = fields.iter().find(|(_, is_set)| *is_set) {
        return Err(format!("`{field}` means nothing in an answer to {of}"));
    }
    let fails = match answer.answer {
        Kind::Ok | Kind::SameToken | Kind::Panic | Kind::Never => false,
        Kind::Refused
        | Kind::Unavailable
        | Kind::TokenRejected
        | Kind::Protocol
        | Kind::Uncertain
        | Kind::Unsupported => true,
    };
    match answer.retry_after.is_some() && !fails {
        true => Err("`retry_after` belongs to an error".into()),
        false => Ok(()),
    }
}

impl TryFrom<Answer> for LoginAnswer {
    type Error = String;

    fn try_from(answer: Answer) -> Result<Self, String> {
        let fields = [
            ("token", answer.token.is_some()),
            ("takes_effect", answer.takes_effect.is_some()),
        ];
        unfit(&answer, &fields, "a login").map(|()| Self(answer))
    }
}

impl TryFrom<Answer> for LogoutAnswer {
    type Error = String;

    fn try_from(answer: Answer) -> Result<Self, String> {
        let fields = [
            ("password", answer.password.is_some()),
            ("lives_for", answer.lives_for.is_some()),
            ("idles_out_after", answer.idles_out_after.is_some()),
            ("with_data", answer.with_data.is_some()),
            ("continues_previous", answer.continues_previous),
            ("takes_effect", answer.takes_effect.is_some()),
            ("same_token", answer.answer == Kind::SameToken),
        ];
        unfit(&answer, &fields, "a logout").map(|()| Self(answer))
    }
}

impl TryFrom<Answer> for ChangeAnswer {
    type Error = String;

    fn try_from(answer: Answer) -> Result<Self, String> {
        let fields = [
            ("lives_for", answer.lives_for.is_some()),
            ("idles_out_after", answer.idles_out_after.is_some()),
            ("with_data", answer.with_data.is_some()),
            ("continues_previous", answer.continues_previous),
            ("same_token", answer.answer == Kind::SameToken),
        ];
        unfit(&answer, &fields, "a password change").map(|()| Self(answer))
    }
}

impl TryFrom<ClauseAsWritten> for Clause {
    type Error = String;

    fn try_from(written: ClauseAsWritten) -> Result<Self, String> {
        let ClauseAsWritten {
            status,
            body_contains,
            within,
            header,
            value,
            trailer,
            closure,
            sure,
        } = written;
        let field = |name: &str, value: &str| {
            let name = name
                .parse()
                .map_err(|_| format!("{name:?} is no header's name"))?;
            let value = value
                .parse()
                .map_err(|_| format!("{value:?} is no header's value"))?;
            Ok::<_, String>((name, value))
        };
        let (status, closure) = (status.map(|it| it.0), closure.map(|it| it.0));
        let fields = (header, trailer, value);
        let condition = match (status, body_contains, within, fields, closure) {
            (Some(status), None, None, (None, None, None), None) => Condition::Status(status),
            (Some(status), Some(text), within, (None, None, None), None) => {
                Condition::BodyContains {
                    status,
                    text,
                    within: within.unwrap_or(4096),
                }
            }
            (None, None, None, (Some(name), None, Some(value)), None) => {
                let (name, value) = field(&name, &value)?;
                Condition::Header(name, value)
            }
            (None, None, None, (None, Some(name), Some(value)), None) => {
                let (name, value) = field(&name, &value)?;
                Condition::Trailer(name, value)
            }
            (None, None, None, (None, None, None), Some(status)) => Condition::Closure(status),
            _ => {
                return Err(
                    "expected a clause: `status`, `status` with `body_contains`, \
                     `header` or `trailer` with `value`, or `closure`"
                        .into(),
                );
            }
        };
        Ok(Self { condition, sure })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(uri) => Ok(Self(uri)),
            Err(error) => Err(format!("{text:?} is no URI: {error}")),
        }
    }
}

impl TryFrom<String> for Site {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(origin) => Address::try_from(text).map(|address| Self {
                address: address.0,
                origin,
            }),
            Err(error) => Err(format!("{text:?} is not an origin: {error}")),
        }
    }
}

impl TryFrom<String> for Verb {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(method) if text.chars().all(|c| c.is_ascii_uppercase()) => Ok(Self(method)),
            Ok(_) | Err(_) => Err(format!("{text:?} is no method, such as \"GET\"")),
        }
    }
}

impl TryFrom<u16> for Status {
    type Error = String;

    fn try_from(status: u16) -> Result<Self, String> {
        match http::StatusCode::from_u16(status) {
            Ok(status) => Ok(Self(status)),
            Err(_) => Err(format!("{status} is no HTTP status")),
        }
    }
}

impl TryFrom<String> for Line {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let Some((method, target)) = written.split_once(' ') else {
            return Err(format!(
                "{written:?} is no request: expected a method and a path or URI, such as \"GET /jobs\""
            ));
        };
        Ok(Self {
            method: Verb::try_from(method.to_owned())?.0,
            target: Address::try_from(target.to_owned())?.0,
            written,
        })
    }
}

impl TryFrom<Map<String>> for Headers {
    type Error = String;

    fn try_from(map: Map<String>) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (name, value) in map.0 {
            headers.push((
                name.parse()
                    .map_err(|_| format!("{name:?} is no header's name"))?,
                value
                    .parse()
                    .map_err(|_| format!("{value:?} is no header's value"))?,
            ));
        }
        Ok(Self(headers))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("how many there are, such as 2 or \"..4\", or a list of what each is")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<List<T>, E> {
                Ok(List::Count(Count::exactly(count)))
            }

            fn visit_str<E: de::Error>(self, range: &str) -> Result<List<T>, E> {
                Count::parse(range)
                    .map(List::Count)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(range), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut each = Vec::new();
                while let Some(one) = list.next_element()? {
                    each.push(one);
                }
                Ok(List::Each(each))
            }
        }

        from.deserialize_any(Read(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Outcomes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Outcomes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an outcome, or a list of outcomes, each with its `count`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Outcomes, A::Error> {
                let outcome = Outcome::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Outcomes::All(Box::new(outcome)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Outcomes, A::Error> {
                let mut outcomes = Vec::new();
                while let Some(outcome) = list.next_element::<Outcome>()? {
                    if outcome.count.is_none() {
                        return Err(de::Error::missing_field("count"));
                    }
                    outcomes.push(outcome);
                }
                Ok(Outcomes::Counted(outcomes))
            }
        }

        from.deserialize_any(Read)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Map<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Map<T>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(name) = entries.next_key::<String>()? {
                    if map.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("{name:?} stands twice")));
                    }
                    map.insert(name, entries.next_value()?);
                }
                Ok(Map(map))
            }
        }

        from.deserialize_map(Read(PhantomData))
    }
}

fn user() -> String {
    "user".to_owned()
}

fn yes() -> bool {
    true
}

fn success() -> Status {
    Status(http::StatusCode::OK)
}

fn once() -> usize {
    1
}
