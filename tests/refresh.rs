//! A login that refreshes sends no password, and so says nothing of one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tower_reauth::{
    CredentialProvider, Credentials, ErrorKind, ExposeSecret, LoginContext, PasswordChange,
    PasswordContext, Profile, ProviderError, Session, Source, Token, provider_fn,
};

struct Refreshing {
    source: Source,
    refresh_is_dead: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<String>>>,
}

impl CredentialProvider for Refreshing {
    fn profile(&self) -> Profile {
        Profile::default()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let number = login.previous().map_or(0, Token::generation);
        if number > 0 && !self.refresh_is_dead.load(Ordering::Relaxed) {
            return Ok(Token::bearer(format!("refreshed-{number}"))?.continues_previous());
        }
        let password = login.credentials()?.password().expose_secret().to_owned();
        self.sent.lock().unwrap().push(password.clone());
        match password == "old" {
            true => Ok(Token::bearer(format!("logged-in-{number}"))?),
            false => Err(ProviderError::refused("wrong password")),
        }
    }

    async fn change_password(&self, _: PasswordContext) -> Result<(), ProviderError> {
        Err(ProviderError::uncertain(
            "the answer was lost, and the server did nothing",
        ))
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_resolves_no_uncertain_password_change() {
    let refresh_is_dead = Arc::<AtomicBool>::default();
    let sent = Arc::<Mutex<Vec<String>>>::default();
    let session = Session::new(Refreshing {
        source: Credentials::new("alice", "old").into(),
        refresh_is_dead: refresh_is_dead.clone(),
        sent: sent.clone(),
    });
    session.token().await.unwrap();
    let change = session.change_password(PasswordChange::to("new"));
    assert_eq!(change.await.unwrap_err().kind(), ErrorKind::Uncertain);

    // A password is sent, though the server would refresh the token.
    session.renew().await.unwrap();
    assert_eq!(*sent.lock().unwrap(), ["old", "old"]);
    // And then it may.
    session.renew().await.unwrap();
    refresh_is_dead.store(true, Ordering::Relaxed);
    session.renew().await.unwrap();
    assert_eq!(*sent.lock().unwrap(), ["old", "old", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_makes_no_refused_password_a_good_one() {
    let refresh_is_dead = Arc::new(AtomicBool::new(true));
    let sent = Arc::<Mutex<Vec<String>>>::default();
    let session = Session::builder(Refreshing {
        source: Credentials::new("alice", "wrong").into(),
        refresh_is_dead: refresh_is_dead.clone(),
        sent: sent.clone(),
    })
    .initial_token(Token::bearer("from before").unwrap())
    .build();
    assert_eq!(
        session.renew().await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    // Somebody asks for one attempt, which the server takes for a refresh.
    refresh_is_dead.store(false, Ordering::Relaxed);
    session.login().await.unwrap();
    refresh_is_dead.store(true, Ordering::Relaxed);
    assert_eq!(
        session.renew().await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(*sent.lock().unwrap(), ["wrong"]);
}

/// RFC 6749, section 6: a refresh may return no new refresh token.
#[tokio::test(start_paused = true)]
async fn a_token_that_continues_keeps_the_data_unless_it_has_its_own() {
    let offered = Arc::<Mutex<Vec<Option<String>>>>::default();
    let seen = offered.clone();
    let provider = provider_fn(Profile::default(), move |cx: LoginContext| {
        let data = cx.previous().and_then(Token::data);
        let data = data.map(|data| data.expose_secret().to_owned());
        let mut offered = seen.lock().unwrap();
        offered.push(data);
        let number = offered.len();
        async move {
            let token = Token::bearer(format!("access-{number}"))?;
            Ok(match number {
                1 => token.with_data("refresh-1"),
                2 => token.continues_previous(),
                3 => token.continues_previous().with_data("refresh-2"),
                // A new session of the server.
                _ => token,
            })
        }
    });
    let session = Session::new(provider);
    for _ in 1..=5 {
        session.renew().await.unwrap();
    }
    let expected = [
        None,
        Some("refresh-1"),
        Some("refresh-1"),
        Some("refresh-2"),
        None,
    ];
    let expected = expected.map(|data| data.map(str::to_owned));
    assert_eq!(*offered.lock().unwrap(), expected);
}
