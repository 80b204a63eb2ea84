//! One test for each rule of the protocol, and for the cases beside them.

use std::time::Duration;

use crate::credentials::account::{
    Account, AccountSettings, Asked, Begin, ChangeAnswer, Event, Id, Login, Observed, Open, Other,
    Owner, Record, SentLogin, TryVerdict, Unsaved, Verdict, WallTime, Wanted,
};

type P = &'static str;

const NOW: WallTime = WallTime::from_millis(1_767_225_600_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn account() -> Account {
    Account::new(AccountSettings::default(), Owner(1))
}

fn retrying(after: Duration) -> Account {
    let settings = AccountSettings {
        retry_refused_after: Some(after),
        ..AccountSettings::default()
    };
    Account::new(settings, Owner(1))
}

/// A record whose current password is "a", which a login has proven.
fn proven() -> Record<P> {
    let mut record = Record::new("emuser", "a");
    record.written = Some("a");
    record.accepted = true;
    record
}

/// The proven record with a lost change to "b".
fn with_lost() -> Record<P> {
    let (record, asked) = begun(&proven(), "b");
    answered(&record, &asked, ChangeAnswer::Lost)
}

fn with_others(others: &[(P, Open)]) -> Record<P> {
    let mut record = proven();
    record.others = others
        .iter()
        .map(|(password, open)| Other {
            password: *password,
            sent_at: NOW,
            open: *open,
        })
        .collect();
    record
}

fn id() -> Id {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Id(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn decide(record: &Record<P>, now: WallTime) -> Login<P> {
    account().decide_login(record, Wanted::Usual, id(), now)
}

#[track_caller]
fn sent_by(login: Login<P>) -> (Record<P>, SentLogin<P>) {
    match login {
        Login::Send { record, sent } => (record, sent),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn send_at(record: &Record<P>, now: WallTime) -> (Record<P>, SentLogin<P>) {
    sent_by(decide(record, now))
}

#[track_caller]
fn send(record: &Record<P>) -> (Record<P>, SentLogin<P>) {
    send_at(record, NOW)
}

/// Sends `password` and notes the verdict.
#[track_caller]
fn tried(record: &Record<P>, password: P, verdict: Verdict) -> Record<P> {
    let (record, sent) = send(record);
    assert_eq!(*sent.password(), password);
    landed(&record, &sent, verdict)
}

#[track_caller]
fn landed(record: &Record<P>, sent: &SentLogin<P>, verdict: Verdict) -> Record<P> {
    let record = account().landed(record, sent, verdict, NOW, NOW);
    record.expect("the record changes")
}

fn begin(record: &Record<P>, new: P) -> Begin<P> {
    account().begin_change(record, &new, id(), NOW)
}

#[track_caller]
fn begun(record: &Record<P>, new: P) -> (Record<P>, Asked<P>) {
    match begin(record, new) {
        Begin::Ask { record, asked } => (record, asked),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn answered(record: &Record<P>, asked: &Asked<P>, answer: ChangeAnswer) -> Record<P> {
    let record = account().change_answered(record, asked, answer, NOW);
    record.expect("the record changes")
}

fn others(record: &Record<P>) -> Vec<(P, Open)> {
    let others = record.others.iter();
    others.map(|other| (other.password, other.open)).collect()
}

fn tries(record: &Record<P>) -> Vec<(P, TryVerdict)> {
    let tries = record.tries.iter();
    tries.map(|tried| (tried.password, tried.verdict)).collect()
}

// The order.

#[test]
fn the_current_password_comes_first_then_open_ones_then_the_others_newest_first() {
    let record = with_others(&[
        ("b", Open::Closed),
        ("c", Open::No),
        ("d", Open::Closed),
        ("e", Open::Lost),
    ]);
    let order: Vec<_> = record.order().copied().collect();
    assert_eq!(order, ["a", "c", "e", "b", "d"]);
}

// Change wanted.

#[test]
fn a_change_is_busy_while_another_is_in_progress() {
    let (record, asked) = begun(&proven(), "b");
    let until = asked.until();
    assert_eq!(begin(&record, "c"), Begin::Busy { until });
}

#[test]
fn a_change_waits_for_a_login_in_progress() {
    let (record, sent) = send(&proven());
    let until = sent.until();
    assert_eq!(begin(&record, "b"), Begin::Wait { until });
}

#[test]
fn a_change_needs_a_login_first_after_a_try() {
    let record = tried(&proven(), "a", Verdict::Unknown);
    assert_eq!(begin(&record, "b"), Begin::LoginFirst);
}

#[test]
fn a_change_needs_a_login_first_after_a_login_whose_holder_died() {
    let (record, _) = send(&proven());
    let later = NOW.plus(MINUTE);
    let begin = account().begin_change(&record, &"b", id(), later);
    assert_eq!(begin, Begin::LoginFirst);
}

#[test]
fn a_change_needs_a_login_first_after_a_change_that_was_not_answered_yes() {
    for answer in [ChangeAnswer::No, ChangeAnswer::Lost] {
        let (record, asked) = begun(&proven(), "b");
        let record = answered(&record, &asked, answer);
        assert_eq!(begin(&record, "b"), Begin::LoginFirst);
        assert_eq!(begin(&record, "c"), Begin::LoginFirst);
    }
}

#[test]
fn after_a_login_a_lost_change_may_be_asked_again() {
    let record = tried(&with_lost(), "a", Verdict::Accepted);
    let (record, asked) = begun(&record, "b");
    assert_eq!(others(&record), [("b", Open::Lost)]);
    assert_eq!((*asked.current(), *asked.new_password()), ("a", "b"));
}

#[test]
fn a_change_to_another_password_sends_the_lost_one_again_first() {
    let record = tried(&with_lost(), "a", Verdict::Accepted);
    assert_eq!(begin(&record, "c"), Begin::SendAgain("b"));
    // Also back to the current one.
    assert_eq!(begin(&record, "a"), Begin::SendAgain("b"));
}

#[test]
fn a_change_is_refused_if_the_record_has_no_room() {
    let closed = [
        ("b", Open::Closed),
        ("c", Open::Closed),
        ("d", Open::Closed),
    ];
    let record = with_others(&closed);
    assert_eq!(begin(&record, "e"), Begin::NoRoom);
    // Back to a known one there is room.
    begun(&record, "d");
    // And after the retention, by the next accepted login.
    let later = NOW.plus(DAY);
    let (record, sent) = send_at(&record, later);
    let record = account().landed(&record, &sent, Verdict::Accepted, later, later);
    begun(&record.unwrap(), "e");
}

#[test]
fn a_change_to_the_current_password_is_done_if_a_login_has_proven_it() {
    assert_eq!(begin(&proven(), "a"), Begin::AlreadyCurrent);
    assert_eq!(begin(&Record::new("emuser", "a"), "a"), Begin::LoginFirst);
}

// Change begins.

#[test]
fn a_change_is_in_the_record_before_the_server_is_asked() {
    let (record, asked) = begun(&proven(), "b");
    assert_eq!(record.current, "a");
    assert_eq!(others(&record), [("b", Open::Lost)]);
    let change = record.change().unwrap();
    assert_eq!((change.id, change.owner), (asked.id, Owner(1)));
    assert_eq!(change.until, NOW.plus(Duration::from_secs(30)));
}

// Answers to a change.

#[test]
fn after_yes_the_new_password_is_current_and_the_old_one_is_kept() {
    let (record, asked) = begun(&proven(), "b");
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    assert_eq!((record.current, record.written), ("b", Some("b")));
    assert_eq!(others(&record), [("a", Open::Closed)]);
    assert_eq!(record.change(), None);
}

#[test]
fn yes_turns_a_refusal_of_the_new_password_into_a_try_without_a_verdict() {
    let (record, asked) = begun(&proven(), "b");
    let record = tried(&record, "a", Verdict::Refused);
    let record = tried(&record, "b", Verdict::Refused);
    assert_eq!(decide(&record, NOW), Login::Stopped { retry_at: None });
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    assert_eq!(
        tries(&record),
        [("a", TryVerdict::Refused), ("b", TryVerdict::NoVerdict)]
    );
    send_at(&record, NOW.plus(MINUTE));
}

#[test]
fn yes_after_the_change_has_ended_adds_the_new_password_if_it_is_missing() {
    let (record, asked) = begun(&proven(), "b");
    let ended = answered(&record, &asked, ChangeAnswer::Lost);
    let late = account().change_answered(&ended, &asked, ChangeAnswer::Yes, NOW);
    assert_eq!(late, None);
    // A person has written the file anew.
    let late = answered(&Record::new("emuser", "x"), &asked, ChangeAnswer::Yes);
    assert_eq!(others(&late), [("b", Open::Lost)]);
    assert_eq!(late.current, "x");
}

#[test]
fn after_no_the_new_password_stays_behind_the_current_one() {
    let (record, asked) = begun(&proven(), "b");
    let record = answered(&record, &asked, ChangeAnswer::No);
    assert_eq!(record.current, "a");
    assert_eq!(others(&record), [("b", Open::No)]);
    assert_eq!(record.change(), None);
    // "No" was wrong: the server has changed the password.
    let record = tried(&record, "a", Verdict::Refused);
    let record = tried(&record, "b", Verdict::Accepted);
    assert_eq!(record.current, "b");
}

#[test]
fn no_and_lost_change_nothing_once_the_change_has_ended() {
    let (record, asked) = begun(&proven(), "b");
    let ended = answered(&record, &asked, ChangeAnswer::Lost);
    for answer in [ChangeAnswer::No, ChangeAnswer::Lost] {
        assert_eq!(account().change_answered(&ended, &asked, answer, NOW), None);
    }
}

#[test]
fn an_answer_after_an_edit_stores_the_edit_which_has_ended_the_change() {
    let (mut record, asked) = begun(&proven(), "b");
    record.edit("x");
    for answer in [
        ChangeAnswer::Yes,
        ChangeAnswer::No,
        ChangeAnswer::Lost,
        ChangeAnswer::NotSent,
    ] {
        let after = answered(&record, &asked, answer);
        assert_eq!((after.current, after.change()), ("x", None));
        assert_eq!(others(&after), [("a", Open::Closed), ("b", Open::Lost)]);
        assert_eq!(account().change_answered(&after, &asked, answer, NOW), None);
    }
}

#[test]
fn a_change_that_was_not_sent_leaves_no_trace() {
    let (record, asked) = begun(&proven(), "b");
    assert_eq!(answered(&record, &asked, ChangeAnswer::NotSent), proven());

    // But an earlier change to the same password may still take effect, and a login
    // that has sent it counts.
    let known = Record {
        accepted: true,
        ..with_lost()
    };
    let (record, asked) = begun(&known, "b");
    let record = answered(&record, &asked, ChangeAnswer::NotSent);
    assert_eq!(others(&record), [("b", Open::Lost)]);
    assert!(!record.accepted);
    let (record, asked) = begun(&proven(), "b");
    let tried = tried(&record, "a", Verdict::Unknown);
    let record = answered(&tried, &asked, ChangeAnswer::NotSent);
    assert_eq!(others(&record), [("b", Open::Lost)]);
}

#[test]
fn without_an_answer_the_new_password_stays_open() {
    let record = with_lost();
    assert_eq!(others(&record), [("b", Open::Lost)]);
    assert_eq!(record.change(), None);
}

#[test]
fn a_change_ends_when_its_time_is_over_or_its_owner_has_died() {
    let (record, _) = begun(&proven(), "b");
    let (after, _) = send_at(&record, NOW.plus(MINUTE));
    assert_eq!(after.change(), None);
    assert_eq!(others(&after), [("b", Open::Lost)]);

    let mut after = record;
    after.end_change();
    assert_eq!(after.change(), None);
    assert_eq!(others(&after), [("b", Open::Lost)]);
}

// Logins.

#[test]
fn a_login_is_claimed_before_it_is_sent_and_another_one_waits_for_it() {
    let (record, sent) = send(&proven());
    let claim = record.login.as_ref().unwrap();
    assert_eq!(
        (claim.id, claim.password, claim.owner),
        (sent.id, "a", Owner(1))
    );
    assert_eq!(claim.until, NOW.plus(Duration::from_secs(30)));
    assert_eq!(decide(&record, NOW), Login::Wait { until: claim.until });
}

#[test]
fn a_password_that_is_accepted_becomes_the_current_one() {
    let record = tried(&with_lost(), "a", Verdict::Refused);
    let record = tried(&record, "b", Verdict::Accepted);
    assert_eq!((record.current, record.written), ("b", Some("b")));
    assert_eq!(others(&record), [("a", Open::Closed)]);
    assert_eq!((record.tries.len(), record.login), (0, None));
}

#[test]
fn an_accepted_login_closes_a_no_from_before_its_sending_and_nothing_else() {
    let record = with_others(&[("b", Open::No), ("c", Open::Lost)]);
    let record = tried(&record, "a", Verdict::Accepted);
    assert_eq!(others(&record), [("b", Open::Closed), ("c", Open::Lost)]);

    let (record, asked) = begun(&proven(), "b");
    let (record, sent) = send(&record);
    let record = answered(&record, &asked, ChangeAnswer::No);
    let record = landed(&record, &sent, Verdict::Accepted);
    assert_eq!(others(&record), [("b", Open::No)]);
    // Nor does it prove what works after the change.
    assert_eq!(begin(&record, "b"), Begin::LoginFirst);
}

#[test]
fn a_refused_password_is_not_sent_again_and_the_next_one_is() {
    let record = tried(&with_lost(), "a", Verdict::Refused);
    assert_eq!(tries(&record), [("a", TryVerdict::Refused)]);
    let (_, sent) = send(&record);
    assert_eq!(*sent.password(), "b");
}

#[test]
fn a_refusal_before_one_of_the_old_password_is_no_verdict() {
    let record = tried(&with_lost(), "a", Verdict::Unknown);
    let record = tried(&record, "b", Verdict::Refused);
    assert_eq!(
        tries(&record),
        [("a", TryVerdict::NoVerdict), ("b", TryVerdict::NoVerdict)]
    );
}

#[test]
fn without_a_verdict_the_same_password_is_sent_again() {
    let record = tried(&with_others(&[("b", Open::Closed)]), "a", Verdict::Unknown);
    assert_eq!(tries(&record), [("a", TryVerdict::NoVerdict)]);
    let (_, sent) = send(&record);
    assert_eq!(*sent.password(), "a");
}

#[test]
fn without_a_verdict_the_least_tried_password_is_sent_while_one_is_open() {
    let record = tried(&with_lost(), "a", Verdict::Unknown);
    let (_, sent) = send(&record);
    assert_eq!(*sent.password(), "b");
}

#[test]
fn a_login_whose_time_is_over_is_a_try_without_a_verdict() {
    let (record, sent) = send(&with_lost());
    let (record, next) = send_at(&record, sent.until());
    assert_eq!(tries(&record), [("a", TryVerdict::NoVerdict)]);
    assert_eq!(*next.password(), "b");
}

#[test]
fn a_refusal_of_a_former_current_password_is_no_verdict() {
    let (record, asked) = begun(&proven(), "b");
    let (record, sent) = send(&record);
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    let record = landed(&record, &sent, Verdict::Refused);
    assert_eq!(tries(&record), [("a", TryVerdict::NoVerdict)]);
    assert_eq!(record.login, None);
}

#[test]
fn an_acceptance_of_a_former_current_password_changes_nothing() {
    let (record, asked) = begun(&proven(), "b");
    let (record, sent) = send(&record);
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    let after = account().landed(&record, &sent, Verdict::Accepted, NOW, NOW);
    let unclaimed = Record {
        login: None,
        ..record
    };
    assert_eq!(after, Some(unclaimed));
}

#[test]
fn a_verdict_whose_claim_is_gone_changes_nothing() {
    let (record, sent) = send(&proven());
    let (record, _) = send_at(&record, NOW.plus(MINUTE));
    for verdict in [Verdict::Accepted, Verdict::Refused, Verdict::Unknown] {
        let record = account().landed(&record, &sent, verdict, NOW, NOW);
        assert_eq!(record, None);
    }
}

#[test]
fn a_lock_that_the_server_names_is_not_a_try() {
    let (record, sent) = send(&proven());
    let landed = account().landed(&record, &sent, Verdict::Locked, NOW, NOW);
    assert_eq!(landed, Some(proven()));
}

#[test]
fn a_login_that_was_not_sent_is_not_a_try() {
    let (record, sent) = send(&proven());
    let landed = account().landed(&record, &sent, Verdict::NotSent, NOW, NOW);
    assert_eq!(landed, Some(proven()));
}

// The bounds.

#[test]
fn two_refusals_stop_the_account_though_a_third_password_is_left() {
    let record = with_others(&[("b", Open::Lost), ("c", Open::Closed)]);
    let record = tried(&record, "a", Verdict::Refused);
    let record = tried(&record, "b", Verdict::Refused);
    assert_eq!(decide(&record, NOW), Login::Stopped { retry_at: None });
}

#[test]
fn the_only_password_is_refused_once() {
    let record = tried(&proven(), "a", Verdict::Refused);
    assert_eq!(decide(&record, NOW), Login::Stopped { retry_at: None });
}

#[test]
fn after_two_tries_the_password_sent_longest_ago_is_sent_after_a_minute_doubling_to_an_hour() {
    let mut record = with_lost();
    let mut now = NOW;
    let mut expected = ["a", "b"].into_iter().cycle();
    for minutes in [
        0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60,
    ] {
        let at = now.plus(MINUTE * minutes);
        if minutes > 0 {
            assert_eq!(decide(&record, now), Login::Later { at });
        }
        now = at;
        let (claimed, sent) = send_at(&record, now);
        assert_eq!(*sent.password(), expected.next().unwrap());
        let after = account().landed(&claimed, &sent, Verdict::Unknown, now, now);
        record = after.unwrap();
    }
    assert!(record.tries.len() <= 16);
}

#[test]
fn a_proven_password_with_nothing_open_is_sent_at_the_usual_pace() {
    let mut record = proven();
    for _ in 0..20 {
        record = tried(&record, "a", Verdict::Unknown);
    }
    // One that was never accepted is not.
    let mut record = Record::new("emuser", "a");
    for _ in 0..2 {
        record = tried(&record, "a", Verdict::Unknown);
    }
    let at = NOW.plus(MINUTE);
    assert_eq!(decide(&record, NOW), Login::Later { at });
}

#[test]
fn refused_passwords_are_sent_again_one_at_a_time_if_that_is_set() {
    let account = retrying(HOUR);
    let mut record = tried(
        &tried(&with_lost(), "a", Verdict::Refused),
        "b",
        Verdict::Refused,
    );
    let mut now = NOW;
    for (hours, password) in [(1, "a"), (2, "b"), (4, "a"), (8, "b"), (16, "a"), (24, "b")] {
        let at = now.plus(HOUR * hours);
        let early = account.decide_login(&record, Wanted::Usual, id(), now);
        assert_eq!(early, Login::Stopped { retry_at: Some(at) });
        now = at;
        let (claimed, sent) = sent_by(account.decide_login(&record, Wanted::Usual, id(), now));
        assert_eq!(*sent.password(), password);
        record = account
            .landed(&claimed, &sent, Verdict::Refused, now, now)
            .unwrap();
    }
}

// Edits and `login()`.

#[test]
fn an_edit_keeps_the_former_password_ends_the_change_and_starts_anew() {
    let (record, _) = begun(&proven(), "b");
    let mut record = tried(&record, "a", Verdict::Refused);
    record.edit("x");
    let (record, sent) = send(&record);
    assert_eq!(*sent.password(), "x");
    assert_eq!((record.current, record.written), ("x", Some("x")));
    assert_eq!(others(&record), [("a", Open::Closed), ("b", Open::Lost)]);
    assert_eq!((record.tries.len(), record.change()), (0, None));
    assert_eq!(
        begin(&landed(&record, &sent, Verdict::NotSent), "c"),
        Begin::LoginFirst
    );
}

#[test]
fn an_edit_to_a_known_password_starts_anew_too() {
    let record = tried(&with_lost(), "a", Verdict::Refused);
    let mut record = tried(&record, "b", Verdict::Refused);
    record.edit("b");
    let (record, sent) = send(&record);
    assert_eq!(*sent.password(), "b");
    assert_eq!(others(&record), [("a", Open::Closed)]);
}

#[test]
fn an_edit_waits_for_a_login_in_progress_whose_verdict_is_void() {
    let (mut record, sent) = send(&proven());
    record.edit("x");
    assert_eq!(
        decide(&record, NOW),
        Login::Wait {
            until: sent.until()
        }
    );
    let record = landed(&record, &sent, Verdict::Accepted);
    assert_eq!(
        (record.current, others(&record)),
        ("x", vec![("a", Open::Closed)])
    );
}

#[test]
fn edits_drop_the_oldest_closed_password_at_last() {
    let mut record = with_lost();
    for password in [
        "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15",
        "16", "17", "18", "19", "20",
    ] {
        record.edit(password);
        record = tried(&record, password, Verdict::Refused);
    }
    assert_eq!(record.others.len(), 16);
    assert!(others(&record).contains(&("b", Open::Lost)));
    assert!(record.has(&"19") && !record.has(&"01"));
}

#[test]
fn a_forced_login_tries_one_password_more() {
    let record = with_others(&[("b", Open::Lost), ("c", Open::Closed)]);
    let record = tried(&record, "a", Verdict::Refused);
    let record = tried(&record, "b", Verdict::Refused);
    let forced = |record| account().decide_login(record, Wanted::Forced, id(), NOW);
    let (record, sent) = sent_by(forced(&record));
    assert_eq!(*sent.password(), "c");
    let record = landed(&record, &sent, Verdict::Refused);
    assert_eq!(decide(&record, NOW), Login::Stopped { retry_at: None });
    // All are refused: from the front.
    let (record, sent) = sent_by(forced(&record));
    assert_eq!(*sent.password(), "a");
    assert_eq!(record.tries, []);
}

#[test]
fn a_forced_login_that_was_not_sent_leaves_the_refusals() {
    let record = tried(&Record::new("emuser", "a"), "a", Verdict::Refused);
    let forced = account().decide_login(&record, Wanted::Forced, id(), NOW);
    let (claimed, sent) = sent_by(forced);
    assert_eq!(landed(&claimed, &sent, Verdict::NotSent), record);
}

#[test]
fn a_forced_login_does_not_wait_for_a_delay_but_for_a_claim() {
    let record = tried(&with_lost(), "a", Verdict::Unknown);
    let record = tried(&record, "b", Verdict::Unknown);
    let forced = |record| account().decide_login(record, Wanted::Forced, id(), NOW);
    let (record, sent) = sent_by(forced(&record));
    assert_eq!(*sent.password(), "a");
    assert_eq!(
        forced(&record),
        Login::Wait {
            until: sent.until()
        }
    );
}

// Forgetting.

#[test]
fn a_password_is_forgotten_when_another_is_accepted_after_the_retention() {
    let (record, asked) = begun(&proven(), "b");
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    let is_kept = |since: Duration| {
        let at = NOW.plus(since);
        let (record, sent) = send_at(&record, at);
        // The sending counts, not the verdict.
        let later = at.plus(MINUTE);
        let record = account().landed(&record, &sent, Verdict::Accepted, later, later);
        record.unwrap().has(&"a")
    };
    assert!(is_kept(DAY - Duration::from_secs(1)));
    assert!(!is_kept(DAY));
}

#[test]
fn a_lost_change_ends_when_another_password_is_accepted_after_the_retention() {
    let (record, sent) = send_at(&with_lost(), NOW.plus(DAY));
    assert_eq!(others(&landed(&record, &sent, Verdict::Accepted)), []);
}

#[test]
fn the_password_of_a_change_in_progress_is_kept_whatever_the_retention_is() {
    let settings = AccountSettings {
        retention: Duration::ZERO,
        ..AccountSettings::default()
    };
    let account = Account::new(settings, Owner(1));
    let (record, _) = begun(&proven(), "b");
    let (record, sent) = send(&record);
    let record = account.landed(&record, &sent, Verdict::Accepted, NOW, NOW);
    assert_eq!(others(&record.unwrap()), [("b", Open::Lost)]);
}

#[test]
fn nothing_is_forgotten_without_an_accepted_login() {
    let record = with_others(&[("b", Open::Closed)]);
    let (record, sent) = send_at(&record, NOW.plus(10 * DAY));
    assert!(landed(&record, &sent, Verdict::Refused).has(&"b"));
}

// Clocks.

#[test]
fn times_of_a_clock_that_was_wrong_stop_nothing_for_years() {
    let wrong = NOW.plus(3650 * DAY);
    let (claimed, _) = send_at(&with_lost(), wrong);
    let (record, _) = send(&claimed);
    assert_eq!(tries(&record), [("a", TryVerdict::NoVerdict)]);

    let Begin::Ask { record, .. } = account().begin_change(&proven(), &"b", id(), wrong) else {
        panic!("the change begins");
    };
    let (record, sent) = send(&record);
    assert_eq!(record.change(), None);
    assert_eq!(record.others[0].sent_at, NOW);
    landed(&record, &sent, Verdict::Accepted);
}

// The store fails.

#[test]
fn a_verdict_that_was_not_stored_is_stored_with_the_next_event() {
    let mut unsaved = Unsaved::default();
    let (record, sent) = send(&with_lost());
    unsaved.keep(Event::Login(sent, Verdict::Refused, NOW));
    let caught_up = unsaved.catch_up(&account(), &record, NOW).unwrap();
    assert_eq!(tries(&caught_up), [("a", TryVerdict::Refused)]);
    // Applied twice it counts once.
    assert_eq!(unsaved.catch_up(&account(), &caught_up, NOW), None);
    unsaved.saved(&unsaved.clone());
    assert_eq!(unsaved.catch_up(&account(), &record, NOW), None);
}

#[test]
fn a_yes_that_was_not_stored_is_in_use_and_is_stored_with_the_next_event() {
    let mut unsaved = Unsaved::default();
    let (record, asked) = begun(&proven(), "b");
    unsaved.keep(Event::Change(asked, ChangeAnswer::Yes));
    let record = unsaved.catch_up(&account(), &record, NOW).unwrap();
    assert_eq!(record.current, "b");
}

#[test]
fn without_a_store_a_proven_password_is_sent_once() {
    let mut unsaved = Unsaved::default();
    let (_, mut sent) = send(&proven());
    assert!(unsaved.may_send(&proven(), &mut sent, NOW));
    assert!(!unsaved.may_send(&proven(), &mut sent.clone(), NOW));
    // Once more after an accepted login, and when the store has answered.
    unsaved.keep(Event::Login(sent.clone(), Verdict::Accepted, NOW));
    assert!(unsaved.may_send(&proven(), &mut sent.clone(), NOW));
    assert!(!unsaved.may_send(&proven(), &mut sent.clone(), NOW));
    unsaved.saved(&unsaved.clone());
    assert!(unsaved.may_send(&proven(), &mut sent, NOW));
}

#[test]
fn a_verdict_on_a_login_without_a_stored_claim_counts_unless_others_have_stored() {
    let mut unsaved = Unsaved::default();
    let (_, mut sent) = send(&proven());
    assert!(unsaved.may_send(&proven(), &mut sent, NOW));
    let at = NOW.plus(MINUTE);
    unsaved.keep(Event::Login(sent, Verdict::Refused, at));
    let later = at.plus(MINUTE);
    let caught_up = unsaved.catch_up(&account(), &proven(), later).unwrap();
    assert!(caught_up.is_refused(&"a"));
    // At the time of the verdict, so that a delay after it does not start anew.
    assert_eq!(caught_up.tries[0].at, at);
    let (others, _) = begun(&proven(), "b");
    assert_eq!(unsaved.catch_up(&account(), &others, later), None);
    // After an edit it is a login without a verdict.
    let mut edited = proven();
    edited.edit("x");
    let caught_up = unsaved.catch_up(&account(), &edited, later).unwrap();
    assert!(!caught_up.is_refused(&"a"));
    assert_eq!(caught_up.without_verdict(), 1);
}

#[test]
fn without_a_store_no_other_password_is_sent() {
    let unproven = Record::new("emuser", "a");
    for record in [
        unproven,
        with_lost(),
        tried(&proven(), "a", Verdict::Unknown),
    ] {
        let (_, mut sent) = send(&record);
        assert!(!Unsaved::default().may_send(&record, &mut sent, NOW));
    }
}

// A source that can only be read.

#[test]
fn a_source_that_yields_the_old_password_after_a_change_is_not_an_edit() {
    let mut observed = Observed::new("emuser", "a");
    observed.store(tried(observed.record(), "a", Verdict::Accepted));
    let (record, asked) = begun(observed.record(), "b");
    observed.store(answered(&record, &asked, ChangeAnswer::Yes));
    observed.yields("emuser", "a", NOW);
    assert_eq!(*observed.record().current(), "b");
    // The source follows.
    observed.yields("emuser", "b", NOW);
    let (record, _) = send(observed.record());
    assert_eq!(others(&record), [("a", Open::Closed)]);
}

#[test]
fn another_value_of_a_source_is_an_edit_and_another_user_is_another_account() {
    let mut observed = Observed::new("emuser", "a");
    observed.store(tried(observed.record(), "a", Verdict::Refused));
    observed.yields("emuser", "a", NOW);
    assert_eq!(
        decide(observed.record(), NOW),
        Login::Stopped { retry_at: None }
    );
    observed.yields("emuser", "x", NOW);
    let (record, sent) = send(observed.record());
    // The refused one is not lost: the source has it.
    assert_eq!((*sent.password(), record.has(&"a")), ("x", false));
    observed.yields("other", "x", NOW);
    assert_eq!(*observed.record(), Record::new("other", "x"));
}

#[test]
fn a_source_that_goes_through_wrong_passwords_sends_each_once() {
    let passwords = ["a", "b", "c", "d", "e"];
    let mut observed = Observed::new("emuser", passwords[0]);
    for password in passwords {
        observed.yields("emuser", password, NOW);
        observed.store(tried(observed.record(), password, Verdict::Refused));
        assert!(matches!(
            decide(observed.record(), NOW),
            Login::Stopped { .. }
        ));
    }
    for password in passwords {
        observed.yields("emuser", password, NOW);
        assert!(matches!(
            decide(observed.record(), NOW),
            Login::Stopped { .. }
        ));
    }
    // An operator may send it once more, and an acceptance starts anew.
    let forced = account().decide_login(observed.record(), Wanted::Forced, id(), NOW);
    let (record, sent) = sent_by(forced);
    observed.store(record.clone());
    observed.store(landed(&record, &sent, Verdict::Accepted));
    observed.yields("emuser", "a", NOW);
    assert_eq!(*send(observed.record()).1.password(), "a");
}

#[test]
fn a_password_that_worked_is_tried_after_a_wrong_one_of_the_source() {
    let mut observed = Observed::new("emuser", "a");
    observed.store(tried(observed.record(), "a", Verdict::Accepted));
    observed.yields("emuser", "b", NOW);
    observed.store(tried(observed.record(), "b", Verdict::Refused));
    assert_eq!(*send(observed.record()).1.password(), "a");
}

#[test]
fn a_change_is_a_way_out_of_a_stop() {
    let stopped = tried(&Record::new("emuser", "a"), "a", Verdict::Refused);
    let (record, asked) = begun(&stopped, "b");
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    assert_eq!(*send(&record).1.password(), "b");

    // Also to the password that was refused, if the server has changed to it.
    let (record, asked) = begun(&stopped, "a");
    let changed = answered(&record, &asked, ChangeAnswer::Yes);
    assert_eq!(*send(&changed).1.password(), "a");
    let denied = answered(&record, &asked, ChangeAnswer::No);
    assert!(matches!(decide(&denied, NOW), Login::Stopped { .. }));
}

#[test]
fn after_two_refusals_a_change_is_a_way_out_too() {
    let two = with_others(&[("b", Open::Closed)]);
    let stopped = tried(&tried(&two, "a", Verdict::Refused), "b", Verdict::Refused);
    assert!(matches!(decide(&stopped, NOW), Login::Stopped { .. }));
    let (record, asked) = begun(&stopped, "c");
    let record = answered(&record, &asked, ChangeAnswer::Yes);
    assert_eq!(*send(&record).1.password(), "c");
}
