//! A record as JSON text.

use std::time::Duration;

use secrecy::ExposeSecret;

use crate::credentials::account::{
    Account, AccountSettings, Begin, Id, Login, Open, Owner, Password, Record, TryVerdict, Verdict,
    WallTime, Wanted,
};

const NOW: WallTime = WallTime::from_millis(1_767_225_600_000);

fn account() -> Account {
    Account::new(AccountSettings::default(), Owner(0xF))
}

fn read(text: &str) -> Record {
    Record::from_json(text.as_bytes(), NOW).expect("a record")
}

fn written(record: &Record) -> String {
    String::from_utf8(record.to_json().to_vec()).expect("text")
}

/// A record in which each field is set.
fn full() -> Record {
    let record = Record::new("emuser", "p\"w\\ \u{1F600}");
    let login = account().decide_login(&record, Wanted::Usual, Id(1), NOW);
    let Login::Send { record, sent } = login else {
        panic!("{login:?}");
    };
    let record = account().landed(&record, &sent, Verdict::Accepted, NOW, NOW);
    let begin = account().begin_change(&record.unwrap(), &"new".into(), Id(2), NOW);
    let Begin::Ask { record, .. } = begin else {
        panic!("{begin:?}");
    };
    let login = account().decide_login(&record, Wanted::Usual, Id(3), NOW);
    let Login::Send { record, sent } = login else {
        panic!("{login:?}");
    };
    let record = account().landed(&record, &sent, Verdict::Unknown, NOW, NOW);
    let login = account().decide_login(&record.unwrap(), Wanted::Usual, Id(u64::MAX), NOW);
    let Login::Send { record, .. } = login else {
        panic!("{login:?}");
    };
    record
}

#[test]
fn the_text_of_a_record_is_stable() {
    let password = r#""p\"w\\ 😀""#;
    let text = format!(
        concat!(
            r#"{{"username":"emuser","password":{0},"written":{0},"#,
            r#""others":[{{"password":"new","sent_at":1767225600000,"open":"lost"}}],"#,
            r#""change":{{"id":"0000000000000002","owner":"000000000000000f","until":1767225630000}},"#,
            r#""login":{{"id":"ffffffffffffffff","password":"new","owner":"000000000000000f","#,
            r#""until":1767225630000}},"#,
            r#""tries":[{{"password":{0},"at":1767225600000,"verdict":"no_verdict"}}]}}"#
        ),
        password
    );
    assert_eq!(written(&full()), text);
    assert_eq!(read(&text), full());
}

#[test]
fn a_record_that_a_person_wrote_has_a_username_and_a_password() {
    let text = r#"{"username":"emuser","password":"a"}"#;
    for mark in ["", "\u{FEFF}"] {
        assert_eq!(read(&format!("{mark}{text}")), Record::new("emuser", "a"));
    }
    assert_eq!(written(&Record::new("emuser", "a")), text);
}

#[test]
fn a_person_edits_the_password_and_leaves_the_rest() {
    let edited = read(&written(&full()).replacen(r#""p\"w\\ 😀""#, r#""x""#, 1));
    let after = NOW.plus(Duration::from_secs(60));
    let login = account().decide_login(&edited, Wanted::Usual, Id(4), after);
    let Login::Send { record, sent } = login else {
        panic!("{login:?}");
    };
    assert_eq!(*sent.password(), "x".into());
    assert!(record.has(&"p\"w\\ \u{1F600}".into()) && record.has(&"new".into()));
}

#[test]
fn an_unresolved_change_of_the_old_form_becomes_an_open_password() {
    use TryVerdict::{NoVerdict, Refused};
    let cases: [(&str, &[(&str, TryVerdict)]); 6] = [
        ("", &[]),
        (r#","trying":null"#, &[]),
        (r#","trying":"new""#, &[("new", NoVerdict)]),
        (r#","trying":"old""#, &[("old", NoVerdict)]),
        (
            r#","trying":"only_new""#,
            &[("old", Refused), ("new", NoVerdict)],
        ),
        (
            r#","trying":"only_old""#,
            &[("new", NoVerdict), ("old", NoVerdict)],
        ),
    ];
    for (trying, expected) in cases {
        let record = read(&format!(
            r#"{{"username":"emuser","password":"old","new_password":"new"{trying}}}"#
        ));
        assert_eq!(record.others[0].password, "new".into());
        assert_eq!(
            (record.others[0].open, record.others[0].sent_at),
            (Open::Lost, NOW)
        );
        let tries = record.tries.iter();
        let tries: Vec<_> = tries
            .map(|tried| (tried.password.secret().expose_secret(), tried.verdict))
            .collect();
        assert_eq!(tries, expected, "{trying}");
    }
    let resolved = read(r#"{"username":"emuser","password":"a","new_password":null}"#);
    assert_eq!(resolved, Record::new("emuser", "a"));
}

#[test]
fn text_that_is_not_a_record_is_an_error_that_quotes_no_secret() {
    for text in [
        "hunter2",
        r#"{"username":"emuser"}"#,
        r#"{"username":"emuser","password":"hunter2","hunter2":1}"#,
        r#"{"username":"emuser","password":"hunter2","accepted":"hunter2"}"#,
        r#"{"username":"emuser","password":"hunter2","trying":"hunter2"}"#,
        r#"{"username":"emuser","password":"hunter2","others":[{"password":"hunter2"}]}"#,
        r#"{"username":"emuser","password":"a","change":{"id":"hunter2","owner":"1","until":1}}"#,
        r#"{"username":"emuser","password":""}"#,
        r#"{"username":"","password":"hunter2"}"#,
        r#"{"username":"emuser","password":"hunter2","new_password":""}"#,
        r#"{"username":"emuser","password":"hunter2"} hunter2"#,
    ] {
        let error = Record::from_json(text.as_bytes(), NOW).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn debug_shows_no_password() {
    let text = written(&full()).replace("new", "hunter2");
    let record = read(&text);
    let account = account();
    let login = account.decide_login(
        &record,
        Wanted::Forced,
        Id(4),
        NOW.plus(Duration::from_secs(60)),
    );
    let debug = format!("{record:?} {login:?}");
    assert!(
        debug.contains("emuser") && debug.contains("Lost"),
        "{debug}"
    );
    assert!(
        !debug.contains("hunter2") && !debug.contains("p\\\"w"),
        "{debug}"
    );
}

#[test]
fn passwords_are_equal_if_their_bytes_are() {
    let password = |text: &str| Password::from(text);
    assert_eq!(password("abc"), password("abc"));
    for other in ["abd", "ab", "abcd", ""] {
        assert_ne!(password("abc"), password(other));
    }
}
