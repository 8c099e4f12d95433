//! Takes one TOML value, hands on the typed value, or what would be right.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use lettre::message::Mailbox;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use toml::de::DeValue;

use super::{MinFree, Rate, Server, UnitError, parse_duration, parse_min_free, parse_rate, parse_size, show_duration, show_size};
use crate::message::Domain;

/// Octets of `tls.ca_file`: the system's own bundles have a few hundred KiB.
const MAX_CA_FILE: u64 = 16 << 20;
/// The shortest duration where zero makes no sense: what tokio's timers can tell apart.
const MIN_DURATION: Duration = Duration::from_millis(1);
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// `window`: beyond it, replies alone fill what a connection holds.
pub(super) const MAX_WINDOW: u64 = 100;

/// Text, not empty.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    match value.as_str() {
        Some("") => Err("must not be empty".to_owned()),
        Some(text) => Ok(text),
        None => Err("must be text in quotes".to_owned()),
    }
}

/// One line of text.
pub(super) fn line(value: &DeValue<'_>) -> Result<String, String> {
    /// Octets of a reason, a user name, an author.
    const MAX_LINE: usize = 500;
    match text(value)? {
        text if text.chars().any(char::is_control) => Err("must be one line, without control characters".to_owned()),
        text if text.len() > MAX_LINE => Err(format!("must be at most {MAX_LINE} octets long")),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false, without quotes".to_owned())
}

/// A whole number within `range`, which must fit `T`.
pub(super) fn integer<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let number = value.as_integer().ok_or_else(|| "must be a whole number, without quotes".to_owned())?;
        let number = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
        if number < i128::from(*range.start()) {
            return Err(format!("must be at least {}", range.start()));
        }
        let number = u64::try_from(number).ok().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("must be at most {}", range.end()))
    }
}

/// A duration, zero allowed.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, String> {
    if let Some(number) = value.as_integer() {
        return Err(format!("must be in quotes and have a unit, as \"{}s\" or \"5m\"", number.as_str()));
    }
    let text = value.as_str().ok_or_else(|| "must be a duration in quotes, as \"30s\", \"5m\", \"2h 30m\" or \"5d\"".to_owned())?;
    parse_duration(text).map_err(|error: UnitError| error.to_string())
}

/// A duration of at least a millisecond.
pub(super) fn positive_duration(value: &DeValue<'_>) -> Result<Duration, String> {
    match duration(value)? {
        duration if duration < MIN_DURATION => Err(format!("must be at least {}", show_duration(MIN_DURATION))),
        duration => Ok(duration),
    }
}

/// A size in octets, at least `min`.
pub(super) fn size(min: u64) -> impl Fn(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        if let Some(number) = value.as_integer() {
            return Err(format!("must be in quotes and have a unit, as \"{} B\" or \"20 MiB\"", number.as_str()));
        }
        let text = value.as_str().ok_or_else(|| "must be a size in quotes, as \"500 B\", \"50 KiB\" or \"20 MiB\"".to_owned())?;
        match parse_size(text) {
            Ok(size) if size < min => Err(format!("must be at least {}", show_size(min))),
            other => other.map_err(|error| error.to_string()),
        }
    }
}

/// How much of a file system is to stay free; 0, also without quotes: nothing.
pub(super) fn min_free(value: &DeValue<'_>) -> Result<MinFree, String> {
    if let Some(number) = value.as_integer() {
        let advice = || format!("must be in quotes and have a unit, as \"{} MB\" or \"1%\"", number.as_str());
        return if number.as_str() == "0" { Ok(MinFree::default()) } else { Err(advice()) };
    }
    let text = value.as_str().ok_or_else(|| UnitError::NotFreeSpace.to_string())?;
    parse_min_free(text).map_err(|error| error.to_string())
}

/// A rate.
pub(super) fn rate(value: &DeValue<'_>) -> Result<Rate, String> {
    let text = value.as_str().ok_or_else(|| UnitError::NotARate.to_string())?;
    parse_rate(text).map_err(|error| error.to_string())
}

/// One of a few words.
pub(super) fn word<T: Copy>(all: &'static [T], as_str: fn(T) -> &'static str) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let found = value.as_str().and_then(|text| all.iter().copied().find(|&word| as_str(word) == text));
        found.ok_or_else(|| {
            let words: Vec<String> = all.iter().map(|&word| format!("\"{}\"", as_str(word))).collect();
            match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("must be {} or {last}", rest.join(", ")),
                _ => format!("must be {}", words.concat()),
            }
        })
    }
}

/// What its type reads from text; `wanted` completes "must be …".
pub(super) fn parsed<T: FromStr>(wanted: &'static str) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("must be {wanted}"))
}

