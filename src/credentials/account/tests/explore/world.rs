//! An account, the processes that use it, and its server.
//!
//! A compare-and-swap loop (load, decide, store, and on a conflict load again)
//! is one step here: a decision is a function of the record, so a conflict only
//! repeats it. A crash between storing and sending is the loss of the request
//! and then the crash. A slow process is a request that is executed late.
//!
//! Time stands still at [`NOW`]. The passing of time is a step that moves the
//! times of the record into the past, since the machine only compares them.

use super::machine::{Machine, shipped};
use super::setups::Setup;
use crate::credentials::account::{
    Asked, Begin, ChangeAnswer, Event, Id, Login, Record, SentLogin, Unsaved, Verdict, WallTime,
    Wanted,
};

/// A password.
pub(super) type P = u8;

/// The password at the start.
pub(super) const FIRST: P = 0;
/// A password that a person sets at the server.
pub(super) const BY_HAND: P = 8;
/// A wrong password that a person puts in the record.
pub(super) const MISTAKE: P = 9;

pub(super) const NOW: WallTime = WallTime::from_millis(1_000_000_000_000);
/// A time longer ago than the retention and any delay.
const LONG_AGO: WallTime = WallTime::from_millis(0);

/// The name of a claim or a change whose owner is dead.
const DEAD: Id = Id(u64::MAX);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) record: Record<P>,
    /// The password that works.
    pub(super) server: P,
    /// Whether a person has set it, and the record may lack it.
    pub(super) by_hand: bool,
    lock: Lock,
    pub(super) actors: Vec<Actor>,
    /// Requests under way, sorted.
    requests: Vec<Request>,
    /// The failed logins in a row, as the server counts them.
    row: u8,
    /// Whether one of them was sent after a delay, so that the bounds do not hold.
    is_slow: bool,
    /// The passwords whose refusal the machine knows: they must not be sent.
    refused: u16,
    left: Left,
}

/// How often things may still happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) changes: u8,
    pub(super) duplicates: u8,
    pub(super) lies: u8,
    pub(super) edits: u8,
    pub(super) mistakes: u8,
    pub(super) forced: u8,
    pub(super) by_hand: u8,
    pub(super) ages: u8,
    pub(super) slow: u8,
    pub(super) store_failures: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    /// Others may lock the account once.
    Possible,
    Locked,
    Over,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Actor {
    doing: Doing,
    unsaved: Unsaved<P>,
    /// The record as this process loaded it, for a store without
    /// compare-and-swap.
    loaded: Option<Record<P>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
enum Doing {
    #[default]
    Nothing,
    Login {
        sent: SentLogin<P>,
        answer: Option<LoginAnswer>,
        /// Whether the claim is stored.
        is_stored: bool,
    },
    Change {
        asked: Asked<P>,
        answer: Option<ChangeAnswer>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LoginAnswer {
    Accepted,
    /// `is_old`: an accepted login or a person came between.
    Refused {
        is_old: bool,
    },
    Locked,
}

/// A request under way. `owner` is the process that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Login {
        password: P,
        owner: Option<usize>,
        /// Whether a failure counts: not if a person came between.
        counts: bool,
    },
    Change {
        old: P,
        new: P,
        owner: Option<usize>,
    },
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A process loads the record, if the store has no compare-and-swap.
    Load {
        actor: usize,
    },
    Login {
        actor: usize,
        over: Over,
        wanted: Wanted,
        stored: bool,
    },
    Begin {
        actor: usize,
        over: Over,
    },
    /// The server executes a request.
    Execute {
        request: usize,
        duplicate: bool,
        lie: bool,
    },
    /// An answer to a change comes before the server executes it.
    Early {
        request: usize,
        answer: ChangeAnswer,
    },
    Lose {
        request: usize,
    },
    /// A verdict or an answer arrives, and is stored or not.
    Land {
        actor: usize,
        stored: bool,
    },
    /// A process gives up waiting.
    GiveUp {
        actor: usize,
    },
    /// A request could not be sent.
    NotSent {
        actor: usize,
    },
    Crash {
        actor: usize,
    },
    Edit,
    Mistake,
    ByHand,
    Age,
    Lock,
    Unlock,
}

/// Whose claims and changes have run out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Nobodys,
    OfTheDead,
    Everybodys,
}

