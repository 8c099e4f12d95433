//! Takes mail on loopback as fast as one thread can, keeps nothing, hands on what came: each message's number and time, connections, turns.
//! It has a thread of its own, so that its CPU time is nobody else's.

mod protocol;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc as line, oneshot};
use tokio::time::{Instant, sleep_until};

use protocol::{Protocol, Said};
pub use tally::{Event, Tally};

/// What a connection's input buffer begins with, and what a read asks for at least.
const BUFFER: usize = 256 * 1024;

/// What the sink offers, and how far away it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit: bool,
    pub size: bool,
    /// From the arrival of a command to its answer. A delay line, as a long cable is: what comes meanwhile is read and answered in its turn.
    pub delay: Duration,
}

impl Offer {
    /// What Postfix offers by default, less CHUNKING.
    pub const PLAIN: Self = Self { pipelining: true, chunking: false, eight_bit: true, size: true, delay: Duration::ZERO };

    /// The same, this far away.
    pub fn at(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// A running sink; it ends when dropped.
pub struct Sink {
    addresses: Vec<SocketAddr>,
    tally: Arc<Tally>,
    events: mpsc::Receiver<Event>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens at 127.0.0.1, 127.0.0.2 and so on, one address a site, all at one port, for messages with the numbers `0..expected`.
    pub fn start(offer: Offer, expected: usize, sites: usize) -> Self {
        let (tally, events) = Tally::new(expected);
        let listeners = listeners(sites);
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&tally);
        let thread = std::thread::Builder::new().name("sink".to_owned()).spawn(move || run(listeners, offer, &shared, stopped)).unwrap();
        Self { addresses, tally, events, stop: Some(stop), thread: Some(thread) }
    }

    /// Where the sink listens for a site.
    pub fn address(&self, site: usize) -> SocketAddr {
        self.addresses[site]
    }

    /// Where it listens, a site each.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What came so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Waits for this event; fails with what came so far when it is not there in time.
    pub fn wait(&self, event: Event, limit: Duration) -> Result<(), String> {
        let deadline = std::time::Instant::now() + limit;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
                Ok(seen) if seen == event => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(format!("no {event:?}; {}", self.tally)),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("the sink ended; {}", self.tally)),
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One listener a site, at one port: a port that is free at the first address may be taken at another.
fn listeners(sites: usize) -> Vec<std::net::TcpListener> {
    let at = |site: usize, port: u16| {
        std::net::TcpListener::bind(SocketAddr::from(([127, 0, (site / 250) as u8, (site % 250 + 1) as u8], port)))
    };
    for _ in 0..50 {
        let first = at(0, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let others: std::io::Result<Vec<_>> = (1..sites).map(|site| at(site, port)).collect();
        if let Ok(others) = others {
            return std::iter::once(first).chain(others).collect();
        }
    }
    panic!("no port is free at {sites} loopback addresses");
}

fn run(listeners: Vec<std::net::TcpListener>, offer: Offer, tally: &Arc<Tally>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    runtime.block_on(async {
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let tally = Arc::clone(tally);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    tally.connected();
                    let (protocol, tally) = (Protocol::new(offer, Arc::clone(&tally)), Arc::clone(&tally));
                    if offer.delay.is_zero() {
                        tokio::spawn(near(stream, protocol, tally));
                    } else {
                        tokio::spawn(far(stream, protocol, tally, offer.delay));
                    }
                }
            });
        }
        let _ = stopped.await;
    });
    // Connections end with their tasks.
    runtime.shutdown_background();
}

/// A connection whose answers go out at once: all that has arrived is answered in one write.
async fn near(mut stream: TcpStream, mut protocol: Protocol, tally: Arc<Tally>) {
    let mut input = Vec::with_capacity(BUFFER);
    let mut output = protocol.greeting();
    loop {
        if !output.is_empty() && stream.write_all(&output).await.is_err() {
            return;
        }
        output.clear();
        input.reserve(BUFFER / 2);
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return protocol.closed();
        }
        let Said { turn, quit } = protocol.take(&mut input, &mut output);
        tally.turns(turn);
        if quit {
            let _ = stream.write_all(&output).await;
            return;
        }
    }
}

/// Octets that are due at a time, and whether they end a turn.
type Due = (Instant, Vec<u8>, bool);

/// A connection whose answers are under way for a while.
async fn far(stream: TcpStream, mut protocol: Protocol, tally: Arc<Tally>, delay: Duration) {
    let (mut reading, writing) = stream.into_split();
    let (cable, end) = line::unbounded_channel::<Due>();
    tokio::spawn(arrive(writing, end, tally));
    let mut input = Vec::with_capacity(BUFFER);
    let _ = cable.send((Instant::now() + delay, protocol.greeting(), false));
    loop {
        input.reserve(BUFFER / 2);
        if !matches!(reading.read_buf(&mut input).await, Ok(1..)) {
            return protocol.closed();
        }
        let mut output = Vec::new();
        let Said { turn, quit } = protocol.take(&mut input, &mut output);
        if !output.is_empty() {
            let _ = cable.send((Instant::now() + delay, output, turn));
        }
        if quit {
            return;
        }
    }
}

/// The other end of the cable. Ends, and closes, when nothing is on it any more and nothing will be.
async fn arrive(mut stream: OwnedWriteHalf, mut cable: line::UnboundedReceiver<Due>, tally: Arc<Tally>) {
    while let Some((due, octets, turn)) = cable.recv().await {
        sleep_until(due).await;
        if stream.write_all(&octets).await.is_err() {
            return;
        }
        // More is on its way: the client did not wait for this.
        tally.turns(turn && cable.is_empty());
    }
}
