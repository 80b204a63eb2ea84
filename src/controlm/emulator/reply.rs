//! An answer before it becomes an HTTP response.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;

use super::body::ResponseBody;
use crate::controlm::model::{ErrorData, ErrorList};

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// Seconds for `Retry-After`.
    pub(super) retry_after: Option<u64>,
    /// The methods for `Allow`.
    allow: Option<&'static str>,
    content_type: Option<HeaderValue>,
    body: ResponseBody,
    is_gzipped: bool,
}

impl Reply {
    pub(super) fn raw(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        Self {
            status,
            retry_after: None,
            allow: None,
            content_type: Some(HeaderValue::from_static(content_type)),
            body: ResponseBody::full(body),
            is_gzipped: false,
        }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            content_type: None,
            ..Self::raw(status, "", Bytes::new())
        }
    }

    /// Pretty-printed, as the real server's JSON is.
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        let json = serde_json::to_vec_pretty(value).expect("our own models are plain data");
        Self::raw(status, "application/json", json.into())
    }

    pub(super) fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    pub(super) fn error(status: StatusCode, message: impl Into<String>) -> Self {
        let error = ErrorData {
            message: Some(message.into()),
            ..ErrorData::default()
        };
        Self::json(
            status,
            &ErrorList {
                errors: vec![error],
            },
        )
    }

    pub(super) fn text(body: ResponseBody) -> Self {
        Self {
            body,
            ..Self::raw(StatusCode::OK, "text/plain", Bytes::new())
        }
    }

    pub(super) fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Ends the body halfway.
    pub(super) fn truncated(mut self) -> Self {
        self.body = self.body.half();
        self
    }

    /// Compresses the body, if it is JSON.
    pub(super) fn gzipped(mut self) -> Self {
        let is_json = self.content_type == Some(HeaderValue::from_static("application/json"));
        self.is_gzipped = is_json && self.body.compress();
        self
    }

    pub(super) fn into_response(self, method: &Method) -> Response<ResponseBody> {
        let body = if method == Method::HEAD {
            ResponseBody::full(Bytes::new())
        } else {
            self.body
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = self.content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        if self.is_gzipped {
            let gzip = HeaderValue::from_static("gzip");
            headers.insert(header::CONTENT_ENCODING, gzip);
            headers.insert(header::VARY, HeaderValue::from(header::ACCEPT_ENCODING));
        }
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
