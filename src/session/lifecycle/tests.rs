//! The rules, each from both sides.

use http::Method;

use super::*;

const NOW: Moment = Duration::from_secs(1000);
const HOUR: Duration = Duration::from_secs(3600);

fn target(path: &str) -> Target {
    Target::of(&Method::GET, path)
}

fn issued(lifetime: Option<Duration>) -> Issued {
    Issued {
        lifetime,
        sent: NOW,
        same: false,
    }
}

fn fails(kind: ErrorKind) -> Error {
    Error::new(kind)
}

/// A session that nobody has used.
fn idle() -> Lifecycle {
    Lifecycle::new(true, 1)
}

/// A session with the token of generation 1.
fn live() -> Lifecycle {
    let mut rules = idle();
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    rules.take_launch().expect("a login");
    assert_eq!(
        rules.login_landed(issued(None), NOW),
        Fate::Publish { generation: 1 }
    );
    rules
}

/// A login that failed, from the first request on.
fn failed(kind: ErrorKind) -> Lifecycle {
    let mut rules = idle();
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    rules.take_launch().expect("a login");
    rules.login_failed(fails(kind), NOW);
    rules
}

fn launched(rules: &mut Lifecycle) -> Option<(Reason, Attempt)> {
    match rules.take_launch()? {
        Flight::Login { reason, attempt } => Some((reason, attempt)),
        Flight::Logout | Flight::ChangePassword => None,
    }
}

#[test]
fn the_first_who_needs_a_token_starts_a_login_and_the_others_share_it() {
    let mut rules = idle();
    assert_eq!(rules.state(), State::Idle);
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Initial, Attempt::Usual))
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
    assert!(matches!(rejected, Rejected::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Rejected, Attempt::Usual))
    );
    assert_eq!(rules.signal(), Some(Signal::Suspended));
    assert!(matches!(rules.acquire(NOW), Acquire::Wait));
    assert_eq!(
        rules.login_landed(issued(None), NOW),
        Fate::Publish { generation: 2 }
    );
    assert!(rules.is_usable());
}

#[test]
fn all_who_are_rejected_together_share_one_renewal() {
    let mut rules = live();
    for path in ["/a", "/a", "/b", "/c"] {
        let rejected = rules.rejected(1, Some(target(path)), NOW);
        assert!(matches!(rejected, Rejected::Wait), "{path}");
    }
    assert!(launched(&mut rules).is_some());
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn a_late_rejection_of_an_old_token_starts_no_login() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.take_launch();
    rules.login_landed(issued(None), NOW);
    let late = rules.rejected(1, Some(target("/b")), NOW);
    assert!(matches!(late, Rejected::Replay));
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
    assert!(matches!(rejected, Rejected::Return(Why::RenewalFailed(_))));
    assert_eq!(launched(&mut rules), None);
    let later = rules.rejected(1, Some(target("/a")), NOW + HOUR);
    assert!(matches!(later, Rejected::Wait));
}

#[test]
fn after_a_failed_renewal_an_expired_token_is_not() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.login_landed(issued(Some(HOUR)), NOW);
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
    rules.login_landed(issued(Some(HOUR)), NOW);
    assert!(matches!(
        rules.acquire(NOW + HOUR - Duration::from_nanos(1)),
        Acquire::Use
    ));
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Wait));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Expired, Attempt::Usual))
    );
}

#[test]
fn a_lifetime_beyond_what_a_clock_can_tell_is_none() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.login_landed(issued(Some(Duration::MAX)), NOW);
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
    rules.login_landed(issued(Some(HOUR)), arrives);
    assert!(matches!(rules.acquire(arrives), Acquire::Use));
    assert!(matches!(rules.acquire(arrives + BRIEFLY), Acquire::Wait));
}

#[test]
fn a_login_that_was_asked_for_before_a_logout_does_not_undo_it() {
    let mut rules = live();
    rules.change_password();
    let before = rules.logouts();
    assert!(matches!(rules.login(before), Begin::Busy));
    rules.logout();
    rules.password_change_landed(true, NOW);
    rules.logout_landed(Vec::new(), Ok(()));
    assert!(matches!(rules.login(before), Begin::Fail(_)));
    assert!(matches!(rules.login(rules.logouts()), Begin::Started));
}

