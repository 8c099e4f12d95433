//! Mail after mail on one session: a feed of letters that keeps what became of each, and a peer that keeps SMTP's rules and books.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use smtp_direct::config::TlsMode;
use smtp_direct::message::ReversePath;
use smtp_direct::outcome::Fault;
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Client, End, Ending, Feed, Mail, Parcel};

use crate::peer::{Dial, HANG_UP, HOSTNAME, Letter, MemoryDialer, Script, config, endpoint, friendly, words};

// ---------------------------------------------------------------------------------------------------------------- the client's side

/// `letter number`, from `m<number>@example.org`, with a text of its own.
pub fn numbered(number: usize, recipients: usize) -> Letter {
    with_text(number, recipients, &text(number))
}

pub fn with_text(number: usize, recipients: usize, text: &str) -> Letter {
    let sender = ReversePath::parse(&format!("m{number}@example.org")).unwrap();
    let mut letter = Letter::new(recipients, text);
    letter.sender = sender;
    letter
}

/// The text of a numbered letter.
pub fn text(number: usize) -> String {
    format!("Subject: m{number}\r\n\r\nHello.\r\n")
}

/// Text of this many octets, whose lines begin with dots.
pub fn long_text(octets: usize) -> String {
    let mut text = ".line with a dot\r\n".repeat(octets / 18);
    text.push_str(&"x".repeat(octets - text.len() - 2));
    text + "\r\n"
}

/// MAIL and RCPT of a numbered letter.
pub fn addresses(number: usize, recipients: std::ops::Range<usize>) -> String {
    let rcpts: String = recipients.map(|i| format!("RCPT TO:<r{i}@example.com>\r\n")).collect();
    format!("MAIL FROM:<m{number}@example.org>\r\n{rcpts}")
}

/// The same with DATA.
pub fn envelope(number: usize, recipients: usize) -> String {
    addresses(number, 0..recipients) + "DATA\r\n"
}

/// Text and dot of a numbered letter.
pub fn content(number: usize) -> String {
    text(number) + ".\r\n"
}

/// BDAT with this text.
pub fn chunk(text: &str) -> String {
    format!("BDAT {} LAST\r\n{text}", text.len())
}

/// What EHLO is.
pub fn ehlo() -> String {
    format!("EHLO {HOSTNAME}\r\n")
}

/// A letter on its way.
pub struct Posted {
    pub number: usize,
    pub letter: Letter,
}

impl Parcel for Posted {
    fn mail(&self) -> Mail<'_> {
        self.letter.mail()
    }
}

/// Letters, and what became of those that were taken.
pub struct Post {
    waiting: VecDeque<Posted>,
    count: usize,
    /// In the order in which they came back.
    pub ended: Vec<(Posted, End)>,
    /// What [`Feed::next`] was told, each time.
    pub begun: Vec<u32>,
    /// Numbers of letters and places of recipients whose content was said to end.
    pub ending: BTreeSet<(usize, usize)>,
}

impl Post {
    pub fn new(letters: impl IntoIterator<Item = Letter>) -> Self {
        let waiting: VecDeque<Posted> = letters.into_iter().enumerate().map(|(number, letter)| Posted { number, letter }).collect();
        Self { count: waiting.len(), waiting, ended: Vec::new(), begun: Vec::new(), ending: BTreeSet::new() }
    }

    /// Short letters, with so many recipients each.
    pub fn of(letters: usize, recipients: usize) -> Self {
        Self::new((0..letters).map(|number| numbered(number, recipients)))
    }

    pub fn letter(&self, number: usize) -> &Letter {
        &self.waiting.iter().find(|posted| posted.number == number).unwrap().letter
    }

    /// One word a letter, in their order. Each letter is in one place, whatever happens.
    pub fn words(&self) -> Vec<String> {
        let mut all = vec![String::new(); self.count];
        for posted in &self.waiting {
            all[posted.number].push_str("waiting");
        }
        for (posted, end) in &self.ended {
            let word = match end {
                End::Answered(results) => {
                    assert_eq!(results.len(), posted.letter.recipients.len());
                    words(results).join(", ")
                }
                End::Untried(fault) => format!("untried: {}", words(&[Err(fault.clone())])[0]),
            };
            assert!(all[posted.number].is_empty(), "m{} is back twice: {}, {word}", posted.number, all[posted.number]);
            all[posted.number] = word;
        }
        assert!(all.iter().all(|word| !word.is_empty()), "letters are missing: {all:?}");
        all
    }

    /// The numbers of letters in the order in which they came back.
    pub fn order(&self) -> Vec<usize> {
        self.ended.iter().map(|(posted, _)| posted.number).collect()
    }

    pub fn all_taken(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Untried letters go to the front again.
    pub fn take_back(&mut self) {
        let (mut untried, ended): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ended).into_iter().partition(|(_, end)| matches!(end, End::Untried(_)));
        self.ended = ended;
        untried.sort_by_key(|(posted, _)| posted.number);
        for (posted, _) in untried.into_iter().rev() {
            self.waiting.push_front(posted);
        }
    }
}

impl Feed for Post {
    type Parcel = Posted;

    fn next(&mut self, begun: u32) -> Option<Posted> {
        let posted = self.waiting.pop_front()?;
        self.begun.push(begun);
        Some(posted)
    }

