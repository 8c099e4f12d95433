//! Takes a configuration, hands on TOML that says the same in full. Passwords are not in it.

use std::fmt::Display;
use std::path::Path;

use super::sections::level_word;
use super::{
    Action, Conditions, Config, Credentials, Dns, MinFree, Override, Pattern, Rate, Sending, Server, Smtp, show_duration, show_min_free,
    show_rate, show_size,
};

impl Config {
    /// The effective configuration as TOML, every default written out. It reads as an equal configuration, but for two things: logins
    /// are comments, as passwords are not shown, and overrides have other line numbers.
    pub fn to_toml(&self) -> String {
        let mut out = Toml(String::new());
        out.line("hostname", quoted(self.hostname.as_str()));
        out.section("[spool]");
        out.line("path", path(&self.spool.path));
        out.line("settle", duration(self.spool.settle));
        out.line("rescan", duration(self.spool.rescan));
        out.line("history", duration(self.spool.history));
        out.line("max_hops", self.spool.max_hops);
        out.line("results", self.spool.results);
        out.line("min_free", min_free(self.spool.min_free));
        sending(&mut out, &self.sending);
        out.section("[retry]");
        out.line("schedule", list(&self.retry.schedule, |wait| duration(*wait)));
        out.line("lifetime", duration(self.retry.lifetime));
        out.line("warn_after", duration(self.retry.warn_after.unwrap_or_default()));
        out.line("in_doubt", quoted(self.retry.in_doubt.as_str()));
        dns(&mut out, &self.dns);
        out.section("[tls]");
        out.line("mode", quoted(self.tls.mode.as_str()));
        out.line_if("ca_file", self.tls.ca_file.as_deref().map(path));
        out.line("remember_broken", duration(self.tls.remember_broken));
        smtp(&mut out, &self.smtp);
        out.section("[reports]");
        out.line("from", quoted(&self.reports.from));
        out.line_if("postmaster", self.reports.postmaster.as_ref().map(|address| quoted(&address.to_string())));
        out.line("full_below", size(self.reports.full_below));
        out.section("[log]");
        out.line("format", quoted(self.log.format.as_str()));
        out.line("level", quoted(level_word(self.log.level)));
        out.section("[control]");
        out.line("socket", self.control.socket.as_deref().map_or_else(|| quoted(""), path));
        out.line_if("group", self.control.group.as_deref().map(quoted));
        out.line_if("listen", self.control.listen.map(|listen| quoted(&listen.to_string())));
        out.line_if("token_file", self.control.token.as_ref().map(|token| path(&token.file)));
        out.line("allow_actions", self.control.allow_actions);
        out.0
    }
}

/// Text that grows by lines.
struct Toml(String);

impl Toml {
    fn section(&mut self, heading: &str) {
        self.0.push('\n');
        self.comment(heading);
    }

    fn line(&mut self, key: &str, value: impl Display) {
        self.comment(&format!("{key} = {value}"));
    }

