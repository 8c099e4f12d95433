//! The other end of SMTP sessions, scripted: over memory (paused time) or TCP on loopback. Records every octet that it was sent.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use smtp_direct::config::{
    AddressFamily, Config, Credentials, Dns, Log, LogFormat, Order, Reports, Retry, Sending, Smtp, Spool, Tls, TlsMode,
};
use smtp_direct::message::{Address, Content, Domain, Notify, Ret, ReversePath};
use smtp_direct::outcome::Fault;
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Accepted, Dialer, Dialing, Io, Mail, Rcpt, Session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What EHLO says in these tests.
pub const HOSTNAME: &str = "client.test";

// ---------------------------------------------------------------------------------------------------------------- scripts

/// One thing that a peer does.
pub enum Step {
    /// Writes these octets.
    Say(Vec<u8>),
    /// Reads one line and compares it, end included.
    Expect(Vec<u8>),
    /// Reads content up to the lone dot and records it, still dot-stuffed, without the dot.
    Content,
    /// Reads this many octets of content.
    Swallow(usize),
    /// Shakes hands.
    Tls(Arc<rustls::ServerConfig>),
    /// Says nothing and reads nothing for longer than any limit lasts.
    Stall,
    /// Goes on after a while.
    Wait(Duration),
    /// Closes the connection.
    Close,
    /// Resets the connection (on TCP), or drops it.
    Reset,
    /// Answers each line by this until the client goes; after a 354, the content is "." for it.
    Serve(Box<dyn FnMut(&str) -> String + Send>),
}

/// A list of steps, built from the first word on. At its end the peer reads until the client is gone.
#[derive(Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// "220", then EHLO answered with these extensions.
    pub fn offering(extensions: &[&str]) -> Self {
        Self::new().say("220 mx.test ESMTP").ehlo(extensions)
    }

    /// EHLO answered with these extensions.
    pub fn ehlo(self, extensions: &[&str]) -> Self {
        let mut lines = vec!["mx.test greets you"];
        lines.extend(extensions);
        let last = lines.len() - 1;
        let reply: Vec<String> =
            lines.iter().enumerate().map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' })).collect();
        self.expect(&format!("EHLO {HOSTNAME}")).say(&reply.join("\r\n"))
    }

    pub fn step(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// A line, whose end is added.
    pub fn say(self, line: &str) -> Self {
        self.raw(format!("{line}\r\n").as_bytes())
    }

    /// Octets as they are.
    pub fn raw(self, octets: &[u8]) -> Self {
        self.step(Step::Say(octets.to_vec()))
    }

    /// A line, whose end is added.
    pub fn expect(self, line: &str) -> Self {
        self.step(Step::Expect(format!("{line}\r\n").into_bytes()))
    }

    /// A line and the answer.
    pub fn on(self, line: &str, answer: &str) -> Self {
        self.expect(line).say(answer)
    }

    /// MAIL, one RCPT and DATA of [`Letter::new`], answered as by a friendly peer that offers PIPELINING.
    pub fn envelope(self) -> Self {
        self.expect("MAIL FROM:<sender@example.org>")
            .expect("RCPT TO:<r0@example.com>")
            .expect("DATA")
            .say("250 2.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n354 go ahead")
    }

    pub fn content(self) -> Self {
        self.step(Step::Content)
    }

    pub fn serve(self, answer: impl FnMut(&str) -> String + Send + 'static) -> Self {
        self.step(Step::Serve(Box::new(answer)))
    }
}

/// A peer that accepts everything, however often.
pub fn friendly(line: &str) -> String {
    match line.split(' ').next().unwrap_or_default() {
        "DATA" => "354 go ahead".to_owned(),
        "." => "250 2.0.0 queued as TEST".to_owned(),
        "QUIT" => "221 bye".to_owned(),
        _ => "250 2.0.0 ok".to_owned(),
    }
}

/// What a peer saw.
#[derive(Debug, Default)]
pub struct Record {
    /// Everything, decrypted.
    pub received: Vec<u8>,
    /// The contents, in order.
    pub contents: Vec<Vec<u8>>,
    /// What came after the script's end.
    pub rest: Vec<u8>,
    /// How the client ended the connection; `None` where the peer did.
    pub ended: Option<Result<(), io::ErrorKind>>,
}

impl Record {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }
}

/// A stream that a peer can be played on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Ends it the hard way.
    fn reset(self);
}

impl Stream for DuplexStream {
    fn reset(self) {}
}

