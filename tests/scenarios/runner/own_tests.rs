//! The runner's own tests: it must fail where it should.

use libtest_mimic::{Failed, Trial};

use super::of_text;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, scenario, complaints) in CASES {
        trials.push(Trial::test(format!("runner::{name}"), || {
            expect_complaints(scenario, complaints)
        }));
    }
    trials.push(Trial::test(
        "runner::what_is_said_of_a_scenario_that_holds_is_nothing",
        || of_text("inline", HOLDS).map_err(Failed::from),
    ));
    trials.push(Trial::test(
        "runner::the_example_in_the_description_holds",
        || of_text("README.md", example()).map_err(Failed::from),
    ));
    trials
}

fn expect_complaints(scenario: &str, complaints: &[&str]) -> Result<(), Failed> {
    let Err(report) = of_text("bad.json", scenario) else {
        return Err("it passed".into());
    };
    for complaint in complaints {
        if !report.contains(complaint) {
            return Err(format!("{complaint:?} is missing in: {report}").into());
        }
    }
    Ok(())
}

/// The first scenario in the format's description.
fn example() -> &'static str {
    let description = include_str!("../README.md");
    let (_, rest) = description
        .split_once("```json")
        .expect("there is an example");
    let (example, _) = rest.split_once("```").expect("it ends");
    example
}

const HOLDS: &str = r#"{
  "rule": 1,
  "story": "One request logs in.",
  "when": [{ "at": "1m30s", "request": "GET /a" }],
  "then": { "logins": [{ "at": "1m30s", "reason": "initial" }], "logouts": "..1", "requests_by_path": { "/a": "1..2" }, "callers": { "GET /a": { "status": 200 } } }
}"#;

