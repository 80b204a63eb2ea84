//! Writes a path as a file of `tests/scenarios`: the calls and requests with their times,
//! and the answers of the server.
//!
//! The story of the file names the parts of the path that the format cannot express.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::checks::By;
use super::world::{Act, Entry, Landing, Path, Response, Setup, TICK, UnderWay, User, World};
use crate::error::ErrorKind;
use crate::provider::{LogoutEnds, Reason};
use crate::session::State;
use crate::session::rules::Lifetimes;
use crate::session::rules::LogoutOutcome;
use crate::session::rules::{JobKind, Launch, Timestamp};

/// When the calls that are running at the end of a path are answered.
const SOON_AFTER: Duration = Duration::from_secs(1);

/// How long a scenario that shows a broken rule goes on.
const A_WHILE: Duration = Duration::from_secs(10);

/// The assertions of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Then {
    /// Everything that has happened.
    All,
    /// Everything before a rule was broken like this. The assertions that every scenario
    /// makes show the broken rule itself, or there is one job too many.
    Not(By),
}

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) text: String,
    /// Whether it expresses the whole path, and the path is not empty.
    pub(super) is_whole: bool,
}

/// A JSON object, with its fields in the order for a reader.
#[derive(Debug, Default)]
struct Object(Vec<(&'static str, String)>);

impl Object {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    fn if_any(self, name: &'static str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn inline(&self) -> String {
        let fields = self
            .0
            .iter()
            .map(|(name, value)| format!("\"{name}\": {value}"));
        match fields.collect::<Vec<_>>().join(", ") {
            fields if fields.is_empty() => "{}".into(),
            fields => format!("{{ {fields} }}"),
        }
    }

    /// One field a line.
    fn in_lines(&self, indented: usize) -> String {
        let indent = " ".repeat(indented);
        let fields = self.0.iter();
        let fields = fields.map(|(name, value)| format!("{indent}  \"{name}\": {value}"));
        match fields.collect::<Vec<_>>().join(",\n") {
            fields if fields.is_empty() => "{}".into(),
            fields => format!("{{\n{fields}\n{indent}}}"),
        }
    }
}

fn list(entries: &[Object], indented: usize) -> String {
    let indent = " ".repeat(indented);
    let lines = entries
        .iter()
        .map(|entry| format!("{indent}  {}", entry.inline()));
    match lines.collect::<Vec<_>>().join(",\n") {
        lines if lines.is_empty() => "[]".into(),
        lines => format!("[\n{lines}\n{indent}]"),
    }
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn time(time: Duration) -> String {
    let milliseconds = time.as_millis();
    match milliseconds % 1000 {
        0 => format!("\"{}s\"", milliseconds / 1000),
        _ => format!("\"{milliseconds}ms\""),
    }
}

/// Writes the parts of a scenario while it reads the log.
struct Writer<'a> {
    setup: &'static Setup,
    log: &'a [(Timestamp, Entry)],
    end: Timestamp,
    steps: Vec<Object>,
    logins: Vec<Object>,
    logouts: Vec<Object>,
    changes: Vec<Object>,
    answers: Vec<Object>,
    /// How often each was called or reached.
    called: BTreeMap<&'static str, usize>,
    seen_logins: Vec<Object>,
    seen_logouts: Vec<Object>,
    /// The parts of the path that the format cannot express.
    inexpressible: Vec<String>,
}

/// Returns the path as a file, whose story is that `what` happens.
pub(super) fn written(
    setup: &'static Setup,
    acts: &[Act],
    rule: u32,
    what: &str,
    then: Then,
) -> Scenario {
    let mut world = World::new(setup, true);
    let demanded = match then {
        Then::Not(By::Liveness(act)) => act,
        Then::Not(By::Act | By::Launch(_)) | Then::All => None,
    };
    let all = setup.before.iter().chain(acts).chain(&demanded);
    let mut last = 0;
    for act in all {
        last = world.log().len();
        // Rules that are broken may panic.
        let _ = world.tried(|world| world.act(*act));
    }
    let mut writer = Writer {
        setup,
        log: world.log(),
        end: world.now,
        steps: Vec::new(),
        logins: Vec::new(),
        logouts: Vec::new(),
        changes: Vec::new(),
        answers: Vec::new(),
        called: BTreeMap::new(),
        seen_logins: Vec::new(),
        seen_logouts: Vec::new(),
        inexpressible: Vec::new(),
    };
    let mut before_last = (0, 0);
    for place in 0..writer.log.len() {
        if place == last {
            before_last = (writer.seen_logins.len(), writer.seen_logouts.len());
        }
        writer.read(place);
    }
    if last == writer.log.len() {
        before_last = (writer.seen_logins.len(), writer.seen_logouts.len());
    }
    let mut until = writer.end + TICK;
    let mut story = what.to_owned();
    for inexpressible in &writer.inexpressible {
        let _ = write!(story, " Not said here: {inexpressible}.");
    }
    let then = match then {
        Then::All => {
            let status = Object::default()
                .with("state", text(state(world.rules.state())))
                .if_any(
                    "generation",
                    world.rules.generation().map(|it| it.to_string()),
                );
            // A request that is dropped at the end may let go of its token.
            let in_use = world.rules.generation();
            let is_last = |user: &User| user.path.is_some() && user.held() != in_use;
            let all_said = !world.users.iter().any(is_last);
            let logouts = all_said.then(|| list(&writer.seen_logouts, 4));
            Object::default()
                .with("logins", list(&writer.seen_logins, 4))
                .if_any("logouts", logouts)
                .with("status", status.inline())
        }
        Then::Not(By::Launch(Launch::Job(JobKind::Login { .. }))) => {
            Object::default().with("logins", before_last.0.to_string())
        }
        Then::Not(By::Launch(Launch::Job(JobKind::Logout) | Launch::BackgroundLogout { .. })) => {
            Object::default().with("logouts", before_last.1.to_string())
        }
        Then::Not(By::Act | By::Liveness(_) | By::Launch(Launch::Job(JobKind::ChangePassword))) => {
            until += A_WHILE;
            // This request may not use a token that it must not use.
            let probe = Object::default()
                .with("at", time(writer.end))
                .with("request", text("GET /probe"));
            writer.steps.push(probe);
            let logins = text(&format!("{}..", before_last.0));
            Object::default().with("logins", logins)
        }
    };
    let scenario = Object::default()
        .with("rule", rule.to_string())
        .with("story", text(&story))
        .with("given", given(setup, &writer).in_lines(2))
        .with("when", list(&writer.steps, 2))
        .with("until", time(until))
        .with("then", then.in_lines(2));
    Scenario {
        text: scenario.in_lines(0) + "\n",
        is_whole: writer.inexpressible.is_empty() && !writer.steps.is_empty(),
    }
}

fn given(setup: &Setup, writer: &Writer<'_>) -> Object {
    let settings = setup.settings;
    let credentials = Object::default().with("password", text("first"));
    let profile = Object::default()
        .with(
            "logout_ends",
            text(match settings.logout_ends {
                LogoutEnds::Token => "token",
                LogoutEnds::Nothing => "nothing",
                LogoutEnds::User => "user",
            }),
        )
        .if_any("rolling", settings.rolls.then(|| "true".into()));
    let initial = setup
        .initial
        .map(|initial| lifetimes(Object::default(), initial).inline());
    let session = Object::default()
        .if_any("initial", initial)
        .if_any("keep_alive", settings.keep_alive.then(|| "true".into()))
        .with("login_deadline", time(Duration::from_secs(7200)));
    let some = |entries: &[Object]| (!entries.is_empty()).then(|| list(entries, 6));
    let provider = Object::default()
        .if_any("login", some(&writer.logins))
        .if_any("logout", some(&writer.logouts))
        .if_any("change_password", some(&writer.changes));
    let answers = some(&writer.answers);
    let service = answers.map(|answers| Object::default().with("answers", answers).in_lines(4));
    Object::default()
        .if_any(
            "credentials",
            settings.has_source.then(|| credentials.inline()),
        )
        .with("profile", profile.inline())
        .with("session", session.inline())
        .with("provider", provider.in_lines(4))
        .if_any("service", service)
}

fn lifetimes(object: Object, lifetimes: Lifetimes) -> Object {
    object
        .if_any("lives_for", lifetimes.absolute.map(time))
        .if_any("idles_out_after", lifetimes.idle.map(time))
}

impl Writer<'_> {
    fn count(&mut self, what: &'static str) -> usize {
        let called = self.called.entry(what).or_default();
        *called += 1;
        *called
    }

    fn miss(&mut self, what: &str) {
        if !self.inexpressible.iter().any(|known| known == what) {
            self.inexpressible.push(what.into());
        }
    }

    fn read(&mut self, place: usize) {
        let (at, entry) = &self.log[place];
        let at = *at;
        match entry {
            Entry::Asked(user) => self.asked(*user, at),
            Entry::Sent { user } => {
                if let Some(path) = self.path(*user) {
                    self.sent(*user, path, place, at);
                }
            }
            Entry::Rejected { user } => self.steps.push(
                Object::default()
                    .with("at", time(at))
                    .with("call", text("reject"))
                    .with("token_of", text(&name(*user))),
            ),
            Entry::Spread => self.miss("which rng that needs"),
            Entry::Accepted => self.miss("that a holder accepts its token"),
            Entry::Called(act) => self.called(*act, at),
            // Only a step comes before a timer that is late.
            Entry::Late { .. } if !self.is_step(place + 1) => {
                self.miss("that the timer is still late then");
            }
            Entry::Late { from } => {
                let late = Object::default()
                    .with("at", time(*from))
                    .with("block", time(self.until(place) - *from));
                self.steps.push(late);
            }
            Entry::Launched(under_way) => {
                let under_way = under_way.clone();
                let landing = self.landing(under_way.launch, place);
                self.launched(&under_way, landing, place);
            }
            // Said where they began.
            Entry::Answered { .. }
            | Entry::Gone { .. }
            | Entry::Left { .. }
            | Entry::Landed(..) => {}
        }
    }

    fn is_step(&self, place: usize) -> bool {
        matches!(
            self.log.get(place),
            Some((
                _,
                Entry::Asked(_) | Entry::Called(_) | Entry::Rejected { .. }
            ))
        )
    }

    /// Returns the time of the next entry.
    fn until(&self, place: usize) -> Timestamp {
        let next = self.log.get(place + 1);
        next.map_or(self.end, |(at, _)| *at)
    }

    fn path(&self, number: usize) -> Option<Path> {
        self.log.iter().find_map(|(_, entry)| match entry {
            Entry::Asked(user) if user.number == number => user.path,
            _ => None,
        })
    }

    /// Returns when this user ends without an answer.
    fn leaves(&self, number: usize) -> Option<Timestamp> {
        let mut ends = self.log.iter().filter_map(|(at, entry)| match entry {
            Entry::Left { user } if *user == number => Some(Some(*at)),
            Entry::Gone { user } if *user == number => Some(None),
            _ => None,
        });
        let answers = self.log.iter().filter(|(_, entry)| match entry {
            Entry::Answered { user, answer } => *user == number && *answer != Response::Rejected,
            _ => false,
        });
        match (ends.next(), answers.count()) {
            (Some(end), _) => end,
            (None, 0) if self.was_rejected_twice(number) => None,
            (None, 0) => Some(self.end),
            (None, _) => None,
        }
    }

    fn was_rejected_twice(&self, number: usize) -> bool {
        let rejections = self.log.iter().filter(|(_, entry)| match entry {
            Entry::Answered { user, answer } => *user == number && *answer == Response::Rejected,
            _ => false,
        });
        rejections.count() > 1
    }

    fn asked(&mut self, user: User, at: Timestamp) {
        let leaves = self.leaves(user.number);
        let step = Object::default().with("at", time(at));
        self.steps.push(match user.path {
            Some(path) => step
                .with("request", text(&format!("GET {}", path.as_str())))
                .with("as", text(&name(user.number)))
                .if_any("drop_at", leaves.map(time)),
            None => {
                let held_since = self.log.iter().find_map(|(at, entry)| match entry {
                    Entry::Sent { user: held } if *held == user.number => Some(*at),
                    _ => None,
                });
                let step = step
                    .with("call", text("token"))
                    .with("as", text(&name(user.number)));
                match (held_since, leaves) {
                    (Some(since), Some(leaves)) if leaves == self.end => {
                        step.with("hold", time(leaves + SOON_AFTER - since))
                    }
                    (Some(since), Some(leaves)) => step.with("hold", time(leaves - since)),
                    (None, Some(leaves)) => step.with("drop_at", time(leaves)),
                    (_, None) => step,
                }
            }
        });
    }

    fn sent(&mut self, number: usize, path: Path, place: usize, at: Timestamp) {
        let call = self.count(path.as_str());
        let answered = self.log[place..]
            .iter()
            .find_map(|(at, entry)| match entry {
                Entry::Answered { user, answer } if *user == number => Some((*at, *answer)),
                _ => None,
            });
        let entry = Object::default()
            .with("path", text(path.as_str()))
            .with("calls", call.to_string());
        let entry = match answered {
            None => entry.with("after", time(self.end + SOON_AFTER - at)),
            Some((answered, answer)) => {
                let entry = entry.with("after", time(answered - at));
                match answer {
                    Response::Accepted => entry,
                    Response::Rejected => entry.with("status", "401"),
                    Response::Rolls(lifetime) => {
                        if lifetime.is_some() {
                            self.miss("that the token's next value brings a lifetime");
                        }
                        entry.with("rolls_to", text(&format!("{call}")))
                    }
                }
            }
        };
        self.answers.push(entry);
    }

    fn called(&mut self, act: Act, at: Timestamp) {
        let step = Object::default().with("at", time(at));
        let step = match act {
            Act::Login => step.with("call", text("login")),
            Act::Renew => step.with("call", text("renew")),
            Act::ChangePassword => {
                let number = self.count("password");
                step.with("call", text("change_password"))
                    .with("to", text(&format!("changed-{number}")))
            }
            Act::Logout => step.with("call", text("logout")),
            Act::Close => {
                self.miss("that close() does not log out yet");
                step.with("call", text("close"))
                    .with("deadline", time(Duration::from_secs(7200)))
            }
            _ => return,
        };
        // The run ends before its wait does.
        self.steps.push(step.with("drop_at", time(self.end)));
    }

    /// Returns how the task that was launched there ends.
    fn landing(&self, launch: Launch, place: usize) -> Option<(Timestamp, Landing)> {
        let is_background = |landing| matches!(landing, Landing::BackgroundLogout(_));
        let is_beside = matches!(launch, Launch::BackgroundLogout { .. });
        let mut landings = self.log[place..].iter();
        landings.find_map(|(at, entry)| match entry {
            Entry::Landed(landing) if is_background(*landing) == is_beside => Some((*at, *landing)),
            _ => None,
        })
    }

    /// Whether the logout of a replaced token is running there.
    fn has_background_logout(&self, place: usize) -> bool {
        let before = self.log[..place].iter().rev();
        let mut changes = before.filter_map(|(_, entry)| match entry {
            Entry::Landed(Landing::BackgroundLogout(_)) => Some(false),
            Entry::Launched(under_way) => {
                matches!(under_way.launch, Launch::BackgroundLogout { .. }).then_some(true)
            }
            _ => None,
        });
        changes.next().unwrap_or(false)
    }

    fn launched(
        &mut self,
        under_way: &UnderWay,
        landing: Option<(Timestamp, Landing)>,
        place: usize,
    ) {
        let at = under_way.since;
        let after = match landing {
            Some((landed, _)) => landed - at,
            None => self.end + SOON_AFTER - at,
        };
        let landing = landing.map(|(_, landing)| landing);
        match under_way.launch {
            Launch::Job(JobKind::Login { reason, .. }) => {
                if under_way.asks_source {
                    if let Some(Landing::Failed(ErrorKind::Refused, _)) = landing {
                        return self.miss("how long the source takes");
                    }
                    let number = self.count("password");
                    let source = Object::default()
                        .with("at", time(at))
                        .with("source", text(&format!("other-{number}")));
                    if matches!(
                        self.log.get(place.wrapping_sub(2)),
                        Some((_, Entry::Late { .. }))
                    ) {
                        self.miss("that the timer is still late then");
                    }
                    // Before the caller that asks for it.
                    self.steps
                        .insert(self.steps.len().saturating_sub(1), source);
                }
                let call = self.count("login");
                let entry = Object::default()
                    .with("calls", call.to_string())
                    .with("after", time(after));
                let entry = self.login(entry, landing);
                self.logins.push(entry);
                // The rng determines how long before the expiry it comes.
                let exactly = (reason != Reason::Expiring).then(|| time(at));
                self.seen_logins.push(
                    Object::default()
                        .if_any("at", exactly)
                        .with("reason", text(reason.as_str())),
                );
            }
            Launch::Job(JobKind::Logout) | Launch::BackgroundLogout { .. } => {
                if under_way.launch == Launch::Job(JobKind::Logout)
                    && self.has_background_logout(place)
                {
                    self.miss("that a logout waits for that of a replaced token");
                }
                // The later ones come when those before have ended.
                let tokens = match landing {
                    Some(_) => &under_way.tokens[..],
                    None => &under_way.tokens[..under_way.tokens.len().min(1)],
                };
                for (nth, token) in tokens.iter().enumerate() {
                    let call = self.count("logout");
                    let after = if nth == 0 { after } else { Duration::ZERO };
                    let entry = Object::default()
                        .with("calls", call.to_string())
                        .with("after", time(after));
                    self.logouts.push(logout(entry, landing, nth));
                    let exactly = (nth == 0).then(|| time(at));
                    self.seen_logouts.push(
                        Object::default()
                            .if_any("at", exactly)
                            .with("token", token.to_string()),
                    );
                }
            }
            Launch::Job(JobKind::ChangePassword) => {
                let call = self.count("change_password");
                let answer = match landing {
                    Some(Landing::NotChanged(kind)) => Some(text(kind.as_str())),
                    _ => None,
                };
                self.changes.push(
                    Object::default()
                        .with("calls", call.to_string())
                        .with("after", time(after))
                        .if_any("answer", answer),
                );
            }
        }
    }

    fn login(&mut self, entry: Object, landing: Option<Landing>) -> Object {
        match landing {
            Some(Landing::NewToken { lives, continues }) => {
                let continues = continues.then(|| "true".into());
                lifetimes(entry, self.setup.lives[lives]).if_any("continues_previous", continues)
            }
            Some(Landing::Same { lives }) => lifetimes(
                entry.with("answer", text("same_token")),
                self.setup.lives[lives],
            ),
            Some(Landing::Earlier) => {
                self.miss("that the login brings an earlier token once more");
                entry
            }
            Some(Landing::Failed(ErrorKind::NoRuntime, _)) => {
                self.miss("that the login's runtime shuts down");
                entry.with("answer", text("unavailable"))
            }
            Some(Landing::Failed(kind, asked_for)) => entry
                .with("answer", text(kind.as_str()))
                .if_any("retry_after", asked_for.map(time)),
            _ => entry,
        }
    }
}

fn logout(entry: Object, landing: Option<Landing>, place: usize) -> Object {
    let answer = match landing {
        Some(Landing::Left) => Some(("unavailable", None)),
        Some(Landing::Some) if place == 0 => Some(("unavailable", None)),
        Some(Landing::Abandoned | Landing::BackgroundLogout(LogoutOutcome::Failed)) => {
            Some(("unsupported", None))
        }
        Some(Landing::BackgroundLogout(LogoutOutcome::Postponed(asked_for))) => {
            Some(("unavailable", asked_for))
        }
        _ => None,
    };
    match answer {
        Some((answer, asked_for)) => entry
            .with("answer", text(answer))
            .if_any("retry_after", asked_for.map(time)),
        None => entry,
    }
}

fn name(user: usize) -> String {
    format!("user {user}")
}

fn state(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::LoggingIn => "logging_in",
        State::Live => "live",
        State::Renewing => "renewing",
        State::BackingOff => "backing_off",
        State::Refused => "refused",
        State::LoggedOut => "logged_out",
        State::Closed => "closed",
    }
}
