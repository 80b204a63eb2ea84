//! The password of the account, as the server, the source and rule 21 know it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tower_reauth::credentials::{Record, Version};
use tower_reauth::{Credentials, ErrorKind, ExposeSecret};

use super::account::{
    Account, Answer, AskedChange, Decision, MAX_OTHERS, Millis, Outcome, ROUNDING, SentLogin,
    Verdict,
};
use crate::properties::programme::{DEADLINE, SourceKind, StoreAnswer, World};

/// How many logins may fail in a row.
const LIMIT: u32 = 2;
/// From then on, how long the next one waits at least.
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);

/// A rule that does not hold.
type Checked = Result<(), String>;

pub(crate) struct Passwords {
    kind: SourceKind,
    retention: Duration,
    pub(crate) server: u32,
    /// How many there are.
    number: u32,
    /// Whether only the session changes passwords, and none is refused that is right.
    pub(crate) is_orderly: bool,
    /// Whether the store must hold the server's password: the session has changed
    /// it, or a person has written it into the store.
    pub(crate) is_kept: bool,
    /// Another process acts on the store, which is not modelled.
    pub(crate) is_restarted: bool,

    /// What a store keeps.
    record: Record,
    version: u64,
    pub(crate) answers: VecDeque<StoreAnswer>,
    pub(crate) is_down: bool,
    /// What a read-only source yields.
    source: u32,
    /// What was read of it last.
    yielded: Option<u32>,
    /// The record of a source that keeps none.
    account: Account,
    /// What it refused since the last acceptance.
    refused: Vec<u32>,

    /// What the store may have missed.
    outcomes: Vec<Outcome>,
    /// The epoch in the record's times.
    epoch: Millis,
    login: Option<Claimed>,
    change: Option<AskedChange>,
    /// A login was sent whose claim is not stored.
    has_sent_unclaimed: bool,
    /// What the login under way must do next, unless something fails.
    next: Option<Decision>,
    /// Whether it may send one more.
    goes_on: bool,
    /// Whether it has sent none.
    is_first: bool,
    /// What the session was told of, whatever could be stored.
    told: BTreeSet<u32>,
    failures: u32,
    failed_at: Duration,
    /// Whether the store has not answered to the last claim.
    hangs: bool,
}

struct Claimed {
    /// The record before.
    base: Account,
    sent: SentLogin,
    is_stored: bool,
}

/// What a store is to answer with.
pub(crate) enum Stored {
    Ok,
    Conflict,
    Fails,
    Hangs,
}

pub(crate) fn password(number: u32) -> String {
    format!("password-{number}")
}