#[test]
fn a_login_after_a_logout_does_not_share_one_from_before_it() {
    let mut rules = idle();
    rules.login(0);
    rules.take_launch();
    rules.logout();
    assert!(matches!(rules.login(1), Begin::Busy));
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
    assert!(
        matches!(rules.acquire(later), Acquire::Fail(_)),
        "off the request's path"
    );
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Initial, Attempt::Recheck))
    );
    assert!(
        matches!(rules.acquire(later), Acquire::Fail(_)),
        "nobody waits for it"
    );
    rules.login_failed(fails(ErrorKind::Refused), later);
    assert!(matches!(rules.acquire(later), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);
}

#[test]
fn without_a_source_refused_credentials_latch_for_good() {
    let mut rules = Lifecycle::new(false, 1);
    rules.acquire(NOW);
    rules.take_launch();
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    assert!(matches!(rules.acquire(NOW + HOUR), Acquire::Fail(_)));
    assert_eq!(launched(&mut rules), None);
    assert!(matches!(rules.login(rules.logouts()), Begin::Started));
    assert_eq!(
        launched(&mut rules),
        Some((Reason::Requested, Attempt::Forced))
    );
}

#[test]
fn a_forced_login_that_finds_nobody_leaves_refused_credentials_refused() {
    let mut rules = Lifecycle::new(false, 1);
    rules.acquire(NOW);
    rules.login_failed(fails(ErrorKind::Refused), NOW);
    rules.login(rules.logouts());
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
    rules.logout();
    let error = rules.login_failed(fails(ErrorKind::Unavailable), NOW);
    assert_eq!(error.kind(), ErrorKind::LoggedOut);
}

#[test]
fn a_changed_password_opens_the_latch_and_a_failed_change_does_not() {
    for (may_log_in, opens) in [(true, true), (false, false)] {
        let mut rules = live();
        rules.rejected(1, Some(target("/a")), NOW);
        rules.login_failed(fails(ErrorKind::Refused), NOW);
        assert!(matches!(rules.change_password(), Begin::Started));
        rules.password_change_landed(may_log_in, NOW);
        let rejected = rules.rejected(1, Some(target("/a")), NOW);
        assert_eq!(matches!(rejected, Rejected::Wait), opens);
    }
}

#[test]
fn an_unhelpful_renewal_cools_its_target_down_and_no_other() {
    let mut rules = live();
    let forbidden = target("/forbidden");
    rules.rejected(1, Some(forbidden), NOW);
    rules.login_landed(issued(None), NOW);
    assert_eq!(rules.signal(), Some(Signal::Suspect));
    rules.replay_rejected(2, forbidden, NOW);

    let rejected = rules.rejected(2, Some(forbidden), NOW);
    assert!(matches!(rejected, Rejected::Return(Why::CoolingDown)));
    let other = rules.rejected(2, Some(target("/b")), NOW);
    assert!(
        matches!(other, Rejected::Wait),
        "the session may really have died"
    );
}

#[test]
fn a_target_that_shared_a_renewal_which_did_not_help_it_cools_down_too() {
    let mut rules = live();
    let (dead, forbidden) = (target("/a"), target("/forbidden"));
    rules.rejected(1, Some(dead), NOW);
    rules.rejected(1, Some(forbidden), NOW);
    rules.login_landed(issued(None), NOW);
    rules.accepted(2, dead, NOW);
    rules.replay_rejected(2, forbidden, NOW);
    let rejected = rules.rejected(2, Some(forbidden), NOW);
    assert!(matches!(rejected, Rejected::Return(Why::CoolingDown)));
    rules.accepted(2, forbidden, NOW);
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
            Rejected::Wait
        ));
        rules.login_landed(issued(None), NOW);
        rules.replay_rejected(generation + 1, forbidden, now);
        let until = now + Duration::from_secs(delay);
        let just_before = until - Duration::from_nanos(1);
        let rejected = rules.rejected(generation + 1, Some(forbidden), just_before);
        assert!(
            matches!(rejected, Rejected::Return(Why::CoolingDown)),
            "{delay} s"
        );
        now = until;
    }
}

