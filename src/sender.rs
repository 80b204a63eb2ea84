//! How a request sets out: with the token in use, or else on the slow way.

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::error::{Error, ErrorKind};
use crate::future::{ResponseFuture, Unsent};
use crate::origin::{Anonymous, Destination};
use crate::replay::Replay;
use crate::session::{Lease, Moment, Session};

/// Of which session a request is, and what it goes through.
pub struct Sender<'a, S> {
    pub(crate) session: Session,
    /// Is ready.
    pub(crate) service: &'a mut S,
}

/// Sends a request with the token of `$lease`.
///
/// No function, since each by which a request is passed on may copy it.
macro_rules! send {
    ($sender:ident, $request:ident, $kept:ident, $lease:ident) => {{
        use $crate::future::ResponseFuture;
        use $crate::sent::{Remnant, Sent, Spare, Way};

        let watched = $sender.watched(&$lease);
        let remnant = match $kept {
            Some(kept) => Remnant::Spare(Box::new(Spare::of($sender.service, &$request, kept))),
            None => Remnant::Way(Way::of(&$request)),
        };
        $lease.token().apply_to($request.headers_mut());
        let call = $sender.service.call($request);
        let sent = Sent::first($lease, watched, remnant);
        ResponseFuture::calling($sender.session, call, sent)
    }};
}

pub(crate) use send;

impl<S> Sender<'_, S> {
    /// The token in use, if that is to be carried and there is nothing else to it.
    #[inline]
    pub(crate) fn lease<B>(&self, request: &Request<B>) -> Option<Lease> {
        if self.is_left_alone(request) {
            return None;
        }
        self.session.live_for(request.uri())
    }

    #[inline]
    fn is_left_alone<B>(&self, request: &Request<B>) -> bool {
        let is_anonymous =
            !request.extensions().is_empty() && request.extensions().get::<Anonymous>().is_some();
        is_anonymous || self.session.is_left_alone(request.headers())
    }

    /// The time, if the session wants to hear what becomes of the request.
    #[inline]
    pub(crate) fn watched(&self, lease: &Lease) -> Option<Moment> {
        (!lease.is_live()).then(|| self.session.now())
    }

    /// Sends a request with this token.
    pub(crate) fn send<R, B, RB>(
        self,
        replay: &R,
        request: Request<B>,
        lease: Lease,
    ) -> ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
        R: Replay<B>,
        RB: Body,
    {
        let (head, body) = request.into_parts();
        let (body, kept) = replay.keep(body);
        let mut request = Request::from_parts(head, body);
        send!(self, request, kept, lease)
    }

    /// For whatever is not a token in use going home by its very name.
    #[cold]
    pub(crate) fn send_slowly<R, B, RB>(
        mut self,
        replay: &R,
        request: Request<B>,
    ) -> ResponseFuture<S, R, B, RB>
    where
        S: Service<Request<R::Body>, Response = Response<RB>> + Clone,
        R: Replay<B> + Clone,
        RB: Body,
    {
        let destination = match self.is_left_alone(&request) {
            true => Destination::Elsewhere,
            false => self.session.locate(request.uri()),
        };
        match destination {
            Destination::Home => {}
            Destination::Elsewhere => {
                let (head, body) = request.into_parts();
                let (body, _) = replay.keep(body);
                let call = self.service.call(Request::from_parts(head, body));
                return ResponseFuture::passing(self.session, call);
            }
            Destination::Insecure => {
                self.give_back();
                return ResponseFuture::failed(self.session, Error::new(ErrorKind::InsecureOrigin));
            }
            Destination::Unknown => {
                self.give_back();
                return ResponseFuture::failed(self.session, Error::new(ErrorKind::NoOrigin));
            }
        }
        let admitted = match self.session.admit() {
            Ok(admitted) => admitted,
            Err(closed) => {
                self.give_back();
                return ResponseFuture::failed(self.session, closed);
            }
        };
        if let Some(lease) = self.session.usable() {
            return self.send(replay, request, lease);
        }
        // The service that was readied goes back before any wait: a permit
        // that it holds may be the one that the login needs.
        self.give_back();
        let unsent = Unsent::first(self.service.clone(), replay.clone(), request, admitted);
        ResponseFuture::acquiring(self.session, unsent)
    }

    /// Lets go of what the inner service reserved when it was readied.
    fn give_back(&mut self)
    where
        S: Clone,
    {
        *self.service = self.service.clone();
    }
}
