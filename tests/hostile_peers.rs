//! Hostile peers: every phase of a session against everything that a peer can do wrong in it. Each cell has its outcome for every
//! recipient, its time and its memory, and the next copy must not suffer from it.
// How many cells there are is part of the result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "support/chain.rs"]
mod chain;
#[path = "support/expect.rs"]
mod expect;
#[path = "support/hostile.rs"]
mod hostile;

#[path = "support/offsets.rs"]
mod offsets;
#[path = "support/peer.rs"]
mod peer;

use std::sync::{Arc, OnceLock};

use chain::{Post, numbered};
use expect::Want;
use hostile::{At, Cell, Manner, Wrong, cells};
use offsets::{DIALOGUES, Dialogue, Log, Whole};
use peer::{CutAt, Dial, MemoryDialer, TcpPeer, config, within};
use smtp_direct::outcome::{Fault, Kind, NextStep, Outcome, judge};
use smtp_direct::route::Endpoint;
use smtp_direct::smtp::{Accepted, Client, End, Feed, TcpDialer};
use tokio::time::Instant;

/// Octets that a client may hold of what one peer said: a reply of 64 KiB, what one reading brings (2 KiB), and the dialogue before it.
const MOST: usize = (64 + 2 + 2) * 1024;
/// The same under TLS: a record that is not whole yet, and the handshake.
const MOST_TLS: usize = MOST + 2 * 18 * 1024;

/// Reading the system's certificates takes longer than a session: one client for all, which remembers each cell's host by its own name.
fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| Client::new(&config(), MemoryDialer::new([])).unwrap()).clone()
}

fn got(result: &Result<Accepted, Fault>) -> Want {
    let fault = match result {
        Ok(accepted) => {
            let clean = !accepted.reply.text().contains(|c: char| c.is_control() && c != '\n');
            return if clean && accepted.reply.is_positive() { Want::Delivered } else { Want::Odd };
        }
        Err(fault) => fault,
    };
    let outcome = Outcome::of(fault, None);
    let status = outcome.status;
    let clean = !outcome.text.contains(char::is_control) && outcome.text.len() <= 512;
    match (outcome.kind, judge(fault).next, outcome.in_doubt) {
        _ if !clean || *fault == Fault::Internal => Want::Odd,
        (Kind::Deferred, NextStep::NextAddress, false) => Want::Elsewhere(status.subject, status.detail),
        (Kind::Deferred, NextStep::Stop, true) => Want::InDoubt,
        (Kind::Failed, NextStep::Stop, false) => Want::Failed(status.subject, status.detail),
        _ => Want::Odd,
    }
}

/// Sends letters on one session, as far as it goes: what became of each recipient, and how many seconds leaving took.
async fn send(client: &Client, endpoint: &Endpoint, post: &mut Post) -> (Vec<[Want; 2]>, bool, f64) {
    let mut session = match client.connect(endpoint).await {
        Ok(session) => session,
        Err(error) => {
            let all = (0..2).map(|_| Err(error.fault.clone())).collect();
            while let Some(posted) = post.next(0) {
                post.done(posted, End::Answered(Vec::clone(&all)));
            }
            return (vec![[got(&Err(error.fault)); 2]], false, 0.0);
        }
    };
    session.run(post).await;
    let reusable = session.is_reusable();
    let leaving = Instant::now();
    session.quit().await;
    // Looks for letters that are missing or back twice.
    let words = post.words();
    assert!(!words.contains(&"waiting".to_owned()) || !reusable, "the session leaves letters where they are: {words:?}");
    let mut ended: Vec<(usize, [Want; 2])> = post.ended.iter().map(|(posted, end)| (posted.number, both(end))).collect();
    ended.sort_by_key(|(number, _)| *number);
    (ended.into_iter().map(|(_, wants)| wants).collect(), reusable, leaving.elapsed().as_secs_f64())
}

fn both(end: &End) -> [Want; 2] {
    match end {
        End::Untried(_) => [Want::Untried; 2],
        End::Answered(results) => [got(&results[0]), got(&results[1])],
    }
}

