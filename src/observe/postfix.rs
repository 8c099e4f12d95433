//! `log.format = "postfix"`: takes events, hands on the lines that Postfix would write, for the programs that make reports of them (pflogsumm).
//!
//! One event is one line, or some, of the program of Postfix that does the like: `pickup` and `cleanup` take mail in, `qmgr` keeps the queue, `smtp`
//! delivers, `error` gives up or defers without having tried, `bounce` reports, `postsuper` is an administrator,
//! `master` the daemon itself.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use jiff::tz::TimeZone;
use nix::unistd::getuid;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;

use super::fields::Fields;
use super::journal::Journal;
use crate::clock::Clock;

/// The layer; `W` makes writers for its lines.
pub struct Postfix<W>(Way<W>);

enum Way<W> {
    /// Lines as syslog's files have them.
    Lines { writer: W, host: String, zone: TimeZone, clock: Arc<dyn Clock> },
    /// Entries whose identifier is the program, so that `journalctl` prints the same lines.
    Journal(Journal),
}

impl<W> Postfix<W> {
    /// To `writer`, with the time of `clock` in `zone`, and this host's name up to its first dot.
    pub fn lines(writer: W, host: &str, zone: TimeZone, clock: Arc<dyn Clock>) -> Self {
        let host = host.split('.').next().unwrap_or_default().to_owned();
        Self(Way::Lines { writer, host, zone, clock })
    }

    /// To the journal.
    pub fn journal(journal: Journal) -> Self {
        Self(Way::Journal(journal))
    }
}

impl<S: Subscriber, W: for<'a> MakeWriter<'a> + 'static> Layer<S> for Postfix<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let fields = Fields::of(event);
        let lines = lines(&fields, level);
        match &self.0 {
            Way::Journal(journal) => {
                for Line { program, text } in lines {
                    journal.send(level, &format!("postfix/{program}"), &text, &fields);
                }
            }
            Way::Lines { writer, host, zone, clock } => {
                let time = clock.now().to_zoned(zone.clone()).strftime("%b %e %H:%M:%S").to_string();
                let mut said = String::new();
                for Line { program, text } in lines {
                    // Writing to a string cannot fail.
                    let _ = writeln!(said, "{time} {host} postfix/{program}[{}]: {text}", std::process::id());
                }
                // Nothing is left to tell if the log itself cannot be written.
                let _ = writer.make_writer().write_all(said.as_bytes());
            }
        }
    }
}

struct Line {
    program: &'static str,
    text: String,
}

/// A line, its text without control characters: whatever a peer or a header says, it stays one line.
fn line(program: &'static str, text: String) -> Line {
    Line { program, text: text.replace(char::is_control, "?") }
}

fn lines(fields: &Fields, level: Level) -> Vec<Line> {
    let get = |name| fields.get(name);
    let id = get("id");
    match fields.verb.as_str() {
        "accepted" => {
            let mut lines = Vec::new();
            // A file of drop/ is mail that came in. The daemon's own reports did not, and Postfix does not say so of its own either.
            if get("source").ends_with(".eml") {
                lines.push(line("pickup", format!("{id}: uid={} from=<{}>", getuid(), get("from"))));
            }
            lines.push(line("cleanup", format!("{id}: message-id={}", get("message_id"))));
            lines.push(line("qmgr", format!("{id}: from=<{}>, size={}, nrcpt={} (queue active)", get("from"), get("size"), get("to"))));
            lines
        }
        "delivered" => vec![delivery(fields, "sent")],
        "deferred" => vec![delivery(fields, "deferred")],
        // Given up by a peer's answer, or by an administrator.
        "failed" | "bounced" => vec![delivery(fields, "bounced")],
        "in_doubt" => vec![line("smtp", format!("warning: {id}: to=<{}>: it may arrive twice: {}", get("to"), get("reply")))],
        "expired" => vec![line("qmgr", format!("{id}: from=<{}>, status=expired, returned to sender", get("from")))],
        "reported" => vec![line("bounce", format!("{id}: sender {} notification: {}", notification(get("action")), get("report")))],
        "finished" => vec![line("qmgr", format!("{id}: removed"))],
        // Orders of administrators.
        "removed" => vec![line("postsuper", format!("{id}: removed"))],
        "released" => vec![line("postsuper", format!("{id}: released from hold"))],
        "retried" => vec![line("postsuper", format!("{id}: requeued"))],
        "held" if !get("by").is_empty() => vec![line("postsuper", format!("{id}: placed on hold"))],
        // What Postfix's checks of whole messages say; END-OF-MESSAGE is what report tools look for.
        "held" => vec![line("cleanup", format!("{id}: hold: END-OF-MESSAGE {}: to {}", get("reason"), get("domain")))],
        "discarded" => vec![line("cleanup", format!("{id}: discard: END-OF-MESSAGE by an override: to=<{}>", get("to")))],
        "rejected" => vec![line("cleanup", format!("NOQUEUE: reject: END-OF-MESSAGE {}: file={}", get("reason"), get("file")))],
        _ => vec![other(fields, level)],
    }
}