impl Passwords {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            kind: world.source,
            retention: world.retention,
            server: 0,
            number: 0,
            is_orderly: true,
            is_kept: true,
            is_restarted: false,
            record: Credentials::new("alice", password(0)).into(),
            version: 0,
            answers: VecDeque::new(),
            is_down: false,
            source: 0,
            yielded: None,
            account: Account::new(0),
            refused: Vec::new(),
            outcomes: Vec::new(),
            epoch: 0,
            login: None,
            change: None,
            has_sent_unclaimed: false,
            next: None,
            goes_on: false,
            is_first: true,
            told: BTreeSet::new(),
            failures: 0,
            failed_at: Duration::ZERO,
            hangs: false,
        }
    }

    pub(crate) fn another(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn millis(&self, now: Duration) -> Millis {
        self.epoch + now.as_millis() as u64
    }

    fn is_stored(&self) -> bool {
        self.kind == SourceKind::Writable
    }

    /// The record as the session has to go on with it.
    fn base(&self, now: Duration) -> Account {
        let kept = match self.is_stored() {
            true => parsed(&self.record),
            false => self.account.clone(),
        };
        kept.caught_up(&self.outcomes, self.retention, self.millis(now))
    }

    /// Whether a login waits until somebody acts.
    pub(crate) fn is_stopped(&self, now: Duration) -> bool {
        let now_millis = self.millis(now);
        self.base(now).decide(false, now_millis) == Decision::Stopped
    }

    /// Whether a login waits because others got no verdict.
    pub(crate) fn is_paused(&self, now: Duration) -> bool {
        let now_millis = self.millis(now);
        self.base(now).decide(false, now_millis) == Decision::Later
    }

    /// Whether the session holds the server's password for the current one, and the
    /// server has not refused it nevertheless.
    pub(crate) fn is_current(&self, now: Duration) -> bool {
        let base = self.base(now);
        let is_right = base.current == self.server && !base.is_refused(base.current);
        self.kind == SourceKind::None || is_right
    }

    /// How many passwords the session keeps.
    pub(crate) fn count(&self, now: Duration) -> usize {
        self.base(now).passwords()
    }

    /// Whether there is no room for one more.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.base(now).others.len() >= MAX_OTHERS
    }

    // What people do.

    /// Somebody else changes the password on the server.
    pub(crate) fn is_changed_elsewhere(&mut self) {
        self.is_orderly = false;
        self.is_kept = false;
        self.server = self.another();
    }

    /// Somebody changes what the source yields.
    pub(crate) fn edits_source(&mut self, to: u32) {
        self.failures = 0;
        self.told.clear();
        match self.kind {
            SourceKind::Writable => {
                if parsed(&self.record).current != to {
                    self.record.set_password(password(to));
                    self.version += 1;
                }
                // What nobody has read yet is overwritten.
                let keeps = parsed(&self.record).keeps(self.server);
                self.is_kept = keeps && (self.is_kept || to == self.server);
            }
            SourceKind::ReadOnly => self.source = to,
            SourceKind::Memory | SourceKind::None => {}
        }
    }

    /// Whoever looks after the account makes both ends agree, if the session cannot.
    pub(crate) fn heals(&mut self) {
        self.answers.clear();
        self.is_down = false;
        match self.kind {
            // What the record holds is found without help.
            SourceKind::Writable if self.is_kept => {}
            SourceKind::Writable => self.edits_source(self.server),
            SourceKind::ReadOnly if self.is_orderly => {}
            SourceKind::ReadOnly => self.edits_source(self.server),
            SourceKind::Memory if self.account.keeps(self.server) => {}
            SourceKind::Memory => self.server = self.account.current,
            SourceKind::None => {}
        }
    }

    /// What a password change that was executed leaves behind.
    pub(crate) fn is_executed(&mut self, new: u32) -> Checked {
        self.server = new;
        self.is_kept = self.is_stored();
        self.keeps_the_right_one()
    }

    /// The store holds the password that the server takes.
    pub(crate) fn keeps_the_right_one(&self) -> Checked {
        let server = self.server;
        let is_lost = self.is_kept && self.is_stored() && !parsed(&self.record).keeps(server);
        must(
            !is_lost,
            format_args!("the store has lost password {server}, which is in force"),
        )
    }

    // What the source is asked for.

    pub(crate) fn loads(&mut self, now: Duration) -> (Record, Version) {
        self.expects_next(now);
        (self.record.clone(), self.version.into())
    }

    pub(crate) fn yields(&mut self, now: Duration) -> Credentials {
        let millis = self.millis(now);
        match self.yielded.replace(self.source) {
            None => self.account = Account::new(self.source),
            Some(before) if before == self.source => {}
            Some(_) => self.account.is_replaced(self.source, &self.refused, millis),
        }
        self.expects_next(now);
        Credentials::new("alice", password(self.source))
    }

    fn expects_next(&mut self, now: Duration) {
        if !self.goes_on {
            return;
        }
        let early = self.millis(now).saturating_sub(ROUNDING);
        self.next = Some(self.base(now).decide(false, early));
    }

    /// The source fails, so that nothing is expected.
    pub(crate) fn source_fails(&mut self) {
        self.next = None;
    }

    pub(crate) fn stores(
        &mut self,
        record: Record,
        expected: &Version,
        now: Duration,
    ) -> Result<Stored, String> {
        if expected.as_u64() != Some(self.version) {
            return Ok(Stored::Conflict);
        }
        let answer = match self.is_down {
            true => Some(StoreAnswer::Fails { stored: false }),
            false => self.answers.pop_front(),
        };
        if let Some(StoreAnswer::Conflicts) = answer {
            self.version += 1;
            return Ok(Stored::Conflict);
        }
        let not_sent = match self.is_restarted {
            true => None,
            false => self.checks(&parsed(&record), now)?,
        };
        let (is_stored, stored) = match answer {
            None | Some(StoreAnswer::Conflicts) => (true, Stored::Ok),
            Some(StoreAnswer::Fails { stored }) => (stored, Stored::Fails),
            Some(StoreAnswer::Hangs { stored }) => (stored, Stored::Hangs),
        };
        if is_stored {
            self.record = record;
            self.version += 1;
        }
        match stored {
            Stored::Ok => {
                self.outcomes.clear();
                self.has_sent_unclaimed = false;
            }
            Stored::Conflict | Stored::Fails | Stored::Hangs => {
                self.outcomes.extend(not_sent);
                self.next = None;
                self.hangs = matches!(stored, Stored::Hangs);
                self.change = None;
                if let Some(login) = &mut self.login {
                    login.is_stored = false;
                }
            }
        }
        self.keeps_the_right_one()?;
        Ok(stored)
    }

    /// A record follows from the one before. Returns what becomes of it if it is
    /// not stored.
    fn checks(&mut self, new: &Account, now: Duration) -> Result<Option<Outcome>, String> {
        let old = parsed(&self.record);
        let claim = new.login.as_ref().filter(|claim| {
            let before = old.login.as_ref();
            before.is_none_or(|before| before.id != claim.id)
        });
        let change = new.change.as_ref().filter(|change| {
            let before = old.change.as_ref();
            before.is_none_or(|before| before.id != change.id)
        });
        let until = claim.map(|claim| claim.until);
        let until = until.or(change.map(|change| change.until));
        if let (0, Some(until)) = (self.epoch, until) {
            self.epoch = until - (now + DEADLINE).as_millis() as u64;
        }
        let millis = self.millis(now);
        let base = self.base(now);
        if let Some(claim) = claim {
            let mut both = [base.clone(), base.clone()];
            let [usual, forced] = &mut both;
            let sent = usual.claims(claim.id.clone(), claim.password, false, millis);
            forced.claims(claim.id.clone(), claim.password, true, millis);
            let differs = usual.differs_from(new);
            if let (Some(differs), Some(_)) = (differs, forced.differs_from(new)) {
                return Err(format!("a login was claimed wrongly: {differs}"));
            }
            let outcome = Outcome::Login(sent.clone(), Verdict::NotSent, millis);
            let is_stored = true;
            self.login = Some(Claimed {
                base,
                sent,
                is_stored,
            });
            return Ok(Some(outcome));
        }
        if let Some(change) = change {
            let wanted = new.others.first().map(|other| other.password);
            let mut differs = String::new();
            for wanted in wanted.into_iter().chain([base.current]) {
                let mut expected = base.clone();
                let asked = expected.begins_change(change.id.clone(), wanted, millis);
                match expected.differs_from(new) {
                    Some(why) => differs = why,
                    None => {
                        if let Some(why) = base.denies_change(wanted, millis) {
                            return Err(format!("a change to {wanted} begins, although {why}"));
                        }
                        self.change = Some(asked.clone());
                        return Ok(Some(Outcome::Change(asked, Answer::NotSent)));
                    }
                }
            }
            return Err(format!("a change was claimed wrongly: {differs}"));
        }
        match base.differs_from(new) {
            Some(differs) => Err(format!("an answer was stored wrongly: {differs}")),
            None => must(
                !self.outcomes.is_empty(),
                format_args!("the record was stored for nothing"),
            )
            .map(|()| None),
        }
    }

    // What the provider is called for.

    pub(crate) fn login_starts(&mut self) {
        self.next = None;
        self.goes_on = true;
        self.is_first = true;
        self.login = None;
    }

    /// A login is about to be sent, perhaps without the password.
    pub(crate) fn sends(
        &mut self,
        password: Option<u32>,
        is_forced: bool,
        offers_previous: bool,
        now: Duration,
    ) -> Checked {
        let is_forced = is_forced && self.is_first;
        self.is_first = false;
        self.next = None;
        self.goes_on = false;
        if self.kind == SourceKind::None {
            return Ok(());
        }
        if is_forced {
            self.failures = 0;
            self.told.clear();
        }
        must(
            password.is_none_or(|password| !self.told.contains(&password)),
            format_args!("a refused password was sent again"),
        )?;
        let millis = self.millis(now);
        if !self.is_stored() {
            let base = self.base(now);
            let mut account = base.clone();
            let decision = base.decide(is_forced, millis + ROUNDING);
            let Decision::Send(chosen) = decision else {
                return Err(format!("a login was sent, and not {decision:?}"));
            };
            let id = self.another_id();
            let sent = account.claims(id, chosen, is_forced, millis);
            self.keeps(account);
            let is_stored = true;
            self.login = Some(Claimed {
                base,
                sent,
                is_stored,
            });
        }
        let Some(Claimed {
            base,
            sent,
            is_stored,
        }) = &self.login
        else {
            return Err("a login was sent that no record claims".to_owned());
        };
        self.hangs = false;
        let decision = base.decide(is_forced, millis + ROUNDING);
        must(
            decision == Decision::Send(sent.password),
            format_args!("{} was chosen, and not {decision:?}", sent.password),
        )?;
        must(
            password.is_none_or(|password| password == sent.password),
            format_args!("{password:?} was sent, and {} is claimed", sent.password),
        )?;
        let mut claimed = base.clone();
        claimed.claims(String::new(), sent.password, is_forced, millis);
        must(
            !offers_previous || !claimed.is_unresolved(),
            format_args!("a refresh was offered although only a password shows which one works"),
        )?;
        if !is_stored {
            must(
                base.is_settled(sent.password),
                format_args!(
                    "a password was sent without a stored claim that was not accepted before"
                ),
            )?;
            must(
                !self.has_sent_unclaimed,
                format_args!("a second login was sent without a stored claim"),
            )?;
            self.has_sent_unclaimed = true;
            // It was sent after all.
            self.outcomes.pop();
            let before = Box::new(base.clone());
            if let Some(login) = &mut self.login {
                login.sent.unclaimed = Some(before);
            }
        }
        Ok(())
    }

    fn another_id(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// The answer to a login has come, or nobody waits for it any longer.
    pub(crate) fn login_ends(&mut self, verdict: Verdict, now: Duration) {
        let Some(login) = self.login.take() else {
            return;
        };
        if verdict == Verdict::Accepted && !login.is_stored {
            self.has_sent_unclaimed = false;
        }
        let millis = self.millis(now);
        let base = self.base(now);
        let password = login.sent.password;
        let is_same = base.current == login.base.current;
        match verdict {
            Verdict::Accepted => self.told.clear(),
            Verdict::Refused if is_same && base.proves(password, &self.told) => {
                self.told.insert(password);
            }
            Verdict::Refused | Verdict::Unknown | Verdict::Locked | Verdict::NotSent => {}
        }
        if self.is_stored() {
            let mut after = base.clone();
            after.lands(&login.sent, verdict, millis, self.retention, millis);
            let changes = after.differs_from(&base).is_some();
            // Without a claim there may be nothing to store. A store that failed may have
            // it nevertheless.
            let is_claimed = login.is_stored || base.login.is_some();
            if is_claimed || changes || !is_same {
                let outcome = Outcome::Login(login.sent, verdict, millis);
                self.outcomes.push(outcome);
            }
        } else {
            let mut account = self.base(now);
            account.lands(&login.sent, verdict, millis, self.retention, millis);
            self.keeps(account);
        }
        // Only after a refusal another one is sent at once.
        self.goes_on = verdict == Verdict::Refused;
        if !self.is_stored() {
            self.expects_next(now);
        }
    }

    /// A login has failed as a whole.
    pub(crate) fn login_fails(&mut self, kind: ErrorKind) -> Checked {
        let is_about_passwords = kind == ErrorKind::Refused || kind == ErrorKind::Unavailable;
        // Another call may have loaded the record since.
        if std::mem::take(&mut self.hangs) {
            self.next = None;
        }
        match self.next.take() {
            Some(Decision::Send(password)) if is_about_passwords => Err(format!(
                "a login failed, and {password} may be sent: {kind:?}"
            )),
            Some(Decision::Stopped) if self.is_first => must(
                kind != ErrorKind::Unavailable,
                format_args!("a login that is stopped says that it is paused"),
            ),
            Some(Decision::Later) if self.is_first => must(
                kind != ErrorKind::Refused,
                format_args!("a login that is paused says that it is stopped"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    /// What a source keeps that cannot be written is kept in memory.
    fn keeps(&mut self, account: Account) {
        let before = &self.account;
        let starts_anew = account.tries.is_empty()
            && (account.accepted || !before.tries.is_empty())
            || account.current != before.current;
        if starts_anew {
            self.refused.clear();
        }
        let known = [&self.refused[..], &[account.current]].concat();
        let others = account.others.iter().map(|other| other.password);
        for password in known.into_iter().chain(others) {
            if account.is_refused(password) && !self.refused.contains(&password) {
                self.refused.push(password);
            }
        }
        self.account = account;
    }

    /// The server has looked at a password. `is_told` if the session learns it.
    pub(crate) fn is_judged(&mut self, is_right: bool, is_told: bool, now: Duration) -> Checked {
        if is_right {
            self.failures = 0;
            return Ok(());
        }
        // Of a password that somebody else has changed, and whose refusal is lost,
        // the session cannot know.
        if !self.is_orderly && !is_told {
            return Ok(());
        }
        let is_late = self.failed_at + SHORTEST_PAUSE <= now;
        let is_allowed = self.failures < LIMIT || is_late;
        self.failures = (self.failures + 1).min(LIMIT);
        self.failed_at = now;
        must(is_allowed, format_args!("a third login in a row failed"))
    }

    /// The server is about to be asked for a change.
    pub(crate) fn asks(&mut self, new: u32, current: Option<u32>, now: Duration) -> Checked {
        if self.kind == SourceKind::None {
            return Ok(());
        }
        let millis = self.millis(now);
        let old = match self.is_stored() {
            true => {
                let record = parsed(&self.record);
                let asked = self.change.as_ref();
                must(
                    asked.is_some_and(|asked| asked.new == new) && record.keeps(new),
                    format_args!("the server was asked before the source kept the new password"),
                )?;
                record.current
            }
            false => {
                let mut base = self.base(now);
                if let Some(why) = base.denies_change(new, millis) {
                    return Err(format!("a change to {new} begins, although {why}"));
                }
                let id = self.another_id();
                let old = base.current;
                self.change = Some(base.begins_change(id, new, millis));
                self.keeps(base);
                old
            }
        };
        must(
            current == Some(old),
            format_args!("the change names {current:?}, and {old} is in use"),
        )
    }

    /// The answer to a change has come, or nobody waits for it any longer.
    pub(crate) fn change_ends(&mut self, answer: Answer, now: Duration) -> Checked {
        let Some(asked) = self.change.take() else {
            return Ok(());
        };
        if answer == Answer::Yes {
            self.told.remove(&asked.new);
        }
        if self.is_stored() {
            self.outcomes.push(Outcome::Change(asked, answer));
        } else {
            let millis = self.millis(now);
            let mut account = self.base(now);
            account.is_answered(&asked, answer, millis);
            self.keeps(account);
        }
        let is_stopped = answer == Answer::Yes && self.is_stopped(now);
        must(
            !is_stopped,
            format_args!("the password was changed, and logins are stopped"),
        )
    }
}

fn parsed(record: &Record) -> Account {
    Account::parse(record.to_json().expose_secret())
}

fn must(holds: bool, rule: fmt::Arguments<'_>) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(rule.to_string()),
    }
}
