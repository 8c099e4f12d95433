//! Peers that answer anything, at any pace: a session with one ends, everybody is told something, delivered is only what the peer has had
//! whole, and what it is told of is fit for a log.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use smtp_direct::config::{Config, TlsMode};
use smtp_direct::message::{Address, Content, Domain, Notify, Ret, ReversePath};
use smtp_direct::outcome::{Fault, Outcome};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Accepted, Client, Dialer, Dialing, Io, Mail, Rcpt, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::canonical::assert_one_line;
use super::scratch::Scratch;

/// What ends one turn of the peer's and waits for the client's.
const TURN: &[u8] = b"C:\n";
/// Longer than all limits of a session together.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// The first octet says what is sent and how the peer behaves, the rest is what it says: its turns end with [`TURN`].
pub fn check(data: &[u8]) {
    let Some((&options, mut said)) = data.split_first() else { return };
    let mut turns = VecDeque::new();
    while let Some(at) = said.windows(TURN.len()).position(|window| window == TURN) {
        turns.push_back(said[..at].to_vec());
        said = &said[at + TURN.len()..];
    }
    turns.push_back(said.to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, run(options, turns)).await.expect("the session hangs") });
}

async fn run(options: u8, turns: VecDeque<Vec<u8>>) {
    let is_set = |bit: u8| options & (1 << bit) != 0;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let peer = Peer { turns, saying: VecDeque::new(), asked: true, stalls: is_set(2), slow: is_set(3), heard: heard.clone() };
    let dialer = Arc::new(Once(Mutex::new(Some(peer))));
    let letter = Letter::new(1 + usize::from(options & 3), is_set(4), is_set(5), is_set(6));
    let mut session = match client().with_dialer(dialer).connect(&endpoint()).await {
        Ok(session) => session,
        Err(error) => return assert_fault(&error.fault),
    };
    let mut results = Vec::new();
    for _ in 0..1 + usize::from(is_set(7)) {
        results.push(letter.send(&mut session).await);
        if !session.is_reusable() {
            break;
        }
    }
    session.quit().await;

    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert_lines(&heard);
    let (mut taken, mut in_doubt) = (0, 0);
    for results in &results {
        assert_eq!(results.len(), letter.recipients.len());
        for result in results {
            match result {
                Ok(accepted) => assert!(accepted.reply.is_positive()),
                Err(fault) => assert_fault(fault),
            }
        }
        taken += usize::from(results.iter().any(Result::is_ok));
        in_doubt += usize::from(results.iter().any(|result| matches!(result, Err(Fault::InDoubt { .. }))));
    }
    let times = times_in(&heard, &letter.file.stuffed) + times_in(&heard, &letter.file.chunk);
    assert!(taken <= times && in_doubt <= times, "{taken} taken, {in_doubt} in doubt, sent {times} times: {results:?}");
}

#[track_caller]
fn assert_fault(fault: &Fault) {
    assert!(!matches!(fault, Fault::Internal | Fault::Damaged { .. } | Fault::LocalIo { .. }), "{fault:?}");
    assert_one_line(&Outcome::of(fault, None).text, 512);
}

/// Lines, each ended by CRLF; the last one may have been broken off.
#[track_caller]
fn assert_lines(heard: &[u8]) {
    for (at, octet) in heard.iter().enumerate() {
        match octet {
            b'\r' => assert!(heard.get(at + 1).is_none_or(|next| *next == b'\n'), "a bare CR at {at}"),
            b'\n' => assert!(at > 0 && heard[at - 1] == b'\r', "a bare LF at {at}"),
            _ => {}
        }
    }
}

fn times_in(heard: &[u8], part: &[u8]) -> usize {
    // From line start to line start, so that a search for its first line is enough to skip the rest.
    let mut times = 0;
    let mut rest = heard;
    while rest.len() >= part.len() {
        if rest.starts_with(part) {
            times += 1;
            rest = &rest[part.len()..];
        } else {
            match rest.iter().position(|octet| *octet == b'\n') {
                Some(end) => rest = &rest[end + 1..],
                None => break,
            }
        }
    }
    times
}

/// Made once, as it reads certificates; what is known of peers is known by their addresses, of which each session has its own.
fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let config = || Config::default_for(Domain::parse("client.test").unwrap());
    CLIENT.get_or_init(|| Client::new(&config(), Arc::new(Once(Mutex::new(None)))).unwrap()).clone()
}

