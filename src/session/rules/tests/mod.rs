//! The rules, each from both sides.

mod explore;

use std::time::Duration;

use http::Method;

use super::time::BRIEFLY;
use super::*;
use crate::provider::LogoutEnds;
use crate::reauth::ReauthFailure;

/// The shortest interval at which the source is asked again after a refusal.
const RECHECK_EVERY: Duration = Duration::from_secs(10);

const NOW: Timestamp = Duration::from_secs(1000);
const SETTINGS: RulesSettings = RulesSettings {
    has_source: true,
    tries_candidates: true,
    keep_alive: false,
    logout_ends: LogoutEnds::User,
    rolls: false,
    single_session: false,
};
const LOGOUT: Launch = Launch::Job(JobKind::Logout);
const HOUR: Duration = Duration::from_secs(3600);

/// Lands a logout. The tokens in `left` may be tried again, those in `abandoned` may
/// not, and the others are logged out.
fn logout_lands(rules: &mut Rules, left: &[u64], abandoned: &[u64], outcome: Result<(), Error>) {
    let logging_out = rules.logging_out();
    let ending = rules.ending().into_iter();
    let ended = ending.filter(|token| !left.contains(token) && logging_out != Some(*token));
    let ended = ended.map(|token| match abandoned.contains(&token) {
        true => (token, TokenEnd::Abandoned),
        false => (token, TokenEnd::LoggedOut),
    });
    rules.logout_landed(&ended.collect::<Vec<_>>(), outcome);
}

fn target(path: &str) -> Target {
    Target::of(&Method::GET, path)
}

fn new_token(lifetime: Option<Duration>) -> NewToken {
    NewToken {
        lifetimes: Lifetimes {
            absolute: lifetime,
            idle: None,
            refresh_in: None,
            refresh_before: None,
            has_data: false,
        },
        sent: NOW,
        same: false,
        continues: false,
    }
}

fn fails(kind: ErrorKind) -> Error {
    Error::new(kind)
}

/// A session that was not used.
fn idle() -> Rules {
    Rules::new(SETTINGS, 1)
}

/// A session with the token of generation 1, which is proven.
fn live() -> Rules {
    let mut rules = idle();
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    rules.take_launch().expect("a login");
    assert_eq!(
        rules.login_landed(new_token(None), NOW),
        LoginOutcome::Publish { generation: 1 }
    );
    rules.on_use(NOW);
    rules.accepted(1, target("/"), NOW, NOW);
    rules
}

/// A login that failed, from the first request on.
fn failed(kind: ErrorKind) -> Rules {
    let mut rules = idle();
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    rules.take_launch().expect("a login");
    rules.login_failed(fails(kind), NOW);
    rules
}

fn launched(rules: &mut Rules) -> Option<(Reason, LoginKind)> {
    match rules.take_launch()? {
        Launch::Job(JobKind::Login { reason, kind }) => Some((reason, kind)),
        Launch::Job(JobKind::Logout | JobKind::ChangePassword)
        | Launch::BackgroundLogout { .. } => None,
    }
}

#[test]
fn the_first_who_needs_a_token_starts_a_login_and_the_others_share_it() {
    let mut rules = idle();
    assert_eq!(rules.state(), State::Idle);
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Initial, LoginKind::Usual))
    );
    assert_eq!(rules.state(), State::LoggingIn);
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_live_token_is_used_and_starts_nothing() {
    let mut rules = live();
    assert_eq!(rules.signal(), Some(Signal::Live));
    assert!(matches!(rules.acquire(NOW), Acquire::Use));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_rejection_suspends_the_token_until_its_renewal_ends() {
    let mut rules = live();
    let rejected = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(rejected, OnRejection::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Rejected, LoginKind::Usual))
    );
    assert_eq!(rules.signal(), Some(Signal::Suspended));
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    assert_eq!(
        rules.login_landed(new_token(None), NOW),
        LoginOutcome::Publish { generation: 2 }
    );
    assert!(rules.is_usable());
}

#[test]
fn all_who_are_rejected_together_share_one_renewal() {
    let mut rules = live();
    for path in ["/a", "/a", "/b", "/c"] {
        let rejected = rules.rejected(1, Some(target(path)), NOW);
        assert!(matches!(rejected, OnRejection::Wait), "{path}");
    }
    assert!(launched(&mut rules).is_some());
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_late_rejection_of_an_old_token_starts_no_login() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    let late = rules.rejected(1, Some(target("/b")), NOW);
    assert!(matches!(late, OnRejection::Replay));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn after_a_failed_renewal_an_unexpired_token_is_used_again() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    assert!(matches!(rules.acquire(NOW), Acquire::Use));
    // A further rejection starts nothing until the back-off is over.
    rules.take_launch();
    let rejected = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::RenewalFailed(_))
    ));
    assert_eq!(launched(&mut rules), None);
    let later = rules.rejected(1, Some(target("/a")), NOW + HOUR);
    assert!(matches!(later, OnRejection::Wait));
}

#[test]
fn after_a_failed_renewal_an_expired_token_is_not() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.login_landed(new_token(Some(HOUR)), NOW);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_failed(fails(ErrorKind::Unavailable), NOW + HOUR);
    assert_eq!(rules.signal(), None);
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Fail(_)));
}

#[test]
fn an_expired_token_is_renewed_before_it_is_handed_out() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.take_launch();
    rules.login_landed(new_token(Some(HOUR)), NOW);
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expired, LoginKind::Usual))
    );
}

#[test]
fn a_lifetime_beyond_what_a_clock_can_tell_is_none() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.login_landed(new_token(Some(Duration::MAX)), NOW);
    assert!(matches!(
        rules.acquire(NOW + HOUR * 1_000_000),
        Acquire::Use
    ));
}

#[test]
fn a_token_that_is_over_when_it_arrives_is_used_for_a_moment_and_no_longer() {
    let mut rules = idle();
    rules.acquire(NOW);
    let arrives = NOW + HOUR;
    rules.login_landed(new_token(Some(HOUR)), arrives);
    assert!(matches!(rules.acquire(arrives), Acquire::Use));
    assert!(matches!(rules.acquire(arrives + BRIEFLY), Acquire::Wait));
}

#[test]
fn a_login_that_was_asked_for_before_a_logout_does_not_undo_it() {
    let mut rules = live();
    rules.change_password(NOW);
    let before = rules.logouts();
    assert!(matches!(rules.login(before, NOW), JobStart::Busy));
    rules.logout(NOW);
    rules.password_change_landed(Ok(()), NOW);
    logout_lands(&mut rules, &[], &[], Ok(()));
    assert!(matches!(rules.login(before, NOW), JobStart::Fail(_)));
    assert!(matches!(
        rules.login(rules.logouts(), NOW),
        JobStart::Started
    ));
}

#[test]
fn a_login_after_a_logout_does_not_share_one_from_before_it() {
    let mut rules = idle();
    rules.login(0, NOW);
    rules.take_launch();
    rules.logout(NOW);
    assert!(matches!(rules.login(1, NOW), JobStart::Busy));
}

#[test]
fn a_failed_login_is_not_repeated_until_its_back_off_is_over() {
    let mut rules = failed(ErrorKind::Unavailable);
    assert_eq!(rules.state(), State::BackingOff);
    let Acquire::Fail(error) = rules.acquire(NOW) else {
        panic!("not while backing off");
    };
    let wait = error.retry_after().expect("it is known when");
    assert!(matches!(rules.acquire(NOW + wait), Acquire::Wait));
    assert!(launched(&mut rules).is_some());
}

#[test]
fn a_session_that_is_over_has_no_next_attempt() {
    let mut rules = failed(ErrorKind::Unavailable);
    assert!(rules.next_attempt() > Some(NOW));
    rules.logout(NOW);
    assert_eq!(rules.next_attempt(), None);

    let mut rules = failed(ErrorKind::Unavailable);
    rules.close();
    assert_eq!(rules.next_attempt(), None);
}