    fn before_write(&mut self, ending: &[Ending<'_, Posted>]) -> Result<(), Fault> {
        for Ending { parcel, recipients } in ending {
            self.ending.extend(recipients.iter().map(|&place| (parcel.number, place)));
        }
        Ok(())
    }

    fn done(&mut self, posted: Posted, end: End) {
        self.ended.push((posted, end));
    }
}

/// A client for peers in memory.
pub fn client(dialer: &Arc<MemoryDialer>) -> Client {
    Client::new(&config(), dialer.clone()).unwrap()
}

/// `mx.test` without TLS.
pub fn windowed(window: usize) -> Endpoint {
    Endpoint { window, ..endpoint(TlsMode::None) }
}

/// Runs `post` on one session with one peer, to its end; whether the session can take more.
pub async fn run(post: &mut Post, script: Script, window: usize) -> (bool, Arc<MemoryDialer>) {
    let dialer = MemoryDialer::peer(script);
    let reusable = run_on(&client(&dialer), post, window).await;
    (reusable, dialer)
}

/// The same on a new session of `client`.
pub async fn run_on(client: &Client, post: &mut Post, window: usize) -> bool {
    let mut session = client.connect(&windowed(window)).await.unwrap();
    session.run(post).await;
    let reusable = session.is_reusable();
    session.quit().await;
    reusable
}

/// One peer for each script.
pub fn peers(scripts: impl IntoIterator<Item = Script>) -> Arc<MemoryDialer> {
    MemoryDialer::new(scripts.into_iter().map(Dial::Peer))
}

// ---------------------------------------------------------------------------------------------------------------- the peer's side

/// What peers took: numbers of letters and of their recipients, a pair for each content that was answered 2xx, or not at all.
pub type Taken = Arc<Mutex<Vec<(usize, Vec<usize>)>>>;

/// A peer that keeps a transaction open until it has its content, and takes no MAIL within it: a refused BDAT leaves it open, too.
#[derive(Default)]
pub struct Strict {
    taken: Taken,
    /// From the last MAIL.
    number: usize,
    open: bool,
    accepted: Vec<usize>,
}

impl Strict {
    pub fn new(taken: &Taken) -> Self {
        Self { taken: taken.clone(), ..Self::default() }
    }

    /// Answers as the rules ask, unless `odd` answers, which is told the number of the letter and the line.
    pub fn but(mut self, mut odd: impl FnMut(usize, &str) -> Option<String> + Send + 'static) -> impl FnMut(&str) -> String + Send {
        move |line| {
            let verb = line.split(' ').next().unwrap_or_default();
            if let Some(number) = number_in(line, "MAIL FROM:<m", '@') {
                self.number = number;
            }
            let reply = odd(self.number, line).unwrap_or_else(|| self.ruled(verb, line));
            // What it does not say, it has done all the same.
            let positive = reply.starts_with('2') || reply.trim_end_matches(HANG_UP).is_empty();
            self.note(verb, line, positive);
            reply
        }
    }

    fn ruled(&self, verb: &str, line: &str) -> String {
        let nobody = self.accepted.is_empty();
        match verb {
            "MAIL" if self.open => "503 5.5.1 nested MAIL".to_owned(),
            "RCPT" if !self.open => "503 5.5.1 no MAIL".to_owned(),
            "DATA" | "BDAT" if !self.open || nobody => "503 5.5.1 no RCPT".to_owned(),
            "." if nobody => "554 5.5.1 for nobody".to_owned(),
            "." | "BDAT" => format!("250 2.0.0 queued m{}", self.number),
            _ => friendly(line),
        }
    }

    fn note(&mut self, verb: &str, line: &str, positive: bool) {
        match verb {
            "MAIL" if positive => self.open = true,
            "RCPT" if positive && self.open => self.accepted.extend(number_in(line, "RCPT TO:<r", '@')),
            "." | "BDAT" | "RSET" => {
                if verb != "RSET" && positive && self.open && !self.accepted.is_empty() {
                    self.taken.lock().unwrap().push((self.number, self.accepted.clone()));
                }
                // RSET has no reason to fail, and a refused BDAT does not end the transaction (RFC 3030 2 leaves that open).
                if verb != "BDAT" || positive {
                    self.open = false;
                    self.accepted.clear();
                }
            }
            _ => {}
        }
    }
}

/// The number between `before` and `after`.
fn number_in(line: &str, before: &str, after: char) -> Option<usize> {
    line.strip_prefix(before)?.split(after).next()?.parse().ok()
}

/// [`Strict`], kept to the rules but for `odd`.
pub fn strict(odd: impl FnMut(usize, &str) -> Option<String> + Send + 'static) -> impl FnMut(&str) -> String + Send + 'static {
    Strict::default().but(odd)
}

/// Says `reply` to lines of letter `number` that begin with `verb`.
pub fn one(number: usize, verb: &'static str, reply: &'static str) -> impl FnMut(usize, &str) -> Option<String> + Send + 'static {
    move |at, line| (at == number && line.starts_with(verb)).then(|| reply.to_owned())
}

/// Says nothing from lines of letter `number` that begin with `verb` on.
pub fn silent_from(number: usize, verb: &'static str) -> impl FnMut(usize, &str) -> Option<String> + Send + 'static {
    let mut silent = false;
    move |at, line| {
        silent |= at == number && line.starts_with(verb);
        silent.then(String::new)
    }
}

/// Whom a peer has taken mail for, so often.
pub fn recipients_of(taken: &Taken) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> =
        taken.lock().unwrap().iter().flat_map(|(number, recipients)| recipients.iter().map(|&at| (*number, at))).collect();
    all.sort_unstable();
    all
}
