//! The other end of SMTP sessions, scripted: over memory (paused time) or TCP on loopback. Records every octet that it was sent.
#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "cut.rs"]
mod cut;
#[path = "dialer.rs"]
mod dialer;
#[path = "letter.rs"]
mod letter;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use cut::*;
pub use dialer::*;
pub use letter::*;

// ---------------------------------------------------------------------------------------------------------------- scripts

/// One thing that a peer does.
pub enum Step {
    /// Writes these octets.
    Say(Vec<u8>),
    /// Reads one line and compares it, end included.
    Expect(Vec<u8>),
    /// Reads content up to the lone dot and records it, still dot-stuffed, without the dot.
    Content,
    /// The same with a rest after each read.
    ContentSlowly(Duration),
    /// Reads exactly this many octets.
    Swallow(usize),
    /// Shakes hands.
    Tls(Arc<rustls::ServerConfig>),
    /// Says nothing and reads nothing for longer than any limit lasts.
    Stall,
    /// Goes on after a while.
    Wait(Duration),
    /// Writes these octets, whether or not the client is still there.
    Shout(Vec<u8>),
    /// The same one octet at a time, with a rest before each.
    Trickle(Vec<u8>, Duration),
    /// Writes these octets over and over, as long as the client is there.
    Flood(Vec<u8>),
    /// Reads so many octets at once, with a rest after each time, as long as the client is there.
    ReadSlowly(usize, Duration),
    /// Writes these octets beneath TLS, where records are due.
    Beneath(Vec<u8>),
    /// Breaks TLS off with a fatal alert.
    Alert,
    /// Closes the connection.
    Close,
    /// Resets the connection (on TCP), or drops it.
    Reset,
    /// Answers each line by this until the client goes, after a while each time; after a 354, the content is "." for it. The octets of a
    /// BDAT are content. No answer at all is an empty one; one that ends with [`HANG_UP`] is the last one; instead of one that
    /// ends with [`GO_ON`], the script goes on with its next step.
    Serve(Duration, Box<dyn FnMut(&str) -> String + Send>),
}

/// At the end of an answer of [`Step::Serve`]: the peer closes the connection.
pub const HANG_UP: char = '\u{4}';

/// At the end of an answer of [`Step::Serve`] that is not said: the script's next step is the answer.
pub const GO_ON: char = '\u{5}';

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
        self.serve_slowly(Duration::ZERO, answer)
    }

    /// The same with a rest before each answer.
    pub fn serve_slowly(self, rest: Duration, answer: impl FnMut(&str) -> String + Send + 'static) -> Self {
        self.step(Step::Serve(rest, Box::new(answer)))
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
        self.up_to(64 * 1024).await
    }

    /// Reads once, no more than so many octets.
    async fn up_to(&mut self, octets: usize) -> io::Result<usize> {
        let mut read = vec![0; octets];
        let count = match self.link.as_mut().unwrap() {
            Link::Plain(stream) => stream.read(&mut read).await?,
            Link::Tls(stream) => stream.read(&mut read).await?,
        };
        self.ahead.extend_from_slice(&read[..count]);
        self.record.received.extend_from_slice(&read[..count]);
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

    async fn beneath(&mut self, octets: &[u8]) -> io::Result<()> {
        match self.link.as_mut().unwrap() {
            Link::Plain(stream) => stream.write_all(octets).await,
            Link::Tls(stream) => stream.get_mut().0.write_all(octets).await,
        }
    }

    /// Says in TLS's own words that it is over.
    async fn alert(&mut self) {
        let Some(Link::Tls(stream)) = self.link.as_mut() else { panic!("an alert without TLS") };
        let connection = stream.get_mut().1;
        // Records that nobody can have encrypted so make rustls give the alert: an encrypted one, as the client expects it. The first of
        // them may be taken for the end of a record that is half here, and what was read before has to make room.
        let records = b"\x17\x03\x03\x00\x01\x00".repeat(1_000);
        for _ in 0..10 {
            let _ = io::copy(&mut connection.reader(), &mut io::sink());
            let _ = connection.read_tls(&mut &records[..]);
            if connection.process_new_packets().is_err() {
                break;
            }
        }
        let mut alert = Vec::new();
        // Nothing where the client has closed already.
        connection.write_tls(&mut alert).unwrap();
        let _ = self.beneath(&alert).await;
    }

    /// Octets up to and with `end`; `None` when the client is gone.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut seen: usize = 0;
        loop {
            let from = seen.saturating_sub(end.len());
            if let Some(at) = self.ahead[from..].windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.ahead.drain(..from + at + end.len()).collect()));
            }
            seen = self.ahead.len();
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

    async fn chunk(&mut self, octets: usize) -> io::Result<bool> {
        while self.ahead.len() < octets {
            if self.more().await? == 0 {
                return Ok(false);
            }
        }
        self.record.contents.push(self.ahead.drain(..octets).collect());
        Ok(true)
    }

    async fn serve(&mut self, rest: Duration, mut answer: Box<dyn FnMut(&str) -> String + Send>) -> io::Result<Served> {
        while let Some(line) = self.until(b"\r\n").await? {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(octets) = line.strip_prefix("BDAT ").and_then(|rest| rest.split(' ').next()).and_then(|octets| octets.parse().ok())
                && !self.chunk(octets).await?
            {
                return Ok(Served::ClientGone);
            }
            let reply = answer(&line);
            if reply.ends_with(GO_ON) {
                return Ok(Served::AsFarAsThat);
            }
            // The reply to QUIT is not waited for; how the client closes still counts.
            let said = self.answer(rest, &reply).await;
            if line == "QUIT" {
                continue;
            }
            if !said? {
                return Ok(Served::HungUp);
            }
            if reply.starts_with("354") {
                if !self.content().await? {
                    return Ok(Served::ClientGone);
                }
                let reply = answer(".");
                if reply.ends_with(GO_ON) {
                    return Ok(Served::AsFarAsThat);
                }
                if !self.answer(rest, &reply).await? {
                    return Ok(Served::HungUp);
                }
            }
        }
        Ok(Served::ClientGone)
    }

    /// Whether there may be another one.
    async fn answer(&mut self, rest: Duration, reply: &str) -> io::Result<bool> {
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        let last = reply.strip_suffix(HANG_UP);
        let words = last.unwrap_or(reply);
        if !words.is_empty() {
            self.say(format!("{words}\r\n").as_bytes()).await?;
        }
        Ok(last.is_none())
    }
}