#[test]
fn a_runtime_that_is_gone_says_nothing_of_the_login_system() {
    let mut rules = failed(ErrorKind::NoRuntime);
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
}

#[test]
fn refused_credentials_latch_and_only_the_source_is_asked_again() {
    let mut rules = failed(ErrorKind::Refused);
    assert_eq!(rules.state(), State::Refused);
    assert!(matches!(rules.acquire(NOW), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);

    let later = NOW + RECHECK_EVERY;
    assert!(matches!(rules.acquire(later), Acquire::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Initial, LoginKind::Usual))
    );
    assert!(matches!(rules.acquire(later), Acquire::Wait));
    assert_eq!(launched(&mut rules), None);
    rules.login_failed(fails(ErrorKind::Refused), later);
    assert!(matches!(rules.acquire(later), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_question_to_the_source_that_fails_is_asked_again_after_ten_seconds() {
    let mut rules = failed(ErrorKind::Refused);
    let mut now = NOW;
    for _ in 0..3 {
        now += RECHECK_EVERY;
        assert!(matches!(
            rules.acquire(now - BRIEFLY / 10),
            Acquire::Fail(_)
        ));
        assert_eq!(launched(&mut rules), None);
        rules.acquire(now);
        assert!(launched(&mut rules).is_some());
        rules.login_failed(fails(ErrorKind::Unavailable), now);
    }
}

#[test]
fn a_rejection_asks_the_source_from_time_to_time_and_waits_for_the_answer() {
    let mut rules = live();
    let rejected = |rules: &mut Rules, at| rules.rejected(1, Some(target("/a")), at);
    rejected(&mut rules, NOW);
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    let later = NOW + RECHECK_EVERY;
    assert!(matches!(
        rejected(&mut rules, later - Duration::from_nanos(1)),
        OnRejection::Return(ReauthFailure::RenewalFailed(_))
    ));
    rules.take_launch();
    for _ in 0..2 {
        assert!(matches!(rejected(&mut rules, later), OnRejection::Wait));
        assert_eq!(rules.signal(), Some(Signal::Suspended));
    }
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Rejected, LoginKind::Usual))
    );
}

#[test]
fn while_no_login_may_start_a_rejection_waits_for_a_password_change() {
    let mut rules = live();
    rules.rejected(1, None, NOW);
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    assert!(matches!(rules.change_password(NOW), JobStart::Started));
    assert!(matches!(rules.rejected(1, None, NOW), OnRejection::Wait));
}

#[test]
fn only_a_login_is_told_as_one() {
    // The token expires while a job is running that yields none.
    let mut rules = live_for_an_hour(SETTINGS);
    rules.renew(NOW);
    rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    assert!(matches!(rules.change_password(NOW), JobStart::Started));
    rules.tick(NOW + HOUR);
    assert_eq!(rules.state(), State::BackingOff);
}

#[test]
fn without_a_source_refused_credentials_latch_for_good() {
    let mut rules = Rules::new(
        RulesSettings {
            has_source: false,
            ..SETTINGS
        },
        1,
    );
    rules.acquire(NOW);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);
    assert!(matches!(
        rules.login(rules.logouts(), NOW),
        JobStart::Started
    ));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Requested, LoginKind::Forced))
    );
    // Another operator shares it.
    assert!(matches!(rules.login(rules.logouts(), NOW), JobStart::Join));
}

#[test]
fn a_forced_login_that_finds_nobody_leaves_refused_credentials_refused() {
    let mut rules = Rules::new(
        RulesSettings {
            has_source: false,
            ..SETTINGS
        },
        1,
    );
    rules.acquire(NOW);
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    rules.login(rules.logouts(), NOW);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    assert_eq!(rules.state(), State::Refused);
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_login_that_fails_after_a_logout_says_that_the_session_is_logged_out() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.logout(NOW);
    let error = rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    assert_eq!(error.kind(), ErrorKind::LoggedOut);
}

#[test]
fn a_changed_password_opens_the_latch_and_a_failed_change_does_not() {
    let denied = Err(fails(ErrorKind::Refused));
    for (outcome, opens) in [(Ok(()), true), (denied, false)] {
        let mut rules = live();
        rules.rejected(1, Some(target("/a")), NOW);
        rules.login_failed(fails(ErrorKind::Refused), NOW);
        assert!(matches!(rules.change_password(NOW), JobStart::Started));
        rules.password_change_landed(outcome, NOW);
        let rejected = rules.rejected(1, Some(target("/a")), NOW);
        assert_eq!(matches!(rejected, OnRejection::Wait), opens);
    }
}

#[test]
fn an_unhelpful_renewal_cools_its_target_down_and_no_other() {
    let mut rules = live();
    let forbidden = target("/forbidden");
    rules.rejected(1, Some(forbidden), NOW);
    rules.login_landed(new_token(None), NOW);
    assert_eq!(rules.signal(), Some(Signal::Reported));
    rules.replay_rejected(forbidden, NOW);

    let rejected = rules.rejected(2, Some(forbidden), NOW);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::CoolingDown)
    ));
    let other = rules.rejected(2, Some(target("/b")), NOW);
    assert!(
        matches!(other, OnRejection::Wait),
        "the session may really have died"
    );
}

#[test]
fn a_target_that_shared_a_renewal_which_did_not_help_it_cools_down_too() {
    let mut rules = live();
    let (dead, forbidden) = (target("/a"), target("/forbidden"));
    rules.rejected(1, Some(dead), NOW);
    rules.rejected(1, Some(forbidden), NOW);
    rules.login_landed(new_token(None), NOW);
    rules.accepted(2, dead, NOW, NOW);
    rules.replay_rejected(forbidden, NOW);
    let rejected = rules.rejected(2, Some(forbidden), NOW);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::CoolingDown)
    ));
    rules.accepted(2, forbidden, NOW, NOW);
    rules.on_use(NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
}

#[test]
fn a_target_cools_down_for_twice_as_long_each_time() {
    let mut rules = live();
    let forbidden = target("/forbidden");
    let mut now = NOW;
    for (generation, delay) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        assert!(matches!(
            rules.rejected(generation, Some(forbidden), now),
            OnRejection::Wait
        ));
        rules.login_landed(new_token(None), NOW);
        rules.replay_rejected(forbidden, now);
        let until = now + Duration::from_secs(delay);
        let just_before = until - Duration::from_nanos(1);
        let rejected = rules.rejected(generation + 1, Some(forbidden), just_before);
        assert!(
            matches!(rejected, OnRejection::Return(ReauthFailure::CoolingDown)),
            "{delay} s"
        );
        now = until;
    }
}

#[test]
fn an_acceptance_ends_the_cool_down_of_its_target_whichever_token_it_is_of() {
    for accepted in [1, 2] {
        let mut rules = live();
        rules.rejected(1, Some(target("/a")), NOW);
        rules.login_landed(new_token(None), NOW);
        rules.replay_rejected(target("/a"), NOW);
        rules.accepted(2, target("/b"), NOW, NOW);
        assert!(matches!(
            rules.rejected(2, Some(target("/a")), NOW),
            OnRejection::Return(ReauthFailure::CoolingDown)
        ));
        rules.accepted(accepted, target("/a"), NOW, NOW);
        assert!(matches!(
            rules.rejected(2, Some(target("/a")), NOW),
            OnRejection::Wait
        ));
    }
}

#[test]
fn a_token_is_proven_by_the_first_acceptance_and_reported_until_then() {
    let mut rules = live();
    rules.renew(NOW);
    rules.login_landed(new_token(None), NOW);
    rules.on_use(NOW);
    rules.accepted(1, target("/a"), NOW, NOW);
    assert_eq!(
        rules.signal(),
        Some(Signal::Reported),
        "an old token proves nothing"
    );
    rules.accepted(2, target("/a"), NOW, NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
}

#[test]
fn an_acceptance_after_its_rejection_does_not_prove_a_token() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.accepted(1, target("/b"), NOW, NOW);
    rules.login_landed(new_token(None), NOW);
    rules.accepted(2, target("/a"), NOW, NOW);
    assert_eq!(ends(&mut rules), [], "some servers may accept it still");
}