/// What must never happen.
pub(super) type Broken = &'static str;

pub(super) const LOST: Broken = "the record lacks the password that works";
pub(super) const THREE: Broken = "three logins failed in a row";
pub(super) const TWO: Broken = "two logins failed in a row, and one of two passwords is right";
pub(super) const AGAIN: Broken = "a refused password is sent again";
pub(super) const STUCK: Broken = "no login succeeds any more, although the record has the password";

/// Moves the tries of a record into the past, and the login that will be one.
fn long_ago(record: &mut Record<P>) {
    record
        .tries
        .iter_mut()
        .for_each(|tried| tried.at = LONG_AGO);
    if let Some(claim) = &mut record.login {
        claim.until = LONG_AGO;
    }
}

fn bit(password: P) -> u16 {
    1 << password
}

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let starts_wrong = setup.starts_wrong;
        let mut record = Record::new("", if starts_wrong { MISTAKE } else { FIRST });
        record.written = Some(record.current);
        record.accepted = !starts_wrong;
        Self {
            record,
            server: FIRST,
            by_hand: starts_wrong,
            lock: if setup.locks {
                Lock::Possible
            } else {
                Lock::Over
            },
            actors: vec![Actor::default(); setup.actors],
            requests: Vec::new(),
            row: 0,
            is_slow: false,
            refused: 0,
            left: setup.left.clone(),
        }
    }

    /// Returns all that may happen next.
    pub(super) fn steps(&self, setup: &Setup) -> Vec<Step> {
        let mut steps = Vec::new();
        for (request, it) in self.requests.iter().enumerate() {
            if request > 0 && self.requests[request - 1] == *it {
                continue;
            }
            steps.push(Step::Lose { request });
            for (duplicate, lie) in [(false, false), (false, true), (true, false), (true, true)] {
                let is_possible = match it {
                    Request::Login { .. } => !duplicate && !lie,
                    Request::Change { owner, .. } => {
                        (!duplicate || self.left.duplicates > 0)
                            && (!lie || (self.left.lies > 0 && owner.is_some()))
                    }
                };
                if is_possible {
                    steps.push(Step::Execute {
                        request,
                        duplicate,
                        lie,
                    });
                }
            }
            if let Request::Change { owner: Some(_), .. } = it {
                for answer in setup.early {
                    steps.push(Step::Early {
                        request,
                        answer: *answer,
                    });
                }
            }
        }
        for (actor, it) in self.actors.iter().enumerate() {
            if setup.loads_first {
                match &it.loaded {
                    Some(_) => steps.push(Step::Crash { actor }),
                    None => {
                        steps.push(Step::Load { actor });
                        if it.doing != Doing::Nothing {
                            steps.push(Step::Crash { actor });
                        }
                        continue;
                    }
                }
            }
            let failures: &[bool] = match self.left.store_failures {
                0 => &[true],
                _ => &[true, false],
            };
            match &it.doing {
                Doing::Nothing => {
                    let overs: &[Over] = match setup.timers {
                        true => &[Over::Nobodys, Over::OfTheDead, Over::Everybodys],
                        false => &[Over::Nobodys, Over::OfTheDead],
                    };
                    for over in overs.iter().copied() {
                        for stored in failures.iter().copied() {
                            let wanted = Wanted::Usual;
                            steps.push(Step::Login {
                                actor,
                                over,
                                wanted,
                                stored,
                            });
                        }
                        if self.left.forced > 0 {
                            let (wanted, stored) = (Wanted::Forced, true);
                            steps.push(Step::Login {
                                actor,
                                over,
                                wanted,
                                stored,
                            });
                        }
                        if self.left.changes > 0 {
                            steps.push(Step::Begin { actor, over });
                        }
                    }
                    if it.unsaved != Unsaved::default() {
                        steps.push(Step::Crash { actor });
                    }
                }
                Doing::Login { answer, .. } => {
                    steps.extend([Step::Crash { actor }, Step::GiveUp { actor }]);
                    match answer {
                        Some(_) => {
                            let landings = failures.iter();
                            steps.extend(landings.map(|stored| Step::Land {
                                actor,
                                stored: *stored,
                            }));
                        }
                        None if self.requests.iter().any(|it| it.is_login_of(Some(actor))) => {
                            steps.push(Step::NotSent { actor });
                        }
                        None => {}
                    }
                }
                Doing::Change { answer, .. } => {
                    steps.extend([Step::Crash { actor }, Step::GiveUp { actor }]);
                    if answer.is_some() {
                        let landings = failures.iter();
                        steps.extend(landings.map(|stored| Step::Land {
                            actor,
                            stored: *stored,
                        }));
                    } else if self.requests.iter().any(|it| it.owner() == Some(actor)) {
                        steps.push(Step::NotSent { actor });
                    }
                }
            }
        }
        if self.left.edits > 0 && self.record.current != self.server {
            steps.push(Step::Edit);
        }
        if self.left.mistakes > 0 && self.record.current != MISTAKE {
            steps.push(Step::Mistake);
        }
        if self.left.by_hand > 0 && self.lock != Lock::Locked {
            steps.push(Step::ByHand);
        }
        if self.left.ages > 0 && self.is_quiet() {
            steps.push(Step::Age);
        }
        match self.lock {
            Lock::Possible => steps.push(Step::Lock),
            Lock::Locked => steps.push(Step::Unlock),
            Lock::Over => {}
        }
        steps
    }

    /// Lets a step happen. Returns `None` if the machine does nothing there.
    pub(super) fn after(
        &self,
        step: Step,
        setup: &Setup,
        machine: &dyn Machine,
    ) -> Option<(World, Option<Broken>)> {
        let mut world = self.clone();
        let mut broken = None;
        match step {
            Step::Load { actor } => world.actors[actor].loaded = Some(world.record.clone()),
            Step::Login {
                actor,
                over,
                wanted,
                stored,
            } => {
                broken = world.login(actor, over, wanted, stored, setup, machine)?;
            }
            Step::Begin { actor, over } => world.begin(actor, over, setup, machine)?,
            Step::Execute {
                request,
                duplicate,
                lie,
            } => {
                broken = world.execute(request, duplicate, lie, setup)?;
            }
            Step::Early { request, answer } => {
                let Request::Change { owner, .. } = &mut world.requests[request] else {
                    return None;
                };
                let owner = owner.take()?;
                world.answer_change(owner, answer);
            }
            Step::Lose { request } => {
                world.requests.remove(request);
            }
            Step::Land { actor, stored } => world.land(actor, stored, machine)?,
            Step::GiveUp { actor } => world.give_up(actor, machine),
            Step::NotSent { actor } => {
                world.requests.retain(|it| it.owner() != Some(actor));
                match world.actors[actor].doing.clone() {
                    Doing::Nothing => return None,
                    Doing::Login { sent, .. } => {
                        world.land_login(actor, &sent, Verdict::NotSent, true, machine);
                    }
                    Doing::Change { asked, .. } => {
                        world.land_change(actor, &asked, ChangeAnswer::NotSent, true, machine);
                    }
                }
            }
            Step::Crash { actor } => {
                let is_unstored = matches!(
                    world.actors[actor].doing,
                    Doing::Login {
                        is_stored: false,
                        ..
                    }
                );
                // Nothing can hold back a login without a claim.
                if is_unstored {
                    world.requests.retain(|it| !it.is_login_of(Some(actor)));
                }
                world.actors[actor] = Actor::default();
                world.orphan(actor);
            }
            Step::Edit => {
                world.left.edits -= 1;
                world.record.edit(world.server);
                world.by_hand = false;
                world.intervene();
            }
            Step::Mistake => {
                world.left.mistakes -= 1;
                world.record.edit(MISTAKE);
                world.intervene();
            }
            Step::ByHand => {
                world.left.by_hand -= 1;
                world.server = BY_HAND;
                world.by_hand = true;
            }
            Step::Age => {
                world.left.ages -= 1;
                for other in &mut world.record.others {
                    other.sent_at = LONG_AGO;
                }
            }
            Step::Lock => world.lock = Lock::Locked,
            Step::Unlock => {
                world.lock = Lock::Over;
                world.row = 0;
            }
        }
        world.normalize();
        if !world.by_hand && !world.record.caught_up(NOW).has(&world.server) {
            broken = Some(LOST);
        }
        Some((world, broken))
    }

    /// Returns the record as `actor` goes on with it.
    fn load(&self, actor: usize) -> Record<P> {
        let Actor {
            unsaved, loaded, ..
        } = &self.actors[actor];
        let record = loaded.as_ref().unwrap_or(&self.record);
        let newer = unsaved.catch_up(&shipped(), record, NOW);
        newer.unwrap_or_else(|| record.clone())
    }

    fn store(&mut self, actor: usize, record: Record<P>) {
        self.record = record;
        let caught_up = self.actors[actor].unsaved.clone();
        self.actors[actor].unsaved.saved(&caught_up);
        self.actors[actor].loaded = None;
    }

    /// Ends the claims and changes that are over.
    fn run_out(&self, record: &mut Record<P>, over: Over) {
        let is_over = |id: Id| match over {
            Over::Nobodys => false,
            Over::OfTheDead => id == DEAD,
            Over::Everybodys => true,
        };
        if let Some(claim) = &mut record.login
            && is_over(claim.id)
        {
            claim.until = NOW;
        }
        if let Some(change) = &mut record.change
            && is_over(change.id)
        {
            change.until = NOW;
        }
    }

    /// Some(None) if the login is sent, and nothing is broken.
    fn login(
        &mut self,
        actor: usize,
        over: Over,
        wanted: Wanted,
        stored: bool,
        setup: &Setup,
        machine: &dyn Machine,
    ) -> Option<Option<Broken>> {
        if self.requests.len() >= setup.requests {
            return None;
        }
        let mut before = self.load(actor);
        self.run_out(&mut before, over);
        let ended = before.login.as_ref();
        let ended = ended.filter(|claim| claim.until == NOW);
        let holder = ended.map(|claim| self.holder(claim.id));
        let id = self.fresh_id();
        let mut login = machine.decide_login(&before, wanted, id);
        let is_delayed = matches!(login, Login::Later { .. });
        if is_delayed {
            long_ago(&mut before);
            login = machine.decide_login(&before, wanted, id);
        }
        let Login::Send { record, mut sent } = login else {
            return None;
        };
        let password = *sent.password();
        match wanted {
            Wanted::Usual => {
                // More than the bounds allow: after a delay, or for a proven
                // password at the pace of rule 15.
                let is_proven = record.accepted && record.refused() == 0 && !record.has_open();
                if is_delayed || (is_proven && record.without_verdict() >= 2) {
                    self.left.slow = self.left.slow.checked_sub(1)?;
                    self.is_slow = true;
                }
            }
            Wanted::Forced => {
                self.left.forced -= 1;
                if self.record.tries.is_empty() {
                    return None;
                }
                self.intervene();
            }
        }
        let is_again = self.refused & bit(password) != 0 && !self.is_slow;
        // The login of the former holder is not executed any more.
        if let Some(holder) = holder
            && !setup.late_logins
        {
            self.requests.retain(|it| !it.is_login_of(holder));
        }
        let mut is_stored = stored;
        if !stored {
            self.left.store_failures -= 1;
            if !self.actors[actor].unsaved.may_send(&before, &mut sent, NOW) {
                return None;
            }
        } else if machine.stores_first() {
            self.store(actor, record);
        } else {
            is_stored = false;
        }
        self.actors[actor].doing = Doing::Login {
            sent,
            answer: None,
            is_stored,
        };
        self.requests.push(Request::Login {
            password,
            owner: Some(actor),
            counts: true,
        });
        Some(is_again.then_some(AGAIN))
    }

    fn begin(
        &mut self,
        actor: usize,
        over: Over,
        setup: &Setup,
        machine: &dyn Machine,
    ) -> Option<()> {
        if self.requests.len() >= setup.requests {
            return None;
        }
        let mut before = self.load(actor);
        self.run_out(&mut before, over);
        let begun = usize::from(setup.left.changes - self.left.changes);
        let id = self.fresh_id();
        let mut begin = machine.begin_change(&before, setup.targets[begun], id);
        if let Begin::SendAgain(password) = begin {
            begin = machine.begin_change(&before, password, id);
        }
        let Begin::Ask { record, asked } = begin else {
            return None;
        };
        self.left.changes -= 1;
        self.requests.push(Request::Change {
            old: *asked.current(),
            new: *asked.new_password(),
            owner: Some(actor),
        });
        self.actors[actor].doing = Doing::Change {
            asked,
            answer: None,
        };
        if machine.stores_first() {
            self.store(actor, record);
        }
        Some(())
    }

    /// Some(None) if nothing is broken.
    fn execute(
        &mut self,
        place: usize,
        duplicate: bool,
        lie: bool,
        setup: &Setup,
    ) -> Option<Option<Broken>> {
        let mut request = self.requests.remove(place);
        let mut broken = None;
        match &mut request {
            Request::Login {
                password,
                owner,
                counts,
            } => {
                let answer = match self.lock {
                    Lock::Locked if setup.tells_lock => LoginAnswer::Locked,
                    Lock::Locked => LoginAnswer::Refused { is_old: !*counts },
                    Lock::Possible | Lock::Over if *password == self.server => {
                        self.accept();
                        LoginAnswer::Accepted
                    }
                    Lock::Possible | Lock::Over => {
                        self.row = (self.row + u8::from(*counts)).min(4);
                        broken = self.too_many(setup);
                        if self.row >= setup.lock_limit {
                            self.lock = Lock::Locked;
                        }
                        LoginAnswer::Refused { is_old: !*counts }
                    }
                };
                if let Some(owner) = *owner
                    && let Doing::Login { answer: to, .. } = &mut self.actors[owner].doing
                {
                    *to = Some(answer);
                }
            }
            Request::Change { old, new, owner } => {
                let is_done = !setup.checks_current || *old == self.server;
                if lie {
                    if !is_done {
                        return None;
                    }
                    self.left.lies -= 1;
                }
                if is_done {
                    self.server = *new;
                    self.by_hand = false;
                }
                let answer = match is_done && !lie {
                    true => ChangeAnswer::Yes,
                    false => ChangeAnswer::No,
                };
                if let Some(owner) = owner.take() {
                    self.answer_change(owner, answer);
                }
                if duplicate {
                    self.left.duplicates -= 1;
                    self.requests.push(request);
                }
            }
        }
        Some(broken)
    }

    fn too_many(&self, setup: &Setup) -> Option<Broken> {
        if self.is_slow {
            return None;
        }
        let record = self.record.caught_up(NOW);
        let is_one_of_two = record.others.len() == 1 && record.has(&self.server) && !self.by_hand;
        if self.row > setup.most_failures {
            Some(THREE)
        } else if self.row == 2 && is_one_of_two && setup.one_of_two {
            Some(TWO)
        } else {
            None
        }
    }

    fn answer_change(&mut self, owner: usize, answer: ChangeAnswer) {
        if let Doing::Change { answer: to, .. } = &mut self.actors[owner].doing {
            to.get_or_insert(answer);
        }
    }

    fn land(&mut self, actor: usize, stored: bool, machine: &dyn Machine) -> Option<()> {
        if !stored {
            self.left.store_failures -= 1;
        }
        match self.actors[actor].doing.clone() {
            Doing::Nothing => return None,
            Doing::Login { sent, answer, .. } => {
                let answer = answer?;
                let verdict = match answer {
                    LoginAnswer::Accepted => Verdict::Accepted,
                    LoginAnswer::Refused { .. } => Verdict::Refused,
                    LoginAnswer::Locked => Verdict::Locked,
                };
                self.land_login(actor, &sent, verdict, stored, machine);
                let is_known = self.record.is_refused(sent.password());
                if answer == (LoginAnswer::Refused { is_old: false }) && is_known && stored {
                    self.refused |= bit(*sent.password());
                }
            }
            Doing::Change { asked, answer } => {
                let answer = answer?;
                if answer == ChangeAnswer::Yes {
                    self.refused &= !bit(*asked.new_password());
                }
                self.land_change(actor, &asked, answer, stored, machine);
            }
        }
        Some(())
    }

    fn land_login(
        &mut self,
        actor: usize,
        sent: &SentLogin<P>,
        verdict: Verdict,
        stored: bool,
        machine: &dyn Machine,
    ) {
        let before = self.load(actor);
        let landed = machine.landed(&before, sent, verdict);
        self.actors[actor].doing = Doing::Nothing;
        match (landed.filter(|record| *record != before), stored) {
            (Some(record), true) => self.store(actor, record),
            (Some(_), false) => {
                let event = Event::Login(sent.clone(), verdict, NOW);
                self.actors[actor].unsaved.keep(event);
            }
            (None, _) if verdict == Verdict::Accepted => self.actors[actor].unsaved.accepted(),
            (None, _) => {}
        }
    }

    fn land_change(
        &mut self,
        actor: usize,
        asked: &Asked<P>,
        answer: ChangeAnswer,
        stored: bool,
        machine: &dyn Machine,
    ) {
        let record = machine.change_answered(&self.load(actor), asked, answer);
        self.actors[actor].doing = Doing::Nothing;
        self.orphan(actor);
        match (record, stored) {
            (Some(record), true) => self.store(actor, record),
            (Some(_), false) => {
                let event = Event::Change(asked.clone(), answer);
                self.actors[actor].unsaved.keep(event);
            }
            (None, _) => {}
        }
    }

    fn give_up(&mut self, actor: usize, machine: &dyn Machine) {
        match self.actors[actor].doing.clone() {
            Doing::Nothing => {}
            Doing::Login { sent, .. } => {
                // The caller gives up when the claim is over, and the server is
                // no longer at it.
                self.requests.retain(|it| !it.is_login_of(Some(actor)));
                self.land_login(actor, &sent, Verdict::Unknown, true, machine);
            }
            Doing::Change { asked, .. } => {
                self.land_change(actor, &asked, ChangeAnswer::Lost, true, machine);
            }
        }
    }

    /// Nobody waits for the requests of `actor` any more.
    fn orphan(&mut self, actor: usize) {
        for request in &mut self.requests {
            let (Request::Login { owner, .. } | Request::Change { owner, .. }) = request;
            if *owner == Some(actor) {
                *owner = None;
            }
        }
    }

    /// A login is accepted: the server counts from zero.
    fn accept(&mut self) {
        self.row = 0;
        self.is_slow = false;
        self.refused = 0;
        self.age_refusals();
    }

    /// A person intervenes: what follows is counted anew.
    fn intervene(&mut self) {
        self.accept();
        for request in &mut self.requests {
            match request {
                Request::Login { counts, .. } => *counts = false,
                Request::Change { .. } => {}
            }
        }
    }

    fn age_refusals(&mut self) {
        for actor in &mut self.actors {
            match &mut actor.doing {
                Doing::Login {
                    answer: Some(LoginAnswer::Refused { is_old }),
                    ..
                } => *is_old = true,
                Doing::Login { .. } | Doing::Nothing | Doing::Change { .. } => {}
            }
        }
    }

    /// Returns the process that holds a claim, or `None` if it is dead.
    fn holder(&self, id: Id) -> Option<usize> {
        self.actors.iter().position(|actor| match &actor.doing {
            Doing::Login { sent, .. } => sent.id == id,
            Doing::Nothing | Doing::Change { .. } => false,
        })
    }

    fn fresh_id(&self) -> Id {
        let is_in = |record: &Record<P>, id: Id| {
            let is_login = record.login.as_ref().is_some_and(|claim| claim.id == id);
            is_login || record.change.as_ref().is_some_and(|change| change.id == id)
        };
        let is_used = |id: Id| {
            let loaded = self.actors.iter().filter_map(|actor| actor.loaded.as_ref());
            let mut records = loaded.chain([&self.record]);
            records.any(|record| is_in(record, id))
                || self.actors.iter().any(|actor| actor.names(id))
        };
        let mut ids = (1..).map(Id);
        ids.find(|id| !is_used(*id)).expect("a number is left")
    }

    /// Makes states equal that differ in nothing that matters.
    fn normalize(&mut self) {
        self.requests.sort();
        let names = |id: Id| self.actors.iter().any(|actor| actor.names(id));
        let canonical = |record: &mut Record<P>| {
            record.tries.iter_mut().for_each(|tried| tried.at = NOW);
            if let Some(claim) = &mut record.login
                && !names(claim.id)
            {
                claim.id = DEAD;
            }
            if let Some(change) = &mut record.change
                && !names(change.id)
            {
                change.id = DEAD;
            }
        };
        let mut record = self.record.clone();
        canonical(&mut record);
        let loaded = self.actors.iter().map(|actor| actor.loaded.clone());
        let mut loaded: Vec<_> = loaded.collect();
        loaded.iter_mut().flatten().for_each(canonical);
        self.record = record;
        for (actor, loaded) in self.actors.iter_mut().zip(loaded) {
            actor.loaded = loaded;
        }
    }

    fn is_quiet(&self) -> bool {
        let mut actors = self.actors.iter();
        self.requests.is_empty() && actors.all(|actor| actor.doing == Doing::Nothing)
    }

    /// Without faults from here on, a login succeeds, or the machine stops and
    /// an operator's `login()` helps, at most as often as the setup says.
    pub(super) fn is_stuck(&self, setup: &Setup, machine: &dyn Machine) -> bool {
        let has_it = self.record.caught_up(NOW).has(&self.server);
        if !self.is_quiet() || self.by_hand || !has_it || self.lock == Lock::Locked {
            return false;
        }
        let mut forced = setup.stops;
        let mut record = self.load(0);
        if setup.loads_first {
            record = self.record.clone();
        }
        self.run_out(&mut record, Over::Everybodys);
        let mut wanted = Wanted::Usual;
        for _ in 0..24 {
            match machine.decide_login(&record, wanted, Id(1)) {
                Login::Send {
                    record: sent_record,
                    sent,
                } => {
                    if *sent.password() == self.server {
                        return false;
                    }
                    let landed = machine.landed(&sent_record, &sent, Verdict::Refused);
                    let Some(landed) = landed else {
                        return true;
                    };
                    record = landed;
                    wanted = Wanted::Usual;
                }
                Login::Wait { .. } => return true,
                Login::Later { .. } => {
                    long_ago(&mut record);
                }
                Login::Stopped { .. } if forced > 0 => {
                    forced -= 1;
                    wanted = Wanted::Forced;
                }
                Login::Stopped { .. } => return true,
            }
        }
        true
    }

    /// Describes `step` in this world.
    pub(super) fn words(&self, step: Step, after: &World) -> String {
        let name = |actor: usize| ["A", "B", "C"][actor];
        match step {
            Step::Load { actor } => format!("{} loads the record", name(actor)),
            Step::Login {
                actor,
                over,
                wanted,
                stored,
            } => {
                let doing = &after.actors[actor].doing;
                let sent = match doing {
                    Doing::Login { sent, .. } => *sent.password(),
                    Doing::Nothing | Doing::Change { .. } => u8::MAX,
                };
                format!(
                    "{} logs in with {sent} ({wanted:?}, over: {over:?}, stored: {stored})",
                    name(actor)
                )
            }
            Step::Begin { actor, over } => {
                let change = after.requests.iter().find_map(|request| match request {
                    Request::Change { old, new, owner } if *owner == Some(actor) => {
                        Some((old, new))
                    }
                    Request::Change { .. } | Request::Login { .. } => None,
                });
                format!(
                    "{} begins a change {change:?} (over: {over:?})",
                    name(actor)
                )
            }
            Step::Execute {
                request,
                duplicate,
                lie,
            } => format!(
                "the server executes {:?}{}{}",
                self.requests[request],
                if lie { ", and answers no" } else { "" },
                if duplicate {
                    ", and will once more"
                } else {
                    ""
                }
            ),
            Step::Early { request, answer } => {
                format!(
                    "{:?} is answered {answer:?} before it is executed",
                    self.requests[request]
                )
            }
            Step::Lose { request } => format!("{:?} is lost", self.requests[request]),
            Step::Land { actor, stored } => match &self.actors[actor].doing {
                Doing::Nothing => String::new(),
                Doing::Login { answer, .. } => {
                    format!("{} learns: {answer:?} (stored: {stored})", name(actor))
                }
                Doing::Change { answer, .. } => {
                    format!("{} learns: {answer:?} (stored: {stored})", name(actor))
                }
            },
            Step::GiveUp { actor } => format!("{} gives up", name(actor)),
            Step::NotSent { actor } => format!("{} could not send", name(actor)),
            Step::Crash { actor } => format!("{} crashes", name(actor)),
            Step::Edit => format!("a person puts {} in the record", self.server),
            Step::Mistake => format!("a person puts {MISTAKE} in the record, which is wrong"),
            Step::ByHand => format!("a person changes the password to {BY_HAND} at the server"),
            Step::Age => "the retention is over".to_owned(),
            Step::Lock => "others lock the account".to_owned(),
            Step::Unlock => "the account is unlocked".to_owned(),
        }
    }

    /// Describes the state in one line.
    pub(super) fn state(&self) -> String {
        let record = &self.record;
        let others = record.others.iter();
        let others: Vec<_> = others.map(|other| (other.password, other.open)).collect();
        let tries = record.tries.iter();
        let tries: Vec<_> = tries.map(|tried| (tried.password, tried.verdict)).collect();
        format!(
            "current {}, others {others:?}, tries {tries:?}, login {:?}, change {}; server {}, failed {}",
            record.current,
            record.login.as_ref().map(|claim| claim.password),
            record.change.is_some(),
            self.server,
            self.row
        )
    }
}

impl Actor {
    /// Returns whether the process knows this claim or change.
    fn names(&self, id: Id) -> bool {
        let is_current = match &self.doing {
            Doing::Nothing => false,
            Doing::Login { sent, .. } => sent.id == id,
            Doing::Change { asked, .. } => asked.id == id,
        };
        is_current || self.unsaved.names(id)
    }
}

impl Request {
    /// Returns the process that waits for the answer.
    fn owner(&self) -> Option<usize> {
        match self {
            Request::Login { owner, .. } | Request::Change { owner, .. } => *owner,
        }
    }

    fn is_login_of(&self, actor: Option<usize>) -> bool {
        match self {
            Request::Login { owner, .. } => *owner == actor,
            Request::Change { .. } => false,
        }
    }
}

impl Unsaved<P> {
    /// Returns whether an event belongs to this claim or change.
    fn names(&self, id: Id) -> bool {
        self.events.iter().any(|event| match event {
            Event::Login(sent, ..) => sent.id == id,
            Event::Change(asked, _) => asked.id == id,
        })
    }
}
