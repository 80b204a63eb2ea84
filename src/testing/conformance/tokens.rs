//! Checks of logins, rejections and renewals.

use super::call::log_in;
use super::trial::{Trial, Tried, broken, skipped};
use crate::provider::{CredentialProvider, Reason};
use crate::rejection::{Start, Verdict};
use crate::testing::server::TestServer;

impl<P: CredentialProvider, T: TestServer> Trial<'_, P, T> {
    pub(super) async fn login(&mut self) -> Tried {
        const ONE: &str = "A login opens one session: only the token that it returns is ever \
            logged out, and any other stays behind on the server.";
        let before = self.server.live_sessions().await;
        let token = self.log_in().await?;
        let after = self.server.live_sessions().await;
        if let (Some(before), Some(after)) = (before, after)
            && after > before + 1
        {
            let opened = after - before;
            return Err(broken(format!("it opened {opened} sessions"), ONE));
        }
        self.discard(token).await;
        Ok(None)
    }

    pub(super) async fn rejection(&mut self) -> Tried {
        const FRESH: &str = "A login whose reason is `Rejected` yields a fresh token: \
            `previous()` is dead, and may only be used by servers that exchange a dead one.";
        const LOCK: &str = "A dead token is no password: a server that takes it for one counts a \
            failed login, and each brings a lock closer.";
        let dead = self.log_in().await?;
        self.revoke(&dead).await?;
        let before = self.server.failed_logins().await;
        let context = self.context(Reason::Rejected).with_previous(dead.clone());
        let fresh = log_in(self.provider, context).await;
        let fresh = fresh.map_err(|failure| broken(failure, FRESH))?;
        if !self.server.accepts(&fresh).await {
            let found = match fresh.sends_the_same_as(&dead) {
                true => "it returned the rejected token once more",
                false => "it returned a token that the server does not accept",
            };
            return Err(broken(found, FRESH));
        }
        self.discard(fresh).await;
        if self.server.failed_logins().await > before {
            return Err(broken(
                "the server counted a failed login before the good one",
                LOCK,
            ));
        }
        Ok(None)
    }

    pub(super) async fn rejected_response(&mut self) -> Tried {
        const PROFILE: &str = "`Profile::rejection` tells the answer to a dead token from all \
            others: a rejection that is not seen renews nothing, and one that is none costs a login.";
        let token = self.log_in().await?;
        let Some(response) = self.server.response_to(&token).await else {
            self.discard(token).await;
            return Err(skipped("the server does not show its answers"));
        };
        let status = response.status();
        if self.rejects(response) {
            let found = format!("a {status} to a live token counts as a rejection");
            return Err(broken(found, PROFILE));
        }
        self.revoke(&token).await?;
        let Some(response) = self.server.response_to(&token).await else {
            return Err(skipped("the server does not show its answers"));
        };
        let status = response.status();
        match self.rejects(response) {
            true => Ok(None),
            false => {
                let found = format!("the {status} to a dead token counts as no rejection");
                Err(broken(found, PROFILE))
            }
        }
    }

    pub(super) async fn renewal(&mut self) -> Tried {
        const GOOD: &str = "A renewal yields a token that the server accepts, whatever it makes \
            of `previous()`: the session uses it from then on.";
        const ALONE: &str = "A login works without `previous()`, whatever its reason: the token \
            before is not offered again once it may have been used up.";
        const CONTINUES: &str = "`Token::continues_previous` says that no session was opened: \
            the token before is then never logged out.";
        let first = self.log_in().await?;
        let mut current = first.clone();
        for reason in [Reason::Expiring, Reason::Requested] {
            let before = self.server.live_sessions().await;
            let context = self.context(reason).with_previous(current.clone());
            let new = log_in(self.provider, context).await;
            let new = new.map_err(|failure| broken(failure, GOOD))?;
            if !self.server.accepts(&new).await {
                let found = "it returned a token that the server does not accept";
                return Err(broken(found, GOOD));
            }
            let after = self.server.live_sessions().await;
            if new.is_continuation() && after > before {
                let found = "it says that it continues the one before, and opened a session";
                return Err(broken(found, CONTINUES));
            }
            if !new.is_continuation() && !new.sends_the_same_as(&current) {
                self.retire(current).await;
            }
            current = new;
        }
        let alone = log_in(self.provider, self.context(Reason::Expired)).await;
        let alone = alone.map_err(|failure| broken(failure, ALONE))?;
        if !alone.sends_the_same_as(&current) {
            self.retire(alone).await;
        }
        let note = current
            .sends_the_same_as(&first)
            .then(|| "the token stays the same".to_owned());
        self.discard(current).await;
        Ok(note)
    }

    fn rejects(&self, response: http::Response<bytes::Bytes>) -> bool {
        let (head, body) = response.into_parts();
        let verdict = match self.rejection.classify(&head) {
            Verdict::NeedsBody { bytes } => {
                let start = &body[..body.len().min(bytes)];
                self.rejection.classify_body(&head, Start::Complete(start))
            }
            verdict @ (Verdict::Accepted | Verdict::Rejected(_) | Verdict::Unknown) => verdict,
        };
        matches!(verdict, Verdict::Rejected(_))
    }
}