#[test]
fn one_bad_node_of_several_is_asked_again_once_the_bucket_is_empty() {
    let mut rules = live();
    for generation in 1..=5 {
        rules.rejected(generation, Some(target("/a")), NOW);
        rules.login_landed(new_token(None), NOW);
        rules.accepted(generation + 1, target("/a"), NOW, NOW);
    }
    let soon = NOW + Duration::from_secs(9);
    let rejected = rules.rejected(6, Some(target("/b")), soon);
    assert!(matches!(rejected, OnRejection::Replay));
    assert_eq!(rules.signal(), Some(Signal::Reported));
    // Not by a target that rejects it twice,
    rules.replay_rejected(target("/b"), soon);
    let rejected = rules.rejected(6, Some(target("/b")), soon);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::CoolingDown)
    ));
    // nor if nothing has accepted the token lately.
    rules.login(rules.logouts(), soon);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Requested, LoginKind::Forced))
    );
    rules.login_landed(new_token(None), soon);
    let rejected = rules.rejected(7, Some(target("/c")), soon);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::CoolingDown)
    ));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_thousand_forbidden_targets_cost_five_logins_and_then_one_in_ten_seconds() {
    let mut rules = live();
    let mut logins = 0;
    let mut generation = 1;
    for number in 0..1000 {
        // A hundred targets a second, for ten seconds.
        let now = NOW + Duration::from_millis(10 * number);
        let forbidden = target(&format!("/forbidden/{number}"));
        match rules.rejected(generation, Some(forbidden), now) {
            OnRejection::Wait => {
                logins += 1;
                generation += 1;
                rules.login_landed(new_token(None), NOW);
                rules.replay_rejected(forbidden, now);
            }
            OnRejection::Return(why) => assert!(matches!(why, ReauthFailure::CoolingDown)),
            OnRejection::Replay => panic!("no newer token"),
        }
    }
    assert_eq!(logins, 5);
    let later = NOW + Duration::from_secs(20);
    assert!(matches!(
        rules.rejected(generation, Some(target("/x")), later),
        OnRejection::Wait
    ));
}

#[test]
fn a_failed_renewal_is_no_proof_against_its_target() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_failed(fails(ErrorKind::NoRuntime), NOW);
    assert!(rules.is_usable());
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        OnRejection::Wait
    ));
}

#[test]
fn the_same_token_once_more_stays_in_use_and_causes_no_loop() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    let same = NewToken {
        same: true,
        ..new_token(None)
    };
    assert_eq!(
        rules.login_landed(same, NOW),
        LoginOutcome::Unchanged { generation: 1 }
    );
    assert!(rules.is_usable());
    // Whether it is good now is not known: once more, and then seldom.
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_landed(same, NOW);
    let again = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(
        again,
        OnRejection::Return(ReauthFailure::CoolingDown)
    ));
    rules.accepted(1, target("/a"), NOW, NOW);
    rules.on_use(NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
}

#[test]
fn a_logout_ends_the_token_at_once_and_on_the_server() {
    let mut rules = live();
    rules.logout(NOW);
    assert_eq!(rules.ending(), [1]);
    assert_eq!(rules.signal(), None);
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    assert!(matches!(rules.acquire(NOW), Acquire::Fail(_)));
    let rejected = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(
        rejected,
        OnRejection::Return(ReauthFailure::LoggedOut)
    ));
    logout_lands(&mut rules, &[], &[], Ok(()));
    rules.logout(NOW);
    assert_eq!(rules.take_launch(), None, "twice is once");
}

#[test]
fn a_login_that_lands_after_a_logout_is_logged_out() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.take_launch();
    rules.logout(NOW);
    assert_eq!(rules.take_launch(), None, "one job at a time");
    assert_eq!(
        rules.login_landed(new_token(None), NOW),
        LoginOutcome::End { generation: 1 }
    );
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    assert!(matches!(rules.acquire(NOW), Acquire::Fail(_)));
}

#[test]
fn what_a_logout_could_not_end_is_tried_again_by_the_next() {
    let mut rules = live();
    rules.logout(NOW);
    rules.take_launch();
    logout_lands(&mut rules, &[1], &[], Err(fails(ErrorKind::Unavailable)));
    assert!(rules.logout_result().unwrap().is_err());
    rules.logout(NOW);
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    logout_lands(&mut rules, &[], &[], Ok(()));
    assert!(rules.logout_result().unwrap().is_ok());
}

#[test]
fn a_login_opens_the_session_again() {
    let mut rules = live();
    rules.logout(NOW);
    rules.take_launch();
    assert!(
        matches!(rules.login(rules.logouts(), NOW), JobStart::Busy),
        "not beside the logout"
    );
    logout_lands(&mut rules, &[], &[], Ok(()));
    assert!(
        matches!(rules.renew(NOW), JobStart::Fail(_)),
        "a renewal does not"
    );
    assert!(matches!(
        rules.login(rules.logouts(), NOW),
        JobStart::Started
    ));
    assert_eq!(
        rules.login_landed(new_token(None), NOW),
        LoginOutcome::Publish { generation: 2 }
    );
}

#[test]
fn a_password_change_is_alone_and_does_not_hold_the_token() {
    let mut rules = live();
    assert!(matches!(rules.change_password(NOW), JobStart::Started));
    assert!(matches!(rules.acquire(NOW), Acquire::Use));
    assert!(matches!(rules.login(rules.logouts(), NOW), JobStart::Busy));
    assert!(matches!(rules.renew(NOW), JobStart::Busy));
    assert!(matches!(rules.change_password(NOW), JobStart::Busy));
    // A rejection meanwhile waits for it, and starts its renewal afterwards.
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        OnRejection::Wait
    ));
    rules.take_launch();
    rules.password_change_landed(Ok(()), NOW);
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        OnRejection::Wait
    ));
    assert!(launched(&mut rules).is_some());
}

#[test]
fn a_password_is_changed_with_a_token_only() {
    assert!(matches!(idle().change_password(NOW), JobStart::NeedsToken));
    let mut rules = live();
    rules.logout(NOW);
    assert!(matches!(rules.change_password(NOW), JobStart::Fail(_)));
}

/// A session with the token of generation 1, which a request has carried and
/// which lives for an hour.
fn live_for_an_hour(settings: RulesSettings) -> Rules {
    let mut rules = Rules::new(settings, 1);
    rules.acquire(NOW);
    rules.take_launch().expect("a login");
    rules.login_landed(new_token(Some(HOUR)), NOW);
    rules
}

/// Returns the time of the renewal ahead, which the rng determines.
fn due(rules: &Rules) -> Timestamp {
    let at = rules.wake().expect("something to wait for");
    assert!(at >= NOW + HOUR - Duration::from_secs(300), "{at:?}");
    at
}

const AHEAD: (Reason, LoginKind) = (Reason::Expiring, LoginKind::Usual);
const KEPT_ALIVE: RulesSettings = RulesSettings {
    keep_alive: true,
    ..SETTINGS
};
const BY_TOKEN: RulesSettings = RulesSettings {
    logout_ends: LogoutEnds::Token,
    ..SETTINGS
};

#[test]
fn a_used_token_is_renewed_ahead_of_its_end_and_stays_in_use_meanwhile() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    rules.tick(due - Duration::from_nanos(1));
    assert_eq!(launched(&mut rules), None);
    rules.tick(due);
    assert_eq!(launched(&mut rules), Some(AHEAD));
    assert!(rules.is_usable());
    assert_eq!(rules.wake(), Some(NOW + HOUR), "and it ends in any case");
}

