//! Jenkins, by password: Basic with each request, and for writes a crumb that
//! is good in one web session only. Without that session, a read is answered
//! all the same, and a write is a 403 that says `No valid crumb`.

use http::{StatusCode, header};
use tower_reauth::provider::Api;
use tower_reauth::{
    CredentialProvider, LoginContext, LogoutContext, LogoutEnds, Profile, ProviderError, Rejection,
    Source, Token,
};

use super::server::Http;

struct Jenkins {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for Jenkins {
    fn profile(&self) -> Profile {
        let rejection = Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
            StatusCode::FORBIDDEN,
            "No valid crumb",
            4096,
        );
        self.api
            .profile()
            .rejection(rejection)
            .logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let user = login.credentials()?;
        let answer = self
            .api
            .get("crumbIssuer/api/json")
            .basic(user)
            .login()
            .await?;
        let field: String = answer.at("/crumbRequestField")?;
        let token = Token::basic(user)?.and_header(field, answer.secret("/crumb")?)?;
        // A dot follows, and eight digits that differ from one Jenkins to the next.
        let session = answer.cookie_by(|name| name.starts_with("JSESSIONID"))?;
        let (name, value) = session.into_parts();
        Ok(token.and_cookie(name, value)?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.get("logout").token(cx.token()).logout().await?;
        Ok(())
    }
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use http_body_util::Full;

    use super::super::server::{
        Answers, BASE, NO_PASSWORD_CHANGE, Server, basic, credentials, header_of, json, target,
        text,
    };
    use super::*;

    const NO_CRUMB: &str = "<html><head><title>Error 403 No valid crumb was included in the request</title></head>\
        <body><h2>HTTP ERROR 403 No valid crumb was included in the request</h2></body></html>";

    fn provider(server: &Server<State>) -> Jenkins {
        Jenkins {
            api: Api::new(server.http(), BASE.parse().unwrap()).unwrap(),
            source: credentials().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        let server = Server::<State>::new();
        server
            .conforms(&provider(&server), NO_PASSWORD_CHANGE)
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_a_session() {
        let server = Server::<State>::new();
        server.serves(provider(&server)).await;
        assert_eq!(server.state().builds, 3);
    }

    #[derive(Default)]
    struct State {
        /// By the session's cookie, its crumb.
        sessions: HashMap<String, String>,
        builds: usize,
        logins: usize,
        failed: usize,
    }

    impl State {
        fn issue_crumb(&mut self) -> Response<Bytes> {
            self.logins += 1;
            let crumb = format!("f5a1b7{:026}", self.logins);
            let cookie = format!("JSESSIONID.3f0d0c53=node0abc{}.node0", self.logins);
            let mut response = json(
                200,
                format_args!(
                    r#"{{"_class":"hudson.security.csrf.DefaultCrumbIssuer","crumb":"{crumb}","crumbRequestField":"Jenkins-Crumb"}}"#
                ),
            );
            let line = format!("{cookie}; Path=/; HttpOnly");
            response
                .headers_mut()
                .insert(header::SET_COOKIE, line.parse().unwrap());
            self.sessions.insert(cookie, crumb);
            response
        }
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/job/nightly/build";

        /// A read would be answered without a session, too.
        fn probe() -> Request<Full<Bytes>> {
            Request::post(format!("{BASE}{}", Self::PROTECTED))
                .body(Full::default())
                .unwrap()
        }

        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            if header_of(request, "authorization") != basic() {
                self.failed += 1;
                let mut response = text(401, "<html><title>Error 401 Unauthorized</title></html>");
                response.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    "Basic realm=\"Jenkins\"".parse().unwrap(),
                );
                return response;
            }
            let cookie = header_of(request, "cookie");
            match target(request) {
                (&Method::GET, "/crumbIssuer/api/json") => self.issue_crumb(),
                (&Method::GET, "/logout") => {
                    self.sessions.remove(cookie);
                    let mut response = text(302, "");
                    response
                        .headers_mut()
                        .insert(header::LOCATION, format!("{BASE}/").parse().unwrap());
                    response
                }
                (&Method::POST, Self::PROTECTED) => {
                    if self
                        .sessions
                        .get(cookie)
                        .is_none_or(|crumb| crumb != header_of(request, "jenkins-crumb"))
                    {
                        return text(403, NO_CRUMB);
                    }
                    self.builds += 1;
                    text(201, "")
                }
                _ => text(404, "<html><title>Error 404 Not Found</title></html>"),
            }
        }

        fn revoke_all(&mut self) {
            self.sessions.clear();
        }

        fn live(&self) -> usize {
            self.sessions.len()
        }

        fn logins(&self) -> usize {
            self.logins
        }

        fn failed(&self) -> usize {
            self.failed
        }
    }
}
