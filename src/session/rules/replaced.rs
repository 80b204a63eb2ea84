//! The replaced tokens that are in use, or may still be good on the server.
//!
//! A replaced token is dealt with once a later one is proven. If it was proven before it
//! was rejected, it is dead, unless the target that rejected it rejects a newer one too.
//! Otherwise it may be good, and is logged out after its last use; also after a login
//! that failed. Until then, only a logout of the session ends it.

use std::time::Duration;

use super::backoff::Backoff;
use super::cooldown::RECENTLY;
use super::event::TokenEnd;
use super::rng::Rng;
use super::time::Timestamp;
use crate::origin::Target;

/// How many times the logout of one token is tried.
const MAX_TRIES: u32 = 8;

/// How many replaced tokens are kept. Beyond that, the oldest is abandoned.
const MAX_REPLACED: usize = 64;

/// How many of them wait for a later token to be proven. Beyond that, the oldest is
/// logged out: a session that is kept alive and not used proves none.
const MAX_UNPROVEN: usize = 4;

/// The replaced tokens, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplacedTokens {
    pub(super) tokens: Vec<Replaced>,
}

/// A token that is no longer the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenRef {
    pub(super) generation: u64,
    /// When it expires.
    pub(super) ends: Option<Timestamp>,
    /// Whether its logout as a replaced token is running.
    pub(super) logging_out: bool,
}

/// The target that rejected a proven token; `None` if `Session::reject` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RejectedBy(pub(super) Option<Target>);

#[derive(Clone, Debug)]
pub(super) struct Replaced {
    pub(super) token: TokenRef,
    /// The rejection that shows that it is dead, unless it was about the request.
    pub(super) rejection: Option<RejectedBy>,
    /// Whether only its data is left. It waits for a login that does not continue it.
    pub(super) expired: bool,
    /// Whether nothing waits for a later token to be proven any more.
    pub(super) may_end: bool,
    /// Whether the running password change uses it.
    pub(super) in_change: bool,
    /// Whether its last use has ended.
    pub(super) released: bool,
    /// Whether a login has yielded it again while its logout is running.
    pub(super) reused: bool,
    pub(super) backoff: Backoff,
    /// When its next logout may start; if it was rejected, when it counts as dead.
    pub(super) next: Timestamp,
}

/// How the logout of a replaced token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogoutOutcome {
    Done,
    /// The login system has no logout.
    Nothing,
    /// It failed and may be tried again, not before this time if the server asks
    /// for one.
    Postponed(Option<Duration>),
    /// It failed for good.
    Failed,
}

impl LogoutOutcome {
    /// Returns how the token has ended, unless its logout may be tried again.
    pub(crate) fn end(self) -> Option<TokenEnd> {
        match self {
            Self::Done => Some(TokenEnd::LoggedOut),
            Self::Nothing => Some(TokenEnd::Discarded),
            Self::Postponed(_) => None,
            Self::Failed => Some(TokenEnd::Abandoned),
        }
    }
}

impl ReplacedTokens {
    /// Adds a replaced token that may be good. Returns the token to abandon
    /// instead, if there are too many.
    pub(super) fn add(
        &mut self,
        token: TokenRef,
        rejection: Option<RejectedBy>,
        in_change: bool,
    ) -> Option<u64> {
        debug_assert!(
            !self.tokens.iter().any(Replaced::awaits_login),
            "a login settles these before it replaces a token"
        );
        self.let_oldest_unproven_end();
        self.push(token, rejection, false, in_change)
    }

    /// Adds an expired token with data.
    pub(super) fn add_expired(&mut self, token: TokenRef, in_change: bool) -> Option<u64> {
        self.push(token, None, true, in_change)
    }

    /// The running password change has ended.
    pub(super) fn change_landed(&mut self) {
        for replaced in &mut self.tokens {
            replaced.in_change = false;
        }
    }

    fn let_oldest_unproven_end(&mut self) {
        let mut unproven = self
            .tokens
            .iter_mut()
            .filter(|replaced| !replaced.may_end && replaced.rejection.is_none());
        if let Some(oldest) = unproven.next()
            && unproven.count() + 1 == MAX_UNPROVEN
        {
            oldest.may_end = true;
        }
    }

