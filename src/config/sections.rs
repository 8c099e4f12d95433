//! Takes the sections of a file, hands on their part of the configuration: what each key is, its range and its default.

use std::path::Path;

use super::overrides;
use super::reader::{Field, Reader, Section};
use super::show_duration;
use super::values::{
    MAX_WINDOW, author, boolean, ca_file, duration, full_name, integer, min_free, network, parsed, path, positive_duration, rate, resolver,
    size, text, word,
};
use super::{AddressFamily, Dns, InDoubt, Log, LogFormat, Order, Problem, Reports, Retry, Sending, Smtp, Spool, Tls, TlsMode, Warning};
use crate::message::{Address, Domain};

/// Levels as the file writes them.
const LEVELS: &[tracing::Level] =
    &[tracing::Level::ERROR, tracing::Level::WARN, tracing::Level::INFO, tracing::Level::DEBUG, tracing::Level::TRACE];

/// The word of a level in the configuration.
pub(super) fn level_word(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

/// `hostname`, or the system's name where that is a full one; `None` only with an error kept in the reader.
pub(super) fn hostname(reader: &mut Reader<'_>, system_name: Option<&str>) -> Option<Domain> {
    let mut section = reader.top();
    let field = section.optional("hostname", |value| full_name(text(value)?));
    section.finish();
    if field.is_set() {
        return field.value;
    }
    let found = system_name.and_then(|name| full_name(name).ok());
    if found.is_none() {
        let system = system_name.map_or_else(|| "has no name".to_owned(), |name| format!("calls itself {name:?}, which is no full name"));
        let advice = format!("is missing, and the system {system}: write hostname = \"mail.example.com\"");
        reader.error(None, Some("hostname"), Problem::Rule(advice));
    }
    found
}

pub(super) fn spool(mut section: Section<'_, '_>, base: &Path) -> Spool {
    let default = Spool::default();
    let spool = Spool {
        path: section.read("path", path(base), default.path).value,
        settle: section.read("settle", duration, default.settle).value,
        rescan: section.read("rescan", positive_duration, default.rescan).value,
        history: section.read("history", positive_duration, default.history).value,
        max_hops: section.read("max_hops", integer(1..=10_000), default.max_hops).value,
        results: section.read("results", boolean, default.results).value,
        min_free: section.read("min_free", min_free, default.min_free).value,
    };
    section.finish();
    spool
}

pub(super) fn sending(mut section: Section<'_, '_>) -> Sending {
    let default = Sending::default();
    let workers = section.read("workers", integer(1..=100_000), default.workers);
    let per_site = section.read("per_site", integer(1..=100_000), Sending::default_per_site(workers.value));
    section.ordered(&per_site, &workers, usize::to_string);
    let site_down_min = section.read("site_down_min", positive_duration, default.site_down_min);
    let site_down_max = section.read("site_down_max", positive_duration, default.site_down_max);
    section.ordered(&site_down_min, &site_down_max, |duration| show_duration(*duration));
    let sending = Sending {
        workers: workers.value,
        per_site: per_site.value,
        order: section.read("order", word(Order::ALL, Order::as_str), default.order).value,
        messages_per_connection: section.read("messages_per_connection", integer(1..=1_000_000), default.messages_per_connection).value,
        connection_lifetime: section.read("connection_lifetime", positive_duration, default.connection_lifetime).value,
        keep_idle: section.read("keep_idle", duration, default.keep_idle).value,
        rate: section.optional("rate", rate).value,
        site_down_min: site_down_min.value,
        site_down_max: site_down_max.value,
        shutdown_grace: section.read("shutdown_grace", duration, default.shutdown_grace).value,
    };
    section.finish();
    sending
}

pub(super) fn retry(mut section: Section<'_, '_>, warnings: &mut Vec<Warning>) -> Retry {
    let default = Retry::default();
    let schedule = section.list("schedule", positive_duration, default.schedule);
    if schedule.is_good() && !(1..=100).contains(&schedule.value.len()) {
        section.blame(&schedule, "must have 1 to 100 waits, as [\"5m\", \"30m\", \"2h\"]");
    }
    let lifetime = section.read("lifetime", positive_duration, default.lifetime);
    let warn_after =
        section.read("warn_after", |value| duration(value).map(|after| (!after.is_zero()).then_some(after)), default.warn_after);
    if warn_after.value.is_some_and(|after| after >= lifetime.value) {
        warnings.push(Warning::new(section.line(), "retry.warn_after is not below retry.lifetime: no sender is ever told of a delay"));
    }
    let in_doubt = section.read("in_doubt", word(InDoubt::ALL, InDoubt::as_str), default.in_doubt);
    section.finish();
    Retry { schedule: schedule.value, lifetime: lifetime.value, warn_after: warn_after.value, in_doubt: in_doubt.value }
}

/// `[dns]` and its overrides, which need the port and the TLS mode that hold where they say nothing.
pub(super) fn dns(reader: &mut Reader<'_>, context: &overrides::Context<'_>, warnings: &mut Vec<Warning>) -> Dns {
    let default = Dns::default();
    let mut section = reader.section("dns");
    let min_ttl = section.read("min_ttl", duration, default.min_ttl);
    let max_ttl = section.read("max_ttl", duration, default.max_ttl);
    section.ordered(&min_ttl, &max_ttl, |duration| show_duration(*duration));
    let servers: Field<Vec<_>> = section.list("servers", resolver, default.servers);
    if servers.value.len() > 10 {
        section.blame(&servers, "must have at most 10 resolvers");
    }
    let mut dns = Dns {
        servers: servers.value,
        timeout: section.read("timeout", positive_duration, default.timeout).value,
        attempts: section.read("attempts", integer(0..=10), default.attempts).value,
        cache_size: section.read("cache_size", integer(0..=10_000_000), default.cache_size).value,
        min_ttl: min_ttl.value,
        max_ttl: max_ttl.value,
        serve_stale: section.read("serve_stale", duration, default.serve_stale).value,
        blocked_targets: section.list("blocked_targets", network, default.blocked_targets).value,
        address_family: section.read("address_family", word(AddressFamily::ALL, AddressFamily::as_str), default.address_family).value,
        overrides: Vec::new(),
    };
    let rules = section.tables("override");
    section.finish();
    for rule in rules {
        dns.overrides.extend(overrides::read(reader.table("dns.override", rule), context, warnings));
    }
    dns
}

pub(super) fn tls(mut section: Section<'_, '_>, base: &Path) -> Tls {
    let default = Tls::default();
    let tls = Tls {
        mode: section.read("mode", word(TlsMode::ALL, TlsMode::as_str), default.mode).value,
        ca_file: section.optional("ca_file", ca_file(base)).value,
        remember_broken: section.read("remember_broken", duration, default.remember_broken).value,
    };
    section.finish();
    tls
}

pub(super) fn smtp(mut section: Section<'_, '_>) -> Smtp {
    let default = Smtp::default();
    let mut timeout = |key, default| section.read(key, positive_duration, default).value;
    let smtp = Smtp {
        connect_timeout: timeout("connect_timeout", default.connect_timeout),
        greeting_timeout: timeout("greeting_timeout", default.greeting_timeout),
        ehlo_timeout: timeout("ehlo_timeout", default.ehlo_timeout),
        starttls_timeout: timeout("starttls_timeout", default.starttls_timeout),
        auth_timeout: timeout("auth_timeout", default.auth_timeout),
        mail_timeout: timeout("mail_timeout", default.mail_timeout),
        rcpt_timeout: timeout("rcpt_timeout", default.rcpt_timeout),
        data_timeout: timeout("data_timeout", default.data_timeout),
        block_timeout: timeout("block_timeout", default.block_timeout),
        final_timeout: timeout("final_timeout", default.final_timeout),
        port: section.read("port", integer(1..=65_535), default.port).value,
        source_ipv4: section.optional("source_ipv4", parsed("an IPv4 address of this host, as \"192.0.2.1\"")).value,
        source_ipv6: section.optional("source_ipv6", parsed("an IPv6 address of this host, as \"2001:db8::1\"")).value,
        max_addresses: section.read("max_addresses", integer(1..=100), default.max_addresses).value,
        max_sessions: section.read("max_sessions", integer(1..=100), default.max_sessions).value,
        recipients_per_transaction: section
            .read("recipients_per_transaction", integer(1..=10_000), default.recipients_per_transaction)
            .value,
        window: section.read("window", integer(1..=MAX_WINDOW), default.window).value,
        min_rate: section.read("min_rate", size(1), default.min_rate).value,
    };
    section.finish();
    smtp
}

/// `None` only where the host's name is missing, which is an error already.
pub(super) fn reports(mut section: Section<'_, '_>, hostname: Option<&Domain>) -> Option<Reports> {
    let default = hostname.map(Reports::default_for);
    let from = section.read("from", |value| author(value).map(Some), default.as_ref().map(|default| default.from.clone()));
    let postmaster = section.optional("postmaster", |value| Address::parse(text(value)?).map_err(|error| error.to_string()));
    let full_below = section.read("full_below", |value| size(0)(value).map(Some), default.map(|default| default.full_below));
    section.finish();
    Some(Reports { from: from.value?, postmaster: postmaster.value, full_below: full_below.value? })
}

pub(super) fn log(mut section: Section<'_, '_>) -> Log {
    let default = Log::default();
    let log = Log {
        format: section.read("format", word(LogFormat::ALL, LogFormat::as_str), default.format).value,
        level: section.read("level", word(LEVELS, level_word), default.level).value,
    };
    section.finish();
    log
}