/// How serving ended.
enum Served {
    AsFarAsThat,
    ClientGone,
    HungUp,
}

/// Plays `script`; panics where the client does not keep to it.
pub async fn play<S: Stream>(stream: S, script: Script) -> Record {
    let mut player = Player { link: Some(Link::Plain(stream)), ahead: Vec::new(), record: Record::default() };
    for (number, step) in script.0.into_iter().enumerate() {
        let at = |what: String| -> ! { panic!("step {number} of the script: {what}") };
        match step {
            Step::Say(octets) => match player.say(&octets).await {
                Ok(()) => {}
                Err(error) if error.kind() == CUT => return player.record,
                Err(error) => at(format!("cannot say {:?}: {error}", String::from_utf8_lossy(&octets))),
            },
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
            Step::ContentSlowly(rest) => {
                while !player.ahead.ends_with(b"\r\n.\r\n") {
                    if player.more().await.unwrap_or(0) == 0 {
                        return player.record;
                    }
                    tokio::time::sleep(rest).await;
                }
                player.content().await.unwrap();
            }
            Step::Swallow(octets) => {
                while player.ahead.len() < octets {
                    if player.up_to(octets - player.ahead.len()).await.unwrap_or(0) == 0 {
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
            Step::Shout(octets) => {
                // Whether it is heard is not the peer's business.
                let _ = player.say(&octets).await;
            }
            Step::Trickle(octets, rest) => {
                for octet in octets {
                    tokio::time::sleep(rest).await;
                    if player.say(&[octet]).await.is_err() {
                        return player.record;
                    }
                }
            }
            Step::Flood(octets) => while player.say(&octets).await.is_ok() {},
            Step::ReadSlowly(octets, rest) => {
                while player.up_to(octets).await.unwrap_or(0) > 0 {
                    tokio::time::sleep(rest).await;
                }
            }
            Step::Beneath(octets) => {
                let _ = player.beneath(&octets).await;
            }
            Step::Alert => player.alert().await,
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::Close => return player.record,
            Step::Reset => {
                match player.link.take().unwrap() {
                    Link::Plain(stream) => stream.reset(),
                    Link::Tls(stream) => stream.into_inner().0.reset(),
                }
                return player.record;
            }
            Step::Serve(rest, answer) => {
                player.record.ended = match player.serve(rest, answer).await {
                    Ok(Served::AsFarAsThat) => continue,
                    Ok(Served::HungUp) => None,
                    Ok(Served::ClientGone) => Some(Ok(())),
                    Err(error) => Some(Err(error.kind())),
                };
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
