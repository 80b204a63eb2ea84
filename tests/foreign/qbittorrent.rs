//! qBittorrent's Web API. Up to 5.1 a wrong password is a 200 that says
//! `Fails.` and the cookie is `SID`; from 5.2 on they are a 401 and
//! `QBT_SID_<port>`. Five failed logins ban the address for an hour, which is a
//! 403 to any login, and so nothing about the password.

use std::time::Duration;

use http::{StatusCode, header};
use tower_reauth::provider::Api;
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, LogoutContext, LogoutEnds, Profile,
    ProviderError, Rejection, Source, Token,
};

use super::server::Http;

const IDLE: Duration = Duration::from_secs(3600);
const BAN: Duration = Duration::from_secs(3600);

struct QBittorrent {
    api: Api<Http>, // at `/api/v2/`
    source: Source,
}

impl CredentialProvider for QBittorrent {
    fn profile(&self) -> Profile {
        self.api
            .profile()
            .rejection(Rejection::status(StatusCode::FORBIDDEN))
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        let form = [
            ("username", user.username()),
            ("password", user.password().expose_secret()),
        ];
        let call = self.api.post("auth/login").form(form);
        let call = call.denied_by(Rejection::body_contains(StatusCode::OK, "Fails.", 64));
        let answer = call.send().await?;
        if answer.status() == 403 {
            return Err(ProviderError::unavailable("this address is banned").with_retry_after(BAN));
        }
        let answer = answer.of_login()?;
        let (name, value) = answer.cookie_by(is_session)?.into_parts();
        Ok(Token::cookie(name, value)?.idles_out_after(IDLE))
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api
            .post("auth/logout")
            .token(cx.token())
            .denied_by(&[StatusCode::FORBIDDEN])
            .logout()
            .await?;
        Ok(())
    }
}

/// `SID`, or `QBT_SID_` and a port that need not be the one of the address.
fn is_session(name: &str) -> bool {
    name == "SID" || name.starts_with("QBT_SID_")
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use tokio::time::Instant;
    use tower_reauth::ErrorKind;

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, PASSWORD, Server, USER, credentials, form_of, header_of,
        target, text,
    };
    use super::*;

    fn provider(server: &Server<State>) -> QBittorrent {
        let api = Api::new(server.http(), format!("{BASE}/api/v2/").parse().unwrap()).unwrap();
        QBittorrent {
            api,
            source: credentials().into(),
        }
    }

    fn server(version: Version) -> Server<State> {
        let server = Server::<State>::new();
        server.state().version = version;
        server
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        for version in [Version::Before5_2, Version::Since5_2] {
            let server = server(version);
            server
                .conforms(&provider(&server), NO_PASSWORD_CHANGE)
                .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_a_session() {
        for version in [Version::Before5_2, Version::Since5_2] {
            let server = server(version);
            server.serves(provider(&server)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ban_is_no_refusal_and_is_waited_for() {
        let server = server(Version::Before5_2);
        server.state().banned_until = Some(Instant::now() + BAN);
        let (session, client) = server.session(provider(&server));
        assert_eq!(
            session.token().await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        tokio::time::sleep(BAN + Duration::from_secs(1)).await;
        assert_eq!(server.read(&client).await.0.status(), 200);
        assert_eq!(server.state().failed, 0);
    }

    #[derive(Clone, Copy, Default)]
    enum Version {
        #[default]
        Before5_2,
        Since5_2,
    }

    #[derive(Default)]
    struct State {
        version: Version,
        /// By the whole cookie, when it was used last.
        sessions: HashMap<String, Instant>,
        logins: usize,
        failed: usize,
        failed_in_a_row: usize,
        banned_until: Option<Instant>,
    }

    impl State {
        fn log_in(&mut self, form: &HashMap<String, String>) -> Response<Bytes> {
            if self.banned_until.is_some_and(|end| end > Instant::now()) {
                return text(
                    403,
                    "Your IP address has been banned after too many failed authentication attempts.",
                );
            }
            if form["username"] != USER || form["password"] != PASSWORD {
                self.failed += 1;
                self.failed_in_a_row += 1;
                if self.failed_in_a_row >= 5 {
                    self.banned_until = Some(Instant::now() + BAN);
                }
                return match self.version {
                    Version::Before5_2 => text(200, "Fails."),
                    Version::Since5_2 => text(401, "Unauthorized"),
                };
            }
            self.logins += 1;
            self.failed_in_a_row = 0;
            let (name, mut response) = match self.version {
                Version::Before5_2 => ("SID", text(200, "Ok.")),
                Version::Since5_2 => ("QBT_SID_8080", text(204, "")),
            };
            let cookie = format!("{name}=hBc7TxF76ERhvIw0jQQ4LZ7Z1jQUV0t{}", self.logins);
            let line = format!("{cookie}; HttpOnly; SameSite=Strict; path=/");
            response
                .headers_mut()
                .insert(header::SET_COOKIE, line.parse().unwrap());
            self.sessions.insert(cookie, Instant::now());
            response
        }
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/api/v2/torrents/info";

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if target(request) == (&Method::POST, "/api/v2/auth/login") {
                return self.log_in(&form_of(request));
            }
            let cookie = header_of(request, "cookie");
            match self.sessions.get_mut(cookie) {
                Some(used) if used.elapsed() < IDLE => *used = Instant::now(),
                _ => return text(403, "Forbidden"),
            }
            match target(request) {
                (&Method::POST, "/api/v2/auth/logout") => {
                    self.sessions.remove(cookie);
                    text(200, "")
                }
                (&Method::GET, Self::PROTECTED) => text(200, "[]"),
                _ => text(404, "Not Found"),
            }
        }

        fn revoke_all(&mut self) {
            self.sessions.clear();
        }

        fn live(&self) -> usize {
            self.sessions
                .values()
                .filter(|used| used.elapsed() < IDLE)
                .count()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
