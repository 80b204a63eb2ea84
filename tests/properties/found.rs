//! What these programmes have found, each as short as it could be made.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::testing::{Answer, Call, ScriptedProvider};
use tower_reauth::{
    CredentialProvider, CredentialSource, Credentials, ErrorKind, ExposeSecret, LoginContext,
    PasswordChange, Profile, ProviderError, Rolling, Session, Source, Token,
    credentials::SourceError,
};

const HOME: &str = "https://api.test";

/// What the last login was offered.
fn previous(provider: &ScriptedProvider) -> Option<u64> {
    match provider.calls().pop() {
        Some(Call::Login(login)) => login.previous().map(Token::generation),
        call => panic!("{call:?}"),
    }
}

/// What the last login sent.
fn password(provider: &ScriptedProvider) -> String {
    match provider.calls().pop() {
        Some(Call::Login(login)) => {
            let credentials = login.credentials().unwrap();
            credentials.password().expose_secret().to_owned()
        }
        call => panic!("{call:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_roll_offers_no_token_again_that_a_lost_login_may_have_used_up() {
    let rolling = Rolling::header(header::AUTHORIZATION);
    let provider = ScriptedProvider::new(Profile::at(HOME.parse().unwrap()).rolling(rolling))
        .issuing(|_| Token::bearer("first").unwrap().with_data("refresh token"));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    provider.on_login(ProviderError::uncertain("lost"));
    session.renew().await.unwrap_err();
    assert_eq!(previous(&provider), Some(1));

    let http = service_fn(async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header(header::AUTHORIZATION, "Bearer second");
        Ok::<_, std::convert::Infallible>(response.body(Full::<Bytes>::default()).unwrap())
    });
    let request = Request::get(HOME).body(Full::default()).unwrap();
    session.layer().layer(http).oneshot(request).await.unwrap();
    advance(Duration::from_secs(1)).await;
    session.renew().await.unwrap();
    assert_eq!(previous(&provider), None);
}

/// Yields a password of its own each time.
struct Fickle(Mutex<u32>);

impl CredentialSource for Fickle {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        let mut fetched = self.0.lock().unwrap();
        *fetched += 1;
        Ok(Credentials::new("alice", format!("password-{fetched}")))
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_be_left_alone_is_so_after_a_refusal_too() {
    let provider =
        ScriptedProvider::at(HOME.parse().unwrap()).with_source(Source::new(Fickle(Mutex::new(0))));
    provider.on_login(ProviderError::refused("wrong password"));
    let busy = ProviderError::unavailable("busy").with_retry_after(Duration::from_secs(30));
    provider.on_login(busy);
    let session = Session::new(provider.clone());
    session.token().await.unwrap_err();
    session.login().await.unwrap_err();

    advance(Duration::from_secs(29)).await;
    session.token().await.unwrap_err();
    tokio::task::yield_now().await;
    assert_eq!(provider.logins(), 2);
    advance(Duration::from_secs(1)).await;
    session.token().await.unwrap_err();
    tokio::task::yield_now().await;
    assert_eq!(provider.logins(), 3);
}

/// Yields what the test says.
#[derive(Clone)]
struct Told(Arc<Mutex<&'static str>>);

impl CredentialSource for Told {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        Ok(Credentials::new("alice", *self.0.lock().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn another_password_is_tried_though_a_change_is_open_whose_two_are_refused() {
    let source = Told(Arc::new(Mutex::new("old")));
    let provider =
        ScriptedProvider::at(HOME.parse().unwrap()).with_source(Source::new(source.clone()));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    provider.on_change_password(ProviderError::uncertain("lost"));
    let change = PasswordChange::to("new").even_if_it_cannot_be_stored();
    session.change_password(change).await.unwrap_err();
    provider.on_login(ProviderError::refused("wrong password"));
    provider.on_login(ProviderError::refused("wrong password"));
    session.renew().await.unwrap_err();
    // The new one, of which the answer is lost; and then the old one first.
    provider.on_login(ProviderError::uncertain("lost"));
    session.login().await.unwrap_err();
    provider.on_login(ProviderError::refused("wrong password"));
    provider.on_login(ProviderError::unavailable("down"));
    session.login().await.unwrap_err();
    assert_eq!(provider.logins(), 6);

    *source.0.lock().unwrap() = "another";
    advance(Duration::from_secs(11)).await;
    session.renew().await.unwrap_err();
    tokio::task::yield_now().await;
    assert_eq!(provider.logins(), 7);
    assert!(session.status().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_to_and_fro_makes_no_lost_answer_undone() {
    let source = Told(Arc::new(Mutex::new("old")));
    let provider =
        ScriptedProvider::at(HOME.parse().unwrap()).with_source(Source::new(source.clone()));
    let session = Session::new(provider.clone());
    session.token().await.unwrap();
    provider.on_change_password(ProviderError::uncertain("lost"));
    let change = PasswordChange::to("new").even_if_it_cannot_be_stored();
    session.change_password(change).await.unwrap_err();
    provider.on_login(ProviderError::uncertain("lost"));
    session.login().await.unwrap_err();
    assert_eq!(password(&provider), "new");
    // Now that is the source's own, which is all there is to send.
    *source.0.lock().unwrap() = "new";
    provider.on_login(ProviderError::unavailable("down"));
    session.login().await.unwrap_err();
    assert_eq!(password(&provider), "new");
    *source.0.lock().unwrap() = "old";
    session.login().await.unwrap();
    assert_eq!(password(&provider), "old");
}

/// Refreshes what it can, and else asks for the password.
struct Refreshing {
    source: Source,
    refresh: Mutex<Vec<Result<(), ProviderError>>>,
    passwords_sent: Arc<Mutex<u32>>,
}

impl CredentialProvider for Refreshing {
    fn profile(&self) -> Profile {
        Profile::default()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        if login.previous().is_some() {
            if let Some(refreshed) = self.refresh.lock().unwrap().pop() {
                refreshed?;
                return Ok(Token::bearer("refreshed")?.continues_previous());
            }
        }
        login.credentials()?;
        *self.passwords_sent.lock().unwrap() += 1;
        Ok(Token::bearer("logged-in")?)
    }
}

/// A provider whose refresh is refused, and that has not asked for the
/// password, has not sent it.
#[tokio::test(start_paused = true)]
async fn a_refused_refresh_says_nothing_of_a_password_that_was_not_sent() {
    let passwords_sent = Arc::default();
    let session = Session::new(Refreshing {
        source: Credentials::new("alice", "secret").into(),
        refresh: Mutex::new(vec![Err(ProviderError::refused(
            "the refresh token is over",
        ))]),
        passwords_sent: Arc::clone(&passwords_sent),
    });
    session.token().await.unwrap();
    session.renew().await.unwrap_err();
    // From here on the provider would send the password, which is right.
    for _ in 0..3 {
        advance(Duration::from_secs(11)).await;
        let _ = session.renew().await;
        tokio::task::yield_now().await;
    }
    assert!(*passwords_sent.lock().unwrap() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_password_change_is_uncertain_without_a_source_too() {
    let provider = ScriptedProvider::at(HOME.parse().unwrap());
    provider.on_change_password(Answer::never());
    let session = Session::new(provider);
    let changed = session.change_password(PasswordChange::to("new")).await;
    assert_eq!(changed.unwrap_err().kind(), ErrorKind::Uncertain);
}
