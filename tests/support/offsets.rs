//! Connections that end at every octet of whole dialogues, in either direction: which mails are delivered, in doubt or untried then.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Arc, Mutex};

use smtp_direct::config::TlsMode;
use smtp_direct::route::Endpoint;

use crate::chain::{Post, Strict, Taken, content, numbered};
use crate::expect::Want;
use crate::peer::{CutAt, Script, endpoint};

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialogue {
    Lockstep,
    Pipelined,
    /// Two mails in flight.
    Chunked,
}

pub const DIALOGUES: [Dialogue; 3] = [Dialogue::Lockstep, Dialogue::Pipelined, Dialogue::Chunked];

/// Mails in each dialogue, with two recipients each.
const LETTERS: usize = 3;
const GREETING: &str = "220 mx.test";

/// The lines that a peer was sent, and the octets of each answer.
pub type Log = Arc<Mutex<Vec<(String, usize)>>>;

impl Dialogue {
    /// The peer, who does everything right while it can.
    pub fn script(self, log: &Log) -> Script {
        let extensions = match self {
            Self::Lockstep => "",
            Self::Pipelined => "250-PIPELINING\r\n",
            Self::Chunked => "250-PIPELINING\r\n250-CHUNKING\r\n",
        };
        let hello = format!("250-mx.test\r\n{extensions}250 HELP");
        let mut answer = Strict::new(&Taken::default()).but(move |_, line| line.starts_with("EHLO").then(|| hello.clone()));
        let log = log.clone();
        Script::new().say(GREETING).serve(move |line| {
            let reply = answer(line);
            log.lock().unwrap().push((line.to_owned(), reply.len() + 2));
            reply
        })
    }

    pub fn endpoint(self, host: &str) -> Endpoint {
        Endpoint { host: host.into(), window: 2, ..endpoint(TlsMode::None) }
    }

    pub fn post() -> Post {
        Post::new((0..LETTERS).map(|number| numbered(number, 2)))
    }
}

/// Where a command and its reply end, in octets of their directions.
#[derive(Debug, Clone, Copy, Default)]
struct Exchange {
    heard: usize,
    said: usize,
}

/// A dialogue as it goes when nothing breaks it.
pub struct Whole {
    pub dialogue: Dialogue,
    hello: Exchange,
    /// Of each mail: MAIL (or the RSET before it), what the content waits for (DATA, or EHLO where it does not wait), and the end.
    mails: Vec<[Exchange; 3]>,
    /// Both directions whole.
    whole: Exchange,
}

impl Whole {
    pub fn of(dialogue: Dialogue, log: &Log) -> Self {
        let mut at = Exchange { heard: 0, said: GREETING.len() + 2 };
        let (mut hello, mut mails, mut begins, mut go_ahead) = (at, Vec::new(), None, None);
        for (line, reply) in log.lock().unwrap().iter() {
            at.heard += match line.strip_prefix("BDAT ").and_then(|rest| rest.strip_suffix(" LAST")) {
                Some(octets) => line.len() + 2 + octets.parse::<usize>().unwrap(),
                None if line == "." => content(0).len(),
                None => line.len() + 2,
            };
            at.said += reply;
            match line.split(' ').next().unwrap() {
                "EHLO" => hello = at,
                "RSET" | "MAIL" => begins = begins.or(Some(at)),
                "DATA" => go_ahead = Some(at),
                "." | "BDAT" => mails.push([begins.take().unwrap(), go_ahead.take().unwrap_or(hello), at]),
                _ => {}
            }
        }
        assert_eq!(mails.len(), LETTERS);
        Self { dialogue, hello, mails, whole: at }
    }

    /// Every place where it can be cut.
    pub fn cuts(&self, reset: bool) -> Vec<CutAt> {
        let said = (0..=self.whole.said).map(|n| if reset { CutAt::SaidReset(n) } else { CutAt::Said(n) });
        let heard = (0..=self.whole.heard).map(|n| if reset { CutAt::HeardReset(n) } else { CutAt::Heard(n) });
        said.chain(heard).collect()
    }

    /// What becomes of the mails that the session took.
    pub fn outcome(&self, cut: CutAt) -> Vec<[Want; 2]> {
        use Want::{Delivered, Elsewhere, InDoubt, Untried};
        // Whether the peer answered a command, and whether it was there for what the client says when it has that answer.
        let answered = |exchange: Exchange| match cut {
            CutAt::Never => true,
            CutAt::Said(n) | CutAt::SaidReset(n) => exchange.said <= n,
            CutAt::Heard(n) | CutAt::HeardReset(n) => exchange.heard <= n,
        };
        let goes_on = |exchange: Exchange| match cut {
            CutAt::Heard(n) | CutAt::HeardReset(n) => exchange.heard < n,
            _ => answered(exchange),
        };
        if !answered(self.hello) {
            return vec![[Elsewhere(4, 2); 2]];
        }
        let first = self.mails.iter().position(|mail| !answered(mail[2])).unwrap_or(LETTERS);
        let mut all = vec![Delivered; first];
        let Some(&[begins, go_ahead, _]) = self.mails.get(first) else { return all.into_iter().map(|want| [want; 2]).collect() };
        // The session's first mail met it; later ones did if the peer had begun to answer them.
        let unsent = if first == 0 || answered(begins) { Elsewhere(4, 2) } else { Untried };
        match self.dialogue {
            Dialogue::Lockstep => all.push(if goes_on(go_ahead) { InDoubt } else { unsent }),
            Dialogue::Pipelined => {
                all.push(if goes_on(go_ahead) { InDoubt } else { unsent });
                // The next envelope goes along with the content.
                all.extend((answered(go_ahead) && first + 1 < LETTERS).then_some(Untried));
            }
            Dialogue::Chunked if first == 0 && !goes_on(self.hello) => all.push(unsent),
            // The first two leave together; the last one leaves when both are answered, unless it is seen that the peer has gone.
            Dialogue::Chunked => match first {
                0 => all.extend([InDoubt, InDoubt]),
                1 => all.extend([InDoubt, Untried]),
                _ => all.push(if goes_on(self.mails[1][2]) { InDoubt } else { Untried }),
            },
        }
        all.into_iter().map(|want| [want; 2]).collect()
    }
}
