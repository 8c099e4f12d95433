//! Between values and columns: takes rows, hands on typed values, or says which column holds something that cannot be.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::{FromSql, Type, Value};
use thiserror::Error;

use crate::clock::Timestamp;
use crate::message::{Address, Content, Cut, Domain, MessageId, Notify, Priority, Ret, ReversePath};
use crate::outcome::{EnhancedStatus, Kind, Outcome, Peer};
use crate::queue::{Action, AttemptRecord, CopyState, Delays, Message, ReportAction};
use crate::smtp::Reply;

/// Milliseconds since the epoch.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// `at` as it comes back: whole milliseconds.
pub(super) fn rounded(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// A count of octets or the like: SQLite's integers have a sign.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A limit or a length.
pub(super) fn sql_count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A file's time in nanoseconds: an integer until the year 2262, else 16 octets, so that no two become equal.
pub(super) fn nanoseconds(modified: i128) -> Value {
    i64::try_from(modified).map_or_else(|_| Value::Blob(modified.to_be_bytes().to_vec()), Value::Integer)
}

macro_rules! codes {
    ($to:ident, $from:ident, $type:ty, $($value:path = $code:literal),+) => {
        pub(super) fn $to(value: $type) -> i64 {
            match value {
                $($value => $code,)+
            }
        }

        pub(super) fn $from(code: i64) -> Option<$type> {
            match code {
                $($code => Some($value),)+
                _ => None,
            }
        }
    };
}

codes!(priority_code, priority, Priority, Priority::Urgent = 0, Priority::Normal = 1, Priority::Bulk = 2);
codes!(ret_code, ret, Ret, Ret::Full = 1, Ret::Headers = 2);
codes!(kind_code, kind, Kind, Kind::Deferred = 0, Kind::Delivered = 1, Kind::Failed = 2);
codes!(action_code, action, ReportAction, ReportAction::Failed = 1, ReportAction::Delayed = 2, ReportAction::Relayed = 3);
codes!(
    done_action_code,
    done_action,
    Action,
    Action::Retry = 1,
    Action::Hold = 2,
    Action::Release = 3,
    Action::Bounce = 4,
    Action::Remove = 5
);
codes!(state_code, state, CopyState, CopyState::Queued = 0, CopyState::Sending = 1, CopyState::Held = 2, CopyState::Finished = 3);

/// The bits of NOTIFY: failure, delay, success, and whether anything was said.
pub(super) fn notify_code(notify: Notify) -> i64 {
    i64::from(notify.failure) | i64::from(notify.delay) << 1 | i64::from(notify.success) << 2 | i64::from(notify.explicit) << 3
}

fn notify(bits: i64) -> Option<Notify> {
    let bit = |n: i64| bits >> n & 1 == 1;
    (0..16).contains(&bits).then(|| Notify { failure: bit(0), delay: bit(1), success: bit(2), explicit: bit(3) })
}

/// The bits of a content's form: canonical, eight-bit body, UTF-8 header.
pub(super) fn form_code(content: &Content) -> i64 {
    i64::from(content.canonical) | i64::from(content.eight_bit) << 1 | i64::from(content.header_utf8) << 2
}

/// `12-40 100-120`; NULL where nothing is cut.
pub(super) fn cuts_text(cuts: &[Cut]) -> Option<String> {
    (!cuts.is_empty()).then(|| cuts.iter().map(|cut| format!("{}-{}", cut.start, cut.end)).collect::<Vec<_>>().join(" "))
}

fn cuts(text: &str) -> Result<Vec<Cut>, &'static str> {
    let cut = |word: &str| {
        let (start, end) = word.split_once('-')?;
        Some(Cut { start: start.parse().ok()?, end: end.parse().ok()? })
    };
    text.split(' ').map(|word| cut(word).ok_or("no list of ranges")).collect()
}

/// The trail of an attempt, as a JSON array.
pub(super) fn trail_text(trail: &[String]) -> String {
    // Into memory, from text: nothing of it can fail.
    serde_json::to_string(trail).unwrap_or_default()
}

/// What a column holds that this version cannot have written.
#[derive(Debug, Error)]
#[error("column {column}: {detail}")]
struct Unreadable {
    column: String,
    detail: String,
}