#[test]
fn an_unused_token_is_left_to_its_end_unless_it_is_kept_alive() {
    let mut unused = live_for_an_hour(SETTINGS);
    assert_eq!(unused.wake(), Some(NOW + HOUR));
    unused.tick(NOW + HOUR);
    assert_eq!(launched(&mut unused), None);
    assert_eq!(unused.signal(), None);
    assert_eq!(unused.wake(), None);

    let mut kept = live_for_an_hour(KEPT_ALIVE);
    let due = due(&kept);
    kept.tick(due);
    assert_eq!(launched(&mut kept), Some(AHEAD));
}

#[test]
fn the_first_use_of_a_token_that_is_due_starts_its_renewal() {
    let mut rules = live_for_an_hour(SETTINGS);
    let late = NOW + HOUR - Duration::from_secs(1);
    rules.tick(late);
    assert_eq!(launched(&mut rules), None);
    rules.on_use(late);
    assert_eq!(launched(&mut rules), Some(AHEAD));
    assert!(rules.is_usable());
}

#[test]
fn a_renewal_ahead_that_fails_is_tried_again_and_leaves_the_token_to_its_end() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    rules.tick(due);
    assert_eq!(launched(&mut rules), Some(AHEAD));
    rules.login_failed(fails(ErrorKind::Unavailable), due);
    assert!(matches!(rules.acquire(due), Acquire::Use));
    let again = rules.wake().unwrap();
    assert!(again > due && again <= due + Duration::from_millis(500));
    rules.tick(again);
    assert_eq!(launched(&mut rules), Some(AHEAD));
    rules.login_failed(fails(ErrorKind::Unavailable), NOW + HOUR);
    assert_eq!(rules.signal(), None);
    assert_eq!(rules.wake(), None, "nobody needs a token now");
}

#[test]
fn a_session_that_is_kept_alive_gets_its_token_back() {
    let mut rules = live_for_an_hour(KEPT_ALIVE);
    rules.tick(due(&rules));
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Unavailable), NOW + HOUR);
    let again = rules.wake().unwrap();
    assert!(again > NOW + HOUR);
    rules.tick(again);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expired, LoginKind::Usual))
    );
}

#[test]
fn refused_credentials_are_not_kept_alive() {
    let mut rules = live_for_an_hour(KEPT_ALIVE);
    let due = due(&rules);
    rules.tick(due);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Refused), due);
    rules.tick(NOW + HOUR * 2);
    assert_eq!(launched(&mut rules), None);
    assert_eq!(rules.wake(), None);
}

#[test]
fn after_a_refusal_only_requests_ask_the_source_of_a_token_that_is_due() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    rules.tick(due);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Refused), due);
    assert_eq!(rules.signal(), Some(Signal::Reported));
    rules.tick(due + RECHECK_EVERY);
    assert_eq!(launched(&mut rules), None);
    rules.on_use(due + RECHECK_EVERY - Duration::from_nanos(1));
    assert_eq!(launched(&mut rules), None);
    rules.on_use(due + RECHECK_EVERY);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expiring, LoginKind::Usual))
    );
}

#[test]
fn a_refused_renewal_of_a_token_that_is_not_due_asks_the_source_of_nothing() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.renew(NOW);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    rules.on_use(NOW + RECHECK_EVERY);
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_rejection_during_a_renewal_ahead_joins_it() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    rules.tick(due);
    assert_eq!(launched(&mut rules), Some(AHEAD));
    let rejected = rules.rejected(1, Some(target("/a")), due);
    assert!(matches!(rejected, OnRejection::Wait));
    assert_eq!(rules.signal(), Some(Signal::Suspended));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_renewal_ahead_waits_for_the_running_job() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    assert!(matches!(rules.change_password(due), JobStart::Started));
    rules.take_launch();
    rules.tick(due);
    assert_eq!(launched(&mut rules), None);
    rules.password_change_landed(Ok(()), due);
    assert_eq!(rules.wake(), Some(due));
    rules.tick(due);
    assert_eq!(launched(&mut rules), Some(AHEAD));
}

/// Takes the ends of the tokens that have ended.
fn ends(rules: &mut Rules) -> Vec<(u64, TokenEnd)> {
    let ended = |event| match event {
        Event::TokenEnded { generation, end } => Some((generation, end)),
        _ => None,
    };
    rules.take_events().into_iter().filter_map(ended).collect()
}

/// A session whose token 1 was replaced by token 2, because a caller asked for it.
/// Token 2 is proven.
fn renewed(settings: RulesSettings, continues: bool) -> Rules {
    let mut rules = live_for_an_hour(settings);
    rules.renew(NOW);
    rules.take_launch();
    let issued = NewToken {
        continues,
        ..new_token(None)
    };
    rules.login_landed(issued, NOW);
    rules.accepted(2, target("/"), NOW, NOW);
    rules
}

#[test]
fn a_replaced_token_is_logged_out_once_nobody_uses_it() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
    assert!(rules.is_waiting_for(1));
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    assert!(!rules.has_settled_replaced());
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::LoggedOut)]);
    assert!(rules.has_settled_replaced());
}

#[test]
fn a_replaced_token_is_not_logged_out_where_that_may_end_others() {
    for (settings, continues, end) in [
        (SETTINGS, false, TokenEnd::Abandoned),
        (BY_TOKEN, true, TokenEnd::Continued),
        (SETTINGS, true, TokenEnd::Continued),
    ] {
        let mut rules = renewed(settings, continues);
        rules.released(1);
        rules.tick(NOW);
        assert_eq!(rules.take_launch(), None);
        assert_eq!(ends(&mut rules), [(1, end)]);
    }
}

#[test]
fn a_replaced_token_that_is_over_by_itself_is_not_logged_out() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    rules.tick(NOW + HOUR);
    assert_eq!(rules.take_launch(), None);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}

#[test]
fn a_logout_that_fails_for_now_is_tried_again_and_at_last_given_up() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    let mut now = NOW;
    let mut tries = 0;
    while let Some(at) = rules.wake() {
        now = now.max(at);
        rules.tick(now);
        assert_eq!(
            rules.take_launch(),
            Some(Launch::BackgroundLogout { generation: 1 })
        );
        rules.background_logout_landed(LogoutOutcome::Postponed(None), now);
        tries += 1;
    }
    assert_eq!(tries, 8);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Abandoned)]);
}

#[test]
fn a_logout_that_fails_for_good_is_not_tried_again() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    rules.tick(NOW);
    rules.take_launch();
    rules.background_logout_landed(LogoutOutcome::Failed, NOW);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Abandoned)]);
    assert_eq!(rules.wake(), None);
}

/// A session whose replaced token 1, which lives for an hour, is being logged out.
fn logging_out() -> Rules {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    rules
}

#[test]
fn a_replaced_token_that_expires_during_its_logout_ends_with_that() {
    let mut rules = logging_out();
    rules.tick(NOW + HOUR);
    assert_eq!(ends(&mut rules), []);
    rules.background_logout_landed(LogoutOutcome::Done, NOW + HOUR);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::LoggedOut)]);

    let mut rules = logging_out();
    rules.background_logout_landed(LogoutOutcome::Postponed(None), NOW + HOUR);
    rules.tick(NOW + HOUR);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}

#[test]
fn a_token_that_a_login_yields_again_during_its_logout_is_not_logged_out_again() {
    for (logout, end) in [
        (LogoutOutcome::Done, TokenEnd::LoggedOut),
        (LogoutOutcome::Postponed(None), TokenEnd::Continued),
        (LogoutOutcome::Failed, TokenEnd::Continued),
    ] {
        let mut rules = logging_out();
        rules.reused(1);
        assert_eq!(ends(&mut rules), []);
        rules.background_logout_landed(logout, NOW);
        assert_eq!(ends(&mut rules), [(1, end)]);
        assert!(!rules.is_retired(1));
    }
}

/// A session whose replaced token 1 is being logged out, and that is logged out itself.
fn logged_out_during_a_background_logout() -> Rules {
    let mut rules = logging_out();
    rules.logout(NOW);
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    assert_eq!(rules.ending(), [2, 1]);
    assert_eq!(rules.logging_out(), Some(1));
    rules
}

