//! A WebSocket that is opened with the session's token. Shows how another
//! protocol uses a session without the layer.
//!
//! ```sh
//! cargo run --example websocket
//! ```
//!
//! In a crate of its own, it needs:
//!
//! ```toml
//! futures-util = { version = "0.3", default-features = false, features = ["sink"] }
//! http = "1"
//! tokio = { version = "1", features = ["full"] }
//! tokio-tungstenite = "0.30"
//! tower-reauth = { path = "../tower-reauth" }
//! ```

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower_reauth::{
    BoxError, CredentialProvider, LoginContext, LogoutContext, LogoutEnds, Profile, ProviderError,
    Session, Token,
};

/// An open socket and its token. If the token is replaced, it is logged out only
/// after this copy drops.
struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    token: Token,
}

/// Opens a socket, with a second token if the first one is rejected.
///
/// Only the layer checks the origin of a request. Here the caller must pass a `url`
/// that may get the token.
async fn open(session: &Session, url: &str) -> Result<Socket, BoxError> {
    let mut rejected = false;
    loop {
        let token = session.token().await?;
        let mut request = url.into_client_request()?;
        token.apply_to(request.headers_mut());
        match connect_async(request).await {
            Ok((stream, _)) => {
                session.accept(&token);
                return Ok(Socket { stream, token });
            }
            // Try once more. If a new token is rejected too, the token is not the cause.
            Err(Error::Http(answer))
                if answer.status() == StatusCode::UNAUTHORIZED && !rejected =>
            {
                session.reject(&token);
                rejected = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Socket {
    async fn echo(&mut self, text: &str) -> Result<Message, BoxError> {
        self.stream.send(Message::text(text)).await?;
        Ok(self.stream.next().await.ok_or("the socket is closed")??)
    }

    /// Waits until the server has closed the socket, then drops the token.
    async fn close(mut self) -> Result<(), BoxError> {
        self.stream.close(None).await?;
        while let Some(Ok(_)) = self.stream.next().await {}
        drop(self.token);
        Ok(())
    }
}

/// A login system whose logout ends the token's sockets too.
struct Desk(server::Server);

impl CredentialProvider for Desk {
    fn profile(&self) -> Profile {
        Profile::default().bound().logout_ends(LogoutEnds::Token)
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        Ok(Token::bearer(self.0.log_in())?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.0.log_out(cx.token());
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = server::Server::start().await?;
    let session = Session::new(Desk(server.clone()));

    let mut socket = open(&session, &server.url()).await?;
    assert_eq!(socket.echo("hello").await?, Message::text("hello"));
    assert_eq!((server.logins(), server.rejected()), (1, 0));
    println!("a socket, after one login");

    server.revoke();
    let mut other = open(&session, &server.url()).await?;
    assert_eq!(other.echo("again").await?, Message::text("again"));
    assert_eq!((server.logins(), server.rejected()), (2, 1));
    println!("the token was dead: the next socket was opened with a new one");
    drop(socket);

    session.renew().await?;
    assert_eq!(other.token.generation(), 2);
    assert_eq!(session.token().await?.generation(), 3);
    assert_eq!(other.echo("still").await?, Message::text("still"));
    println!("a renewal leaves an open socket the token that it has");

    other.close().await?;
    session.close(Duration::from_secs(5)).await?;
    assert_eq!((server.live(), server.cut()), (0, 0));
    println!("all tokens are logged out, and none while a socket used it");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}

/// A server that echoes messages on sockets that are opened with a token.
mod server {
    use std::collections::HashMap;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use futures_util::{SinkExt, StreamExt};
    use http::{HeaderMap, StatusCode, header};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    use tower_reauth::Token;

    #[derive(Clone)]
    pub(crate) struct Server {
        address: SocketAddr,
        desk: Arc<Mutex<Desk>>,
    }

    #[derive(Default)]
    struct Desk {
        /// The live tokens as they are sent, and the number of sockets of each.
        live: HashMap<String, u32>,
        logins: u32,
        rejected: u32,
        cut: u32,
    }

    impl Server {
        pub(crate) async fn start() -> std::io::Result<Self> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let server = Self {
                address: listener.local_addr()?,
                desk: Arc::default(),
            };
            let accepting = server.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(accepting.clone().serve(stream));
                }
            });
            Ok(server)
        }

        /// One socket, from its handshake to its end.
        async fn serve(self, stream: TcpStream) {
            let mut opened_with = None;
            #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
            let admit = |request: &Request, response: Response| {
                let Some(token) = self.open(request.headers()) else {
                    return Err(turned_away());
                };
                opened_with = Some(token);
                Ok(response)
            };
            let Ok(mut socket) = accept_hdr_async(stream, admit).await else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                if socket.send(message).await.is_err() {
                    break;
                }
            }
            // Count it before the socket drops, which its client sees.
            if let Some(token) = opened_with {
                self.closed(&token);
            }
        }

        fn open(&self, headers: &HeaderMap) -> Option<String> {
            let mut desk = self.desk.lock().unwrap();
            let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let sockets = desk.live.get_mut(given);
            let admitted = sockets.map(|sockets| *sockets += 1);
            desk.rejected += u32::from(admitted.is_none());
            admitted.map(|()| given.to_owned())
        }

        fn closed(&self, token: &str) {
            let mut desk = self.desk.lock().unwrap();
            if let Some(sockets) = desk.live.get_mut(token) {
                *sockets -= 1;
            }
        }

        pub(crate) fn log_in(&self) -> String {
            let mut desk = self.desk.lock().unwrap();
            desk.logins += 1;
            let token = format!("token-{}", desk.logins);
            desk.live.insert(format!("Bearer {token}"), 0);
            token
        }

        pub(crate) fn log_out(&self, token: &Token) {
            let mut desk = self.desk.lock().unwrap();
            for (_, value) in token.headers() {
                let sockets = desk.live.remove(value.to_str().unwrap_or_default());
                desk.cut += sockets.unwrap_or_default();
            }
        }

        pub(crate) fn revoke(&self) {
            self.desk.lock().unwrap().live.clear();
        }

        pub(crate) fn url(&self) -> String {
            format!("ws://{}", self.address)
        }

        pub(crate) fn logins(&self) -> u32 {
            self.desk.lock().unwrap().logins
        }

        pub(crate) fn rejected(&self) -> u32 {
            self.desk.lock().unwrap().rejected
        }

        /// How many tokens are logged in.
        pub(crate) fn live(&self) -> usize {
            self.desk.lock().unwrap().live.len()
        }

        /// How many sockets were open when their token was logged out.
        pub(crate) fn cut(&self) -> u32 {
            self.desk.lock().unwrap().cut
        }
    }

    fn turned_away() -> ErrorResponse {
        let mut response = ErrorResponse::new(None);
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
    }
}
