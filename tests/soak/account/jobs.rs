//! Jobs, as their callers and the server know them.

use std::time::Instant;

use bytes::Bytes;
use http::Method;
use tower_reauth::{Reauth, ReauthFailure};

use super::{Account, Ended, Job, Outcome, RECENTLY};

impl Account {
    // As their callers know them.

    pub(crate) fn order(
        &mut self,
        user: usize,
        method: Method,
        is_replayable: bool,
        size: usize,
    ) -> u64 {
        let number = self.jobs.len() as u64;
        let job = Job {
            user,
            method,
            is_replayable,
            least: self.users[user].latest,
            renewal: self.users[user].renewal,
            size,
            arrivals: Vec::new(),
            rejections: Vec::new(),
            executed: 0,
            unsure: 0,
            is_lost: false,
            outcome: None,
        };
        self.jobs.insert(number, job);
        number
    }

    pub(crate) fn body(&self, job: u64) -> Bytes {
        let size = self.jobs[&job].size;
        let words = format!("job {job} ").repeat(size / 5);
        words[..size].to_owned().into()
    }

    pub(crate) fn settle(&mut self, job: u64, outcome: Outcome) {
        let known = self.jobs.get_mut(&job).expect("ordered");
        known.outcome = Some(outcome);
        // An accepted token is published, also if it was a candidate.
        if let (Outcome::Acknowledged, Some(token)) = (outcome, known.arrivals.last()) {
            let latest = &mut self.users[known.user].latest;
            *latest = (*latest).max(*token);
        }
    }

    /// The token that a job came with last.
    pub(crate) fn bearer_of(&self, job: u64) -> u64 {
        let last = self.jobs[&job].arrivals.last();
        *last.expect("it was answered")
    }

    pub(crate) fn not_sent(&mut self, why: &'static str) {
        *self.not_sent.entry(why).or_default() += 1;
    }

    /// A rejection has come back, with a word on why.
    pub(crate) fn returned(&mut self, job: u64, reauth: Option<&Reauth>) {
        let Some(reauth) = reauth else {
            return self.violated(format_args!("job {job}: a rejection that says nothing"));
        };
        let why = match reauth.failure {
            ReauthFailure::NotReplayable => "not replayable",
            ReauthFailure::Unsure => "unsure",
            ReauthFailure::CoolingDown => "cooling down",
            ReauthFailure::RenewalFailed(_) => "renewal failed",
            ReauthFailure::StillRejected => "still rejected",
            ReauthFailure::LoggedOut => "logged out",
            _ => "other",
        };
        *self.returned.entry(why).or_default() += 1;
        let is_right = !reauth.replayed || matches!(reauth.failure, ReauthFailure::StillRejected);
        self.must(
            is_right,
            format_args!("job {job} was rejected twice, and {reauth:?}"),
        );
        let was_replayed = self.jobs[&job].arrivals.len() > 1;
        self.must(
            reauth.replayed == was_replayed,
            format_args!("job {job} was sent again: {was_replayed}, and {reauth:?}"),
        );
    }

    // As the server does them.

    /// A request for a job has arrived, on this connection and with this token.
    pub(crate) fn arrives(&mut self, connection: u64, job: u64, token: Option<u64>) {
        self.unconfirmed.remove(&connection);
        let Some(token) = token else {
            return self.violated(format_args!("job {job} came without a token"));
        };
        // One bad node of several may have rejected it.
        let accepted = self.tokens.get(&token).and_then(|issued| issued.accepted);
        let is_good = accepted.is_some_and(|at| at.elapsed() <= RECENTLY);
        // Or the rejected one was not published yet.
        let was_ahead = |token: &u64| self.tokens.get(token).is_some_and(|issued| issued.is_ahead);
        let before = self.jobs[&job].arrivals.iter().copied();
        let ahead: Vec<u64> = before.filter(was_ahead).collect();
        let known = self.jobs.get_mut(&job).expect("ordered");
        let is_first = known.arrivals.is_empty();
        let is_allowed = is_first || known.is_replayable && known.arrivals.len() == 1;
        let was_rejected = known.arrivals == known.rejections;
        let is_newer =
            |before: &u64| *before < token || *before == token && is_good || ahead.contains(before);
        let is_newer = known.arrivals.iter().all(is_newer);
        known.arrivals.push(token);
        let arrivals = known.arrivals.clone();
        let (user, least, renewal) = (known.user, known.least, known.renewal);
        let under_way = &self.users[user].under_way;
        let has_waited = renewal.is_none_or(|renewal| !under_way.contains(&renewal));
        if self
            .tokens
            .get(&token)
            .is_some_and(|issued| !issued.is_ahead)
        {
            let latest = &mut self.users[user].latest;
            *latest = token.max(*latest);
        }
        self.must(
            has_waited,
            format_args!("job {job} came with token {token} while that was renewed"),
        );
        self.must(
            token >= least,
            format_args!("job {job} came with token {token}, which {least} had replaced"),
        );
        self.must(
            is_allowed,
            format_args!("job {job} was sent too often: {arrivals:?}"),
        );
        self.must(
            was_rejected,
            format_args!("job {job} was sent again, and not rejected before: {arrivals:?}"),
        );
        self.must(
            is_newer,
            format_args!("job {job} was sent again without a newer token: {arrivals:?}"),
        );
    }

