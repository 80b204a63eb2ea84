//! The operations of the emulated service.

use std::fmt;

use http::Method;

/// An operation that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `POST /session/login`
    Login,
    /// `POST /session/logout`
    Logout,
    /// `POST /session/user/password/update`
    UpdatePassword,
    /// `GET /config/servers`: the Control-M servers.
    Servers,
    /// `GET /run/jobs/status?limit=..`: the last jobs, newest first.
    JobsStatus,
    /// `GET /run/status/{runId}`: one order.
    RunStatus,
    /// `GET /run/job/{jobId}/status`: one job.
    JobStatus,
    /// `GET /run/job/{jobId}/output?chunks=..&size=..`, or `log`: streams, whatever the id.
    JobOutput,
    /// `POST /run/order`: orders a job each time, with any JSON or no body.
    Order,
    /// `POST /run`: orders a job from a definitions file, whatever its content.
    Run,
    /// `GET /forbidden`: 403, although the token is live.
    Forbidden,
    /// `GET /unauthorized`: 401, as for a dead token, although it is live.
    Unauthorized,
}

impl Operation {
    fn method(self) -> Method {
        match self {
            Self::Login | Self::Logout | Self::UpdatePassword | Self::Order | Self::Run => {
                Method::POST
            }
            Self::Servers
            | Self::JobsStatus
            | Self::RunStatus
            | Self::JobStatus
            | Self::JobOutput
            | Self::Forbidden
            | Self::Unauthorized => Method::GET,
        }
    }

    /// The value of `Allow`. The real server's container answers HEAD and OPTIONS too.
    pub(super) fn allow(self) -> &'static str {
        if self.method() == Method::GET {
            "GET,HEAD,OPTIONS"
        } else {
            "POST,OPTIONS"
        }
    }

    pub(super) fn takes(self, method: &Method) -> bool {
        self.method() == *method || (self.method() == Method::GET && method == Method::HEAD)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::UpdatePassword => "password update",
            Self::Servers => "servers",
            Self::JobsStatus => "jobs status",
            Self::RunStatus => "run status",
            Self::JobStatus => "job status",
            Self::JobOutput => "job output",
            Self::Order => "order",
            Self::Run => "run",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
        })
    }
}
