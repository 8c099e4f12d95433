//! Takes endpoints, hands on sessions: connected, greeted, encrypted and logged in as each endpoint requires (RFC 5321 3.1, 4.1.1.1).

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use super::auth::log_in;
use super::certificate::{Chain, Shown};
use super::probe::{Step, Watch};
use super::quirks::{Quirk, Quirks};
use super::session::{Established, Session};
use super::tls::{Connectors, TlsSetupError};
use super::traffic::Traffic;
use super::wire::{Wire, WireError};
use super::{Capabilities, ConnectError, Dialer, Io, Reply};
use crate::config::{Config, Smtp, TlsMode};
use crate::message::Domain;
use crate::observe::trouble::{advice, is_shortage};
use crate::outcome::{Fault, Peer, Phase};
use crate::route::Endpoint;

/// How long a peer that got out of step is spoken to in a simpler way.
const REMEMBER_OUT_OF_STEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What sessions need of the configuration.
pub(super) struct Settings {
    /// What EHLO says.
    hostname: Domain,
    pub(super) smtp: Smtp,
    remember_broken: Duration,
}

/// Opens sessions. Cheap to clone; made anew when the configuration changes.
#[derive(Clone)]
pub struct Client {
    pub(super) settings: Arc<Settings>,
    connectors: Connectors,
    quirks: Arc<Quirks>,
    traffic: Traffic,
    dialer: Arc<dyn Dialer>,
}

impl Client {
    /// Reads the trusted certificates, which takes some milliseconds.
    pub fn new(config: &Config, dialer: Arc<dyn Dialer>) -> Result<Self, TlsSetupError> {
        Self::build(config, dialer, Arc::new(Quirks::new()), Traffic::default())
    }

    /// For a changed configuration: certificates are read again, what is known of peers stays remembered, what was
    /// counted stays counted, the dialer stays the same.
    pub fn reconfigured(&self, config: &Config) -> Result<Self, TlsSetupError> {
        Self::build(config, self.dialer.clone(), self.quirks.clone(), self.traffic.clone())
    }

    /// The same with another dialer, for changed source addresses.
    #[must_use]
    pub fn with_dialer(self, dialer: Arc<dyn Dialer>) -> Self {
        Self { dialer, ..self }
    }

    /// What was counted so far, here and by clones, and will be.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    fn build(config: &Config, dialer: Arc<dyn Dialer>, quirks: Arc<Quirks>, traffic: Traffic) -> Result<Self, TlsSetupError> {
        let settings =
            Settings { hostname: config.hostname.clone(), smtp: config.smtp.clone(), remember_broken: config.tls.remember_broken };
        Ok(Self { settings: Arc::new(settings), connectors: Connectors::new(config)?, quirks, traffic, dialer })
    }

    /// Opens a session, ready for mail. Every wait on the way has its limit from `[smtp]`; a second connection, in clear text, is made
    /// where the endpoint is `opportunistic` about TLS and the first one broke over it.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Session, ConnectError> {
        self.open(endpoint, &mut Watch::off()).await
    }

    /// As [`Self::connect`], telling `watch` of each step.
    pub(super) async fn open(&self, endpoint: &Endpoint, watch: &mut Watch) -> Result<Session, ConnectError> {
        let mut opening = Opening { client: self, endpoint, greeted: false, tls: None, over_tls: false, handshake: Duration::ZERO, watch };
        let opportunistic = endpoint.tls == TlsMode::Opportunistic;
        let clear = endpoint.tls == TlsMode::None || (opportunistic && self.quirks.knows(endpoint, Quirk::Tls));
        let mut result = Box::pin(opening.open(clear)).await;
        if let Err(fault) = &result
            && opportunistic
            && opening.broke_over_tls(fault)
        {
            self.note_quirk(endpoint, Quirk::Tls, fault);
            opening.tls = None;
            opening.over_tls = false;
            result = Box::pin(opening.open(true)).await;
        }
        result.map_err(|fault| ConnectError { fault, greeted: opening.greeted, peer: opening.peer(), handshake: opening.handshake })
    }
}

impl Client {
    /// The same, noting the certificates that peers show.
    pub(super) fn noting(&self, shown: &Shown) -> Self {
        Self { connectors: self.connectors.noting(shown), ..self.clone() }
    }