impl Stream for TcpStream {
    fn reset(self) {
        self.set_zero_linger().unwrap();
    }
}

enum Link<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

/// One connection of a peer.
struct Player<S> {
    link: Option<Link<S>>,
    ahead: Vec<u8>,
    record: Record,
}

impl<S: Stream> Player<S> {
    async fn more(&mut self) -> io::Result<usize> {
        let before = self.ahead.len();
        let count = match self.link.as_mut().unwrap() {
            Link::Plain(stream) => stream.read_buf(&mut self.ahead).await?,
            Link::Tls(stream) => stream.read_buf(&mut self.ahead).await?,
        };
        self.record.received.extend_from_slice(&self.ahead[before..]);
        Ok(count)
    }

    async fn say(&mut self, octets: &[u8]) -> io::Result<()> {
        match self.link.as_mut().unwrap() {
            Link::Plain(stream) => stream.write_all(octets).await,
            Link::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    /// Octets up to and with `end`; `None` when the client is gone.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.ahead.drain(..at + end.len()).collect()));
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn content(&mut self) -> io::Result<bool> {
        // The lone dot of an empty content has no line before it.
        while self.ahead.len() < 3 {
            if self.more().await? == 0 {
                return Ok(false);
            }
        }
        if self.ahead.starts_with(b".\r\n") {
            self.ahead.drain(..3);
            self.record.contents.push(Vec::new());
            return Ok(true);
        }
        let Some(mut content) = self.until(b"\r\n.\r\n").await? else { return Ok(false) };
        content.truncate(content.len() - 3);
        self.record.contents.push(content);
        Ok(true)
    }

    async fn serve(&mut self, mut answer: Box<dyn FnMut(&str) -> String + Send>) -> io::Result<()> {
        while let Some(line) = self.until(b"\r\n").await? {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let reply = answer(&line);
            let said = self.say(format!("{reply}\r\n").as_bytes()).await;
            if line == "QUIT" {
                // Its reply is not waited for; how the client closes still counts.
                continue;
            }
            said?;
            if reply.starts_with("354") {
                if !self.content().await? {
                    return Ok(());
                }
                let reply = answer(".");
                self.say(format!("{reply}\r\n").as_bytes()).await?;
            }
        }
        Ok(())
    }
}

/// Plays `script`; panics where the client does not keep to it.
pub async fn play<S: Stream>(stream: S, script: Script) -> Record {
    let mut player = Player { link: Some(Link::Plain(stream)), ahead: Vec::new(), record: Record::default() };
    for (number, step) in script.0.into_iter().enumerate() {
        let at = |what: String| -> ! { panic!("step {number} of the script: {what}") };
        match step {
            Step::Say(octets) => {
                if let Err(error) = player.say(&octets).await {
                    at(format!("cannot say {:?}: {error}", String::from_utf8_lossy(&octets)));
                }
            }
            Step::Expect(expected) => {
                let expected = String::from_utf8_lossy(&expected).into_owned();
                match player.until(b"\r\n").await {
                    Ok(Some(line)) if line == expected.as_bytes() => {}
                    Ok(Some(line)) => at(format!("expected {expected:?}, got {:?}", String::from_utf8_lossy(&line))),
                    Ok(None) => at(format!("expected {expected:?}, the client closed after {:?}", player.record.text())),
                    Err(error) => at(format!("expected {expected:?}, got {error}")),
                }
            }
            Step::Content => {
                if !player.content().await.unwrap_or(false) {
                    at(format!("no end of content in {:?}", player.record.text()));
                }
            }
            Step::Swallow(octets) => {
                while player.ahead.len() < octets {
                    if player.more().await.unwrap_or(0) == 0 {
                        at(format!("only {} octets came", player.ahead.len()));
                    }
                }
                player.ahead.drain(..octets);
            }
            Step::Tls(config) => {
                let Some(Link::Plain(stream)) = player.link.take() else { at("TLS within TLS".to_owned()) };
                assert!(player.ahead.is_empty(), "clear text after STARTTLS: {:?}", String::from_utf8_lossy(&player.ahead));
                match TlsAcceptor::from(config).accept(stream).await {
                    Ok(stream) => player.link = Some(Link::Tls(Box::new(stream))),
                    // What the client makes of it is what the test looks at.
                    Err(_) => return player.record,
                }
            }
            Step::Stall => {
                // On paused time, so that nothing really waits.
                tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
                return player.record;
            }
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::Close => return player.record,
            Step::Reset => {
                match player.link.take().unwrap() {
                    Link::Plain(stream) => stream.reset(),
                    Link::Tls(stream) => stream.into_inner().0.reset(),
                }
                return player.record;
            }
            Step::Serve(answer) => {
                let ended = player.serve(answer).await;
                player.record.ended = Some(ended.map_err(|error| error.kind()));
                return player.record;
            }
        }
    }
    let ended = loop {
        match player.more().await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.kind()),
        }
    };
    player.record.rest = player.ahead;
    player.record.ended = Some(ended);
    player.record
}