/// Postfix's words for a report's action.
fn notification(action: &str) -> &'static str {
    match action {
        "delayed" => "delay",
        "relayed" => "delivery status",
        _ => "non-delivery",
    }
}

/// What became of one recipient.
fn delivery(fields: &Fields, status: &str) -> Line {
    let get = |name| fields.get(name);
    // Nothing was tried: the site is down, the time is over, or there is nowhere to go.
    let program = if get("site").is_empty() { "error" } else { "smtp" };
    let relay = match (get("host"), get("ip")) {
        ("", _) | (_, "") => "none".to_owned(),
        (host, ip) => format!("{}[{ip}]:{}", host.trim_matches(['[', ']']), get("port")),
    };
    let text = match (status, get("reply").split_once(&format!(" was answered {} ", get("code")))) {
        // As Postfix has it, so that tools group by what the peer said and not by who said it.
        ("deferred" | "bounced", Some((phase, reply))) if relay != "none" => {
            let (host, _) = relay.rsplit_once(':').unwrap_or((&relay, ""));
            format!("host {host} said: {} {reply} (in reply to {phase})", get("code"))
        }
        _ => get("reply").to_owned(),
    };
    let (delay, delays) = delays(get("delay"), get("delays"));
    let (id, to, dsn) = (get("id"), get("to"), get("dsn"));
    line(program, format!("{id}: to=<{to}>, relay={relay}, delay={delay}, delays={delays}, dsn={dsn}, status={status} ({text})"))
}

/// From the event's seconds (`queue/dns/connect/transfer`) to Postfix's: before the queue's turn, in it, connecting (with DNS), transferring.
fn delays(delay: &str, delays: &str) -> (String, String) {
    // What is missing is zero, as Postfix writes it.
    let seconds = |text: &str| text.parse::<f64>().unwrap_or_default();
    let parts: Vec<f64> = delays.split('/').map(seconds).collect();
    let (total, part) = (seconds(delay), |i: usize| parts.get(i).copied().unwrap_or_default());
    let (queue, connect, transfer) = (part(0), part(1) + part(2), part(3));
    let before = (total - queue - connect - transfer).max(0.0);
    (short(total), [before, queue, connect, transfer].map(short).join("/"))
}

/// At most two decimals, and none that say nothing.
fn short(seconds: f64) -> String {
    let text = format!("{seconds:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What is about no message.
fn other(fields: &Fields, level: Level) -> Line {
    let mut text = match level {
        Level::ERROR => "error: ".to_owned(),
        Level::WARN => "warning: ".to_owned(),
        _ => String::new(),
    };
    text.push_str(&fields.verb);
    for (name, value) in fields.iter() {
        // Writing to a string cannot fail.
        let _ = write!(text, " {name}={value}");
    }
    line("master", text)
}