/// Sends one more letter in a new session: it must be delivered, whatever the last one was like.
async fn next_copy(client: &Client, endpoint: &Endpoint) -> Vec<String> {
    let mut post = Post::new([numbered(7, 2)]);
    let (outcome, reusable, _) = send(client, endpoint, &mut post).await;
    let well = outcome == [[Want::Delivered; 2]] && reusable;
    if well { Vec::new() } else { vec![format!("the next copy: {outcome:?}, {:?}", post.words())] }
}

/// What is wrong with the client in this cell.
async fn in_memory(cell: Cell) -> Vec<String> {
    let dials = [Dial::Peer(cell.script()), Dial::Peer(cell.sound()), Dial::Peer(cell.sound())];
    let dialer = MemoryDialer::with_buffer(dials, cell.buffer());
    let client = client().with_dialer(dialer.clone());
    let endpoint = cell.endpoint(&format!("{:?}.test", (cell.at, cell.manner, cell.wrong)));
    let mut post = Post::new(cell.letters());
    let started = Instant::now();
    let (outcome, _, left_after) = send(&client, &endpoint, &mut post).await;
    let took = started.elapsed().as_secs_f64() - left_after;
    let mut complaints = Vec::new();
    let expected = expect::outcome(cell);
    if outcome != expected {
        complaints.push(format!("{outcome:?}, not {expected:?}: {:?}", post.words()));
    }
    let seconds = expect::seconds(cell) as f64;
    // A timer's precision is a millisecond.
    if !(seconds..seconds + 0.01).contains(&took) {
        complaints.push(format!("it took {took} s, not {seconds} s"));
    }
    if left_after > 2.01 {
        complaints.push(format!("leaving took {left_after} s"));
    }
    if dialer.dials() != expect::dials(cell) {
        complaints.push(format!("{} dials, not {}", dialer.dials(), expect::dials(cell)));
    }
    let most = if matches!(cell.manner, Manner::Tls | Manner::Opportunistic) { MOST_TLS } else { MOST };
    let taken = dialer.taken();
    if taken.iter().any(|&octets| octets > most) {
        complaints.push(format!("{taken:?} octets were taken in"));
    }
    complaints.extend(next_copy(&client, &endpoint).await);
    dialer.finish().await;
    complaints
}

/// The same where the connection is reset, which only TCP can say.
async fn over_tcp(cell: Cell) -> Vec<String> {
    let mut scripts = vec![cell.script()];
    scripts.extend((0..expect::dials(cell)).map(|_| cell.sound()));
    let peer = TcpPeer::start(scripts).await;
    let client = client().with_dialer(Arc::new(TcpDialer::default()));
    let host = format!("{:?}.tcp.test", (cell.at, cell.manner));
    let endpoint = Endpoint { address: peer.address, ..cell.endpoint(&host) };
    let mut post = Post::new(cell.letters());
    let (outcome, _, _) = within(send(&client, &endpoint, &mut post)).await;
    let expected = expect::outcome(cell);
    let mut complaints = within(next_copy(&client, &endpoint)).await;
    if outcome != expected {
        complaints.push(format!("{outcome:?}, not {expected:?}: {:?}", post.words()));
    }
    peer.finish().await;
    complaints
}

/// The cells of these phases.
fn some(phases: &[At]) -> impl Iterator<Item = Cell> {
    cells().into_iter().filter(|cell| phases.contains(&cell.at))
}