#[test]
fn a_logout_takes_over_a_replaced_token_that_could_not_be_logged_out() {
    for failed in [LogoutOutcome::Postponed(None), LogoutOutcome::Failed] {
        let mut rules = logged_out_during_a_background_logout();
        rules.background_logout_landed(failed, NOW);
        assert_eq!((rules.ending(), rules.logging_out()), (vec![2, 1], None));
        logout_lands(&mut rules, &[], &[], Ok(()));
        let logged_out = TokenEnd::LoggedOut;
        assert_eq!(ends(&mut rules), [(2, logged_out), (1, logged_out)]);
    }
}

#[test]
fn a_logout_counts_a_replaced_token_once_that_is_being_logged_out() {
    for (logout, end) in [
        (LogoutOutcome::Done, TokenEnd::LoggedOut),
        (LogoutOutcome::Nothing, TokenEnd::Discarded),
    ] {
        let mut rules = logged_out_during_a_background_logout();
        rules.background_logout_landed(logout, NOW);
        assert_eq!(ends(&mut rules), [(1, end)]);
        assert_eq!(rules.ending(), [2]);
        logout_lands(&mut rules, &[], &[], Ok(()));
        assert_eq!(ends(&mut rules), [(2, TokenEnd::LoggedOut)]);
    }
}

#[test]
fn a_replaced_token_that_is_being_logged_out_is_waited_for_in_a_session_without_another() {
    let mut rules = logging_out();
    rules.logout(NOW);
    rules.take_launch();
    logout_lands(&mut rules, &[1], &[], Err(fails(ErrorKind::NoRuntime)));
    rules.take_events();
    // Nothing but that one is left.
    rules.logout(NOW);
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    assert!(rules.logout_result().is_none());
}

#[test]
fn a_login_after_a_logout_logs_no_replaced_token_out_twice() {
    let mut rules = logged_out_during_a_background_logout();
    logout_lands(&mut rules, &[2, 1], &[], Err(fails(ErrorKind::NoRuntime)));
    rules.login(rules.logouts(), NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    rules.accepted(3, target("/"), NOW, NOW);
    rules.released(2);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None, "one logout at a time");
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 2 })
    );
}

#[test]
fn jobs_run_beside_the_logout_of_a_replaced_token() {
    let mut rules = logging_out();
    assert!(matches!(rules.change_password(NOW), JobStart::Started));
    rules.take_launch();
    rules.password_change_landed(Ok(()), NOW);
    assert!(matches!(
        rules.rejected(2, Some(target("/a")), NOW),
        OnRejection::Wait
    ));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Rejected, LoginKind::Usual))
    );
    rules.take_events();
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::LoggedOut)]);
    assert!(rules.is_logging_in());
}

#[test]
fn sixty_four_replaced_tokens_are_waited_for_and_the_oldest_is_given_up() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    for generation in 2..=66 {
        rules.renew(NOW);
        rules.take_launch();
        rules.login_landed(new_token(None), NOW);
        let given_up = ends(&mut rules);
        match generation {
            66 => assert_eq!(given_up, [(1, TokenEnd::Abandoned)]),
            _ => assert_eq!(given_up, []),
        }
    }
}

#[test]
fn sixty_four_failed_logouts_are_remembered_and_the_oldest_is_given_up() {
    let mut rules = idle();
    for generation in 1..=65 {
        rules.login(rules.logouts(), NOW);
        rules.take_launch();
        rules.login_landed(new_token(None), NOW);
        rules.logout(NOW);
        rules.take_launch();
        let left = rules.ending();
        logout_lands(&mut rules, &left, &[], Err(fails(ErrorKind::Unavailable)));
        let given_up = ends(&mut rules);
        match generation {
            65 => assert_eq!(given_up, [(1, TokenEnd::Abandoned)]),
            _ => assert_eq!(given_up, []),
        }
    }
    assert_eq!(rules.ending().len(), 64);
}

/// A session whose token 1 was replaced by token 2, since `/a` rejected it.
fn renewed_after_a_rejection() -> Rules {
    let mut rules = Rules::new(BY_TOKEN, 1);
    rules.acquire(NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    rules.accepted(1, target("/b"), NOW, NOW);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
    rules
}

#[test]
fn a_token_that_was_proven_before_it_was_rejected_is_dead_once_its_successor_is_proven() {
    let mut rules = renewed_after_a_rejection();
    assert_eq!(ends(&mut rules), []);
    rules.accepted(2, target("/a"), NOW, NOW);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Rejected)]);
}

#[test]
fn a_token_is_dead_a_moment_later_if_another_target_proves_its_successor() {
    let mut rules = renewed_after_a_rejection();
    rules.accepted(2, target("/b"), NOW, NOW);
    let later = NOW + Duration::from_secs(10);
    rules.tick(later - Duration::from_nanos(1));
    assert_eq!(ends(&mut rules), [], "`/a` may reject it too");
    rules.tick(later);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Rejected)]);
}

#[test]
fn a_token_is_logged_out_if_its_target_rejects_the_successor_that_another_has_proven() {
    let mut rules = renewed_after_a_rejection();
    rules.accepted(2, target("/b"), NOW, NOW);
    rules.replay_rejected(target("/a"), NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::LoggedOut)]);
}

/// A session whose token 1 is being refreshed ahead of time, which no rejection spoils.
fn refreshing_ahead(settings: RulesSettings) -> Rules {
    let mut rules = live_for_an_hour(settings);
    rules.on_use(NOW);
    rules.accepted(1, target("/"), NOW, NOW);
    let due = due(&rules);
    rules.tick(due);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expiring, LoginKind::Usual))
    );
    rules
}

#[test]
fn a_token_that_was_refreshed_ahead_is_published_once_it_is_proven() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    let landed = rules.login_landed(new_token(None), NOW);
    assert_eq!(landed, LoginOutcome::Keep { generation: 2 });
    assert_eq!((rules.generation(), rules.candidate()), (Some(1), Some(2)));
    assert_eq!(rules.signal(), Some(Signal::Offered));
    assert_eq!(rules.try_candidate(target("/"), NOW), Some(2));
    assert_eq!(rules.try_candidate(target("/"), NOW), None);
    rules.accepted(2, target("/"), NOW, NOW);
    assert_eq!((rules.generation(), rules.candidate()), (Some(2), None));
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_rejected_candidate_is_tried_again_later_and_later() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.login_landed(new_token(None), NOW);
    let mut at = NOW;
    for delay in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(rules.try_candidate(target("/"), at), Some(2), "{delay}");
        let rejected = rules.rejected(2, Some(target("/")), at);
        assert!(matches!(rejected, OnRejection::Replay));
        at += Duration::from_secs(delay);
        rules.tick(at - Duration::from_nanos(1));
        assert_eq!(rules.try_candidate(target("/"), at), None, "{delay}");
        rules.tick(at);
    }
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_caller_who_asks_for_a_new_token_gets_it_at_once() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    assert!(matches!(rules.renew(NOW), JobStart::Join));
    let landed = rules.login_landed(new_token(None), NOW);
    assert_eq!(landed, LoginOutcome::Publish { generation: 2 });
}

#[test]
fn a_token_is_published_at_once_if_the_one_before_may_be_dead_or_is_not_proven() {
    let single = RulesSettings {
        single_session: true,
        ..BY_TOKEN
    };
    let mut rules = refreshing_ahead(single);
    let landed = rules.login_landed(new_token(None), NOW);
    assert_eq!(landed, LoginOutcome::Publish { generation: 2 });

    let mut rules = refreshing_ahead(BY_TOKEN);
    let continuing = NewToken {
        continues: true,
        ..new_token(None)
    };
    let landed = rules.login_landed(continuing, NOW);
    assert_eq!(landed, LoginOutcome::Publish { generation: 2 });

    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.rejected(1, Some(target("/")), NOW);
    let landed = rules.login_landed(new_token(None), NOW);
    assert_eq!(landed, LoginOutcome::Publish { generation: 2 });
}

