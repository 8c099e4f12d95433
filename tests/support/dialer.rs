//! How a client reaches scripted peers: connections in memory (paused time) or TCP on loopback, and certificates for them.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use smtp_direct::smtp::{Dialer, Dialing, Io};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::cut::{Cut, CutAt};
use super::{Record, Script, play};

// ---------------------------------------------------------------------------------------------------------------- dialers

/// What a dialled address does.
pub enum Dial {
    /// A peer is there.
    Peer(Script),
    /// A peer whose connection ends within its dialogue.
    Cut(Script, CutAt),
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
    taken: Mutex<Vec<Arc<AtomicUsize>>>,
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
            taken: Mutex::default(),
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

    /// How many octets the client took from each peer, in the order of the dials: what it holds of a peer's is not more.
    pub fn taken(&self) -> Vec<usize> {
        self.taken.lock().unwrap().iter().map(|taken| taken.load(Ordering::Relaxed)).collect()
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
            let connect = |play: Playing| {
                let (ours, theirs) = tokio::io::duplex(self.buffer);
                self.peers.lock().unwrap().push(play(theirs));
                let taken: Arc<AtomicUsize> = Arc::default();
                self.taken.lock().unwrap().push(taken.clone());
                Ok(Box::new(Tapped { io: ours, writes: self.writes.clone(), taken }) as Box<dyn Io>)
            };
            match dial {
                Dial::Peer(script) => connect(Box::new(|stream| tokio::spawn(play(stream, script)))),
                Dial::Cut(script, cut) => connect(Box::new(move |stream| tokio::spawn(play(Cut::new(stream, cut), script)))),
                Dial::Fail(kind) => Err(kind.into()),
                Dial::Hang => std::future::pending().await,
            }
        })
    }
}

type Playing = Box<dyn FnOnce(DuplexStream) -> JoinHandle<Record> + Send>;

/// A client's end whose writes are recorded one by one, and whose reads are counted.
struct Tapped {
    io: DuplexStream,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    taken: Arc<AtomicUsize>,
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.taken.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        result
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
        Self::start_cut(scripts.into_iter().map(|script| (script, CutAt::Never)).collect()).await
    }

    /// The same with connections that end within their dialogues.
    pub async fn start_cut(scripts: Vec<(Script, CutAt)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut records = Vec::new();
            for (script, cut) in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                // What was said before a reset has left.
                stream.set_nodelay(true).unwrap();
                records.push(play(Cut::new(stream, cut), script).await);
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
    server_tls_with(names, Vec::new())
}

/// The same with what else it sends of its chain.
pub fn server_tls_with(names: &[&str], others: Vec<rustls::pki_types::CertificateDer<'static>>) -> (Arc<rustls::ServerConfig>, String) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert([vec![cert.der().clone()], others].concat(), key)
        .unwrap();
    (Arc::new(config), cert.pem())
}

/// What it sends in the handshake is longer than a megabyte.
pub fn server_with_a_long_chain() -> Arc<rustls::ServerConfig> {
    let others = (0..17).map(|_| vec![0x30; 64 * 1024].into()).collect();
    server_tls_with(&["mx.test"], others).0
}

/// One certificate for all: making one takes its time.
pub fn server() -> Arc<rustls::ServerConfig> {
    static SERVER: std::sync::OnceLock<Arc<rustls::ServerConfig>> = std::sync::OnceLock::new();
    SERVER.get_or_init(|| server_tls(&["mx.test"]).0).clone()
}
