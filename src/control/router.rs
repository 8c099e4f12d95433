//! The table of routes: takes a request, hands on the answer of the resource that it names. Knows neither sockets nor connections, so that
//! the same routes can be served over TCP to those who may only look.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::query::Query;
use super::{Api, cache, copies, messages, outcomes, queue, search, sessions, shape, sites, status, why};
use crate::observe::metrics::Metrics;
use crate::queue::StoreError;

/// Every route. The path's parts in braces are handed to the handler, in order.
pub const ROUTES: &[Route] = &[
    Route::new("GET", "/openapi.json", Access::Read, |_, _| Box::pin(async { Ok(Answer::json_text(OPENAPI)) })),
    Route::new("GET", "/metrics", Access::Read, |api, _| Box::pin(metrics(api))),
    Route::new("GET", "/v1/status", Access::Read, |api, _| Box::pin(status::show(api))),
    Route::new("GET", "/v1/sessions", Access::Read, |api, _| Box::pin(sessions::list(api))),
    Route::new("GET", "/v1/sites", Access::Read, |api, _| Box::pin(sites::list(api))),
    Route::new("GET", "/v1/sites/{name}", Access::Read, |api, call| Box::pin(sites::show(api, call))),
    Route::new("POST", "/v1/sites/{name}/pause", Access::Change, |api, call| Box::pin(sites::pause(api, call))),
    Route::new("POST", "/v1/sites/{name}/resume", Access::Change, |api, call| Box::pin(sites::resume(api, call))),
    Route::new("POST", "/v1/sites/{name}/retry", Access::Change, |api, call| Box::pin(sites::retry(api, call))),
    Route::new("GET", "/v1/cache", Access::Read, |api, _| Box::pin(cache::list(api))),
    Route::new("POST", "/v1/cache/flush", Access::Change, |api, call| Box::pin(cache::flush(api, call))),
    Route::new("GET", "/v1/throughput", Access::Read, |api, _| Box::pin(status::throughput(api))),
    Route::new("GET", "/v1/queue", Access::Read, |api, call| Box::pin(search::queue(api, call))).taking(search::OF_QUEUE),
    Route::new("GET", "/v1/queue/shape", Access::Read, |api, _| Box::pin(shape::show(api))),
    Route::new("GET", "/v1/history", Access::Read, |api, call| Box::pin(search::history(api, call))).taking(search::OF_HISTORY),
    Route::new("GET", "/v1/messages/{id}", Access::Read, |api, call| Box::pin(messages::show(api, call))),
    Route::new("GET", "/v1/messages/{id}/now", Access::Read, |api, call| Box::pin(copies::now(api, call))),
    Route::new("GET", "/v1/messages/{id}/why", Access::Read, |api, call| Box::pin(why::show(api, call))).taking(&[
        "copy",
        "dns",
        "dns_timeout",
    ]),
    Route::new("GET", "/v1/outcomes/recent", Access::Read, |api, call| Box::pin(outcomes::recent(api, call))).taking(&["after"]),
    Route::new("POST", "/v1/queue/{action}", Access::Change, |api, call| Box::pin(queue::act(api, call))),
];

/// The description of this interface.
const OPENAPI: &str = include_str!("openapi.json");

/// For Prometheus.
async fn metrics(api: Arc<Api>) -> Result<Answer, ApiError> {
    Ok(Answer { status: StatusCode::OK, content_type: Metrics::CONTENT_TYPE, body: api.metrics.render().await.into() })
}

/// What a handler is.
type Handler = fn(Arc<Api>, Call) -> Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + Send>>;

/// One method of one path.
#[derive(Clone, Copy)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// As OpenAPI writes it.
    pub path: &'static str,
    /// What it takes to use it.
    pub access: Access,
    /// The names that its query may have.
    pub query: &'static [&'static str],
    handler: Handler,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It shows.
    Read,
    /// It changes.
    Change,
}

/// What whoever asks may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Look.
    Read,
    /// Everything.
    Change(Caller),
}

/// Who asks, for the log and the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A user of this host, by the socket.
    User(u32),
    /// Whoever knows the token of the status page, at this address.
    Page(IpAddr),
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Page(address) => write!(f, "status page, {address}"),
        }
    }
}

/// A request, as handlers see it.
#[derive(Debug)]
pub(super) struct Call {
    /// The path's parts in braces, decoded.
    parameters: Vec<String>,
    query: Query,
    body: Bytes,
    /// Set for routes that change something.
    caller: Option<Caller>,
}

impl Call {
    /// The path's first part in braces.
    pub(super) fn parameter(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }

    /// What stands behind the question mark.
    pub(super) fn query(&self) -> &Query {
        &self.query
    }

    /// The body, read as JSON; nothing is an empty object.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| ApiError::Invalid(format!("the body cannot be read: {error}")))
    }

    /// Who asks for a change.
    pub(super) fn by(&self) -> String {
        // The router lets nobody in who is not known.
        self.caller.map_or_else(|| "nobody".to_owned(), |caller| caller.to_string())
    }
}

