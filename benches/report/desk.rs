//! A login system and its server, alike for us and for the hand-written layer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, Service};
use tower_reauth::{
    BoxError, CredentialProvider, LoginContext, Profile, ProviderError, Session, SessionService,
    Token,
};

use crate::peers::{Body, ByHand, Held, Login, ORIGIN};

/// Cloning copies a pointer.
#[derive(Clone)]
pub(crate) struct Desk(Arc<State>);

struct State {
    login_takes: Duration,
    answer_takes: Duration,
    lives_for: Option<Duration>,
    down: AtomicBool,
    logins: AtomicUsize,
    issued: AtomicU64,
    revoked: AtomicU64,
    rejections: AtomicUsize,
}

impl Desk {
    pub(crate) fn new(
        login_takes: Duration,
        answer_takes: Duration,
        lives_for: Option<Duration>,
    ) -> Self {
        Self(Arc::new(State {
            login_takes,
            answer_takes,
            lives_for,
            down: AtomicBool::new(false),
            logins: AtomicUsize::new(0),
            issued: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            rejections: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn revoke_all(&self) {
        let issued = self.0.issued.load(Ordering::SeqCst);
        self.0.revoked.store(issued, Ordering::SeqCst);
    }

    /// How many logins were begun.
    pub(crate) fn logins(&self) -> usize {
        self.0.logins.load(Ordering::SeqCst)
    }

    /// How many requests the server rejected.
    pub(crate) fn rejections(&self) -> usize {
        self.0.rejections.load(Ordering::SeqCst)
    }

    async fn issue(&self) -> Result<String, BoxError> {
        self.0.logins.fetch_add(1, Ordering::SeqCst);
        sleep(self.0.login_takes).await;
        if self.0.down.load(Ordering::SeqCst) {
            return Err("the login system is down".into());
        }
        let number = self.0.issued.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(format!("{number:064}"))
    }

    fn takes(&self, request: &Request<Body>) -> bool {
        let number = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ")?.parse().ok());
        let revoked = self.0.revoked.load(Ordering::SeqCst);
        let takes = number.is_some_and(|number: u64| number > revoked);
        if !takes {
            self.0.rejections.fetch_add(1, Ordering::SeqCst);
        }
        takes
    }

    /// This crate's layer.
    pub(crate) fn ours(&self) -> SessionService<Server> {
        Session::new(self.clone())
            .layer()
            .layer(Server(self.clone()))
    }

    pub(crate) fn by_hand(&self) -> ByHand<Server, Self> {
        ByHand::new(Server(self.clone()), Held::nothing(), self.clone())
    }
}

impl CredentialProvider for Desk {
    fn profile(&self) -> Profile {
        Profile::at(ORIGIN.parse().expect("a valid origin"))
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        let token = self.issue().await.map_err(ProviderError::unavailable)?;
        let token = Token::bearer(token)?;
        Ok(match self.0.lives_for {
            Some(lifetime) => token.lives_for(lifetime),
            None => token,
        })
    }
}

impl Login for Desk {
    async fn login(&self) -> Result<Held, BoxError> {
        Ok(Held::new(self.issue().await?, self.0.lives_for))
    }
}

/// Looks at the token when the request comes and answers after a while.
#[derive(Clone)]
pub(crate) struct Server(Desk);

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let status = match self.0.takes(&request) {
            true => StatusCode::OK,
            false => StatusCode::UNAUTHORIZED,
        };
        let takes = self.0.0.answer_takes;
        Box::pin(async move {
            sleep(takes).await;
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

/// A request that the [`Server`] takes.
pub(crate) fn request() -> Request<Body> {
    Request::get(format!("{ORIGIN}/v1/servers/42"))
        .body(Full::default())
        .expect("a valid request")
}
