//! What the account comes to, for whoever reads along.

use std::collections::BTreeMap;
use std::fmt;

use super::{Account, Ended, Job, Outcome, USERS};
use crate::soak::faults::{COMMON, Endpoint};

/// One line, for whoever reads along.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acknowledged, _) = self.came_to(Outcome::Acknowledged);
        let (broken, broken_done) = self.came_to(Outcome::Broken);
        let (given_up, given_up_done) = self.came_to(Outcome::GivenUp);
        let (unsure, _) = self.came_to(Outcome::Unsure);
        let (rejected, _) = self.came_to(Outcome::Rejected);
        let (refused, _) = self.came_to(Outcome::Refused);
        let (not_sent, _) = self.came_to(Outcome::NotSent);
        let mut tokens = self.tokens.values();
        let lost = self
            .tokens
            .values()
            .filter(|issued| !issued.is_delivered)
            .count();
        let mut ends = BTreeMap::new();
        for issued in &mut tokens {
            *ends.entry(issued.ended).or_insert(0_u64) += 1;
        }
        let made = self.changes.values().filter(|is_made| **is_made).count();
        write!(
            f,
            "{} jobs, {} done: {acknowledged} acknowledged, {broken} broken ({broken_done} done), \
             {given_up} given up ({given_up_done} done), {unsure} unsure, {rejected} rejected, \
             {refused} refused, {not_sent} not sent {:?}, returned {:?}; {} sent again, {} answers lost; \
             {} tokens, {lost} lost, ended {ends:?}; {} refusals, {} wrong passwords, \
             {} changes, {made} made, {} uncertain, {} resolved; at most {} calls at once; \
             {} guests gone; {} restarts, {} without sessions; faults {:?}",
            self.jobs.len(),
            self.jobs_done(),
            self.not_sent,
            self.returned,
            self.sent_again(),
            self.answers_lost(),
            self.tokens.len(),
            self.refusals,
            self.wrong_passwords,
            self.changes.len(),
            self.uncertain_changes,
            self.resolved_changes,
            self.most_calls,
            self.guests_gone().count(),
            self.restarts,
            self.restarts_without_sessions,
            self.faults.kinds(),
        )
    }
}

impl Account {
    /// What must still happen for the account to mean anything.
    pub(crate) fn is_still_to_come(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        for endpoint in Endpoint::ALL {
            for fault in COMMON.iter().chain(endpoint.others()) {
                if self.faults.counted(endpoint, *fault) == 0 {
                    missing.push(format!("{fault:?} at {endpoint:?}"));
                }
            }
        }
        for user in 0..USERS.len() {
            let jobs = self.jobs.values().filter(|job| job.user == user);
            let acknowledged = |job: &&Job| job.outcome == Some(Outcome::Acknowledged);
            if jobs.filter(acknowledged).count() < 100 {
                missing.push(format!("jobs of {}", self.name(user)));
            }
        }
        let ends = self.ends_of_tokens();
        let ended = |how| ends.get(&Some(how)).copied().unwrap_or(0);
        for (what, count, least) in [
            ("jobs sent again", self.sent_again(), 20),
            ("answers lost", self.answers_lost(), 20),
            ("jobs given up", self.came_to(Outcome::GivenUp).0, 20),
            ("tokens", self.tokens.len() as u64, 40),
            ("restarts", self.restarts, 3),
            (
                "restarts without sessions",
                self.restarts_without_sessions,
                1,
            ),
            ("resolved changes", self.resolved_changes, 2),
            ("wrong passwords", self.wrong_passwords, 1),
            ("refusals", self.refusals, 2),
            (
                "logins of guests that were gone",
                self.guests_gone().count() as u64,
                3,
            ),
            ("tokens logged out", ended(Ended::LoggedOut), 5),
            ("tokens expired", ended(Ended::Expired), 10),
            ("tokens revoked", ended(Ended::Revoked), 3),
            ("tokens lost at a restart", ended(Ended::LostAtRestart), 1),
        ] {
            if count < least {
                missing.push(format!("{what}: {count} of {least}"));
            }
        }
        missing
    }

    /// How many tokens ended like this, or not.
    fn ends_of_tokens(&mut self) -> BTreeMap<Option<Ended>, u64> {
        let mut ends = BTreeMap::new();
        for token in self.tokens.keys().copied().collect::<Vec<_>>() {
            *ends.entry(self.ended(token)).or_default() += 1;
        }
        ends
    }
}
