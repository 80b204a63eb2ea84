//! A tonic gRPC client: calls and streams share one login. A token that the
//! server no longer accepts costs one more login, and no call fails.
//!
//! ```sh
//! cargo run --example tonic_client
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! http = "1"
//! tokio = { version = "1", features = ["full"] }
//! tonic = "0.14"
//! tonic-health = "0.14"
//! tower = { version = "0.5", features = ["util"] }
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use http::{HeaderValue, StatusCode};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceBuilder;
use tower_reauth::{
    BoxError, Buffer, LoginContext, Profile, Rejection, Session, Token, provider_fn,
};

const CALLERS: usize = 64;

/// Most gRPC servers report "unauthenticated" (16) with a status of 200: in the head, or
/// behind the messages.
fn profile() -> Profile {
    let unauthenticated = HeaderValue::from_static("16");
    let rejection = Rejection::status(StatusCode::UNAUTHORIZED)
        .or_header("grpc-status", unauthenticated.clone())
        .or_trailer("grpc-status", unauthenticated);
    // A channel talks to one server, and tonic's requests have relative URIs.
    Profile::default().bound().rejection(rejection)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Server::start().await?;
    let desk = server.clone();
    let session = Session::new(provider_fn(profile(), move |_: LoginContext| {
        let token = desk.log_in();
        async move { Ok(Token::bearer(token)?) }
    }));

    let channel = Channel::from_shared(server.url())?.connect().await?;
    // Even an empty message has a body, so keep a copy.
    let replay = Buffer::up_to(64 * 1024).into_body(tonic::body::Body::new);
    let channel = ServiceBuilder::new()
        .layer(session.layer().replay(replay))
        .service(channel);
    let mut client = HealthClient::new(channel);

    let answer = client.check(HealthCheckRequest::default()).await?;
    assert_eq!(answer.into_inner().status(), Answer::Serving);
    assert_eq!((server.logins(), server.rejected()), (1, 0));
    println!("a call, after one login");

    server.revoke();
    let answer = client.check(HealthCheckRequest::default()).await?;
    assert_eq!(answer.into_inner().status(), Answer::Serving);
    assert_eq!((server.logins(), server.rejected()), (2, 1));
    println!("the token was dead: the call was rejected, and sent once more");

    server.revoke();
    let stream = client.watch(HealthCheckRequest::default()).await?;
    let mut stream = stream.into_inner();
    let first = stream.message().await?.ok_or("it ends early")?;
    assert_eq!(first.status(), Answer::Serving);
    assert_eq!((server.logins(), server.rejected()), (3, 2));
    println!("so was a call that is answered with a stream");

    server.revoke();
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = client.clone();
        calls.spawn(async move { client.check(HealthCheckRequest::default()).await });
    }
    for answer in calls.join_all().await {
        assert_eq!(answer?.into_inner().status(), Answer::Serving);
    }
    assert_eq!(server.logins(), 4);
    println!("{CALLERS} calls at once shared one login");

    server.set_status(ServingStatus::NotServing).await;
    let second = stream.message().await?.ok_or("it ends early")?;
    assert_eq!(second.status(), Answer::NotServing);
    println!("the stream went on meanwhile");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// A health service that asks for a token.
mod server {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;
    use tonic::transport::Server as Transport;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Status};
    use tonic_health::ServingStatus;
    use tonic_health::pb::health_server::HealthServer;
    use tonic_health::server::{HealthReporter, HealthService};
    use tower_reauth::BoxError;

    #[derive(Clone)]
    pub(crate) struct Server {
        address: SocketAddr,
        reporter: HealthReporter,
        desk: Desk,
    }

    type Desk = Arc<Mutex<Inner>>;

    #[derive(Default)]
    struct Inner {
        good: Option<String>,
        logins: usize,
        rejected: usize,
    }

    impl Server {
        pub(crate) async fn start() -> Result<Self, BoxError> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let server = Self {
                address: listener.local_addr()?,
                reporter: HealthReporter::new(),
                desk: Desk::default(),
            };
            let health = HealthService::from_health_reporter(server.reporter.clone());
            let desk = server.desk.clone();
            let health =
                HealthServer::with_interceptor(health, move |request| check(&desk, request));
            let incoming = TcpIncoming::from(listener);
            tokio::spawn(Transport::builder().serve_with_incoming(health, incoming));
            Ok(server)
        }

        pub(crate) fn url(&self) -> String {
            format!("http://{}", self.address)
        }

        pub(crate) fn log_in(&self) -> String {
            let mut desk = self.desk.lock().unwrap();
            desk.logins += 1;
            let token = format!("token-{}", desk.logins);
            desk.good = Some(token.clone());
            token
        }

        pub(crate) fn revoke(&self) {
            self.desk.lock().unwrap().good = None;
        }

        pub(crate) async fn set_status(&self, status: ServingStatus) {
            self.reporter.set_service_status("", status).await;
        }

        pub(crate) fn logins(&self) -> usize {
            self.desk.lock().unwrap().logins
        }

        pub(crate) fn rejected(&self) -> usize {
            self.desk.lock().unwrap().rejected
        }
    }

    #[allow(
        clippy::result_large_err,
        reason = "an interceptor's signature is tonic's"
    )]
    fn check(desk: &Desk, request: Request<()>) -> Result<Request<()>, Status> {
        let mut desk = desk.lock().unwrap();
        let good = desk.good.as_ref().map(|token| format!("Bearer {token}"));
        let given = request.metadata().get("authorization");
        if good.is_none() || given.and_then(|given| given.to_str().ok()) != good.as_deref() {
            desk.rejected += 1;
            return Err(Status::unauthenticated("no such token"));
        }
        Ok(request)
    }
}