#[test]
fn an_accepted_request_ends_the_cool_down() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_landed(issued(None), NOW);
    rules.accepted(1, target("/a"), NOW);
    assert_eq!(
        rules.signal(),
        Some(Signal::Suspect),
        "an old token proves nothing"
    );
    rules.accepted(2, target("/b"), NOW);
    assert_eq!(
        rules.signal(),
        Some(Signal::Suspect),
        "nor does another target"
    );
    rules.accepted(2, target("/a"), NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
    assert!(matches!(
        rules.rejected(2, Some(target("/a")), NOW),
        Rejected::Wait
    ));
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
            Rejected::Wait => {
                logins += 1;
                generation += 1;
                rules.login_landed(issued(None), NOW);
                rules.replay_rejected(generation, forbidden, now);
            }
            Rejected::Return(why) => assert!(matches!(why, Why::CoolingDown)),
            Rejected::Replay => panic!("no newer token"),
        }
    }
    assert_eq!(logins, 5);
    let later = NOW + Duration::from_secs(20);
    assert!(matches!(
        rules.rejected(generation, Some(target("/x")), later),
        Rejected::Wait
    ));
}

#[test]
fn a_failed_renewal_is_no_proof_against_its_target() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    rules.login_failed(fails(ErrorKind::NoRuntime), NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        Rejected::Wait
    ));
}

#[test]
fn the_same_token_once_more_stays_in_use_and_causes_no_loop() {
    let mut rules = live();
    rules.rejected(1, Some(target("/a")), NOW);
    let same = Issued {
        same: true,
        ..issued(None)
    };
    assert_eq!(
        rules.login_landed(same, NOW),
        Fate::Unchanged { generation: 1 }
    );
    assert!(rules.is_usable());
    let again = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(again, Rejected::Return(Why::CoolingDown)));
    rules.accepted(1, target("/a"), NOW);
    assert_eq!(rules.signal(), Some(Signal::Live));
}

#[test]
fn a_logout_ends_the_token_at_once_and_on_the_server() {
    let mut rules = live();
    assert_eq!(rules.logout(), Some(1));
    assert_eq!(rules.signal(), None);
    assert_eq!(rules.take_launch(), Some(Flight::Logout));
    assert!(matches!(rules.acquire(NOW), Acquire::Fail(_)));
    let rejected = rules.rejected(1, Some(target("/a")), NOW);
    assert!(matches!(rejected, Rejected::Return(Why::LoggedOut)));
    rules.logout_landed(Vec::new(), Ok(()));
    assert_eq!(rules.logout(), None);
    assert_eq!(rules.take_launch(), None, "twice is once");
}

#[test]
fn a_login_that_lands_after_a_logout_is_logged_out() {
    let mut rules = idle();
    rules.acquire(NOW);
    rules.take_launch();
    assert_eq!(rules.logout(), None);
    assert_eq!(rules.take_launch(), None, "one flight at a time");
    assert_eq!(
        rules.login_landed(issued(None), NOW),
        Fate::End { generation: 1 }
    );
    assert_eq!(rules.take_launch(), Some(Flight::Logout));
    assert!(matches!(rules.acquire(NOW), Acquire::Fail(_)));
}

#[test]
fn what_a_logout_could_not_end_is_tried_again_by_the_next() {
    let mut rules = live();
    rules.logout();
    rules.take_launch();
    rules.logout_landed(vec![1], Err(fails(ErrorKind::Unavailable)));
    assert!(rules.logged_out().unwrap().is_err());
    assert_eq!(rules.logout(), None);
    assert_eq!(rules.take_launch(), Some(Flight::Logout));
    rules.logout_landed(Vec::new(), Ok(()));
    assert!(rules.logged_out().unwrap().is_ok());
}

