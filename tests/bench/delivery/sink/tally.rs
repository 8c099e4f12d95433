//! What came to a sink. Written by its thread, read by the driver.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What a driver waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first MAIL command.
    FirstMail,
    /// The first message's end.
    FirstMessage,
    /// As many messages as were expected.
    Complete,
    /// Any message, where each is waited for.
    Message,
}

/// Counts, and each message's time.
pub struct Tally {
    start: Instant,
    /// Nanoseconds from `start` to the arrival of each message; 0: not there.
    arrivals: Vec<AtomicU64>,
    delivered: AtomicUsize,
    first_mail: AtomicU64,
    last: AtomicU64,
    connections: AtomicUsize,
    turns: AtomicUsize,
    each: std::sync::atomic::AtomicBool,
    faults: Mutex<Vec<String>>,
    events: mpsc::Sender<Event>,
}

impl Tally {
    pub(super) fn new(expected: usize) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel();
        let tally = Self {
            start: Instant::now(),
            arrivals: (0..expected).map(|_| AtomicU64::new(0)).collect(),
            delivered: AtomicUsize::new(0),
            first_mail: AtomicU64::new(0),
            last: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            each: false.into(),
            faults: Mutex::default(),
            events,
        };
        (Arc::new(tally), receiver)
    }

    /// From now on each message is an event.
    pub fn tell_each(&self) {
        self.each.store(true, Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn turns(&self, turn: bool) {
        self.turns.fetch_add(usize::from(turn), Relaxed);
    }

    pub(super) fn mail(&self) {
        if self.first_mail.load(Relaxed) == 0 {
            self.first_mail.store(self.now(), Relaxed);
            let _ = self.events.send(Event::FirstMail);
        }
    }

    /// The end of a message with this number.
    pub(super) fn arrived(&self, number: Option<usize>) {
        let now = self.now();
        match number.and_then(|number| self.arrivals.get(number)) {
            Some(arrival) if arrival.swap(now, Relaxed) == 0 => {}
            Some(_) => self.fault(format!("message {} came twice", number.unwrap_or_default())),
            None => self.fault(format!("a message with an unknown number came: {number:?}")),
        }
        self.last.store(now, Relaxed);
        let delivered = self.delivered.fetch_add(1, Relaxed) + 1;
        if delivered == 1 {
            let _ = self.events.send(Event::FirstMessage);
        }
        if self.each.load(Relaxed) {
            let _ = self.events.send(Event::Message);
        }
        if delivered == self.arrivals.len() {
            let _ = self.events.send(Event::Complete);
        }
    }

    pub(super) fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap();
        // The first few tell enough.
        if faults.len() < 20 {
            faults.push(what);
        }
    }

    fn now(&self) -> u64 {
        (self.start.elapsed().as_nanos() as u64).max(1)
    }

    /// From the first MAIL to the end of the last message so far.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.last.load(Relaxed).saturating_sub(self.first_mail.load(Relaxed)))
    }

    /// When the last message so far ended.
    pub fn last(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Relaxed))
    }

    /// When message `number` ended.
    pub fn arrival(&self, number: usize) -> Option<Instant> {
        let at = self.arrivals[number].load(Relaxed);
        (at > 0).then(|| self.start + Duration::from_nanos(at))
    }

    pub fn delivered(&self) -> usize {
        self.delivered.load(Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Reads, from the first MAIL of a connection on, after which everything was answered: what a client has to wait for.
    pub fn turn_count(&self) -> usize {
        self.turns.load(Relaxed)
    }

    /// That every message came exactly once, and nothing was said that a sink does not understand.
    pub fn check(&self) -> Result<(), String> {
        let missing = self.arrivals.iter().filter(|arrival| arrival.load(Relaxed) == 0).count();
        self.check_so_far()?;
        if missing > 0 { Err(format!("{missing} of {} messages did not come", self.arrivals.len())) } else { Ok(()) }
    }

    /// The same, for what came so far.
    pub fn check_so_far(&self) -> Result<(), String> {
        let faults = self.faults.lock().unwrap();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (delivered, expected, connections) = (self.delivered(), self.arrivals.len(), self.connections());
        write!(f, "{delivered} of {expected} messages came on {connections} connections")?;
        let faults = self.faults.lock().unwrap();
        if faults.is_empty() { Ok(()) } else { write!(f, "; {}", faults.join("; ")) }
    }
}