/// What goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 unless it is an error.
    pub status: StatusCode,
    /// Of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// JSON of a value.
    pub(super) fn json(value: &impl Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok(Self { status: StatusCode::OK, content_type: "application/json", body: body.into() })
    }

    fn json_text(text: &'static str) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body: Bytes::from_static(text.as_bytes()) }
    }
}

/// Why a request was not carried out. Nothing was changed, unless it says so.
#[derive(Debug, Error)]
pub enum ApiError {
    /// There is no such path, site or message.
    #[error("{0}")]
    NotFound(String),
    /// The path does not have this method.
    #[error("this path has no {0}")]
    Method(Method),
    /// The caller may only look.
    #[error("only root, the daemon's user and the members of control.group may change something")]
    Forbidden,
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// More octets than a request may have.
    #[error("the request is larger than {0} octets")]
    TooLarge(usize),
    /// The daemon comes to its end.
    #[error("the daemon is stopping")]
    Stopping,
    /// The queue.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, for people.
    pub error: String,
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stopping | Self::Store(StoreError::Closed | StoreError::Database { temporary: true, .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Store(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// As it goes over the wire.
    pub fn answer(&self) -> Answer {
        let body = serde_json::to_vec(&ErrorBody { error: self.to_string() }).unwrap_or_default();
        Answer { status: self.status(), content_type: "application/json", body: body.into() }
    }
}

impl Route {
    const fn new(method: &'static str, path: &'static str, access: Access, handler: Handler) -> Self {
        Self { method, path, access, query: &[], handler }
    }

    const fn taking(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    /// The path's parts in braces, if `path` is one of this route's.
    fn matches(&self, path: &str) -> Option<Vec<String>> {
        let (mut own, mut given) = (self.path.split('/'), path.split('/'));
        let mut parameters = Vec::new();
        loop {
            match (own.next(), given.next()) {
                (None, None) => return Some(parameters),
                (Some(own), Some(given)) if own.starts_with('{') => parameters.push(decoded(given)?),
                (Some(own), Some(given)) if own == given => {}
                _ => return None,
            }
        }
    }
}

/// Answers a request of somebody with these rights.
pub async fn answer(api: Arc<Api>, rights: Rights, request: (Method, String, Bytes)) -> Answer {
    match dispatch(api, rights, request).await {
        Ok(answer) => answer,
        Err(error) => error.answer(),
    }
}

/// The route that a request names, and the path's parts in braces.
fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), ApiError> {
    let mut error = None;
    for route in ROUTES {
        if let Some(parameters) = route.matches(path) {
            if route.method == method.as_str() {
                return Ok((route, parameters));
            }
            error = Some(ApiError::Method(method.clone()));
        }
    }
    Err(error.unwrap_or_else(|| ApiError::NotFound(format!("there is no {path}; GET /openapi.json describes what there is"))))
}

/// Who asks for a change; whoever only looks need not be known.
fn admitted(route: &Route, rights: &Rights) -> Result<Option<Caller>, ApiError> {
    match (route.access, rights) {
        (Access::Read, _) => Ok(None),
        (Access::Change, Rights::Change(caller)) => Ok(Some(*caller)),
        (Access::Change, Rights::Read) => Err(ApiError::Forbidden),
    }
}

async fn dispatch(api: Arc<Api>, rights: Rights, (method, target, body): (Method, String, Bytes)) -> Result<Answer, ApiError> {
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (route, parameters) = find(&method, path)?;
    let caller = admitted(route, &rights)?;
    if route.access == Access::Change && api.context().shared.is_draining() {
        return Err(ApiError::Stopping);
    }
    let query = Query::parse(query, route.query)?;
    (route.handler)(api, Call { parameters, query, body, caller }).await
}

/// Percent-decoding (RFC 3986 2.1); `None`: no UTF-8, or a broken escape.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let octet = digit()? * 16 + digit()?;
            octets.push(u8::try_from(octet).ok()?);
        } else {
            octets.push(octet);
        }
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_look_changes_nothing() {
        let root = Rights::Change(Caller::User(0));
        for route in ROUTES {
            assert_eq!(route.access == Access::Change, route.method == "POST", "{}", route.path);
            let looks = admitted(route, &Rights::Read);
            assert_eq!(looks.is_ok(), route.method == "GET", "{}", route.path);
            assert!(looks.err().is_none_or(|error| error.status() == StatusCode::FORBIDDEN));
            assert_eq!(admitted(route, &root).unwrap(), (route.method == "POST").then_some(Caller::User(0)));
        }
    }

    #[test]
    fn names_in_paths_are_decoded_whole() {
        let route = ROUTES.iter().find(|route| route.path == "/v1/sites/{name}/pause").unwrap();
        assert_eq!(route.matches("/v1/sites/1%20mx.a%3A25%2C%202%20mx%2Fb/pause").unwrap(), ["1 mx.a:25, 2 mx/b"]);
        for other in ["/v1/sites/a/b/pause", "/v1/sites/a", "/v1/sites/%zz/pause", "/v1/sites/%ff/pause", "/v1/sites/%4/pause"] {
            assert_eq!(route.matches(other), None, "{other}");
        }
    }
}
