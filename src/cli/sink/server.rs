//! Takes connections, hands on what came in by them to a [`Policy`]: an SMTP receiver as a library, for `sink`, `demo` and tests.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::session::{Envelope, Session};

/// Decides what the client is told, and does what it likes with what came in. Called from the sessions: it must not take long.
pub trait Policy: Send + Sync + 'static {
    /// Whether [`Received::content`] is wanted. If not, no content is kept in memory, whatever its size.
    fn wants_content(&self) -> bool;

    /// A client has connected.
    fn connected(&self, _client: SocketAddr) {}

    /// RCPT. `sender` and `recipient` are without brackets; the sender is empty for the null sender.
    fn recipient(&self, _sender: &str, _recipient: &str) -> Verdict {
        Verdict::Accept
    }

    /// The end of the content: with anything but a refusal, the message is the policy's.
    fn message(&self, message: &Received<'_>) -> Verdict;
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// 250 with the sink's own words.
    Accept,
    /// This code and text, a `\n` between lines; 2xx accepts, 421 ends the session too.
    Reply(u16, Cow<'static, str>),
}

/// A message, whole.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// 1 for the first message of a sink; no two are equal.
    pub number: u64,
    /// Who sent it.
    pub client: SocketAddr,
    /// What the client calls itself.
    pub name: &'a str,
    /// MAIL's path; empty for the null sender.
    pub sender: &'a str,
    /// MAIL's parameters, parted by blanks, as they came.
    pub mail_parameters: &'a str,
    /// The accepted ones, in order.
    pub recipients: Recipients<'a>,
    /// Octets of the content.
    pub size: u64,
    /// The content without dot-stuffing, or nothing where the policy does not want it.
    pub content: &'a [u8],
}

/// The accepted recipients of a message.
#[derive(Debug, Clone, Copy)]
pub struct Recipients<'a>(pub(super) &'a Envelope);

impl<'a> Recipients<'a> {
    /// RCPT's path and parameters, each as it came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + use<'a> {
        self.0.recipients()
    }

    /// How many: at least one.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which extensions EHLO offers; the commands and parameters of the others are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the extensions")]
pub struct Features {
    pub pipelining: bool,
    pub size: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub enhanced_status_codes: bool,
    pub chunking: bool,
}

/// How a receiver behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What it calls itself.
    pub hostname: String,
    /// What it offers.
    pub features: Features,
    /// Octets of content; also the most that one session keeps in memory.
    pub max_size: u64,
    /// Of one message.
    pub max_recipients: usize,
    /// Connections at once; more wait to be accepted.
    pub max_sessions: usize,
    /// Waited before each answer, or before all the answers to one group of commands: as a distance would.
    pub delay: Duration,
    /// For the client to send or take something (RFC 5321 4.5.3.2.7).
    pub timeout: Duration,
}

/// An SMTP receiver that is not bound to a socket: sessions on any stream.
pub struct Receiver {
    pub(super) settings: Settings,
    pub(super) policy: Arc<dyn Policy>,
    messages: AtomicU64,
}

/// A listening SMTP receiver.
#[derive(Debug)]
pub struct Sink {
    listener: TcpListener,
    settings: Settings,
}

/// Octets read at once.
const BUFFER: usize = 64 * 1024;

impl Features {
    /// Nothing but plain SMTP.
    pub fn none() -> Self {
        Self {
            pipelining: false,
            size: false,
            eight_bit_mime: false,
            smtputf8: false,
            dsn: false,
            enhanced_status_codes: false,
            chunking: false,
        }
    }
}

/// All of them.
impl Default for Features {
    fn default() -> Self {
        Self { pipelining: true, size: true, eight_bit_mime: true, smtputf8: true, dsn: true, enhanced_status_codes: true, chunking: true }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Not a name that a client on the same host could take for its own, and then for a loop.
            hostname: "sink.invalid".to_owned(),
            features: Features::default(),
            max_size: 100 << 20,
            max_recipients: 10_000,
            max_sessions: 10_000,
            delay: Duration::ZERO,
            timeout: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Behaves by `settings`, and asks `policy`.
    pub fn new(settings: Settings, policy: Arc<dyn Policy>) -> Self {
        Self { settings, policy, messages: AtomicU64::new(0) }
    }

    /// Serves one client until it quits, leaves, breaks the protocol beyond repair or stays silent.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, client: SocketAddr) -> io::Result<()> {
        self.policy.connected(client);
        let mut session = Session::new(self, client);
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        loop {
            if !session.replies().is_empty() {
                if !self.settings.delay.is_zero() {
                    sleep(self.settings.delay).await;
                }
                // All answers to what was read go in one write.
                timeout(self.settings.timeout, stream.write_all(session.replies())).await??;
                session.replied();
            }
            if session.is_over() {
                return timeout(self.settings.timeout, stream.shutdown()).await?;
            }
            match timeout(self.settings.timeout, stream.read(&mut buffer[filled..])).await? {
                Ok(0) => return Ok(()),
                Ok(more) => filled += more,
                Err(error) => return Err(error),
            }
            let used = session.take(&buffer[..filled]);
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        self.messages.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Sink {
    /// Listens, with the default [`Settings`].
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, settings: Settings::default() })
    }

    /// With other settings.
    #[must_use]
    pub fn with(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// Where it listens: the port that was chosen, where 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves clients until `shutdown`; then the sessions are cut off wherever they are. What the policy has accepted, it has.
    pub async fn run(self, policy: Arc<dyn Policy>, shutdown: impl Future<Output = ()>) {
        let receiver = Arc::new(Receiver::new(self.settings, policy));
        let mut sessions = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a session of the sink failed");
                    }
                }
                accepted = self.listener.accept(), if sessions.len() < receiver.settings.max_sessions => match accepted {
                    Ok((stream, client)) => {
                        let receiver = Arc::clone(&receiver);
                        sessions.spawn(async move {
                            // Answers must not wait for the acknowledgement of earlier ones.
                            let served = match stream.set_nodelay(true) {
                                Ok(()) => receiver.serve(stream, client).await,
                                Err(error) => Err(error),
                            };
                            if let Err(error) = served {
                                tracing::debug!(%client, %error, "a session of the sink broke off");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the sink cannot accept a connection");
                        // Out of file descriptors, most likely: sessions that end give some back.
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        sessions.shutdown().await;
    }
}