/// A candidate that expires before the current token.
fn short_lived(has_data: bool) -> (Rules, Timestamp) {
    let mut rules = refreshing_ahead(BY_TOKEN);
    let mut second = new_token(Some(Duration::from_secs(60)));
    second.lifetimes.has_data = has_data;
    let landed = rules.login_landed(second, NOW);
    assert_eq!(landed, LoginOutcome::Keep { generation: 2 });
    let now = NOW + Duration::from_secs(60);
    rules.tick(now);
    assert_eq!((rules.generation(), rules.candidate()), (Some(1), None));
    (rules, now)
}

#[test]
fn a_candidate_that_expires_first_causes_no_refresh_until_the_next_use() {
    let (mut rules, now) = short_lived(false);
    assert_eq!(ends(&mut rules), [(2, TokenEnd::Expired)]);
    assert_eq!(rules.take_launch(), None);
    rules.tick(now + HOUR / 10);
    assert_eq!(rules.take_launch(), None);
}

#[test]
fn a_token_that_continues_an_expired_candidate_does_not_continue_the_current_one() {
    let (mut rules, now) = short_lived(true);
    assert!(matches!(rules.renew(now), JobStart::Started));
    let third = NewToken {
        continues: true,
        ..new_token(None)
    };
    rules.login_landed(third, now);
    assert_eq!(ends(&mut rules), [(2, TokenEnd::Continued)]);
    assert!(rules.is_retired(1));
}

#[test]
fn a_token_that_continues_a_candidate_replaces_the_current_one() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.login_landed(new_token(None), NOW);
    assert!(matches!(rules.renew(NOW), JobStart::Started));
    let third = NewToken {
        continues: true,
        ..new_token(None)
    };
    rules.login_landed(third, NOW);
    assert_eq!((rules.generation(), rules.candidate()), (Some(3), None));
    assert_eq!(ends(&mut rules), [(2, TokenEnd::Continued)]);
    assert!(rules.is_retired(1));
}

#[test]
fn the_data_of_a_token_that_expires_before_a_candidate_is_proven_is_logged_out() {
    let mut rules = Rules::new(BY_TOKEN, 1);
    let mut lifetimes = new_token(Some(HOUR)).lifetimes;
    lifetimes.has_data = true;
    rules.set_initial(lifetimes);
    rules.on_use(NOW);
    rules.accepted(1, target("/"), NOW, NOW);
    rules.start_login(Reason::Expiring, LoginKind::Usual, NOW);
    let landed = rules.login_landed(new_token(None), NOW);
    assert_eq!(landed, LoginOutcome::Keep { generation: 2 });
    rules.tick(NOW + HOUR);
    assert_eq!((rules.generation(), rules.candidate()), (Some(2), None));
    rules.released(1);
    rules.take_launch();
    rules.tick(NOW + HOUR);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_token_that_continues_the_candidate_of_a_closed_session_is_logged_out_alone() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.login_landed(new_token(None), NOW);
    rules.close();
    assert_eq!(rules.ending(), [2]);
    rules.rejected(1, Some(target("/")), NOW);
    let third = NewToken {
        continues: true,
        ..new_token(None)
    };
    rules.login_landed(third, NOW);
    assert_eq!(ends(&mut rules), [(2, TokenEnd::Continued)]);
    assert!(rules.ending().is_empty());
}

#[test]
fn a_candidate_that_is_due_itself_is_published() {
    let mut rules = live();
    rules.on_use(NOW);
    rules.accepted(1, target("/"), NOW, NOW);
    rules.start_login(Reason::Expiring, LoginKind::Usual, NOW);
    let mut second = new_token(None);
    second.lifetimes.refresh_in = Some(HOUR);
    rules.login_landed(second, NOW);
    assert_eq!(rules.candidate(), Some(2));
    rules.tick(NOW + HOUR);
    assert_eq!(rules.generation(), Some(2));
}

#[test]
fn a_token_that_a_password_change_uses_is_logged_out_after_that() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.login_landed(new_token(None), NOW);
    assert!(matches!(rules.change_password(NOW), JobStart::Started));
    rules.take_launch();
    rules.accepted(2, target("/"), NOW, NOW);
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
    rules.password_change_landed(Ok(()), NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_target_that_has_cooled_down_lately_tries_no_candidate() {
    let mut rules = refreshing_ahead(BY_TOKEN);
    rules.login_landed(new_token(None), NOW);
    rules.rejected(2, Some(target("/admin")), NOW);
    rules.replay_rejected(target("/admin"), NOW);
    let later = NOW + Duration::from_secs(2);
    rules.tick(later);
    assert_eq!(rules.try_candidate(target("/admin"), later), None);
    // Its rejection was not held against the candidate.
    assert_eq!(rules.try_candidate(target("/"), later), Some(2));
}

/// A session whose token 1 has expired and has data.
fn spent(logout_ends: LogoutEnds) -> Rules {
    let mut rules = Rules::new(
        RulesSettings {
            logout_ends,
            ..SETTINGS
        },
        1,
    );
    let mut lifetimes = new_token(Some(HOUR)).lifetimes;
    lifetimes.has_data = true;
    rules.set_initial(lifetimes);
    rules.tick(NOW + HOUR);
    rules
}

/// Lands a login of a session that has no token.
fn logs_in(rules: &mut Rules, continues: bool) {
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Wait));
    rules.take_launch();
    let new = NewToken {
        continues,
        ..new_token(None)
    };
    rules.login_landed(new, NOW + HOUR);
    rules.released(1);
    rules.tick(NOW + HOUR);
}

#[test]
fn an_expired_token_with_data_ends_with_the_next_login() {
    let mut rules = spent(LogoutEnds::Token);
    assert_eq!(ends(&mut rules), []);
    logs_in(&mut rules, false);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );

    let mut rules = spent(LogoutEnds::User);
    assert_eq!(ends(&mut rules), []);
    logs_in(&mut rules, false);
    assert_eq!(rules.take_launch(), None);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Abandoned)]);

    for logout_ends in [LogoutEnds::Token, LogoutEnds::User] {
        let mut rules = spent(logout_ends);
        logs_in(&mut rules, true);
        assert_eq!(rules.take_launch(), None);
        assert_eq!(ends(&mut rules), [(1, TokenEnd::Continued)]);
    }
}

#[test]
fn an_expired_token_with_data_is_over_where_a_logout_ends_nothing() {
    let mut rules = spent(LogoutEnds::Nothing);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}

#[test]
fn a_login_that_fails_leaves_an_expired_token_its_data() {
    let mut rules = spent(LogoutEnds::Token);
    rules.acquire(NOW + HOUR);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Unavailable), NOW + HOUR);
    rules.released(1);
    rules.tick(NOW + HOUR);
    assert_eq!(rules.take_launch(), None);
    rules.logout(NOW + HOUR);
    assert_eq!(rules.take_launch(), Some(LOGOUT));
    assert_eq!(rules.ending(), [1]);
}

#[test]
fn four_tokens_wait_for_a_proven_one_and_the_oldest_of_more_is_logged_out() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    for generation in 2..=6 {
        assert_eq!(rules.take_launch(), None);
        rules.renew(NOW);
        rules.take_launch();
        rules.login_landed(new_token(None), NOW);
        rules.released(generation - 1);
        rules.tick(NOW);
    }
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
}

#[test]
fn a_replaced_token_expires_whether_or_not_its_successor_is_proven() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.renew(NOW);
    rules.login_landed(new_token(None), NOW);
    rules.tick(NOW + HOUR);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}