/// A row's columns, read from left to right, as the `…_COLUMNS` lists name them.
pub(super) struct Columns<'row, 'statement> {
    row: &'row Row<'statement>,
    at: usize,
}

impl<'row, 'statement> Columns<'row, 'statement> {
    pub(super) fn of(row: &'row Row<'statement>) -> Self {
        Self { row, at: 0 }
    }

    /// A plain value.
    pub(super) fn next<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        let value = self.row.get(self.at)?;
        self.at += 1;
        Ok(value)
    }

    /// Text that must be readable.
    pub(super) fn parsed<T, E: Display>(&mut self, read: impl FnOnce(&str) -> Result<T, E>) -> rusqlite::Result<T> {
        let value = read(self.row.get_ref(self.at)?.as_str()?).map_err(|error| self.unreadable(Type::Text, &error))?;
        self.at += 1;
        Ok(value)
    }

    /// The same, or NULL.
    pub(super) fn parsed_or_null<T, E: Display>(&mut self, read: impl FnOnce(&str) -> Result<T, E>) -> rusqlite::Result<Option<T>> {
        match self.row.get_ref(self.at)?.as_str_or_null()?.map(read).transpose() {
            Ok(value) => {
                self.at += 1;
                Ok(value)
            }
            Err(error) => Err(self.unreadable(Type::Text, &error)),
        }
    }

    /// A number that must have a meaning.
    pub(super) fn coded<T>(&mut self, read: impl FnOnce(i64) -> Option<T>) -> rusqlite::Result<T> {
        let code: i64 = self.row.get(self.at)?;
        let value = read(code).ok_or_else(|| self.unreadable(Type::Integer, &format_args!("{code} means nothing")))?;
        self.at += 1;
        Ok(value)
    }

    /// The same, or NULL.
    pub(super) fn coded_or_null<T>(&mut self, read: impl FnOnce(i64) -> Option<T>) -> rusqlite::Result<Option<T>> {
        if self.row.get::<_, Option<i64>>(self.at)?.is_none() {
            self.at += 1;
            return Ok(None);
        }
        self.coded(read).map(Some)
    }

    pub(super) fn time(&mut self) -> rusqlite::Result<Timestamp> {
        self.coded(|millis| Timestamp::from_millisecond(millis).ok())
    }

    pub(super) fn time_or_null(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        self.coded_or_null(|millis| Timestamp::from_millisecond(millis).ok())
    }

    pub(super) fn message_id(&mut self) -> rusqlite::Result<MessageId> {
        self.next().map(MessageId::from_bytes)
    }

    pub(super) fn count(&mut self) -> rusqlite::Result<u32> {
        self.coded(|n| u32::try_from(n).ok())
    }

    pub(super) fn octets(&mut self) -> rusqlite::Result<u64> {
        self.coded(|n| u64::try_from(n).ok())
    }

    pub(super) fn domain(&mut self) -> rusqlite::Result<Domain> {
        self.parsed(Domain::parse)
    }

    pub(super) fn address(&mut self) -> rusqlite::Result<Address> {
        self.parsed(Address::parse)
    }

    pub(super) fn notify(&mut self) -> rusqlite::Result<Notify> {
        self.coded(notify)
    }

    fn unreadable(&self, kind: Type, detail: &dyn Display) -> rusqlite::Error {
        let column = self.row.as_ref().column_name(self.at).unwrap_or("?").to_owned();
        rusqlite::Error::FromSqlConversionFailure(self.at, kind, Box::new(Unreadable { column, detail: detail.to_string() }))
    }
}

/// The state of a copy `c`, as [`CopyState`] has it: an attempt that is under way is no column of its own.
pub(super) const STATE_COLUMN: &str = "CASE WHEN EXISTS (SELECT 1 FROM sending s WHERE s.copy = c.id) THEN 1 ELSE c.state END";

/// Finds the recipients of the copy `?1`: in the run that its row names, which holds nothing else unless the copy was split.
pub(super) const OF_COPY: &str = "copy = ?1 AND id BETWEEN (SELECT first_recipient FROM copies WHERE copies.id = ?1)
    AND (SELECT last_recipient FROM copies WHERE copies.id = ?1)";

/// The same between tables, for a join of `c` and `r`.
pub(super) const RECIPIENTS_OF_COPY: &str = "r.copy = c.id AND r.id BETWEEN c.first_recipient AND c.last_recipient";

