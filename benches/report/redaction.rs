//! Errors that quote a long answer, from which the session removes the password.

use std::fmt;
use std::sync::Arc;

use tower_reauth::{Credentials, LoginContext, Profile, ProviderError, Session, provider_fn};

use crate::peers::ORIGIN;
use crate::rounds::{Turn, interleaved, median, timed};
use crate::runtime;
use crate::table::Line;

const PASSWORD: &str = "correct \"horse\" battery staple";

const LENGTHS: [usize; 6] = [1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20];

const ROUNDS: usize = 100;

/// Where an error quotes the answer.
#[derive(Clone, Copy)]
enum Quoted {
    /// In its text.
    Text,
    /// In its `Debug` form only, which is searched further.
    Debug,
}

#[derive(Clone)]
struct Quoting {
    answer: Arc<str>,
    quoted: Quoted,
}

impl fmt::Display for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.quoted {
            Quoted::Text => &self.answer,
            Quoted::Debug => "no login",
        })
    }
}

impl fmt::Debug for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.answer, f)
    }
}

impl std::error::Error for Quoting {}

/// An answer of JSON with every kind of escape and a look-alike of the password.
fn answer(length: usize) -> Arc<str> {
    const ENTRY: &str =
        r#"{"user":"emuser","tried":"correct \"horse\" %26 \u0026 &amp; a+b","status":401},"#;
    let mut answer = ENTRY.repeat(length / ENTRY.len() + 1);
    answer.truncate(length);
    answer.into()
}

/// Logs in, which fails. The session and its runtime take some of the time.
fn failing_login(length: usize, quoted: Quoted) -> Turn<'static> {
    let error = Quoting {
        answer: answer(length),
        quoted,
    };
    let runtime = runtime();
    Box::new(move || {
        let error = error.clone();
        let profile = Profile::at(ORIGIN.parse().expect("a valid origin"));
        let provider = provider_fn(profile, move |_: LoginContext| {
            let error = error.clone();
            async move { Err(ProviderError::refused(error)) }
        });
        let provider = provider.with_source(Credentials::new("emuser", PASSWORD));
        let session = Session::new(provider);
        timed(|| {
            let login = runtime.block_on(session.login());
            assert!(login.is_err());
        })
    })
}

fn line(quoted: Quoted, place: &str) -> Line {
    let mut turns = LENGTHS.map(|length| failing_login(length, quoted));
    let times = interleaved(&mut turns, ROUNDS);
    let times = times.iter().map(|times| median(times) * 1e6);
    let times: Vec<f64> = times.collect();
    let found: Vec<String> = times.iter().map(|time| format!("{time:.0}")).collect();
    Line::marked(
        format!("a failing login whose error quotes 1, 4, 16, 64, 256, 1024 KiB in its {place}"),
        "each under 10 ms",
        format!("{} µs", found.join(", ")),
        times.iter().all(|time| *time < 1e4),
        "",
    )
}

pub(crate) fn run() -> Vec<Line> {
    vec![
        line(Quoted::Text, "text"),
        line(Quoted::Debug, "`Debug` form"),
    ]
}