    fn push(
        &mut self,
        token: TokenRef,
        rejection: Option<RejectedBy>,
        expired: bool,
        in_change: bool,
    ) -> Option<u64> {
        let oldest = (self.tokens.len() == MAX_REPLACED)
            .then(|| {
                self.tokens
                    .iter()
                    .position(|replaced| !replaced.token.logging_out)
            })
            .flatten();
        let given_up = oldest.map(|oldest| self.tokens.remove(oldest).token.generation);
        self.tokens.push(Replaced {
            token,
            rejection,
            expired,
            may_end: false,
            in_change,
            released: false,
            reused: false,
            backoff: Backoff::default(),
            next: Timestamp::ZERO,
        });
        given_up
    }

    /// Removes that token if it waits, expired, for a login. Returns whether it does.
    pub(super) fn remove_expired(&mut self, generation: u64) -> bool {
        let is_it = |replaced: &Replaced| {
            replaced.awaits_login() && replaced.token.generation == generation
        };
        !self.take(is_it).is_empty()
    }

    /// Removes the expired tokens that wait for a login.
    pub(super) fn take_expired(&mut self) -> Vec<u64> {
        self.take(Replaced::awaits_login)
    }

    /// The expired tokens may be logged out.
    pub(super) fn end_expired(&mut self) {
        for replaced in &mut self.tokens {
            replaced.may_end |= replaced.expired;
        }
    }

    /// The last use of that token has ended.
    pub(super) fn released(&mut self, generation: u64) {
        if let Some(replaced) = self.find(generation) {
            replaced.released = true;
        }
    }

    /// The token of this generation is proven, by `target`. Returns the earlier ones that
    /// are dead. One that another target has rejected waits a moment for what that says
    /// of the newer token.
    pub(super) fn proven(
        &mut self,
        generation: u64,
        target: Option<Target>,
        now: Timestamp,
    ) -> Vec<u64> {
        let is_earlier = |replaced: &Replaced| replaced.token.generation < generation;
        for replaced in &mut self.tokens {
            if is_earlier(replaced) && !replaced.may_end {
                replaced.may_end = true;
                if replaced.rejection.is_some() {
                    replaced.next = now + RECENTLY;
                }
            }
        }
        self.take(|replaced| {
            let by = replaced.rejection.filter(|_| is_earlier(replaced));
            by.is_some_and(|by| by.0.is_none() || by.0 == target)
        })
    }

    /// `target` rejects newer tokens too: the tokens that it rejected before may be
    /// good.
    pub(super) fn unhelpful(&mut self, target: Target) {
        for replaced in &mut self.tokens {
            if replaced
                .rejection
                .take_if(|by| by.0 == Some(target))
                .is_some()
            {
                replaced.next = Timestamp::ZERO;
            }
        }
    }

    /// A login has failed, perhaps since the server allows no more sessions.
    pub(super) fn login_failed(&mut self) {
        for replaced in &mut self.tokens {
            replaced.may_end |= replaced.rejection.is_none() && !replaced.expired;
        }
    }

    /// A login has yielded that token again. Returns whether it has ended with that: not
    /// if its logout is running.
    pub(super) fn reused(&mut self, generation: u64) -> bool {
        if let Some(replaced) = self.find(generation) {
            replaced.reused = true;
        }
        let is_reused = |replaced: &Replaced| replaced.reused && !replaced.token.logging_out;
        !self.take(is_reused).is_empty()
    }

