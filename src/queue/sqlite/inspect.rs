//! What the command line reads, beside a running daemon or without one: takes filters, hands on rows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::Group;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::accept::copy_ids;
use super::convert::{
    ATTEMPT_COLUMNS, ATTEMPTS_COLUMN, COPIES_OF_MESSAGE, Columns, MESSAGE_COLUMNS, OF_COPY, OUTCOME_COLUMNS, RECIPIENTS_OF_COPY,
    STATE_COLUMN, action, attempt, message, millis, outcome, sql_count, state,
};
use super::failure::Failure;
use super::{actions, history, list, schema, snapshot};
use crate::clock::Timestamp;
use crate::message::{Address, Domain, MessageId, Recipient};
use crate::queue::{
    CopyDetail, CopyId, CopyRow, CopyState, Counts, DomainShape, HistoryFilter, HistoryRow, Inspect, ListFilter, MessageDetail, PausedSite,
    RecipientCopies, ReportAction, SiteBacklog, StoreError,
};

/// The queue, read only. Nothing is changed or created by it: with the daemon down, the file is read as it lies there, and with the daemon
/// up (or after its crash), SQLite's own locks keep reading and writing apart. It needs read permission on `state.db` and what is beside it.
#[derive(Debug)]
pub struct SqliteInspect {
    path: PathBuf,
    open: RefCell<Open>,
}

#[derive(Debug)]
struct Open {
    db: Connection,
    /// Set where there was no WAL, so that nobody had the database open: time and size of the file then.
    immutable: Option<(SystemTime, u64)>,
}

impl SqliteInspect {
    /// Opens the database of a running daemon, or of one that has run.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Missing { path: path.to_owned() }),
            Err(error) => return Err(unreachable_file(path, &error)),
        }
        Ok(Self { path: path.to_owned(), open: RefCell::new(open(path)?) })
    }

    /// Reads one committed state.
    fn read<T>(&self, doing: &'static str, work: impl Fn(&Connection) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mut open_now = self.open.borrow_mut();
        let found = snapshot(&mut open_now.db, &work);
        let disturbed = open_now.immutable.is_some_and(|before| wal(&self.path).exists() || stamp(&self.path) != Some(before));
        if !disturbed {
            return found.map_err(|failure| failure.doing(doing));
        }
        // A daemon was started meanwhile and may have changed pages under the reader: again, beside it.
        *open_now = open(&self.path)?;
        snapshot(&mut open_now.db, &work).map_err(|failure| failure.doing(doing))
    }
}

fn open(path: &Path) -> Result<Open, StoreError> {
    // The WAL is there from a connection's first read on until the last one is closed in good order. Without it, SQLite would have to
    // create it, which a reader without write permission cannot, and another user's files should not come to lie in the spool.
    let immutable = stamp(path).filter(|_| !wal(path).exists());
    let db = schema::inspector(path, immutable.is_some()).map_err(|error| match error {
        // SQLite says only that it cannot be opened.
        StoreError::Database { temporary: true, .. } if let Err(refused) = std::fs::File::open(path) => unreachable_file(path, &refused),
        other => other,
    })?;
    Ok(Open { db, immutable })
}

fn unreachable_file(path: &Path, error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return StoreError::Denied { path: path.to_owned(), group: group_of(path) };
    }
    StoreError::Database { doing: "opening it", detail: format!("{}: {error}", path.display()), temporary: true }
}

/// The group of a file, or of the nearest directory above it that can be seen.
fn group_of(path: &Path) -> String {
    let gid = path.ancestors().find_map(|path| path.metadata().ok()).map(|metadata| metadata.gid());
    let name = gid.and_then(|gid| Group::from_gid(gid.into()).ok().flatten()).map(|group| group.name);
    name.or_else(|| gid.map(|gid| gid.to_string())).unwrap_or_default()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let file = path.metadata().ok()?;
    Some((file.modified().ok()?, file.len()))
}