    fn line_if(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    fn comment(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn sending(out: &mut Toml, sending: &Sending) {
    out.section("[sending]");
    out.line("workers", sending.workers);
    out.line("per_site", sending.per_site);
    out.line("order", quoted(sending.order.as_str()));
    out.line("messages_per_connection", sending.messages_per_connection);
    out.line("connection_lifetime", duration(sending.connection_lifetime));
    out.line("keep_idle", duration(sending.keep_idle));
    out.line_if("rate", sending.rate.map(rate));
    out.line("site_down_min", duration(sending.site_down_min));
    out.line("site_down_max", duration(sending.site_down_max));
    out.line("shutdown_grace", duration(sending.shutdown_grace));
}

fn dns(out: &mut Toml, dns: &Dns) {
    out.section("[dns]");
    out.line("servers", list(&dns.servers, |server| quoted(&server.to_string())));
    out.line("timeout", duration(dns.timeout));
    out.line("attempts", dns.attempts);
    out.line("cache_size", dns.cache_size);
    out.line("min_ttl", duration(dns.min_ttl));
    out.line("max_ttl", duration(dns.max_ttl));
    out.line("serve_stale", duration(dns.serve_stale));
    out.line("blocked_targets", list(&dns.blocked_targets, |network| quoted(&network.to_string())));
    out.line("address_family", quoted(dns.address_family.as_str()));
    for rule in &dns.overrides {
        override_rule(out, rule);
    }
}

fn override_rule(out: &mut Toml, rule: &Override) {
    out.section("[[dns.override]]");
    out.comment(&format!("# line {} of the file", rule.line));
    conditions(out, &rule.conditions);
    let act = |out: &mut Toml, verb: &str, reason: &str| {
        out.line("action", quoted(verb));
        out.line("reason", quoted(reason));
    };
    match &rule.action {
        Action::Send { server, priority, tls, rate: limit, window, credentials } => {
            out.line("server", quoted(&server_text(server)));
            out.line("priority", priority);
            out.line("tls", quoted(tls.as_str()));
            out.line_if("rate", limit.map(rate));
            out.line("window", window);
            if let Some(credentials) = credentials {
                login(out, credentials);
            }
        }
        Action::Hold { reason } => act(out, "hold", reason),
        Action::Reject { reason } => act(out, "reject", reason),
        Action::Discard { reason } => act(out, "discard", reason),
    }
    out.line("final", rule.is_final);
}

fn conditions(out: &mut Toml, conditions: &Conditions) {
    let patterns = |patterns: &[Pattern]| (!patterns.is_empty()).then(|| list(patterns, |pattern| quoted(pattern.as_str())));
    let classes = &conditions.priority_class;
    out.line_if("domain", patterns(&conditions.domain));
    out.line_if("recipient", patterns(&conditions.recipient));
    out.line_if("sender", patterns(&conditions.sender));
    out.line_if("min_size", conditions.min_size.map(size));
    out.line_if("max_size", conditions.max_size.map(size));
    out.line_if("failing_for", conditions.failing_for.map(duration));
    out.line_if("min_attempts", conditions.min_attempts);
    out.line_if("priority_class", (!classes.is_empty()).then(|| list(classes, |class| quoted(class.as_str()))));
    out.line_if("tag", patterns(&conditions.tag));
}

/// Comments: without its password a login is none, and a file that had the one line without the other would not be valid.
fn login(out: &mut Toml, credentials: &Credentials) {
    out.comment(&format!("#username = {}", quoted(&credentials.username)));
    out.comment("# password set, not shown");
    out.comment(&format!("#auth_in_clear = {}", credentials.in_clear));
}

fn smtp(out: &mut Toml, smtp: &Smtp) {
    out.section("[smtp]");
    out.line("port", smtp.port);
    out.line_if("source_ipv4", smtp.source_ipv4.map(|address| quoted(&address.to_string())));
    out.line_if("source_ipv6", smtp.source_ipv6.map(|address| quoted(&address.to_string())));
    out.line("max_addresses", smtp.max_addresses);
    out.line("max_sessions", smtp.max_sessions);
    out.line("recipients_per_transaction", smtp.recipients_per_transaction);
    out.line("window", smtp.window);
    out.line("connect_timeout", duration(smtp.connect_timeout));
    out.line("greeting_timeout", duration(smtp.greeting_timeout));
    out.line("ehlo_timeout", duration(smtp.ehlo_timeout));
    out.line("starttls_timeout", duration(smtp.starttls_timeout));
    out.line("auth_timeout", duration(smtp.auth_timeout));
    out.line("mail_timeout", duration(smtp.mail_timeout));
    out.line("rcpt_timeout", duration(smtp.rcpt_timeout));
    out.line("data_timeout", duration(smtp.data_timeout));
    out.line("block_timeout", duration(smtp.block_timeout));
    out.line("min_rate", size(smtp.min_rate));
    out.line("final_timeout", duration(smtp.final_timeout));
}

/// `host:port`, with brackets around IPv6 addresses; always with the port, so that it means the same under another `smtp.port`.
fn server_text(server: &Server) -> String {
    match server {
        Server::Mx => "mx".to_owned(),
        Server::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Server::Host { host, port } => format!("{host}:{port}"),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn duration(duration: std::time::Duration) -> String {
    quoted(&show_duration(duration))
}

fn rate(rate: Rate) -> String {
    quoted(&show_rate(rate))
}

/// Zero needs no quotes.
fn min_free(wanted: MinFree) -> String {
    if wanted == MinFree::default() { "0".to_owned() } else { quoted(&show_min_free(wanted)) }
}

fn size(octets: u64) -> String {
    quoted(&show_size(octets))
}

fn list<T>(entries: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", entries.iter().map(show).collect::<Vec<_>>().join(", "))
}