async fn all_in_memory(phases: &[At]) {
    let mut complaints = Vec::new();
    for cell in some(phases).filter(|cell| cell.wrong != Wrong::Rst) {
        complaints.extend(in_memory(cell).await.into_iter().map(|complaint| format!("{cell:?}: {complaint}")));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn the_opening() {
    all_in_memory(&[At::Greeting, At::Ehlo, At::Auth]).await;
}

#[tokio::test(start_paused = true)]
async fn tls() {
    all_in_memory(&[At::StartTls, At::Handshake, At::EhloTls]).await;
}

#[tokio::test(start_paused = true)]
async fn the_envelope() {
    all_in_memory(&[At::Mail, At::Rcpt1, At::Rcpt2]).await;
}

#[tokio::test(start_paused = true)]
async fn the_content() {
    all_in_memory(&[At::Data, At::Content, At::Dot]).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_session() {
    all_in_memory(&[At::NextMail, At::Reset, At::Quit]).await;
}

#[tokio::test(start_paused = true)]
async fn chunks() {
    all_in_memory(&[At::Bdat, At::WindowFirst, At::WindowLast]).await;
}

#[tokio::test]
async fn resets() {
    let mut complaints = Vec::new();
    for cell in cells().into_iter().filter(|cell| cell.wrong == Wrong::Rst) {
        complaints.extend(over_tcp(cell).await.into_iter().map(|complaint| format!("{cell:?}: {complaint}")));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A dialogue that nothing breaks.
async fn whole(dialogue: Dialogue) -> Whole {
    let log = Log::default();
    let dialer = MemoryDialer::peer(dialogue.script(&log));
    send(&client().with_dialer(dialer.clone()), &dialogue.endpoint("whole.test"), &mut Dialogue::post()).await;
    dialer.finish().await;
    Whole::of(dialogue, &log)
}

/// What is wrong with the client when the connection ends there, and in the session after that.
async fn cut(whole: &Whole, cut: CutAt, client: &Client, endpoint: &Endpoint) -> Vec<String> {
    let mut post = Dialogue::post();
    let (outcome, _, _) = send(client, endpoint, &mut post).await;
    let expected = whole.outcome(cut);
    let mut complaints = next_copy(client, endpoint).await;
    if outcome != expected {
        complaints.push(format!("{outcome:?}, not {expected:?}: {:?}", post.words()));
    }
    complaints.into_iter().map(|complaint| format!("{:?} {cut:?}: {complaint}", whole.dialogue)).collect()
}

fn nothing_is_wrong(cases: usize, complaints: &[String]) {
    println!("{cases} offsets");
    assert!(cases >= 1_900, "{cases} offsets");
    assert!(complaints.is_empty(), "{} of {cases}\n{}", complaints.len(), complaints.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_at_any_octet() {
    let (mut cases, mut complaints) = (0, Vec::new());
    for dialogue in DIALOGUES {
        let whole = whole(dialogue).await;
        for at in whole.cuts(false) {
            let dials = [Dial::Cut(dialogue.script(&Log::default()), at), Dial::Peer(dialogue.script(&Log::default()))];
            let dialer = MemoryDialer::new(dials);
            let client = client().with_dialer(dialer.clone());
            let started = Instant::now();
            complaints.extend(cut(&whole, at, &client, &dialogue.endpoint(&format!("{dialogue:?}.{at:?}.test"))).await);
            assert!(started.elapsed().as_secs_f64() < 0.01, "{dialogue:?} {at:?}: a closed connection is not waited for");
            dialer.finish().await;
            cases += 1;
        }
    }
    nothing_is_wrong(cases, &complaints);
}

#[tokio::test]
async fn a_connection_that_is_reset_at_any_octet() {
    let (mut cases, mut complaints) = (0, Vec::new());
    let client = client().with_dialer(Arc::new(TcpDialer::default()));
    for dialogue in DIALOGUES {
        let whole = whole(dialogue).await;
        for at in whole.cuts(true) {
            let scripts = vec![(dialogue.script(&Log::default()), at), (dialogue.script(&Log::default()), CutAt::Never)];
            let peer = TcpPeer::start_cut(scripts).await;
            let endpoint = Endpoint { address: peer.address, ..dialogue.endpoint(&format!("{dialogue:?}.{at:?}.test")) };
            complaints.extend(within(cut(&whole, at, &client, &endpoint)).await);
            peer.finish().await;
            cases += 1;
        }
    }
    nothing_is_wrong(cases, &complaints);
}

#[test]
fn the_matrix_is_whole() {
    let cells = cells();
    println!("{} cells", cells.len());
    assert!(cells.len() >= 1_000, "{} cells", cells.len());
    for (at, cell) in cells.iter().enumerate() {
        assert!(!cells[..at].contains(cell), "{cell:?} is there twice");
    }
}