    /// What certificates say, and whether they prove the endpoint's name.
    pub(super) fn judge(&self, shown: &[CertificateDer<'_>], endpoint: &Endpoint) -> Chain {
        self.connectors.judge(shown, endpoint)
    }

    /// A session broke in a way that may be an accident, or what the peer does with what is sent ahead: it is the latter when it comes again.
    pub(super) fn note_break(&self, endpoint: &Endpoint, fault: &Fault) {
        if self.quirks.broke_again(endpoint) {
            self.note_quirk(endpoint, Quirk::Ahead, fault);
        }
    }

    /// Remembers it, and says so where it is news.
    pub(super) fn note_quirk(&self, endpoint: &Endpoint, quirk: Quirk, fault: &Fault) {
        let period = if quirk == Quirk::Tls { self.settings.remember_broken } else { REMEMBER_OUT_OF_STEP };
        if !self.quirks.knows(endpoint, quirk) {
            let remembered = humantime::format_duration(period);
            tracing::warn!(host = %endpoint.host, ip = %endpoint.address.ip(), %fault, %remembered, "{quirk}");
        }
        self.quirks.note(endpoint, quirk, period);
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hostname", &self.settings.hostname).finish_non_exhaustive()
    }
}

/// A session that is being opened.
struct Opening<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    /// 220 came.
    greeted: bool,
    /// How it is encrypted.
    tls: Option<Arc<str>>,
    /// From STARTTLS to the first answer under TLS: what breaks here breaks over TLS.
    over_tls: bool,
    /// How long TLS handshakes took so far.
    handshake: Duration,
    watch: &'a mut Watch,
}