fn wal(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

impl Inspect for SqliteInspect {
    fn list(&self, filter: &ListFilter) -> Result<Vec<CopyRow>, StoreError> {
        self.read("listing the queue", |db| list::list(db, filter))
    }

    fn count_list(&self, filter: &ListFilter) -> Result<u64, StoreError> {
        self.read("counting the queue", |db| list::count(db, filter))
    }

    fn show(&self, id: MessageId) -> Result<Option<MessageDetail>, StoreError> {
        self.read("reading a message", |db| show(db, id))
    }

    fn counts(&self, now: Timestamp) -> Result<Counts, StoreError> {
        self.read("counting", |db| counts(db, millis(now)))
    }

    fn shape(&self, now: Timestamp) -> Result<Vec<DomainShape>, StoreError> {
        self.read("counting by domain and age", |db| shape(db, millis(now)))
    }

    fn sites(&self) -> Result<Vec<SiteBacklog>, StoreError> {
        self.read("counting by site", sites)
    }

    fn paused_sites(&self) -> Result<Vec<PausedSite>, StoreError> {
        self.read("reading paused sites", actions::paused)
    }

    fn history(&self, filter: &HistoryFilter) -> Result<Vec<HistoryRow>, StoreError> {
        self.read("reading the history", |db| history::list(db, filter))
    }

    fn count_history(&self, filter: &HistoryFilter) -> Result<u64, StoreError> {
        self.read("counting the history", |db| history::count(db, filter))
    }

    fn copies_for(&self, recipient: &Address, finished: usize) -> Result<RecipientCopies, StoreError> {
        self.read("looking for a recipient", |db| history::copies_for(db, recipient, finished))
    }
}

/// A `WHERE` clause as it grows: terms and the values of their parameters, in order.
pub(super) struct Query {
    sql: String,
    values: Vec<Value>,
}

impl Query {
    pub(super) fn new(sql: String) -> Self {
        Self { sql, values: Vec::new() }
    }

    /// Adds a condition with one `?`.
    pub(super) fn and(&mut self, term: &str, value: impl Into<Value>) {
        self.and_all(term, [value.into()]);
    }

    /// Adds a condition with as many `?` as there are values.
    pub(super) fn and_all<const N: usize>(&mut self, term: &str, values: [Value; N]) {
        self.sql.push_str(" AND ");
        self.sql.push_str(term);
        self.values.extend(values);
    }

    pub(super) fn rows<T>(
        mut self,
        db: &Connection,
        (order, limit): (&str, Option<usize>),
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Failure> {
        self.sql.push_str(order);
        self.sql.push_str(" LIMIT ?");
        self.values.push(Value::Integer(limit.map_or(-1, sql_count)));
        let mut statement = db.prepare(&self.sql)?;
        let rows = statement.query_map(params_from_iter(self.values), read)?.collect::<Result<_, _>>()?;
        Ok(rows)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn show(db: &Connection, id: MessageId) -> Result<Option<MessageDetail>, Failure> {
    let found = db
        .prepare_cached(&format!("SELECT m.seq, m.finished_at, {MESSAGE_COLUMNS} FROM messages m WHERE m.id = ?1"))?
        .query_row([id.to_bytes()], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<i64>()?, columns.time_or_null()?, message(&mut columns)?))
        })
        .optional()?;
    let Some((seq, finished_at, message)) = found else { return Ok(None) };
    let ids = copy_ids(seq);
    let mut statement = db.prepare_cached(&format!(
        "SELECT c.id, c.domain, {STATE_COLUMN}, c.due_at, {ATTEMPTS_COLUMN}, c.in_doubt, c.first_failed_at, c.warned, c.released, c.hold_reason,
             (SELECT s.name FROM sites s WHERE s.id = c.site)
         FROM copies c
         WHERE c.id >= ?1 AND c.id < ?2 ORDER BY c.id"
    ))?;
    let copies = statement.query_map((ids.start, ids.end), |row| {
        let mut columns = Columns::of(row);
        let id = CopyId(columns.next()?);
        Ok(CopyDetail {
            id,
            domain: columns.domain()?,
            state: columns.coded(state)?,
            due_at: columns.time()?,
            attempts: columns.count()?,
            in_doubt: columns.next()?,
            first_failed_at: columns.time_or_null()?,
            warned: columns.next()?,
            released: columns.next()?,
            hold_reason: columns.next()?,
            site: columns.next()?,
            recipients: recipients(db, id)?,
            reports: reports(db, id)?,
            history: attempts(db, id)?,
        })
    })?;
    let copies = copies.collect::<Result<_, _>>()?;
    Ok(Some(MessageDetail { message, finished_at, copies, actions: actions::history(db, &ids)? }))
}

type RecipientDetail = (Recipient, Option<(crate::outcome::Outcome, Timestamp)>);

fn recipients(db: &Connection, copy: CopyId) -> rusqlite::Result<Vec<RecipientDetail>> {
    let sql = format!("SELECT r.address, r.notify, {OUTCOME_COLUMNS} FROM recipients r WHERE {OF_COPY} ORDER BY r.id");
    let mut statement = db.prepare_cached(&sql)?;
    let recipients = statement.query_map([copy.0], |row| {
        let mut columns = Columns::of(row);
        Ok((Recipient { address: columns.address()?, notify: columns.notify()? }, outcome(&mut columns)?))
    })?;
    recipients.collect()
}

fn reports(db: &Connection, copy: CopyId) -> rusqlite::Result<Vec<(usize, ReportAction)>> {
    let mut statement = db.prepare_cached(&format!("SELECT report FROM recipients r WHERE {OF_COPY} ORDER BY r.id"))?;
    let actions = statement.query_map([copy.0], |row| Columns::of(row).coded_or_null(action))?;
    let due = actions.enumerate().filter_map(|(place, action)| action.transpose().map(|action| Ok((place, action?))));
    due.collect()
}

fn attempts(db: &Connection, copy: CopyId) -> rusqlite::Result<Vec<crate::queue::AttemptRecord>> {
    let mut statement = db.prepare_cached(&format!("SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE copy = ?1 ORDER BY number"))?;
    let attempts = statement.query_map([copy.0], |row| attempt(&mut Columns::of(row)))?;
    attempts.collect()
}

/// What the age of a message `m` at `?1` is: its place in [`DomainShape::AGES`].
fn age_column() -> String {
    // In whole milliseconds; what begins with zero takes those of a clock that was set back as well.
    let beginnings = DomainShape::AGES.iter().skip(1).filter_map(|age| i64::try_from(age.as_millis()).ok());
    let age: String = beginnings.map(|beginning| format!(" + (?1 - m.accepted_at >= {beginning})")).collect();
    format!("0{age}")
}

fn counts(db: &Connection, now: i64) -> Result<Counts, Failure> {
    let age = age_column();
    let mut counts = Counts::default();
    // By the unfinished messages: the history, days of it, is passed over. A message whose copies are all finished has a report due yet.
    let mut statement = db.prepare(&format!(
        "SELECT m.seq, m.accepted_at, m.wire_size, {age}, c.state, c.due_at <= ?1, c.open_recipients, c.in_doubt
         FROM messages m INDEXED BY messages_open LEFT JOIN copies c ON {COPIES_OF_MESSAGE} AND c.state < 3
         WHERE m.finished_at IS NULL"
    ))?;
    let mut rows = statement.query(params![now])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (seq, accepted_at, octets, age) = (columns.next::<i64>()?, columns.time()?, columns.octets()?, columns.count()?);
        // The copies of a message stand together.
        if last.replace(seq) != Some(seq) {
            counts.messages += 1;
            counts.octets += octets;
            counts.oldest = Some(counts.oldest.map_or(accepted_at, |oldest| oldest.min(accepted_at)));
        }
        if let Some(state) = columns.coded_or_null(state)? {
            *standing(&mut counts, age, state, columns.next()?) += 1;
            counts.recipients += columns.octets()?;
            counts.in_doubt += u64::from(columns.next::<bool>()?);
        }
    }
    // Those that are being sent stand among them, and are few.
    let mut statement = db.prepare(&format!(
        "SELECT {age}, c.state, c.due_at <= ?1
         FROM sending s CROSS JOIN copies c ON c.id = s.copy CROSS JOIN messages m ON m.seq = c.message WHERE c.state < 3"
    ))?;
    let mut rows = statement.query(params![now])?;
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (age, state) = (columns.count()?, columns.coded(state)?);
        *standing(&mut counts, age, state, columns.next()?) -= 1;
        counts.by_age[age as usize].sending += 1;
    }
    Ok(counts)
}

