//! Who may see the status page: takes the head of a request, hands on what it may have, or why it may have nothing. Pure.
//!
//! A browser sends requests here on behalf of any page that its user has open. Three things keep those out: the Host field must name this host
//! (a name of theirs that resolves to it does not: DNS rebinding), the Origin field must be this page's own, and the token's cookie is sent by
//! requests of this page alone.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use thiserror::Error;

use crate::config::{Config, Token};
use crate::control::router::{Caller, Rights};

/// The cookie that a token is kept in.
pub(super) const COOKIE_NAME: &str = "smtp-direct-token";
/// What can be done on the page.
const ACTIONS: [&str; 3] = ["/v1/queue/retry", "/v1/queue/hold", "/v1/queue/release"];
/// Set by browsers, by no page.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What the configuration says of the page.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    hostname: String,
    token: Option<Token>,
    allow_actions: bool,
}

/// What a request may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// The page.
    Page,
    /// The cookie, in exchange for the token of the address.
    Cookie(String),
    /// The API.
    Api(Rights),
}

/// Why it may have nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    /// DNS rebinding.
    #[error("the Host field names another host: use an address, localhost, or this host's name as in its configuration")]
    Host,
    /// Another site.
    #[error("this request comes from another site")]
    Origin,
    /// Nobody.
    #[error(
        "open this page once as http://HOST:PORT/?token=TOKEN, with the token of control.token_file; programs send Authorization: Bearer TOKEN"
    )]
    Token,
    /// It only shows.
    #[error("this page changes nothing: control.allow_actions is false")]
    ReadOnly,
    /// It does little.
    #[error("of changes, only retry, hold and release of copies can be ordered here")]
    Action,
    /// A form of some other page can send everything but this.
    #[error("Content-Type: application/json is wanted")]
    ContentType,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Host | Self::Origin | Self::ReadOnly | Self::Action => StatusCode::FORBIDDEN,
        }
    }
}

impl Guard {
    pub(super) fn new(config: &Config) -> Self {
        let control = &config.control;
        Self { hostname: config.hostname.to_string(), token: control.token.clone(), allow_actions: control.allow_actions }
    }

    /// Whether orders can be given at all, for the page's buttons.
    pub(super) fn allows_actions(&self) -> bool {
        self.allow_actions
    }

    /// What a request of `peer` may have.
    pub(super) fn admit(&self, head: &Parts, peer: IpAddr) -> Result<Admission, Refusal> {
        let (headers, path) = (&head.headers, head.uri.path());
        let host = single(headers, HOST).filter(|host| self.is_own(host)).ok_or(Refusal::Host)?;
        let is_page = path == "/" && matches!(head.method, Method::GET | Method::HEAD);
        let same_origin = of_this_origin(headers, host)?;
        // A link on another site may lead here, but nothing else may.
        let is_link = is_page && single(headers, FETCH_MODE) == Some("navigate");
        if !is_link && single(headers, FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Err(Refusal::Origin);
        }
        if let (true, Some(given)) = (is_page, head.uri.query().and_then(|query| query.strip_prefix("token="))) {
            return match &self.token {
                None => Ok(Admission::Page),
                Some(token) if token.is(given) => Ok(Admission::Cookie(given.to_owned())),
                Some(_) => Err(Refusal::Token),
            };
        }
        let by_bearer = self.knows(bearer(headers));
        if self.token.is_some() && !by_bearer && !self.knows(cookie(headers)) {
            return Err(Refusal::Token);
        }
        if is_page {
            return Ok(Admission::Page);
        }
        if head.method != Method::POST {
            return Ok(Admission::Api(Rights::Read));
        }
        match () {
            () if !self.allow_actions => Err(Refusal::ReadOnly),
            () if !ACTIONS.contains(&path) => Err(Refusal::Action),
            () if !by_bearer && !same_origin => Err(Refusal::Origin),
            () if !single(headers, CONTENT_TYPE).is_some_and(is_json) => Err(Refusal::ContentType),
            () => Ok(Admission::Api(Rights::Change(Caller::Page(peer)))),
        }
    }

    fn knows(&self, given: Option<&str>) -> bool {
        matches!((&self.token, given), (Some(token), Some(given)) if token.is(given))
    }

    /// Whether a Host field names this host. An address is never a name that resolves to another's choice; the port may be that of a tunnel.
    fn is_own(&self, host: &str) -> bool {
        let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, rest),
            Some(_) => return false,
            None => {
                let (name, port) = host.find(':').map_or((host, ""), |colon| host.split_at(colon));
                (Some(name), port)
            }
        };
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        let own = |name: &str| {
            name.parse::<std::net::Ipv4Addr>().is_ok()
                || name.eq_ignore_ascii_case("localhost")
                || name.eq_ignore_ascii_case(&self.hostname)
        };
        port_is_good && name.is_none_or(own)
    }
}

/// Whether a browser says that it comes from the page itself; with another origin, an error.
fn of_this_origin(headers: &HeaderMap, host: &str) -> Result<bool, Refusal> {
    if headers.get(ORIGIN).is_none() {
        return Ok(single(headers, FETCH_SITE) == Some("same-origin"));
    }
    let origin = single(headers, ORIGIN).and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
    if origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host)) { Ok(true) } else { Err(Refusal::Origin) }
}

/// The value of a field that is there once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = single(headers, AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

fn is_json(value: &str) -> bool {
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn guard() -> Guard {
        Guard { hostname: "mail.sender.test".to_owned(), token: None, allow_actions: false }
    }

    fn admitted(guard: &Guard, fields: &[(&str, &str)]) -> Result<Admission, Refusal> {
        let mut request = Request::get("/v1/status");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        guard.admit(&request.body(()).unwrap().into_parts().0, IpAddr::from([127, 0, 0, 1]))
    }

    #[test]
    fn only_names_of_this_host_are_served() {
        for host in ["127.0.0.1:8025", "127.0.0.1", "[::1]:8025", "[::1]", "localhost:9000", "LocalHost", "Mail.Sender.Test:8025"] {
            assert_eq!(admitted(&guard(), &[("host", host)]), Ok(Admission::Api(Rights::Read)), "{host}");
        }
        for host in
            ["", "evil.test", "evil.test:8025", "localhost.evil.test", "127.0.0.1.evil.test", "[evil]", "127.0.0.1:x", "[::1]x", "::1"]
        {
            assert_eq!(admitted(&guard(), &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(admitted(&guard(), &[]), Err(Refusal::Host));
        assert_eq!(admitted(&guard(), &[("host", "127.0.0.1"), ("host", "evil.test")]), Err(Refusal::Host));
    }

    #[test]
    fn other_sites_are_refused() {
        let with = |name, value| admitted(&guard(), &[("host", "127.0.0.1:8025"), (name, value)]);
        for origin in ["http://127.0.0.1:8025", "https://127.0.0.1:8025"] {
            assert_eq!(with("origin", origin), Ok(Admission::Api(Rights::Read)), "{origin}");
        }
        for origin in ["null", "http://127.0.0.1:8026", "http://127.0.0.1", "http://evil.test", "127.0.0.1:8025", ""] {
            assert_eq!(with("origin", origin), Err(Refusal::Origin), "{origin}");
        }
        for (site, good) in [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)] {
            assert_eq!(with("sec-fetch-site", site).is_ok(), good, "{site}");
        }
    }
}