/// A path; relative ones are relative to `base`.
pub(super) fn path(base: &Path) -> impl Fn(&DeValue<'_>) -> Result<PathBuf, String> {
    move |value| match text(value)? {
        text if text.contains('\0') => Err("must not contain NUL".to_owned()),
        text => Ok(base.join(text)),
    }
}

/// `address`, `address:port` or `[v6]:port`.
pub(super) fn resolver(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = value.as_str().unwrap_or_default();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse::<SocketAddr>());
    match address {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err("must be an IP address, with a port or without: \"192.0.2.53\", \"192.0.2.53:5353\" or \"[2001:db8::53]:53\"".to_owned()),
    }
}

/// A network, or an address for a network of one.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, String> {
    let text = value.as_str().unwrap_or_default();
    let network = text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "must be a network or an address, as \"192.0.2.0/24\" or \"2001:db8::1\"".to_owned())
}

/// The full name of a host: letters, digits and hyphens (RFC 1123 2.1) in at least two labels, as EHLO and reports need it.
pub(super) fn full_name(text: &str) -> Result<Domain, String> {
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Err("must be a name, not an address".to_owned());
    }
    let name = Domain::parse(text).map_err(|error| error.to_string())?;
    let label_is_good = |label: &str| !label.starts_with('-') && !label.ends_with('-') && !label.contains('_');
    if !name.as_str().split('.').all(label_is_good) {
        return Err("must have letters, digits and inner hyphens only".to_owned());
    }
    match name.as_str().rsplit_once('.') {
        None => Err("must be a full name with a dot, as \"mail.example.com\"".to_owned()),
        Some((_, last)) if last.bytes().all(|b| b.is_ascii_digit()) => Err("must be a name, not an address".to_owned()),
        Some(_) => Ok(name),
    }
}

/// The author of reports: `Name <address>` or `address`.
pub(super) fn author(value: &DeValue<'_>) -> Result<String, String> {
    let line = line(value)?;
    let mailbox = line
        .parse::<Mailbox>()
        .map_err(|_| "must be an address, as \"Mail Delivery System <MAILER-DAEMON@mail.example.com>\"".to_owned())?;
    Domain::parse(mailbox.email.domain()).map_err(|error| error.to_string())?;
    Ok(line)
}

/// Host and port of an override; `port` where it names none.
pub(super) fn server(text: &str, port: u16) -> Result<Server, String> {
    const FORMS: &str = "must be a host, host:port, IP address, [IPv6 address]:port or \"mx\"";
    if text.eq_ignore_ascii_case("mx") {
        return Ok(Server::Mx);
    }
    if text.contains('@') {
        return Err(format!("{FORMS}; a login goes into username and password_file"));
    }
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or(FORMS)).transpose()? {
        Some((address, "")) => (bracketed(address)?, port),
        Some((address, rest)) => (bracketed(address)?, parse_port(rest.strip_prefix(':').ok_or(FORMS)?)?),
        None if text.contains('/') => return Err(FORMS.to_owned()),
        None if text.matches(':').count() > 1 => {
            return Err("must have an IPv6 address in brackets, as \"[2001:db8::1]\" or \"[2001:db8::1]:25\"".to_owned());
        }
        None => match text.split_once(':') {
            Some((host, number)) => (host_name(host)?, parse_port(number)?),
            None => (host_name(text)?, port),
        },
    };
    if host == "mx" { Err("takes no port with \"mx\"; smtp.port is used".to_owned()) } else { Ok(Server::Host { host: host.into(), port }) }
}

fn bracketed(address: &str) -> Result<String, String> {
    let tag = address.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    let address = if tag { &address[5..] } else { address };
    address.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| "must have an IP address between the brackets".to_owned())
}

fn host_name(host: &str) -> Result<String, String> {
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(host.to_owned());
    }
    let name = Domain::parse(host).map_err(|error| error.to_string())?;
    let last = name.as_str().rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) { Err("is neither a host name nor an IP address".to_owned()) } else { Ok(name.to_string()) }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse::<u16>().ok().filter(|&port| digits && port != 0);
    port.ok_or_else(|| "must have a port from 1 to 65535 behind the colon".to_owned())
}

/// The octets of a plain file, at most `limit`.
pub(super) fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe or a device could keep the daemon waiting for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    let mut octets = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {}", show_size(limit))));
    }
    Ok(octets)
}

/// A file with at least one PEM certificate, each fit to be trusted.
pub(super) fn ca_file(base: &Path) -> impl Fn(&DeValue<'_>) -> Result<PathBuf, String> {
    let path = path(base);
    move |value| {
        let path = path(value)?;
        let pem = read_file(&path, MAX_CA_FILE).map_err(|error| format!("cannot be read: {}: {error}", path.display()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("is not valid PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
        }
        if roots.is_empty() { Err("has no certificate in it: PEM is wanted".to_owned()) } else { Ok(path) }
    }
}