/// Where a copy is counted that is not being sent. An age is the sum of as many comparisons as there are ages after the first one.
fn standing(counts: &mut Counts, age: u32, state: CopyState, due: bool) -> &mut u64 {
    let of_age = &mut counts.by_age[age as usize];
    match (state, due) {
        (CopyState::Held, _) => &mut of_age.held,
        (_, true) => &mut of_age.due,
        (_, false) => &mut of_age.waiting,
    }
}

fn shape(db: &Connection, now: i64) -> Result<Vec<DomainShape>, Failure> {
    let mut statement = db.prepare(&format!(
        "SELECT c.domain, {} AS age, count(*), sum({STATE_COLUMN} = 2), max(CASE WHEN c.site IS NOT NULL THEN c.id END)
         FROM messages m INDEXED BY messages_open CROSS JOIN copies c ON {COPIES_OF_MESSAGE}
         WHERE m.finished_at IS NULL AND c.state < 3 GROUP BY 1, 2",
        age_column()
    ))?;
    let mut found: HashMap<Domain, (DomainShape, Option<i64>)> = HashMap::new();
    let mut rows = statement.query([now])?;
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (domain, age) = (columns.domain()?, columns.count()?);
        let new = || (DomainShape { domain: domain.clone(), site: None, by_age: Default::default(), held: 0 }, None);
        let (line, tried) = found.entry(domain.clone()).or_insert_with(new);
        line.by_age[age as usize] = columns.octets()?;
        line.held += columns.octets()?;
        *tried = (*tried).max(columns.next()?);
    }
    let mut site = db.prepare("SELECT s.name FROM copies c CROSS JOIN sites s ON s.id = c.site WHERE c.id = ?1")?;
    let lines = found.into_values().map(|(mut line, tried)| {
        line.site = tried.map(|copy| site.query_row([copy], |row| row.get(0)).optional()).transpose()?.flatten();
        Ok(line)
    });
    lines.collect()
}

fn sites(db: &Connection) -> Result<Vec<SiteBacklog>, Failure> {
    // By an index that holds nothing else: what was delivered at once was never in it.
    let mut statement = db.prepare_cached(
        "SELECT s.name, n.copies, n.newest
         FROM (SELECT site, count(*) AS copies, max(id) AS newest FROM copies WHERE state < 3 AND site IS NOT NULL GROUP BY site) n
         CROSS JOIN sites s ON s.id = n.site",
    )?;
    let mut last = db.prepare_cached(&format!(
        "SELECT {OUTCOME_COLUMNS} FROM copies c CROSS JOIN recipients r ON {RECIPIENTS_OF_COPY}
         WHERE c.id = ?1 AND r.outcome_at IS NOT NULL ORDER BY r.outcome_at DESC LIMIT 1"
    ))?;
    let mut rows = statement.query([])?;
    let mut sites = Vec::new();
    while let Some(row) = rows.next()? {
        let mut columns = Columns::of(row);
        let (site, copies) = (columns.next()?, columns.octets()?);
        let last = last.query_row([columns.next::<i64>()?], |row| outcome(&mut Columns::of(row))).optional()?.flatten();
        sites.push(SiteBacklog { site, copies, last });
    }
    Ok(sites)
}
