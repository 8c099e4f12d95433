//! An internet in memory: names with MX records and addresses, hosts that speak SMTP as a test wants it, and a record of all that they got.

#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_direct::message::Domain;
use smtp_direct::outcome::DnsFault;
use smtp_direct::route::{Answer, Dns, Family, LookupError, Mx};
use smtp_direct::smtp::{Dialer, Io};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One transaction that a host took, or refused at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub ip: IpAddr,
    pub session: usize,
    pub login: Option<String>,
    /// When its content was taken.
    pub at: tokio::time::Instant,
    pub mail: String,
    /// As between the angle brackets, in order; accepted ones only.
    pub rcpts: Vec<String>,
    /// As received, dots unstuffed.
    pub data: Vec<u8>,
}

/// What a host answers to a command line (upper-case verb first; "." is the end of the content, "CONNECT" the connection); `None`: what a
/// friendly host answers; "CLOSE": it closes the connection; "SILENT": it never says a word again.
pub type Answers = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How a host behaves.
#[derive(Clone)]
pub enum Host {
    /// Takes everything that `Answers` does not speak of.
    Answers(Answers),
    /// Refuses connections.
    Refuses,
    /// Accepts connections and never says a word.
    Silent,
    /// Takes everything, and answers the end of each content that much later.
    Slow(Duration),
    /// Takes everything by BDAT, and answers the last chunks of so many messages together, or of those that have come within that time.
    Chunks(usize, Duration),
    /// Takes everything from so many sessions at once, and greets further ones with 421.
    Few(usize),
    /// Takes connections, but greets only once the switch is on.
    Gate(watch::Receiver<bool>),
}

/// The internet.
#[derive(Clone, Default)]
pub struct Net {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    mx: Mutex<HashMap<String, Result<Vec<Mx>, LookupError>>>,
    addresses: Mutex<HashMap<String, Vec<IpAddr>>>,
    hosts: Mutex<HashMap<IpAddr, Host>>,
    queries: Mutex<HashMap<String, usize>>,
    record: Mutex<Record>,
    sessions: Mutex<JoinSet<()>>,
    open: watch::Sender<usize>,
}

#[derive(Default)]
struct Record {
    transactions: Vec<Transaction>,
    dialled: Vec<SocketAddr>,
    sessions: usize,
    peak: usize,
    /// Of hosts that take chunks: how many messages each write answered.
    answered_together: Vec<usize>,
}

impl Net {
    /// `domain` has these MX records.
    pub fn mx(&self, domain: &str, records: &[(u16, &str)]) -> &Self {
        let records = records.iter().map(|(preference, exchange)| Mx { preference: *preference, exchange: (*exchange).into() });
        self.inner.mx.lock().unwrap().insert(domain.to_owned(), Ok(records.collect()));
        self
    }

    /// Looking up `domain` fails like this.
    pub fn mx_fails(&self, domain: &str, error: LookupError) -> &Self {
        self.inner.mx.lock().unwrap().insert(domain.to_owned(), Err(error));
        self
    }

    /// A soft error for `domain`.
    pub fn mx_servfail(&self, domain: &str) -> &Self {
        self.mx_fails(domain, LookupError::Soft(DnsFault::ResponseCode("Server Failure".into())))
    }

    /// A host with one address, which behaves like `host`.
    pub fn host(&self, name: &str, ip: &str, host: Host) -> &Self {
        let ip: IpAddr = ip.parse().unwrap();
        self.inner.addresses.lock().unwrap().entry(name.to_owned()).or_default().push(ip);
        self.inner.hosts.lock().unwrap().insert(ip, host);
        self
    }

    /// Changes how an address behaves.
    pub fn becomes(&self, ip: &str, host: Host) {
        self.inner.hosts.lock().unwrap().insert(ip.parse().unwrap(), host);
    }

    /// A domain `name` with one friendly mail server at `ip`.
    pub fn domain(&self, name: &str, ip: &str) -> &Self {
        let mx = format!("mx.{name}");
        self.mx(name, &[(10, &mx)]).host(&mx, ip, friendly())
    }

    /// What was taken so far.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.inner.record.lock().unwrap().transactions.clone()
    }

    /// What was taken so far, and forgets it, and what was dialled.
    pub fn take_transactions(&self) -> Vec<Transaction> {
        let mut record = self.inner.record.lock().unwrap();
        record.dialled = Vec::new();
        std::mem::take(&mut record.transactions)
    }

    /// What was dialled so far.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        self.inner.record.lock().unwrap().dialled.clone()
    }

    /// How often the MX records of `domain` were asked for.
    pub fn mx_queries(&self, domain: &str) -> usize {
        self.inner.queries.lock().unwrap().get(domain).copied().unwrap_or(0)
    }

    /// Sessions open now, as it changes.
    pub fn open_sessions(&self) -> watch::Receiver<usize> {
        self.inner.open.subscribe()
    }

    /// Of hosts that take chunks: how many messages each write answered.
    pub fn answered_together(&self) -> Vec<usize> {
        self.inner.record.lock().unwrap().answered_together.clone()
    }

    /// The most sessions that were open at once since this was asked last.
    pub fn take_peak_sessions(&self) -> usize {
        std::mem::take(&mut self.inner.record.lock().unwrap().peak)
    }

    /// The most sessions that were open at once.
    pub fn peak_sessions(&self) -> usize {
        self.inner.record.lock().unwrap().peak
    }
}