// ---------------------------------------------------------------------------------------------------------------- dialers

/// What a dialled address does.
pub enum Dial {
    /// A peer is there.
    Peer(Script),
    /// The connection fails.
    Fail(io::ErrorKind),
    /// No answer ever.
    Hang,
}

/// Connects to peers in memory, in the order of their scripts.
pub struct MemoryDialer {
    dials: Mutex<VecDeque<Dial>>,
    peers: Mutex<Vec<JoinHandle<Record>>>,
    dialled: Mutex<Vec<SocketAddr>>,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    buffer: usize,
}

impl MemoryDialer {
    /// Each dial gets the next one.
    pub fn new(dials: impl IntoIterator<Item = Dial>) -> Arc<Self> {
        Self::with_buffer(dials, 1024 * 1024)
    }

    /// As [`Self::new`], with connections that hold so many octets in each direction.
    pub fn with_buffer(dials: impl IntoIterator<Item = Dial>, buffer: usize) -> Arc<Self> {
        Arc::new(Self {
            dials: Mutex::new(dials.into_iter().collect()),
            peers: Mutex::default(),
            dialled: Mutex::default(),
            writes: Arc::default(),
            buffer,
        })
    }

    /// One peer.
    pub fn peer(script: Script) -> Arc<Self> {
        Self::new([Dial::Peer(script)])
    }

    /// What each write of the client carried: its turns.
    pub fn turns(&self) -> Vec<String> {
        self.writes.lock().unwrap().iter().map(|turn| String::from_utf8_lossy(turn).into_owned()).collect()
    }

    /// How often was dialled.
    pub fn dials(&self) -> usize {
        self.dialled.lock().unwrap().len()
    }

    /// What the peers saw, in the order of the dials. The client's sessions must be gone.
    pub async fn finish(&self) -> Vec<Record> {
        let peers: Vec<_> = std::mem::take(&mut *self.peers.lock().unwrap());
        let mut records = Vec::new();
        for peer in peers {
            records.push(match tokio::time::timeout(Duration::from_secs(48 * 3600), peer).await {
                Ok(Ok(record)) => record,
                Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Record::default(),
            });
        }
        records
    }
}

impl Dialer for MemoryDialer {
    fn dial(&self, address: SocketAddr) -> Dialing<'_> {
        self.dialled.lock().unwrap().push(address);
        let dial = self.dials.lock().unwrap().pop_front().expect("one dial more than the test has scripts");
        Box::pin(async move {
            match dial {
                Dial::Peer(script) => {
                    let (ours, theirs) = tokio::io::duplex(self.buffer);
                    self.peers.lock().unwrap().push(tokio::spawn(play(theirs, script)));
                    Ok(Box::new(Tapped { io: ours, writes: self.writes.clone() }) as Box<dyn Io>)
                }
                Dial::Fail(kind) => Err(kind.into()),
                Dial::Hang => std::future::pending().await,
            }
        })
    }
}

/// A client's end whose writes are recorded one by one.
struct Tapped {
    io: DuplexStream,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, octets);
        if let Poll::Ready(Ok(count)) = &result {
            self.writes.lock().unwrap().push(octets[..*count].to_vec());
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A peer on 127.0.0.1, which takes one connection per script.
pub struct TcpPeer {
    pub address: SocketAddr,
    task: JoinHandle<Vec<Record>>,
}

impl TcpPeer {
    pub async fn start(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut records = Vec::new();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                records.push(play(stream, script).await);
            }
            records
        });
        Self { address, task }
    }

    pub async fn finish(self) -> Vec<Record> {
        match within(self.task).await {
            Ok(records) => records,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Bounds a test on real time.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test takes too long")
}

// ---------------------------------------------------------------------------------------------------------------- certificates

/// A server's side of TLS, with a certificate of its own for these names, and that certificate in PEM.
pub fn server_tls(names: &[&str]) -> (Arc<rustls::ServerConfig>, String) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), cert.pem())
}

