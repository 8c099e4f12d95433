//! The status page: takes requests over TCP from a browser, hands on one HTML file and the API behind it. Shows only, unless it is configured
//! to take a few orders as well. Who is let in is `guard`'s to say.

mod guard;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use self::guard::{Admission, COOKIE_NAME, Guard, Refusal};
use super::router::ErrorBody;
use super::socket::{self, SocketError};
use super::{Answer, Api};
use crate::config::Config;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("backlog.js"), include_str!("search.js"), "poll();\n");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The page in one piece, and the policy under which nothing but its own style and script runs.
static PAGE: LazyLock<(Bytes, HeaderValue)> = LazyLock::new(|| {
    let html = include_str!("index.html").replacen("/* page.css */", STYLE, 1).replacen("/* page.js */", SCRIPT, 1);
    let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    // Base64 and plain words; the default policy of an empty value would allow everything.
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    (html.into(), policy)
});

/// A bound address.
#[derive(Debug)]
pub struct PageListener {
    listener: TcpListener,
    guard: Arc<Guard>,
}

impl PageListener {
    /// Binds `control.listen`, where the configuration has it.
    pub async fn bind(config: &Config) -> Result<Option<Self>, SocketError> {
        let Some(address) = config.control.listen else { return Ok(None) };
        let listener = TcpListener::bind(address).await.map_err(|source| SocketError::Listen { address, source })?;
        let bound = listener.local_addr().map_err(|source| SocketError::Listen { address, source })?;
        tracing::info!(address = %bound, "status page");
        Ok(Some(Self { listener, guard: Arc::new(Guard::new(config)) }))
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, api: Arc<Api>, shutdown: impl Future<Output = ()>) {
        let Self { listener, guard } = self;
        let for_peer = {
            let api = api.clone();
            move |peer: SocketAddr| {
                let (api, guard) = (api.clone(), guard.clone());
                move |request| respond(request, api.clone(), guard.clone(), peer.ip())
            }
        };
        let accept = move |context: &mut std::task::Context<'_>| listener.poll_accept(context);
        socket::serve_all(accept, for_peer, api, shutdown).await;
    }
}

async fn respond(
    request: Request<Incoming>,
    api: Arc<Api>,
    guard: Arc<Guard>,
    peer: IpAddr,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let mut response = match guard.admit(&head, peer) {
        Ok(Admission::Page) => page(&guard),
        Ok(Admission::Cookie(token)) => exchange(&token),
        Ok(Admission::Api(rights)) => socket::response(socket::answer(&head, body, api, rights).await),
        Err(refusal) => refused(&head, refusal),
    };
    guard_with(response.headers_mut());
    Ok(response)
}

/// The page; what it may do stands in its root element.
fn page(guard: &Guard) -> Response<Full<Bytes>> {
    let body = if guard.allows_actions() {
        // The only place where it stands.
        String::from_utf8_lossy(&PAGE.0).replacen("data-actions=\"no\"", "data-actions=\"yes\"", 1).into()
    } else {
        PAGE.0.clone()
    };
    socket::response(Answer { status: StatusCode::OK, content_type: "text/html; charset=utf-8", body })
}

/// The token leaves the address, where others could see it, and becomes a cookie that only this page's requests have.
fn exchange(token: &str) -> Response<Full<Bytes>> {
    let mut response = socket::response(Answer { status: StatusCode::SEE_OTHER, content_type: "text/plain", body: Bytes::new() });
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    // The guard let it through: it has nothing but characters that a field may have.
    if let Ok(cookie) = HeaderValue::try_from(format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict")) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// For people where a page was asked for, else as the API has errors.
fn refused(head: &Parts, refusal: Refusal) -> Response<Full<Bytes>> {
    let (content_type, body) = if head.method == Method::GET && head.uri.path() == "/" {
        ("text/plain; charset=utf-8", format!("smtp-direct: {refusal}\n").into_bytes())
    } else {
        ("application/json", serde_json::to_vec(&ErrorBody { error: refusal.to_string() }).unwrap_or_default())
    };
    socket::response(Answer { status: refusal.status(), content_type, body: body.into() })
}

/// What browsers are told with every answer.
fn guard_with(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.1.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
}