/// A host that takes everything.
pub fn friendly() -> Host {
    Host::Answers(Arc::new(|_| None))
}

/// A host that answers each command that starts with `prefix` (in upper case) with `reply`.
pub fn answers(prefix: &'static str, reply: &'static str) -> Host {
    Host::Answers(Arc::new(move |line| line.to_ascii_uppercase().starts_with(prefix).then(|| reply.to_owned())))
}

/// A host that does so the first `times` times.
pub fn answers_at_first(times: usize, prefix: &'static str, reply: &'static str) -> Host {
    let left = Mutex::new(times);
    Host::Answers(Arc::new(move |line| {
        let mut left = left.lock().unwrap();
        if *left == 0 || !line.to_ascii_uppercase().starts_with(prefix) {
            return None;
        }
        *left -= 1;
        Some(reply.to_owned())
    }))
}

impl Dns for Net {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Answer<Vec<Mx>>, LookupError>> {
        Box::pin(async move {
            *self.inner.queries.lock().unwrap().entry(name.to_string()).or_default() += 1;
            let ttl = Duration::from_secs(3600);
            match self.inner.mx.lock().unwrap().get(name.as_str()) {
                Some(Ok(value)) => Ok(Answer { value: value.clone(), ttl }),
                Some(Err(error)) => Err(error.clone()),
                None => Err(LookupError::NoSuchName { negative_ttl: Some(ttl) }),
            }
        })
    }

    fn addresses<'a>(&'a self, host: &'a str, family: Family) -> BoxFuture<'a, Result<Answer<Vec<IpAddr>>, LookupError>> {
        Box::pin(async move {
            let ttl = Duration::from_secs(3600);
            let known = self.inner.addresses.lock().unwrap().get(host).cloned();
            let Some(all) = known else { return Err(LookupError::NoSuchName { negative_ttl: Some(ttl) }) };
            let value: Vec<IpAddr> = all.into_iter().filter(|ip| ip.is_ipv6() == (family == Family::V6)).collect();
            if value.is_empty() { Err(LookupError::NoData { negative_ttl: Some(ttl) }) } else { Ok(Answer { value, ttl }) }
        })
    }
}

impl Dialer for Net {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let session = {
                let mut record = self.inner.record.lock().unwrap();
                record.dialled.push(address);
                record.sessions += 1;
                record.sessions
            };
            let host = self.inner.hosts.lock().unwrap().get(&address.ip()).cloned();
            match host {
                None => Err(io::ErrorKind::HostUnreachable.into()),
                Some(Host::Refuses) => Err(io::ErrorKind::ConnectionRefused.into()),
                Some(host) => {
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    let inner = self.inner.clone();
                    inner.open.send_modify(|open| *open += 1);
                    {
                        let mut record = inner.record.lock().unwrap();
                        record.peak = record.peak.max(*inner.open.borrow());
                    }
                    let mut sessions = self.inner.sessions.lock().unwrap();
                    // Those that ended are let go, or a long test would be a growing one.
                    while sessions.try_join_next().is_some() {}
                    sessions.spawn(async move {
                        // A session that the other side drops ends in an error: that is its end all the same.
                        let _ = serve(&inner, host, theirs, address.ip(), session).await;
                        inner.open.send_modify(|open| *open -= 1);
                    });
                    Ok(Box::new(ours) as Box<dyn Io>)
                }
            }
        })
    }
}