fn endpoint() -> Endpoint {
    static NUMBER: AtomicU32 = AtomicU32::new(0x0A00_0000);
    let address = SocketAddr::from((Ipv4Addr::from(NUMBER.fetch_add(1, Ordering::Relaxed)), 25));
    Endpoint { host: "mx.test".into(), address, preference: 10, tls: TlsMode::None, window: 4, credentials: None }
}

/// A file, and the forms in which it is sent.
struct File {
    file: Scratch,
    content: Content,
    stuffed: Vec<u8>,
    chunk: Vec<u8>,
}

impl File {
    fn new(text: &str) -> Self {
        let size = text.len() as u64;
        let content = Content { file_size: size, wire_size: size, canonical: true, ..Content::default() };
        let stuffed = text.split_inclusive('\n').map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() });
        Self {
            file: Scratch::new(text.as_bytes()),
            content,
            stuffed: (stuffed.collect::<String>() + ".\r\n").into_bytes(),
            chunk: format!("BDAT {size} LAST\r\n{text}").into_bytes(),
        }
    }

    fn short() -> &'static Self {
        static FILE: OnceLock<File> = OnceLock::new();
        FILE.get_or_init(|| Self::new("Subject: short\r\n\r\n.\r\nHello.\r\n"))
    }

    /// More than a block.
    fn long() -> &'static Self {
        static FILE: OnceLock<File> = OnceLock::new();
        FILE.get_or_init(|| Self::new(&(String::from("Subject: long\r\n\r\n") + &".line with a dot\r\n".repeat(4_000))))
    }
}

/// What is sent.
struct Letter {
    sender: ReversePath,
    recipients: Vec<Address>,
    notify: Notify,
    dsn: bool,
    file: &'static File,
}

impl Letter {
    fn new(recipients: usize, long: bool, dsn: bool, utf8: bool) -> Self {
        let local = if utf8 { "jürgen" } else { "r" };
        Self {
            sender: ReversePath::parse("sender@example.org").unwrap(),
            recipients: (0..recipients).map(|i| Address::parse(&format!("{local}{i}@example.com")).unwrap()).collect(),
            notify: if dsn { Notify { success: true, explicit: true, ..Notify::default() } } else { Notify::default() },
            dsn,
            file: if long { File::long() } else { File::short() },
        }
    }

    async fn send(&self, session: &mut Session) -> Vec<Result<Accepted, Fault>> {
        let mail = Mail {
            sender: &self.sender,
            recipients: self.recipients.iter().map(|address| Rcpt { address, notify: self.notify }).collect(),
            content: &self.file.content,
            file: Path::new(self.file.file.path()),
            ret: self.dsn.then_some(Ret::Headers),
            envid: self.dsn.then_some("id+1"),
        };
        session.send(&mail).await
    }
}

/// Dials one peer.
struct Once(Mutex<Option<Peer>>);

impl Dialer for Once {
    fn dial(&self, _: SocketAddr) -> Dialing<'_> {
        let peer = self.0.lock().unwrap().take().expect("dialled once");
        Box::pin(async { Ok(Box::new(peer) as Box<dyn Io>) })
    }
}

/// A peer that takes everything and says its turns, each after the client has said something.
struct Peer {
    turns: VecDeque<Vec<u8>>,
    saying: VecDeque<u8>,
    /// The client has said something since the last turn.
    asked: bool,
    /// At the end of its turns it stays silent; otherwise it closes.
    stalls: bool,
    /// An octet at a time.
    slow: bool,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.saying.is_empty() {
            if !self.asked {
                return Poll::Pending;
            }
            match self.turns.pop_front() {
                Some(turn) => self.saying = turn.into(),
                None if self.stalls => return Poll::Pending,
                None => return Poll::Ready(Ok(())),
            }
            self.asked = false;
            if self.saying.is_empty() {
                return Poll::Pending;
            }
        }
        let most = if self.slow { 1 } else { buffer.remaining() };
        let count = self.saying.len().min(most);
        let said: Vec<u8> = self.saying.drain(..count).collect();
        buffer.put_slice(&said);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        self.heard.lock().unwrap().extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
