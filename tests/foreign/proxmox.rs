//! Proxmox VE: a signed ticket in a cookie, good for two hours, and a CSRF
//! token for writes. A ticket is renewed by a login with itself as the
//! password. Nothing ends it on the server before its time.

use std::time::Duration;

use http::HeaderName;
use tower_reauth::provider::{Answer, Api};
use tower_reauth::{
    CredentialProvider, ExposeSecret, LoginContext, Profile, ProviderError, Reason, Source, Token,
};

use super::server::Http;

const CSRF: HeaderName = HeaderName::from_static("csrfpreventiontoken");
const LIFETIME: Duration = Duration::from_secs(2 * 3600);

struct Proxmox {
    api: Api<Http>, // at `/api2/json/`
    source: Source, // of a user with the realm: `ops@pam`
}

impl CredentialProvider for Proxmox {
    fn profile(&self) -> Profile {
        self.api.profile()
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        // Only a ticket that is still good: a dead one would be tried as a password.
        let ahead = matches!(login.reason(), Reason::Expiring | Reason::Requested);
        if let Some(ticket) = login.previous().filter(|_| ahead).and_then(Token::data) {
            let ticket = ticket.expose_secret();
            let user = login.username().unwrap_or_default();
            let form = [("username", user), ("password", ticket)];
            if let Some(answer) = self.api.post("access/ticket").form(form).exchange().await? {
                return token(&answer);
            }
        }
        let user = login.credentials()?;
        let form = [
            ("username", user.username()),
            ("password", user.password().expose_secret()),
        ];
        token(&self.api.post("access/ticket").form(form).login().await?)
    }
}

fn token(answer: &Answer) -> Result<Token, ProviderError> {
    let ticket = answer.secret("/data/ticket")?;
    let token = Token::cookie("PVEAuthCookie", ticket.clone())?;
    let token = token.and_header(CSRF, answer.secret("/data/CSRFPreventionToken")?)?;
    Ok(token.lives_for(LIFETIME).with_data(ticket))
}

mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use http_body_util::Full;
    use serde_json::json as object;
    use tokio::time::{Instant, sleep};
    use tower_reauth::testing::Check;
    use tower_reauth::{ErrorKind, ReauthFailure};

    use super::super::server::{Answers, BASE, PASSWORD, Server, form_of, header_of, json, target};
    use super::*;
    use tower_reauth::Credentials;

    /// What a login system without a logout and a password change skips.
    const SKIPPED: &[Check] = &[
        Check::Logout,
        Check::DeadLogout,
        Check::LogoutEnds,
        Check::PasswordChange,
        Check::DeadPasswordChange,
    ];

    fn provider(server: &Server<State>) -> Proxmox {
        let api = Api::new(server.http(), format!("{BASE}/api2/json/").parse().unwrap()).unwrap();
        Proxmox {
            api,
            source: Credentials::new("ops@pam", PASSWORD).into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        let server = Server::<State>::new();
        server.conforms(&provider(&server), SKIPPED).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_a_session() {
        let server = Server::<State>::new();
        let (session, client) = server.session(provider(&server));
        assert_eq!(server.read(&client).await.0.status(), 200);
        server.state().revoke_all();
        assert_eq!(server.read(&client).await.0.status(), 200);
        assert_eq!(server.state().logins, 2);
        assert_eq!(server.state().failed, 0); // the dead ticket was not tried as a password

        // There is none.
        session.logout().await.unwrap();
        assert_eq!(
            session.token().await.unwrap_err().kind(),
            ErrorKind::LoggedOut
        );
        assert_eq!(server.state().live(), 1); // to its end
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_ticket_is_renewed_by_itself() {
        let server = Server::<State>::new();
        let (_session, client) = server.session(provider(&server));
        for _ in 0..60 {
            assert_eq!(server.read(&client).await.0.status(), 200);
            sleep(Duration::from_secs(600)).await;
        }
        let state = server.state();
        assert_eq!((state.logins, state.failed, state.rejected), (1, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_permission_costs_no_login() {
        let server = Server::<State>::new();
        let (_session, client) = server.session(provider(&server));
        server.state().forbids = true;
        let (response, reauth) = server.read(&client).await;
        assert_eq!(response.status(), 403);
        assert!(
            !reauth.is_some_and(|reauth| matches!(reauth.failure, ReauthFailure::StillRejected))
        );
        assert_eq!(server.state().logins, 1);
    }

    #[derive(Default)]
    struct State {
        /// By ticket: its CSRF token, and when it ends.
        tickets: HashMap<String, (String, Instant)>,
        issued: usize,
        logins: usize,
        rejected: usize,
        failed: usize,
        forbids: bool,
    }

    impl State {
        fn is_live(&self, ticket: &str) -> bool {
            self.tickets
                .get(ticket)
                .is_some_and(|(_, ends)| *ends > Instant::now())
        }

        fn issue(&mut self) -> Response<Bytes> {
            self.issued += 1;
            let stamp = format!("{:08X}", 0x66A1_B2C3 + self.issued);
            let (ticket, csrf) = (
                format!("PVE:ops@pam:{stamp}::rsKoApxDTLYPn6H3+NT6/iP2mv=="),
                format!("{stamp}:lwk7od06fa1+DcPUwBTXCcndyAY"),
            );
            self.tickets
                .insert(ticket.clone(), (csrf.clone(), Instant::now() + LIFETIME));
            json(
                200,
                object!({ "data": { "ticket": ticket, "CSRFPreventionToken": csrf, "username": "ops@pam", "cap": {} } }),
            )
        }
    }

    impl Answers for State {
        const PROTECTED: &'static str = "/api2/json/nodes/pve/qemu/100/status/start";

        /// A write, which needs the CSRF token too.
        fn probe() -> Request<Full<Bytes>> {
            Request::post(format!("{BASE}{}", Self::PROTECTED))
                .body(Full::default())
                .unwrap()
        }

        // What went wrong stands in the reason phrase, which `http` does not keep.
        fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
            let nothing = object!({ "data": null });
            if target(request) == (&Method::POST, "/api2/json/access/ticket") {
                let form = form_of(request);
                if form["username"] == "ops@pam" && self.is_live(&form["password"]) {
                    return self.issue();
                }
                if form["username"] != "ops@pam" || form["password"] != PASSWORD {
                    self.failed += 1;
                    return json(401, nothing);
                }
                self.logins += 1;
                return self.issue();
            }
            let cookie = header_of(request, "cookie");
            let ticket = cookie.strip_prefix("PVEAuthCookie=").unwrap_or_default();
            if !self.is_live(ticket)
                || self.tickets[ticket].0 != header_of(request, "csrfpreventiontoken")
            {
                self.rejected += 1;
                return json(401, nothing);
            }
            match target(request) {
                (&Method::POST, Self::PROTECTED) if self.forbids => json(403, nothing),
                (&Method::POST, Self::PROTECTED) => json(200, object!({ "data": "UPID:pve:0000" })),
                _ => json(501, nothing),
            }
        }

        /// As a new key to sign with does.
        fn revoke_all(&mut self) {
            self.tickets.clear();
        }

        fn live(&self) -> usize {
            self.tickets
                .keys()
                .filter(|ticket| self.is_live(ticket))
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