async fn serve(inner: &Inner, host: Host, stream: DuplexStream, ip: IpAddr, session: usize) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let mut delay = Duration::ZERO;
    let mut chunks = None;
    let mut owed = Vec::new();
    let answers: Answers = match host {
        Host::Answers(answers) => answers,
        Host::Slow(time) => {
            delay = time;
            Arc::new(|_| None)
        }
        Host::Few(most) if *inner.open.borrow() > most => {
            Arc::new(|line| (line == "CONNECT").then(|| "421 4.7.0 too many sessions".to_owned()))
        }
        Host::Few(_) => Arc::new(|_| None),
        Host::Gate(mut gate) => {
            let _ = gate.wait_for(|open| *open).await;
            Arc::new(|_| None)
        }
        Host::Chunks(together, time) => {
            chunks = Some((together, time));
            Arc::new(|line| line.starts_with("EHLO").then(|| "250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING".to_owned()))
        }
        Host::Silent | Host::Refuses => {
            let mut nothing = Vec::new();
            read.read_to_end(&mut nothing).await?;
            return Ok(());
        }
    };
    let greeting = answers("CONNECT").unwrap_or_else(|| "220 mx.test ESMTP".to_owned());
    if is_end(&greeting, &mut read).await? {
        return Ok(());
    }
    write.write_all(format!("{greeting}\r\n").as_bytes()).await?;
    if !greeting.starts_with('2') {
        return Ok(());
    }
    let mut current =
        Transaction { ip, session, login: None, at: tokio::time::Instant::now(), mail: String::new(), rcpts: Vec::new(), data: Vec::new() };
    let mut line = String::new();
    let mut has_sender = false;
    loop {
        line.clear();
        if let Some((together, time)) = chunks
            && owed.iter().filter(|(_, is_end)| *is_end).count() > 0
        {
            let ends = owed.iter().filter(|(_, is_end)| *is_end).count();
            // More may be on its way, unless as many wait as are answered together.
            let more = ends < together && tokio::time::timeout(time, read.fill_buf()).await.is_ok();
            if !more {
                inner.record.lock().unwrap().answered_together.push(ends);
                let replies: String = owed.drain(..).map(|(reply, _)| reply).collect();
                write.write_all(replies.as_bytes()).await?;
            }
        }
        if read.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let command = line.trim_end();
        let verb = command.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let own = answers(command);
        let taken = own.as_ref().is_none_or(|reply| reply.starts_with('2') || reply.starts_with('3'));
        let usual = match verb.as_str() {
            "EHLO" => "250-mx.test\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250 8BITMIME",
            "AUTH" if taken => {
                current.login = Some(command.to_owned());
                "235 2.7.0 ok"
            }
            "MAIL" if taken => {
                has_sender = true;
                current.mail = between_brackets(command);
                current.rcpts.clear();
                "250 2.1.0 ok"
            }
            "RCPT" if !has_sender => "503 5.5.1 MAIL first",
            "RCPT" if taken => {
                current.rcpts.push(between_brackets(command));
                "250 2.1.5 ok"
            }
            "DATA" if current.rcpts.is_empty() => "554 5.5.1 no valid recipients",
            "DATA" if taken => {
                has_sender = false;
                write.write_all(b"354 go on\r\n").await?;
                current.data = content(&mut read).await?;
                tokio::time::sleep(delay).await;
                let reply = answers(".").unwrap_or_else(|| "250 2.0.0 queued".to_owned());
                if is_end(&reply, &mut read).await? {
                    return Ok(());
                }
                current.at = tokio::time::Instant::now();
                if reply.starts_with('2') {
                    inner.record.lock().unwrap().transactions.push(current.clone());
                }
                current.rcpts.clear();
                write.write_all(format!("{reply}\r\n").as_bytes()).await?;
                continue;
            }
            "RSET" => {
                has_sender = false;
                current.rcpts.clear();
                "250 2.0.0 ok"
            }
            "BDAT" => {
                let size = command.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
                current.data = vec![0; size];
                read.read_exact(&mut current.data).await?;
                current.at = tokio::time::Instant::now();
                inner.record.lock().unwrap().transactions.push(current.clone());
                "250 2.0.0 queued"
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        let reply = own.unwrap_or_else(|| usual.to_owned());
        if is_end(&reply, &mut read).await? {
            return Ok(());
        }
        if chunks.is_some() && matches!(verb.as_str(), "MAIL" | "RCPT" | "BDAT" | "RSET") {
            owed.push((format!("{reply}\r\n"), verb == "BDAT"));
            continue;
        }
        write.write_all(format!("{reply}\r\n").as_bytes()).await?;
        if verb == "QUIT" || reply.starts_with("421") {
            return Ok(());
        }
    }
}

/// Whether a host says nothing any more; a silent one waits until the other side has had enough of it.
async fn is_end(reply: &str, read: &mut (impl AsyncReadExt + Unpin)) -> io::Result<bool> {
    if reply == "SILENT" {
        tokio::io::copy(read, &mut tokio::io::sink()).await?;
    }
    Ok(matches!(reply, "CLOSE" | "SILENT"))
}

async fn content(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let start = data.len();
        if read.read_until(b'\n', &mut data).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &data[start..] == b".\r\n" {
            data.truncate(start);
            return Ok(data);
        }
        if data[start] == b'.' {
            data.remove(start);
        }
    }
}

fn between_brackets(command: &str) -> String {
    command.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(inner, _)| inner.to_owned()).unwrap_or_default()
}
