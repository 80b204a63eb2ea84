//! Reports a session's events to the `metrics` facade.
//!
//! ```sh
//! cargo run --example metrics_bridge
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! metrics = "0.24"
//! metrics-util = { version = "0.20", features = ["debugging"] }
//! tokio = { version = "1", features = ["full"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use metrics::{counter, histogram};
use tower_reauth::{
    BoxError, CredentialProvider, Event, LoginContext, LogoutContext, Profile, ProviderError,
    Session, Token,
};

/// Counts what happens to a session, until its last handle is dropped.
async fn count(mut events: tower_reauth::Events) {
    while let Some(event) = events.recv().await {
        match event {
            Event::LoggedIn {
                reason, elapsed, ..
            } => {
                counter!("session_logins", "reason" => reason.as_str()).increment(1);
                histogram!("session_login_seconds").record(elapsed);
            }
            Event::LoginFailed { error, .. } => {
                counter!("session_login_failures", "kind" => error.kind().as_str()).increment(1);
            }
            Event::TokenEnded { end, .. } => {
                counter!("session_tokens_ended", "end" => end.as_str()).increment(1);
            }
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install()?;

    let session = Session::new(Login);
    let counting = tokio::spawn(count(session.events()));
    live(session).await?;
    counting.await?;

    let mut seen = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let line = format!("{} = {value:?}", key.key());
        println!("{line}");
        seen.push(line);
    }
    for expected in [
        "Key(session_logins, [reason = initial]) = Counter(1)",
        "Key(session_logins, [reason = rejected]) = Counter(1)",
        "Key(session_tokens_ended, [end = rejected]) = Counter(1)",
        "Key(session_tokens_ended, [end = logged_out]) = Counter(1)",
    ] {
        assert!(seen.iter().any(|line| line == expected), "{expected}");
    }
    Ok(())
}

/// The life of a session: a login, a rejection, a renewal, a logout.
async fn live(session: Session) -> Result<(), BoxError> {
    let token = session.token().await?;
    session.reject(&token);
    session.token().await?;
    Ok(session.logout().await?)
}

#[test]
fn runs() {
    main().unwrap();
}

/// A login system that accepts every login.
struct Login;

impl CredentialProvider for Login {
    fn profile(&self) -> Profile {
        Profile::default()
    }

    async fn login(&self, cx: LoginContext) -> Result<Token, ProviderError> {
        Ok(Token::bearer(format!("for-{}", cx.reason().as_str()))?)
    }

    async fn logout(&self, _: LogoutContext) -> Result<(), ProviderError> {
        Ok(())
    }
}