    /// A job is turned away since its token is dead, or is said to be.
    pub(crate) fn rejects(&mut self, job: u64, token: u64) {
        self.tokens.get_mut(&token).expect("issued").is_denied = true;
        let job = self.jobs.get_mut(&job).expect("ordered");
        job.rejections.push(token);
    }

    /// Does a job, if the token is good.
    pub(crate) fn execute(&mut self, job: u64, token: u64, body: &Bytes) -> Result<(), Ended> {
        if let Some(ended) = self.ended(token) {
            return Err(ended);
        }
        self.tokens.get_mut(&token).expect("issued").accepted = Some(Instant::now());
        let is_whole = self.body(job) == *body;
        let known = self.jobs.get_mut(&job).expect("ordered");
        known.executed += 1;
        let is_right = known.executed == 1 || known.method == Method::GET;
        self.must(is_whole, format_args!("job {job} lost its body"));
        self.must(is_right, format_args!("job {job} was done twice"));
        Ok(())
    }

    /// It is done, and answered as if the session were dead.
    pub(crate) fn is_unsure(&mut self, job: u64, token: u64) {
        self.rejects(job, token);
        self.jobs.get_mut(&job).expect("ordered").unsure += 1;
    }

    pub(crate) fn answered(&mut self, connection: u64, job: u64) {
        self.unconfirmed.insert(connection, job);
    }

    /// It is done, and its answer does not leave the server.
    pub(crate) fn answer_lost(&mut self, job: u64) {
        self.jobs.get_mut(&job).expect("ordered").is_lost = true;
    }

    /// Its client has closed a connection.
    pub(crate) fn hung_up(&mut self, connection: u64) {
        self.unconfirmed.remove(&connection);
    }

    // At the end.

    /// Each job was done as often as its caller may think.
    pub(crate) fn check_jobs(&mut self) {
        let mut wrong = Vec::new();
        for (number, job) in &self.jobs {
            // What was answered as if the session were dead may be done again.
            let done = job.executed - job.unsure;
            let is_right = match job.outcome {
                Some(Outcome::Acknowledged) => done == 1,
                Some(Outcome::Unsure) => done == 0 && job.unsure > 0,
                Some(Outcome::Rejected | Outcome::Refused | Outcome::NotSent) => done == 0,
                Some(Outcome::Broken) => done == 0 || done == 1 && job.is_lost,
                Some(Outcome::GivenUp) => done <= 1,
                None => false,
            };
            if !is_right {
                wrong.push(format!(
                    "job {number}, {} {:?}, was done {} times, of these {} unsure, answer lost: {}",
                    job.method, job.outcome, job.executed, job.unsure, job.is_lost
                ));
            }
        }
        self.violations.extend(wrong);
    }

    /// How many jobs came to this, and how many of them were done.
    pub(crate) fn came_to(&self, outcome: Outcome) -> (u64, u64) {
        let jobs = self.jobs.values();
        let jobs = jobs.filter(|job| job.outcome == Some(outcome));
        jobs.fold((0, 0), |(all, done), job| {
            (all + 1, done + u64::from(job.executed > 0))
        })
    }

    pub(crate) fn jobs_done(&self) -> u64 {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.executed > 0).count() as u64
    }

    pub(crate) fn answers_lost(&self) -> u64 {
        self.jobs.values().filter(|job| job.is_lost).count() as u64
    }

    pub(crate) fn sent_again(&self) -> u64 {
        let jobs = self.jobs.values();
        jobs.filter(|job| job.arrivals.len() > 1).count() as u64
    }
}