impl Opening<'_> {
    async fn open(&mut self, clear: bool) -> Result<Session, Fault> {
        self.watch.begin();
        let opened = self.try_open(clear).await;
        if let Err(fault) = &opened {
            self.client.traffic.failed(fault);
            self.watch.failed();
        }
        opened
    }

    async fn try_open(&mut self, clear: bool) -> Result<Session, Fault> {
        let io = self.dial().await?;
        self.watch.passed(Step::Connect);
        let opened_at = Instant::now();
        let mut wire = Wire::new(io, self.client.traffic.sent_bytes.clone());
        match self.converse(&mut wire, clear).await {
            Ok((greeting, hello, capabilities)) => {
                let ahead = !self.client.quirks.knows(self.endpoint, Quirk::Ahead);
                let established = Established {
                    wire,
                    peer: self.peer(),
                    greeting,
                    hello,
                    capabilities,
                    opened_at,
                    handshake: self.handshake,
                    ahead,
                    open: self.client.traffic.opened(),
                };
                Ok(Session::new(established, self.client.clone(), self.endpoint.clone()))
            }
            Err(fault) => {
                if leaves_in_step(&fault) {
                    wire.quit().await;
                }
                Err(fault)
            }
        }
    }

    async fn dial(&self) -> Result<Box<dyn Io>, Fault> {
        let limit = self.smtp().connect_timeout;
        match timeout(limit, self.client.dialer.dial(self.endpoint.address)).await {
            Ok(Ok(io)) => Ok(io),
            Ok(Err(error)) if is_shortage(&error) => Err(Fault::Shortage { detail: format!("{error}: {}", advice(&error)) }),
            Ok(Err(error)) => Err(Fault::Connect { detail: error.to_string() }),
            Err(_) => Err(Fault::Connect { detail: format!("no answer within {}", humantime::format_duration(limit)) }),
        }
    }

    /// Everything before the first MAIL.
    async fn converse(&mut self, wire: &mut Wire, clear: bool) -> Result<(Reply, Reply, Capabilities), Fault> {
        if self.endpoint.tls == TlsMode::Implicit {
            self.encrypt(wire).await?;
        }
        let said = wire.reply(self.smtp().greeting_timeout).await;
        self.watch.note(|observed| observed.greeting = said.as_ref().ok().cloned());
        let greeting = positive(said, Phase::Greeting)?;
        self.greeted = true;
        self.watch.passed(Step::Greeting);
        let (mut hello, mut offered) = self.hello(wire).await?;
        self.watch.note(|observed| observed.hello = Some(hello.clone()));
        self.watch.passed(Step::Ehlo);
        if !clear && self.endpoint.tls != TlsMode::Implicit && self.start_tls(wire, &offered).await? {
            // Nothing that was said in clear text counts (RFC 3207 4.2).
            (hello, offered) = self.hello(wire).await?;
            self.over_tls = false;
            self.watch.note(|observed| observed.hello_again = Some(hello.clone()));
            self.watch.passed(Step::EhloAgain);
        }
        if let Some(credentials) = &self.endpoint.credentials {
            in_step(wire, Phase::Auth)?;
            log_in(wire, &offered, credentials, self.tls.is_some(), self.smtp()).await?;
            self.watch.passed(Step::Auth);
        }
        Ok((greeting, hello, offered))
    }

    /// EHLO, or HELO with a peer that does not know it.
    async fn hello(&self, wire: &mut Wire) -> Result<(Reply, Capabilities), Fault> {
        const PHASE: Phase = Phase::Ehlo;
        let limit = self.smtp().ehlo_timeout;
        in_step(wire, PHASE)?;
        let mut reply = self.ask(wire, &format!("EHLO {}\r\n", self.hostname()), limit).await.map_err(|error| error.during(PHASE))?;
        let mut offered = Capabilities::default();
        if reply.is_positive() {
            offered = Capabilities::parse(&reply);
            offered.pipelining &= !self.client.quirks.knows(self.endpoint, Quirk::Pipelining);
            offered.chunking &= !self.client.quirks.knows(self.endpoint, Quirk::Chunking);
        } else if reply.code() >= 500 {
            in_step(wire, PHASE)?;
            reply = self.ask(wire, &format!("HELO {}\r\n", self.hostname()), limit).await.map_err(|error| error.during(PHASE))?;
        }
        let reply = positive(Ok(reply), PHASE)?;
        let name = reply.text().split([' ', '\n']).next().unwrap_or_default();
        if name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(self.hostname()) {
            return Err(Fault::PeerIsSelf);
        }
        Ok((reply, offered))
    }

    /// STARTTLS and the handshake. `false`: the session goes on in clear text.
    async fn start_tls(&mut self, wire: &mut Wire, offered: &Capabilities) -> Result<bool, Fault> {
        const PHASE: Phase = Phase::StartTls;
        let opportunistic = self.endpoint.tls == TlsMode::Opportunistic;
        if !offered.starttls {
            return if opportunistic { Ok(false) } else { Err(Fault::TlsNotOffered) };
        }
        in_step(wire, PHASE)?;
        self.over_tls = true;
        match positive(self.ask(wire, "STARTTLS\r\n", self.smtp().starttls_timeout).await, PHASE) {
            Ok(_) => {
                self.watch.passed(Step::StartTls);
                self.encrypt(wire).await.map(|()| true)
            }
            Err(Fault::Reply { reply, .. }) if opportunistic && reply.code() != 421 => {
                self.over_tls = false;
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }

    async fn encrypt(&mut self, wire: &mut Wire) -> Result<(), Fault> {
        let began = Instant::now();
        let result = wire.encrypt(&self.client.connectors, self.endpoint, self.smtp().starttls_timeout).await;
        self.handshake += began.elapsed();
        self.tls = Some(result?);
        self.client.traffic.tls_handshake_seconds.observe(began.elapsed());
        self.watch.passed(Step::Handshake);
        Ok(())
    }

    async fn ask(&self, wire: &mut Wire, line: &str, limit: Duration) -> Result<Reply, WireError> {
        wire.output().extend_from_slice(line.as_bytes());
        wire.send(limit).await?;
        wire.reply(limit).await
    }

    /// Whether clear text on a new connection is worth a try after `fault`. Not after an injection: somebody is in between.
    fn broke_over_tls(&self, fault: &Fault) -> bool {
        self.over_tls && !matches!(fault, Fault::TlsInjection | Fault::PeerIsSelf | Fault::Reply { phase: Phase::Ehlo, .. })
    }

    fn smtp(&self) -> &Smtp {
        &self.client.settings.smtp
    }

    fn hostname(&self) -> &str {
        self.client.settings.hostname.as_str()
    }

    fn peer(&self) -> Arc<Peer> {
        Arc::new(Peer { host: self.endpoint.host.clone(), address: self.endpoint.address, tls: self.tls.clone() })
    }
}

/// A reply that lets the session go on.
fn positive(reply: Result<Reply, WireError>, phase: Phase) -> Result<Reply, Fault> {
    match reply {
        Ok(reply) if reply.is_positive() => Ok(reply),
        Ok(reply) if reply.code() >= 400 => Err(Fault::Reply { phase, reply }),
        Ok(reply) => Err(Fault::Protocol { phase, detail: format!("out of step: {phase} was answered {reply}") }),
        Err(error) => Err(error.during(phase)),
    }
}

/// Whether the peer has said nothing without having been asked.
fn in_step(wire: &mut Wire, phase: Phase) -> Result<(), Fault> {
    wire.out_of_step(phase).map_or(Ok(()), Err)
}

/// Whether the peer still listens after `fault`, so that QUIT is due.
fn leaves_in_step(fault: &Fault) -> bool {
    match fault {
        Fault::Reply { reply, .. } => reply.code() != 421,
        Fault::TlsNotOffered | Fault::AuthImpossible { .. } | Fault::PeerIsSelf => true,
        _ => false,
    }
}