    /// Removes the tokens that have expired.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<u64> {
        self.take(|replaced| replaced.token.is_over(now))
    }

    /// Removes the rejected tokens whose successor was not rejected in time.
    pub(super) fn take_dead(&mut self, now: Timestamp) -> Vec<u64> {
        self.take(|replaced| replaced.is_presumed_dead() && replaced.next <= now)
    }

    /// Returns when the next token expires, or counts as dead.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let replaced = self.tokens.iter();
        let kept = replaced.filter(|replaced| !replaced.token.logging_out);
        let ends = kept.clone().filter_map(|replaced| replaced.token.ends);
        let deaths = kept.filter(|replaced| replaced.is_presumed_dead());
        ends.chain(deaths.map(|replaced| replaced.next)).min()
    }

    /// Returns when the next logout may start.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let replaced = self.tokens.iter();
        let ready = replaced.filter(|replaced| replaced.is_ready());
        ready.map(|replaced| replaced.next).min()
    }

    /// Starts the next logout. Returns whether there is one.
    pub(super) fn begin(&mut self, now: Timestamp) -> bool {
        let mut replaced = self.tokens.iter_mut();
        let next = replaced.find(|replaced| replaced.is_ready() && replaced.next <= now);
        let is_found = next.is_some();
        if let Some(next) = next {
            next.token.logging_out = true;
        }
        is_found
    }

    /// Returns the token whose logout is running.
    pub(super) fn logging_out(&self) -> Option<u64> {
        let mut replaced = self.tokens.iter();
        let logging_out = replaced.find(|replaced| replaced.token.logging_out)?;
        Some(logging_out.token.generation)
    }

    /// The running logout has ended. Returns its token, and how that has ended, unless
    /// the logout is tried again.
    pub(super) fn landed(
        &mut self,
        logout: LogoutOutcome,
        now: Timestamp,
        rng: &mut Rng,
    ) -> Option<(u64, TokenEnd)> {
        let place = self
            .tokens
            .iter()
            .position(|replaced| replaced.token.logging_out)?;
        let replaced = &mut self.tokens[place];
        replaced.token.logging_out = false;
        let end = match logout {
            LogoutOutcome::Done => TokenEnd::LoggedOut,
            _ if replaced.reused => TokenEnd::Continued,
            LogoutOutcome::Nothing => TokenEnd::Discarded,
            LogoutOutcome::Failed => TokenEnd::Abandoned,
            LogoutOutcome::Postponed(retry_after) => {
                replaced.next = now + replaced.backoff.next(retry_after, rng);
                if replaced.backoff.failures() < MAX_TRIES {
                    return None;
                }
                TokenEnd::Abandoned
            }
        };
        Some((self.tokens.remove(place).token.generation, end))
    }

    /// Removes all tokens, in use or not, that a logout of the session is to end.
    /// Rejected ones are among them, since they may not be dead.
    pub(super) fn end(&mut self) -> Vec<TokenRef> {
        self.take_tokens(|_| true)
    }

    /// Removes all tokens.
    pub(super) fn abandon(&mut self) -> Vec<u64> {
        self.take(|_| true)
    }

    pub(super) fn contains(&self, generation: u64) -> bool {
        self.tokens
            .iter()
            .any(|replaced| replaced.token.generation == generation)
    }

    /// Returns whether that token is still in use.
    pub(super) fn is_waiting_for(&self, generation: u64) -> bool {
        let mut replaced = self.tokens.iter();
        replaced.any(|replaced| replaced.token.generation == generation && !replaced.released)
    }

    /// Returns whether any replaced token is still in use.
    pub(super) fn is_waiting(&self) -> bool {
        self.tokens.iter().any(|replaced| !replaced.released)
    }

    /// Returns whether no token is left that may be logged out.
    pub(super) fn is_done(&self) -> bool {
        let mut replaced = self.tokens.iter();
        replaced.all(|replaced| replaced.rejection.is_some() || !replaced.may_end)
    }

    fn find(&mut self, generation: u64) -> Option<&mut Replaced> {
        self.tokens
            .iter_mut()
            .find(|replaced| replaced.token.generation == generation)
    }

    fn take(&mut self, is_meant: impl Fn(&Replaced) -> bool) -> Vec<u64> {
        let taken = self.take_tokens(is_meant).into_iter();
        taken.map(|token| token.generation).collect()
    }

    fn take_tokens(&mut self, is_meant: impl Fn(&Replaced) -> bool) -> Vec<TokenRef> {
        let (taken, kept) = std::mem::take(&mut self.tokens)
            .into_iter()
            .partition(is_meant);
        self.tokens = kept;
        taken
            .into_iter()
            .map(|replaced: Replaced| replaced.token)
            .collect()
    }
}

impl TokenRef {
    pub(super) fn new(generation: u64, ends: Option<Timestamp>) -> Self {
        Self {
            generation,
            ends,
            logging_out: false,
        }
    }

    /// Returns whether it has expired. Not while its logout is running, which decides.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        !self.logging_out && self.ends.is_some_and(|ends| ends <= now)
    }
}

impl Replaced {
    /// Returns whether it has expired, and no login has yielded a token since.
    fn awaits_login(&self) -> bool {
        self.expired && !self.may_end
    }

    /// Returns whether its logout may start once its time has come.
    fn is_ready(&self) -> bool {
        let is_used = !self.released || self.in_change;
        self.may_end && !is_used && !self.token.logging_out && self.rejection.is_none()
    }

    /// Returns whether it is dead unless its target rejects a newer token in time.
    fn is_presumed_dead(&self) -> bool {
        self.may_end && self.rejection.is_some()
    }
}