#[test]
fn a_login_opens_the_session_again() {
    let mut rules = live();
    rules.logout();
    rules.take_launch();
    assert!(
        matches!(rules.login(rules.logouts()), Begin::Busy),
        "not beside the logout"
    );
    rules.logout_landed(Vec::new(), Ok(()));
    assert!(
        matches!(rules.renew(NOW), Begin::Fail(_)),
        "a renewal does not"
    );
    assert!(matches!(rules.login(rules.logouts()), Begin::Started));
    assert_eq!(
        rules.login_landed(issued(None), NOW),
        Fate::Publish { generation: 2 }
    );
}

#[test]
fn a_password_change_is_alone_and_does_not_hold_the_token() {
    let mut rules = live();
    assert!(matches!(rules.change_password(), Begin::Started));
    assert!(matches!(rules.acquire(NOW), Acquire::Use));
    assert!(matches!(rules.login(rules.logouts()), Begin::Busy));
    assert!(matches!(rules.renew(NOW), Begin::Busy));
    assert!(matches!(rules.change_password(), Begin::Busy));
    // A rejection meanwhile waits for it, and starts its renewal afterwards.
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        Rejected::Wait
    ));
    rules.take_launch();
    rules.password_change_landed(true, NOW);
    assert!(matches!(
        rules.rejected(1, Some(target("/a")), NOW),
        Rejected::Wait
    ));
    assert!(launched(&mut rules).is_some());
}

#[test]
fn a_password_is_changed_with_a_token_only() {
    assert!(matches!(idle().change_password(), Begin::NeedsToken));
    let mut rules = live();
    rules.logout();
    assert!(matches!(rules.change_password(), Begin::Fail(_)));
}

/// Every event in every order that a fixed stream of numbers leads through:
/// what is said at the top of the rules holds after each.
#[test]
fn whatever_happens_there_is_one_flight_and_a_suspended_token_has_a_renewal() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = move |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % sides
    };
    for _ in 0..500 {
        let mut rules = idle();
        let mut now = NOW;
        let mut flying = None;
        for _ in 0..200 {
            now += Duration::from_millis(roll(3000));
            let generation = rules.issued.saturating_sub(roll(2));
            let path = target(["/a", "/b", "/forbidden"][roll(3) as usize]);
            match roll(12) {
                0 | 1 => drop(rules.acquire(now)),
                2 | 3 => drop(rules.rejected(generation, Some(path), now)),
                4 => rules.replay_rejected(generation, path, now),
                5 => rules.accepted(generation, path, now),
                6 => drop(rules.login(rules.logouts())),
                7 => drop(rules.renew(now)),
                8 => drop(rules.change_password()),
                9 => drop(rules.logout()),
                _ => match flying.take() {
                    None => {}
                    Some(Flight::Login { .. }) if roll(3) > 0 => {
                        let lifetime = Duration::from_millis(roll(9000));
                        rules.login_landed(
                            Issued {
                                lifetime: Some(lifetime),
                                sent: now,
                                same: roll(4) == 0 && rules.current.is_some(),
                            },
                            now,
                        );
                    }
                    Some(Flight::Login { .. }) => {
                        let kinds = [
                            ErrorKind::Refused,
                            ErrorKind::Unavailable,
                            ErrorKind::NoRuntime,
                        ];
                        rules.login_failed(fails(kinds[roll(3) as usize]), now);
                    }
                    Some(Flight::Logout) => {
                        let left = rules.ending.iter().copied().take(roll(2) as usize);
                        rules.logout_landed(left.collect(), Ok(()));
                    }
                    Some(Flight::ChangePassword) => rules.password_change_landed(roll(2) == 0, now),
                },
            }
            if let Some(launched) = rules.take_launch() {
                assert_eq!(flying.replace(launched), None, "two flights at once");
            }
            assert_eq!(flying, rules.flight);
            let renewing = matches!(flying, Some(Flight::Login { .. }));
            assert!(renewing || rules.signal() != Some(Signal::Suspended));
            if let Phase::LoggedOut(_) = rules.phase {
                assert_eq!(rules.signal(), None, "a token after a logout");
            }
        }
    }
}