#[test]
fn a_rejected_token_is_logged_out_if_its_successor_is_rejected_too() {
    let mut rules = renewed_after_a_rejection();
    rules.replay_rejected(target("/a"), NOW);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None, "which nothing has accepted yet");
    rules.accepted(2, target("/b"), NOW, NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_later_rejection_by_the_same_target_says_so_too() {
    let mut rules = renewed_after_a_rejection();
    let later = NOW + Duration::from_secs(2);
    rules.rejected(2, Some(target("/a")), later);
    rules.take_launch();
    rules.login_landed(new_token(None), later);
    rules.accepted(3, target("/b"), later, later);
    rules.tick(later);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_token_that_nothing_has_accepted_is_logged_out_although_it_was_rejected() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    rules.released(1);
    rules.accepted(2, target("/a"), NOW, NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_replaced_token_is_logged_out_after_a_login_that_failed() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.renew(NOW);
    rules.login_landed(new_token(None), NOW);
    rules.released(1);
    rules.renew(NOW);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_logout_ends_the_replaced_tokens_too_and_those_that_nobody_knows_to_be_dead() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.logout(NOW);
    assert_eq!(rules.ending(), [2, 1]);

    let mut rules = renewed_after_a_rejection();
    rules.logout(NOW);
    assert_eq!(rules.ending(), [2, 1]);

    let mut rules = renewed_after_a_rejection();
    rules.accepted(2, target("/a"), NOW, NOW);
    rules.logout(NOW);
    assert_eq!(rules.ending(), [2], "which is known");
}

#[test]
fn a_token_that_is_used_again_is_not_logged_out() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    rules.reused(1);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
}

#[test]
fn a_rejection_during_the_logout_of_a_replaced_token_is_acted_on_after_it() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.released(1);
    rules.tick(NOW);
    rules.take_launch();
    let rejected = rules.rejected(2, Some(target("/a")), NOW);
    assert!(matches!(rejected, OnRejection::Wait));
    rules.background_logout_landed(LogoutOutcome::Done, NOW);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Rejected, LoginKind::Usual))
    );
}

#[test]
fn a_closed_session_lets_nobody_in_and_goes_on_with_who_is() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    let due = due(&rules);
    rules.close();
    let closed = rules.admit(NOW).unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
    assert_eq!(rules.signal(), Some(Signal::Closing));
    assert!(matches!(rules.acquire(NOW), Acquire::Use));
    let rejected = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(rejected, OnRejection::Wait));
    rules.take_launch().expect("a renewal for the request");
    rules.login_landed(new_token(Some(HOUR)), NOW);
    rules.on_use(NOW);
    rules.tick(due);
    assert_eq!(launched(&mut rules), None, "and none ahead of time");
    for begin in [
        rules.login(rules.logouts(), NOW),
        rules.renew(NOW),
        rules.change_password(NOW),
    ] {
        let JobStart::Fail(error) = begin else {
            panic!("{begin:?}");
        };
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

#[test]
fn an_accepted_request_starts_the_idle_time_anew_and_no_other_does() {
    let idle = NewToken {
        lifetimes: Lifetimes {
            absolute: None,
            idle: Some(HOUR),
            refresh_in: None,
            refresh_before: None,
            has_data: false,
        },
        ..new_token(None)
    };
    let mut rules = Rules::new(SETTINGS, 1);
    rules.acquire(NOW);
    rules.take_launch();
    rules.login_landed(idle, NOW);
    rules.on_use(NOW);
    assert_eq!(rules.signal(), Some(Signal::Reported));
    let sent = NOW + HOUR / 2;
    rules.accepted(7, target("/a"), sent, sent);
    assert_eq!(rules.ends(), Some(NOW + HOUR), "that was another token");
    rules.accepted(1, target("/a"), sent, sent);
    assert_eq!(rules.ends(), Some(sent + HOUR));
    assert_eq!(rules.signal(), Some(Signal::Live));
    let next_sample = sent + HOUR / 20;
    assert_eq!(rules.wake(), Some(next_sample));
    rules.tick(next_sample);
    assert_eq!(rules.signal(), Some(Signal::Reported));
}

/// Applies events in an order that a fixed stream of numbers determines. The invariants
/// of the rules hold after each event, and each issued token ends once.
#[test]
fn whatever_happens_there_is_one_job_and_no_token_is_forgotten() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = move |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % sides
    };
    for round in 0..1000 {
        let settings = RulesSettings {
            has_source: roll(2) == 0,
            tries_candidates: roll(4) != 0,
            keep_alive: roll(2) == 0,
            logout_ends: [LogoutEnds::Token, LogoutEnds::Nothing, LogoutEnds::User]
                [roll(3) as usize],
            rolls: roll(2) == 0,
            single_session: roll(4) == 0,
        };
        let mut rules = Rules::new(settings, round);
        let mut now = NOW;
        let mut flying = None;
        let mut logging_out = None;
        let mut ended = std::collections::BTreeMap::new();
        for _ in 0..200 {
            now += Duration::from_millis(roll(3000));
            let generation = rules.newest.saturating_sub(roll(2));
            let path = target(["/a", "/b", "/forbidden"][roll(3) as usize]);
            let sent = now - Duration::from_millis(roll(500));
            match roll(17) {
                0 | 1 => drop(rules.acquire(now)),
                2 | 3 => drop(rules.rejected(generation, Some(path), now)),
                4 => rules.replay_rejected(path, now),
                5 => rules.accepted(generation, path, sent, now),
                6 => drop(rules.login(rules.logouts(), now)),
                7 => drop(rules.renew(now)),
                8 => drop(rules.change_password(now)),
                9 if roll(4) == 0 => rules.logout(now),
                10 => drop(rules.rejected(generation, None, now)),
                11 => {
                    drop(rules.admit(now));
                    let _ = rules.try_candidate(path, now);
                }
                12 => rules.tick(now),
                13 => rules.released(generation),
                9 | 14 if roll(50) == 0 => rules.close(),
                15 if logging_out.take().is_some() => {
                    let logouts = [
                        LogoutOutcome::Done,
                        LogoutOutcome::Postponed(None),
                        LogoutOutcome::Failed,
                    ];
                    rules.background_logout_landed(logouts[roll(3) as usize], now);
                }
                _ => match flying.take() {
                    None => {}
                    Some(JobKind::Login { .. }) if roll(3) > 0 => {
                        let mut lifetime =
                            || (roll(2) == 0).then(|| Duration::from_millis(roll(9000)));
                        let lifetimes = Lifetimes {
                            absolute: lifetime(),
                            idle: lifetime(),
                            refresh_in: None,
                            refresh_before: None,
                            has_data: false,
                        };
                        rules.login_landed(
                            NewToken {
                                lifetimes,
                                sent,
                                same: roll(4) == 0 && rules.current.is_some(),
                                continues: roll(4) == 0,
                            },
                            now,
                        );
                    }
                    Some(JobKind::Login { .. }) => {
                        let kinds = [
                            ErrorKind::Refused,
                            ErrorKind::Unavailable,
                            ErrorKind::NoRuntime,
                        ];
                        rules.login_failed(fails(kinds[roll(3) as usize]), now);
                    }
                    Some(JobKind::Logout) => {
                        let mut left = rules.ending();
                        left.truncate(roll(3) as usize);
                        let abandoned: Vec<u64> = left.pop().into_iter().collect();
                        logout_lands(&mut rules, &left, &abandoned, Ok(()));
                    }
                    Some(JobKind::ChangePassword) => {
                        let outcomes = [Ok(()), Err(fails(ErrorKind::Uncertain))];
                        rules.password_change_landed(outcomes[roll(2) as usize].clone(), now);
                    }
                },
            }
            while let Some(launched) = rules.take_launch() {
                let before = match launched {
                    Launch::Job(job) => flying.replace(job).is_some(),
                    Launch::BackgroundLogout { generation } => {
                        logging_out.replace(generation).is_some()
                    }
                };
                assert!(!before, "two at once: {launched:?}");
            }
            assert_eq!(flying, rules.job_kind());
            assert_eq!(logging_out, rules.logging_out());
            let renewing = matches!(flying, Some(JobKind::Login { .. }));
            assert!(renewing || rules.signal() != Some(Signal::Suspended));
            if let Phase::LoggedOut(_) = rules.phase {
                assert_eq!(rules.signal(), None, "a token after a logout");
            }
            for event in rules.take_events() {
                if let Event::TokenEnded { generation, end } = event {
                    assert_eq!(ended.insert(generation, end), None, "twice: {generation}");
                }
            }
            for generation in 1..=rules.newest {
                let is_current = rules
                    .current
                    .as_ref()
                    .is_some_and(|current| current.generation == generation);
                let places = [
                    is_current,
                    rules.candidate() == Some(generation),
                    rules.is_retired(generation),
                    ended.contains_key(&generation),
                ];
                let places = places.iter().filter(|here| **here).count();
                assert_eq!(places, 1, "token {generation} of {rules:?}");
            }
        }
    }
}

