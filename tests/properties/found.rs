//! What these programmes have found that no scenario file can say, since it
//! turns on the token that a login is offered to extend. Each is as short as it
//! could be made; the rest is in `tests/scenarios`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_reauth::testing::{Call, ScriptedProvider};
use tower_reauth::{
    CredentialProvider, Credentials, LoginContext, Profile, ProviderError, Rolling, Session,
    Source, Token,
};

const HOME: &str = "https://api.test";

/// What the last login was offered.
fn previous(provider: &ScriptedProvider) -> Option<u64> {
    match provider.calls().pop() {
        Some(Call::Login(login)) => login.previous().map(Token::generation),
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
        if login.previous().is_some()
            && let Some(refreshed) = self.refresh.lock().unwrap().pop()
        {
            refreshed?;
            return Ok(Token::bearer("refreshed")?.continues_previous());
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