/// For a join of `m` and `c`: see `accept::copy_ids`.
pub(super) const COPIES_OF_MESSAGE: &str = "c.id >= m.seq * 1048576 AND c.id < (m.seq + 1) * 1048576";

/// The attempts of a copy `c` that have begun.
pub(super) const ATTEMPTS_COLUMN: &str = "c.attempts + EXISTS (SELECT 1 FROM sending s WHERE s.copy = c.id)";

/// What [`message`] reads, of the table `messages` as `m`.
pub(super) const MESSAGE_COLUMNS: &str = "m.id, m.source, m.sender, m.accepted_at, m.expires_at, m.priority, m.ret, m.envid, m.tag, \
     m.file_size, m.wire_size, m.form, m.hops, m.message_id, m.cuts, m.prepend";

pub(super) fn message(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: columns.message_id()?,
        source: columns.next()?,
        sender: columns.parsed(ReversePath::parse)?,
        accepted_at: columns.time()?,
        expires_at: columns.time()?,
        priority: columns.coded(priority)?,
        ret: columns.coded_or_null(ret)?,
        envid: columns.next()?,
        tag: columns.next()?,
        content: content(columns)?,
    })
}

fn content(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Content> {
    let (file_size, wire_size) = (columns.octets()?, columns.octets()?);
    let form: i64 = columns.next()?;
    Ok(Content {
        file_size,
        wire_size,
        canonical: form & 1 != 0,
        eight_bit: form & 2 != 0,
        header_utf8: form & 4 != 0,
        hops: columns.count()?,
        message_id: columns.next()?,
        cuts: columns.parsed_or_null(cuts)?.unwrap_or_default(),
        prepend: columns.next()?,
    })
}

/// What [`outcome`] reads, of the table `recipients` as `r`.
pub(super) const OUTCOME_COLUMNS: &str =
    "r.outcome_at, r.state, r.status, r.text, r.code, r.reply, r.host, r.peer, r.tls, r.in_doubt, r.dsn_relayed";

/// The last outcome of a recipient and its time; `None` before the first attempt has ended, and its columns are passed over.
pub(super) fn outcome(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Option<(Outcome, Timestamp)>> {
    let Some(at) = columns.time_or_null()? else {
        columns.at += 10;
        return Ok(None);
    };
    let outcome = Outcome {
        kind: columns.coded(kind)?,
        status: columns.parsed(|text| text.parse::<EnhancedStatus>().map_err(|()| "no enhanced status code"))?,
        text: columns.next()?,
        reply: reply(columns)?,
        peer: peer(columns)?,
        in_doubt: columns.next()?,
        dsn_relayed: columns.next()?,
    };
    Ok(Some((outcome, at)))
}

fn reply(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Option<Reply>> {
    let (code, text): (Option<u16>, Option<Arc<str>>) = (columns.next()?, columns.next()?);
    Ok(code.zip(text).map(|(code, text)| Reply::new(code, text)))
}

fn peer(columns: &mut Columns<'_, '_>) -> rusqlite::Result<Option<Arc<Peer>>> {
    let host: Option<Arc<str>> = columns.next()?;
    let address = columns.parsed_or_null(str::parse)?;
    let tls = columns.next()?;
    Ok(host.zip(address).map(|(host, address)| Arc::new(Peer { host, address, tls })))
}

/// What [`attempt`] reads, of the table `attempts`.
pub(super) const ATTEMPT_COLUMNS: &str =
    "number, began_at, ended_at, site, route, queue_us, dns_us, connect_us, handshake_us, transfer_us, trail";

pub(super) fn attempt(columns: &mut Columns<'_, '_>) -> rusqlite::Result<AttemptRecord> {
    Ok(AttemptRecord {
        number: columns.count()?,
        began_at: columns.time()?,
        ended_at: columns.time()?,
        site: columns.next()?,
        route: columns.next()?,
        delays: Delays {
            queue: Duration::from_micros(columns.octets()?),
            dns: Duration::from_micros(columns.octets()?),
            connect: Duration::from_micros(columns.octets()?),
            handshake: Duration::from_micros(columns.octets()?),
            transfer: Duration::from_micros(columns.octets()?),
        },
        trail: columns.parsed(|text| serde_json::from_str(text))?,
    })
}