/// A name, a bad scenario, and what must be said of it.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "an_unknown_field_is_named_with_its_line",
        r#"{
  "rule": 1,
  "story": "s",
  "given": { "service": { "answers": [
    { "stauts": 401 }
  ] } },
  "when": [{ "at": "0s", "request": "GET /a" }],
  "then": { "logins": 1 }
}"#,
        &[
            "bad.json",
            "unknown field `stauts`",
            "expected one of",
            "line 5",
        ],
    ),
    (
        "a_file_that_asserts_nothing_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }], "then": {} }"#,
        &["`then` asserts nothing"],
    ),
    (
        "an_outcome_that_asserts_nothing_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }],
             "then": { "callers": { "GET /a": { "count": 1 } } } }"#,
        &["asserts nothing", "line 2"],
    ),
    (
        "a_caller_that_is_not_there_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }],
             "then": { "callers": { "GET /b": { "status": 200 } } } }"#,
        &["nobody is called \"GET /b\"", "\"GET /a\"", "line 2"],
    ),
    (
        "a_time_without_a_unit_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "5", "request": "GET /a" }], "then": { "logins": 1 } }"#,
        &["invalid value: string \"5\"", "a time with its unit"],
    ),
    (
        "a_field_of_another_step_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "login", "body": "bytes" }], "then": { "logins": 1 } }"#,
        &["`body` belongs to a request"],
    ),
    (
        "a_step_that_does_two_things_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "login", "request": "GET /" }], "then": { "logins": 1 } }"#,
        &["exactly one of"],
    ),
    (
        "a_caller_named_twice_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "login" }],
             "then": { "callers": { "login": { "ok": true }, "login": { "ok": false } } } }"#,
        &["\"login\" stands twice"],
    ),
    (
        "a_session_that_is_not_there_fails",
        r#"{ "rule": 1, "story": "s", "when": [
             { "at": "0s", "session": "other", "call": "login" }],
             "then": { "logins": 1 } }"#,
        &["no session is called \"other\"", "line 2"],
    ),
    (
        "a_wrong_expectation_of_another_session_is_found",
        r#"{ "rule": 1, "story": "s", "given": { "sessions": ["other"] },
             "when": [{ "at": "0s", "session": "other", "request": "GET /a" }],
             "then": { "logins": 0, "sessions": { "other": { "logins": 2 } } } }"#,
        &["session \"other\": logins", "expected 2", "happened 1"],
    ),
    (
        "a_header_and_a_trailer_that_did_not_come_are_found",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }],
             "then": { "callers": { "GET /a": { "headers": { "x-a": "1" }, "trailers": { "x-b": "2" } } } } }"#,
        &["headers x-a: \"1\"", "trailers x-b: \"2\""],
    ),
    (
        "a_source_without_credentials_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "login" }],
             "then": { "source": "p" } }"#,
        &["there is none without `given.credentials`", "line 2"],
    ),
    (
        "a_field_of_another_answer_fails",
        r#"{ "rule": 1, "story": "s", "given": { "provider": { "logout": [{ "lives_for": "1s" }] } },
             "when": [{ "at": "0s", "call": "login" }], "then": { "logins": 1 } }"#,
        &["`lives_for` means nothing in an answer to a logout"],
    ),
    (
        "a_hold_of_something_else_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "login", "hold": "1s" }], "then": { "logins": 1 } }"#,
        &["`hold` belongs to `\"call\": \"token\"`"],
    ),
    (
        "a_close_without_a_deadline_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "call": "close" }], "then": { "logins": 0 } }"#,
        &["missing field `deadline`"],
    ),
    (
        "a_caller_after_the_last_handle_was_dropped_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "drop_session": true }, { "at": "1s", "call": "login" }],
             "then": { "logins": 0 } }"#,
        &["\"login\" comes after `drop_session`"],
    ),
    (
        "a_status_of_a_dropped_session_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "drop_session": true }],
             "then": { "status": { "state": "idle" } } }"#,
        &["no `status`"],
    ),
    (
        "a_wrong_count_of_ends_shows_both",
        r#"{ "rule": 19, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }, { "at": "1s", "call": "logout" }],
             "then": { "ended": { "logged_out": 2 } } }"#,
        &["tokens that ended LoggedOut", "expected 2", "happened 1"],
    ),
    (
        "a_rule_that_is_not_there_fails",
        r#"{ "rule": 23, "story": "s", "when": [{ "at": "0s", "call": "login" }], "then": { "logins": 1 } }"#,
        &["`rule`: expected numbers from 1 to 22"],
    ),
    (
        "a_count_outside_of_its_range_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }],
             "then": { "logins": "2..4", "requests_by_path": { "/a": "2.." } } }"#,
        &["expected 2 to 4", "expected 2 or more", "happened 1"],
    ),
    (
        "a_range_that_ends_before_it_begins_fails",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a" }], "then": { "logins": "4..2" } }"#,
        &["invalid value: string \"4..2\"", "how many there are"],
    ),
    (
        "a_wrong_count_shows_both_counts_and_the_timeline",
        r#"{ "rule": 1, "story": "One line.", "when": [{ "at": "2s", "request": "GET /a" }], "then": { "logins": 2 } }"#,
        &[
            "One line.",
            "expected 2",
            "happened 1",
            "What happened",
            "2s  login 1 begins",
        ],
    ),
    (
        "a_wrong_time_shows_both_times",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "2s", "request": "GET /a" }],
             "then": { "callers": { "GET /a": { "at": "1999ms" } } } }"#,
        &["expected at 1s999ms", "at 2s: 200"],
    ),
    (
        "a_wrong_outcome_is_told_for_each_that_differs",
        r#"{ "rule": 1, "story": "s", "when": [{ "at": "0s", "request": "GET /a", "times": 2 }],
             "then": { "callers": { "GET /a": [{ "count": 1, "status": 200 }, { "count": 1, "error": "refused" }] } } }"#,
        &["happened 2 times", "happened 0 times"],
    ),
    (
        "a_caller_that_waits_for_ever_fails_though_nobody_asked",
        r#"{ "rule": 1, "story": "s", "given": { "service": { "answers": [{ "never": true }] } },
             "when": [{ "at": "0s", "request": "GET /a" }], "then": { "logins": 1 } }"#,
        &["<GET /a> still waits at the end of the run"],
    ),
];