// ---------------------------------------------------------------------------------------------------------------- the client's side

/// The defaults of `config/smtp-direct.toml`, as far as sessions know them.
pub fn config() -> Config {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let seconds = Duration::from_secs;
    Config {
        hostname: Domain::parse(HOSTNAME).unwrap(),
        spool: Spool { path: PathBuf::new(), settle: seconds(1), rescan: seconds(30), history: minutes(60), max_hops: 50 },
        sending: Sending {
            workers: 10,
            per_site: 5,
            order: Order::Arrival,
            messages_per_connection: 100,
            connection_lifetime: minutes(5),
            site_down_min: minutes(1),
            site_down_max: minutes(60),
            shutdown_grace: seconds(30),
        },
        retry: Retry { schedule: vec![minutes(5)], lifetime: minutes(7200), warn_after: None },
        dns: Dns {
            servers: Vec::new(),
            timeout: seconds(5),
            attempts: 2,
            cache_size: 1000,
            min_ttl: seconds(5),
            max_ttl: minutes(1440),
            serve_stale: minutes(60),
            blocked_targets: Vec::new(),
            address_family: AddressFamily::Both,
            overrides: Vec::new(),
        },
        tls: Tls { mode: TlsMode::Opportunistic, ca_file: None, remember_broken: minutes(60) },
        smtp: Smtp {
            port: 25,
            source_ipv4: None,
            source_ipv6: None,
            max_addresses: 5,
            max_sessions: 2,
            recipients_per_transaction: 100,
            connect_timeout: seconds(30),
            greeting_timeout: minutes(5),
            ehlo_timeout: minutes(5),
            starttls_timeout: minutes(5),
            auth_timeout: minutes(5),
            mail_timeout: minutes(5),
            rcpt_timeout: minutes(5),
            data_timeout: minutes(2),
            block_timeout: minutes(3),
            min_rate: 500,
            final_timeout: minutes(10),
        },
        reports: Reports { from: String::new(), postmaster: None, full_below: 50 * 1024 },
        log: Log { format: LogFormat::Text, level: tracing::Level::INFO },
    }
}

/// `mx.test` at an address of a documentation network.
pub fn endpoint(tls: TlsMode) -> Endpoint {
    Endpoint { host: "mx.test".into(), address: ([192, 0, 2, 25], 25).into(), preference: 10, tls, credentials: None }
}

/// The same with a login.
pub fn endpoint_with_login(tls: TlsMode, in_clear: bool) -> Endpoint {
    Endpoint { credentials: Some(Arc::new(Credentials::new("joe", "s3cret!", in_clear))), ..endpoint(tls) }
}

/// A message with its file, from `sender@example.org` to `r0@example.com`, `r1@example.com` and so on.
pub struct Letter {
    pub sender: ReversePath,
    pub recipients: Vec<(Address, Notify)>,
    pub content: Content,
    pub ret: Option<Ret>,
    pub envid: Option<String>,
    pub file: PathBuf,
}

impl Letter {
    pub fn new(recipients: usize, text: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("letter-{}-{}.eml", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, text).unwrap();
        let size = text.len() as u64;
        Self {
            sender: ReversePath::parse("sender@example.org").unwrap(),
            recipients: (0..recipients).map(|i| (Address::parse(&format!("r{i}@example.com")).unwrap(), Notify::default())).collect(),
            content: Content { file_size: size, wire_size: size, canonical: true, ..Content::default() },
            ret: None,
            envid: None,
            file,
        }
    }

    /// A few lines to one recipient.
    pub fn short() -> Self {
        Self::new(1, SHORT)
    }

    pub fn to(mut self, address: &str) -> Self {
        self.recipients.push((Address::parse(address).unwrap(), Notify::default()));
        self
    }

    pub fn mail(&self) -> Mail<'_> {
        Mail {
            sender: &self.sender,
            recipients: self.recipients.iter().map(|(address, notify)| Rcpt { address, notify: *notify }).collect(),
            content: &self.content,
            file: &self.file,
            ret: self.ret,
            envid: self.envid.as_deref(),
        }
    }

    /// Sends it on `session`.
    pub async fn send(&self, session: &mut Session) -> Vec<Result<Accepted, Fault>> {
        session.send(&self.mail()).await
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The text of [`Letter::short`].
pub const SHORT: &str = "Subject: short\r\n\r\nHello.\r\n";