#[test]
fn the_last_handles_end_accounts_for_a_token_whose_logout_is_under_way_too() {
    let mut rules = logging_out();
    rules.abandon();
    let mut ended: Vec<u64> = ends(&mut rules).into_iter().map(|(one, _)| one).collect();
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
}

/// A session whose tokens 1 and 2 were replaced by token 3, which is proven.
fn renewed_twice() -> Rules {
    let mut rules = renewed(BY_TOKEN, false);
    rules.renew(NOW);
    rules.take_launch();
    rules.login_landed(new_token(None), NOW);
    rules.accepted(3, target("/"), NOW, NOW);
    rules
}

#[test]
fn an_acceptance_of_the_rejected_token_itself_is_no_proof_that_it_is_dead() {
    let mut rules = renewed_after_a_rejection();
    rules.accepted(1, target("/a"), NOW, NOW);
    assert_eq!(ends(&mut rules), []);
}

#[test]
fn a_replay_that_another_target_rejects_says_nothing_of_this_one() {
    let mut rules = renewed_after_a_rejection();
    rules.replay_rejected(target("/b"), NOW);
    rules.tick(NOW);
    assert_eq!(rules.take_launch(), None);
}

#[test]
fn while_one_logout_is_backed_off_from_another_token_is_logged_out_and_not_that_one() {
    let mut rules = renewed_twice();
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    rules.background_logout_landed(LogoutOutcome::Postponed(None), NOW);
    rules.released(2);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 2 })
    );
}

#[test]
fn who_was_let_go_of_is_waited_for_no_more_though_the_logout_is_to_come() {
    let mut rules = renewed(BY_TOKEN, false);
    assert!(rules.is_waiting_for(1) && rules.is_waiting_for_release());
    assert!(!rules.has_settled_replaced());
    rules.released(1);
    assert!(!rules.is_waiting_for(1) && !rules.is_waiting_for_release());
    assert!(!rules.has_settled_replaced());
}

#[test]
fn a_replaced_token_whose_logout_is_under_way_is_not_the_one_given_up() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    for _ in 2..=65 {
        rules.renew(NOW);
        rules.take_launch();
        rules.login_landed(new_token(None), NOW);
    }
    rules.accepted(65, target("/"), NOW, NOW);
    rules.released(1);
    rules.tick(NOW);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
    let mut replaced = std::mem::take(&mut rules.replaced);
    let token = TokenRef::new(66, None);
    assert_eq!(replaced.add(token, None, false), Some(2));
}

#[test]
fn a_token_kept_alive_is_renewed_ahead_of_whichever_end_is_sooner() {
    for (absolute, idle) in [(HOUR, HOUR * 10), (HOUR * 10, HOUR)] {
        let keep_alive = RulesSettings {
            keep_alive: true,
            ..SETTINGS
        };
        let mut rules = Rules::new(keep_alive, 1);
        rules.acquire(NOW);
        rules.take_launch();
        let lifetimes = Lifetimes {
            absolute: Some(absolute),
            idle: Some(idle),
            refresh_in: None,
            refresh_before: None,
            has_data: false,
        };
        let issued = NewToken {
            lifetimes,
            ..new_token(None)
        };
        rules.login_landed(issued, NOW);
        let due = due(&rules);
        assert!(due < NOW + HOUR && due >= NOW + HOUR - HOUR / 5, "{due:?}");
    }
}

#[test]
fn a_suspended_token_is_neither_ended_nor_renewed_by_time() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.on_use(NOW);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.tick(NOW + HOUR);
    assert_eq!(rules.wake(), None);
    assert_eq!(ends(&mut rules), []);
    assert_eq!(rules.signal(), Some(Signal::Suspended));
}

#[test]
fn a_token_kept_alive_that_ends_at_once_is_had_again_once_a_second() {
    let mut rules = Rules::new(KEPT_ALIVE, 1);
    rules.acquire(NOW);
    rules.take_launch();
    let moment = Duration::from_millis(10);
    rules.login_landed(new_token(Some(moment)), NOW);
    rules.tick(NOW + BRIEFLY - Duration::from_nanos(1));
    assert_eq!(launched(&mut rules), None);
    rules.tick(NOW + BRIEFLY);
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expired, LoginKind::Usual))
    );
}

#[test]
fn a_request_that_comes_after_the_end_starts_no_renewal_ahead() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW + HOUR);
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_request_that_waits_for_a_renewal_has_not_used_the_token() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.on_use(NOW);
    rules.login_failed(fails(ErrorKind::NoRuntime), NOW);
    rules.tick(NOW + HOUR / 2);
    assert_eq!(rules.wake(), Some(NOW + HOUR), "its end");
}

/// Rule 17, for a token that is about to expire when it arrives.
#[test]
fn a_token_that_is_all_but_over_causes_no_loop_of_logins() {
    let mut rules = idle();
    let mut logins = 0;
    for millisecond in 0..1000 {
        let now = NOW + Duration::from_millis(millisecond);
        if let Acquire::Wait = rules.acquire(now) {
            rules.take_launch().expect("a login");
            let issued = NewToken {
                sent: now,
                ..new_token(Some(Duration::from_millis(2)))
            };
            rules.login_landed(issued, now);
            logins += 1;
        }
    }
    assert_eq!(logins, 1);
}

#[test]
fn a_suspended_token_does_not_end_while_its_renewal_runs() {
    let mut rules = live_for_an_hour(BY_TOKEN);
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Wait));
    assert_eq!(ends(&mut rules), []);
    rules.login_failed(fails(ErrorKind::Unavailable), NOW + HOUR);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}

/// Its users may have kept it alive.
#[test]
fn a_replaced_token_is_logged_out_though_its_idle_time_may_be_over() {
    let mut rules = Rules::new(BY_TOKEN, 1);
    for _ in 0..2 {
        rules.renew(NOW);
        rules.take_launch();
        let lifetimes = Lifetimes {
            absolute: None,
            idle: Some(HOUR),
            refresh_in: None,
            refresh_before: None,
            has_data: false,
        };
        let issued = NewToken {
            lifetimes,
            ..new_token(None)
        };
        rules.login_landed(issued, NOW);
    }
    rules.accepted(2, target("/"), NOW, NOW);
    rules.released(1);
    rules.tick(NOW + HOUR);
    assert_eq!(
        rules.take_launch(),
        Some(Launch::BackgroundLogout { generation: 1 })
    );
}

#[test]
fn a_token_that_is_used_again_under_a_new_generation_is_accounted_for_under_its_old_one() {
    let mut rules = renewed(BY_TOKEN, false);
    rules.reused(1);
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Continued)]);
}

#[test]
fn a_timer_that_comes_after_a_tokens_end_renews_nothing_ahead() {
    let mut rules = live_for_an_hour(SETTINGS);
    rules.on_use(NOW);
    rules.tick(NOW + HOUR);
    assert_eq!(launched(&mut rules), None, "nobody needs a token now");
    assert_eq!(ends(&mut rules), [(1, TokenEnd::Expired)]);
}
