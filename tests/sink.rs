//! The sink as clients see it: what it says, what it takes for a message, and what it never takes for one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use smtp_direct::cli::sink::{Args, Counter, Features, Policy, Received, Receiver, Settings, Sink, Totals, Verdict, run_until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

const CLIENT: &str = "192.0.2.9:4242";
const LIMIT: Duration = Duration::from_secs(30);

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    number: u64,
    name: String,
    sender: String,
    mail_parameters: String,
    recipients: Vec<(String, String)>,
    size: u64,
    content: Vec<u8>,
}

/// Keeps everything; says what the recipient's local part asks for.
#[derive(Default)]
struct Recorder(Mutex<Vec<Record>>);

impl Recorder {
    fn contents(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|record| String::from_utf8(record.content.clone()).unwrap()).collect()
    }
}

impl Policy for Recorder {
    fn wants_content(&self) -> bool {
        true
    }

    fn recipient(&self, sender: &str, recipient: &str) -> Verdict {
        match recipient.split('@').next().unwrap() {
            "refused" => Verdict::Reply(550, "5.1.1 No such user\nhere".into()),
            "deferred" => Verdict::Reply(450, "4.2.0 Later".into()),
            "elsewhere" => Verdict::Reply(251, "2.1.5 Will forward".into()),
            "bye" => Verdict::Reply(421, "4.3.2 Closing".into()),
            "sender" => Verdict::Reply(550, sender.to_owned().into()),
            _ => Verdict::Accept,
        }
    }

    fn message(&self, message: &Received<'_>) -> Verdict {
        assert_eq!(message.client.to_string(), CLIENT);
        assert_eq!(message.size, message.content.len() as u64);
        if message.content.starts_with(b"Subject: spam") {
            return Verdict::Reply(554, "5.7.1 Spam".into());
        }
        self.0.lock().unwrap().push(Record {
            number: message.number,
            name: message.name.into(),
            sender: message.sender.into(),
            mail_parameters: message.mail_parameters.into(),
            recipients: message.recipients.iter().map(|(path, parameters)| (path.into(), parameters.into())).collect(),
            size: message.size,
            content: message.content.into(),
        });
        Verdict::Accept
    }
}

fn settings() -> Settings {
    Settings { hostname: "sink.test".into(), ..Settings::default() }
}

/// A receiver in memory that counts how often it writes.
struct Peer {
    stream: DuplexStream,
    recorder: Arc<Recorder>,
    writes: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

struct Counting(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Peer {
    /// Connected and greeted.
    async fn new(settings: Settings) -> Self {
        let (stream, far) = duplex(1 << 20);
        let (recorder, writes) = (Arc::new(Recorder::default()), Arc::new(AtomicUsize::new(0)));
        let receiver = Receiver::new(settings, Arc::<Recorder>::clone(&recorder));
        let far = Counting(far, Arc::clone(&writes));
        let task = tokio::spawn(async move { receiver.serve(far, CLIENT.parse().unwrap()).await });
        let mut peer = Self { stream, recorder, writes, task };
        peer.expect("220 sink.test ESMTP smtp-direct sink\r\n").await;
        peer
    }

    /// ... and in a session.
    async fn greeted(settings: Settings) -> Self {
        let mut peer = Self::new(settings).await;
        peer.send("EHLO client.test\r\n").await;
        while !peer.line().await.starts_with("250 ") {}
        peer
    }

    async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
    }

    async fn expect(&mut self, replies: &str) {
        let mut got = vec![0; replies.len()];
        if let Err(error) = timeout(LIMIT, self.stream.read_exact(&mut got)).await.unwrap() {
            panic!("{error} instead of {replies:?}, got {}", got.escape_ascii());
        }
        assert_eq!(String::from_utf8_lossy(&got), replies);
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(timeout(LIMIT, self.stream.read_u8()).await.unwrap().unwrap());
        }
        String::from_utf8(line).unwrap()
    }

    /// Each line is sent, and its reply compared, one by one.
    async fn talk(&mut self, dialogue: &[(&str, &str)]) {
        for (line, reply) in dialogue {
            self.send(format!("{line}\r\n")).await;
            self.expect(&format!("{reply}\r\n")).await;
        }
    }

    /// The peer has closed, with nothing more to say.
    async fn closed(mut self) -> Arc<Recorder> {
        let mut rest = Vec::new();
        timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "");
        self.task.await.unwrap().unwrap();
        self.recorder
    }
}

#[tokio::test]
async fn a_plain_dialogue_gives_the_message_as_it_was() {
    let mut peer = Peer::new(settings()).await;
    peer.talk(&[
        ("EHLO client.test", "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SIZE 104857600"),
        ("MAIL FROM:<a@example.com> SIZE=20 BODY=8BITMIME", "250 2.1.0 Ok"),
        ("RCPT TO:<b@example.com> NOTIFY=NEVER", "250 2.1.5 Ok"),
        ("RCPT TO:<Postmaster>", "250 2.1.5 Ok"),
        ("DATA", "354 End with CRLF.CRLF"),
        ("Subject: x\r\n\r\n..dot\r\n\0\u{e9}\r\n.", "250 2.0.0 Ok: taken"),
        ("RSET", "250 2.0.0 Ok"),
        ("NOOP", "250 2.0.0 Ok"),
        ("QUIT", "221 2.0.0 Bye"),
    ])
    .await;
    let recorder = peer.closed().await;
    let expected = Record {
        number: 1,
        name: "client.test".into(),
        sender: "a@example.com".into(),
        mail_parameters: "SIZE=20 BODY=8BITMIME".into(),
        recipients: vec![("b@example.com".into(), "NOTIFY=NEVER".into()), ("Postmaster".into(), String::new())],
        size: 25,
        content: "Subject: x\r\n\r\n.dot\r\n\0é\r\n".into(),
    };
    assert_eq!(*recorder.0.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_group_of_commands_is_answered_in_one_write() {
    let mut peer = Peer::greeted(settings()).await;
    let before = peer.writes.load(Ordering::Relaxed);
    peer.send("MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<refused@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n").await;
    peer.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550-5.1.1 No such user\r\n550 here\r\n250 2.1.5 Ok\r\n354 End with CRLF.CRLF\r\n").await;
    // RFC 2920 3.1: the final dot may be followed by the next envelope.
    peer.send("one\r\n.\r\nMAIL FROM:<c@x>\r\nRCPT TO:<d@x>\r\nDATA\r\n").await;
    peer.expect("250 2.0.0 Ok: taken\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End with CRLF.CRLF\r\n").await;
    peer.send("two\r\n.\r\nQUIT\r\n").await;
    peer.expect("250 2.0.0 Ok: taken\r\n221 2.0.0 Bye\r\n").await;
    assert_eq!(peer.writes.load(Ordering::Relaxed) - before, 3);
    let recorder = peer.closed().await;
    assert_eq!(recorder.contents(), ["one\r\n", "two\r\n"]);
    let records = recorder.0.lock().unwrap();
    assert_eq!(records[0].recipients.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a@x", "b@x"]);
    assert_eq!((records[1].number, records[1].sender.as_str(), records[1].recipients.len()), (2, "c@x", 1));
}

#[tokio::test]
async fn blocks_make_no_difference() {
    let session = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 5\r\nab\r\n.BDAT 7 LAST\r\n..\r\n.\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 0 LAST\r\n\
                   NOOP\r\nQUIT\r\n";
    for block in 1..=session.len() {
        let mut peer = Peer::greeted(settings()).await;
        for part in session.as_bytes().chunks(block) {
            peer.send(part).await;
            // Lets the receiver read what is there, so that blocks are blocks.
            tokio::task::yield_now().await;
        }
        peer.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Go on\r\n250 2.0.0 Ok: taken\r\n").await;
        peer.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: taken\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n").await;
        assert_eq!(peer.closed().await.contents(), ["ab\r\n...\r\n.\r\n", ""], "blocks of {block}");
    }
}

#[tokio::test]
async fn chunks_of_a_refused_message_are_swallowed() {
    let mut peer = Peer::greeted(settings()).await;
    // Nobody accepted, chunks that look like commands, then a good message, as a client that pipelines sends them.
    peer.send("MAIL FROM:<a@x>\r\nRCPT TO:<refused@x>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nRSET\r\n").await;
    peer.send("MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 4 LAST\r\nok\r\n").await;
    peer.expect(
        "250 2.1.0 Ok\r\n550-5.1.1 No such user\r\n550 here\r\n554 5.5.1 No valid recipients\r\n503 5.5.1 An earlier chunk was refused\r\n",
    )
    .await;
    peer.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: taken\r\n").await;
    peer.talk(&[
        ("BDAT 2 LAST\r\n", "503 5.5.1 Say MAIL first"),
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<b@x>", "250 2.1.5 Ok"),
        ("BDAT 2\r\n", "250 2.0.0 Go on"),
        ("DATA", "503 5.5.1 After BDAT only BDAT may follow"),
        ("RCPT TO:<c@x>", "503 5.5.1 After BDAT only BDAT may follow"),
        ("RSET", "250 2.0.0 Ok"),
        ("BDAT x", "501 5.5.4 Write BDAT octets, or BDAT octets LAST"),
    ])
    .await;
    // How many octets follow is not known: the session cannot go on.
    assert_eq!(peer.closed().await.contents(), ["ok\r\n"]);
}

#[tokio::test]
async fn only_crlf_dot_crlf_ends_a_message() {
    for smuggled in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r\r\n", "\r.\r\n", "\n\n.\r\n"] {
        let mut peer = Peer::greeted(settings()).await;
        peer.talk(&[("MAIL FROM:<a@x>", "250 2.1.0 Ok"), ("RCPT TO:<b@x>", "250 2.1.5 Ok"), ("DATA", "354 End with CRLF.CRLF")]).await;
        peer.send(format!("text{smuggled}MAIL FROM:<evil@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n")).await;
        peer.expect("550 5.6.0 The content has a CR without LF or a LF without CR\r\n221 2.0.0 Bye\r\n").await;
        assert_eq!(peer.closed().await.contents(), [""; 0], "{smuggled:?}");
    }
}

#[tokio::test]
async fn a_line_that_ends_with_lf_is_no_command() {
    let mut peer = Peer::greeted(settings()).await;
    peer.send("MAIL FROM:<a@x>\nRCPT TO:<b@x>\r\nQUIT\r\n").await;
    peer.expect("500 5.5.2 A line ends with CRLF, not LF\r\n503 5.5.1 Say MAIL first\r\n221 2.0.0 Bye\r\n").await;
    peer.closed().await;
}

#[tokio::test]
async fn commands_out_of_order_are_503_and_slips_501() {
    let mut peer = Peer::new(settings()).await;
    peer.talk(&[
        ("MAIL FROM:<a@x>", "503 Say EHLO first"),
        ("HELO client.test", "250 sink.test"),
        ("MAIL FROM:<a@x> SIZE=1", "555 A parameter was not offered, or has no such value"),
        ("BDAT 1", "502 CHUNKING was not offered"),
    ])
    .await;
    peer.closed().await;

    let mut peer = Peer::greeted(settings()).await;
    peer.talk(&[
        ("RCPT TO:<b@x>", "503 5.5.1 Say MAIL first"),
        ("DATA", "503 5.5.1 Say MAIL first"),
        ("MAIL FROM <a@x>", "501 5.5.4 Write MAIL FROM:<address> or RCPT TO:<address>"),
        ("MAIL FROM:<a>", "501 5.1.3 This is not an address"),
        ("MAIL FROM:<é@x>", "553 5.6.7 The address needs SMTPUTF8, which MAIL did not ask for"),
        ("MAIL FROM:<é@x> SMTPUTF8", "250 2.1.0 Ok"),
        ("MAIL FROM:<a@x>", "503 5.5.1 A transaction is under way: end it, or RSET"),
        ("RCPT TO:<>", "501 5.1.3 This is not an address"),
        ("DATA", "554 5.5.1 No valid recipients"),
        ("EHLO again.test", "250-sink.test"),
    ])
    .await;
    while !peer.line().await.starts_with("250 ") {}
    peer.talk(&[("RCPT TO:<b@x>", "503 5.5.1 Say MAIL first"), ("NONSENSE", "500 5.5.2 Unknown command"), ("QUIT", "221 2.0.0 Bye")]).await;
    peer.closed().await;
}

#[tokio::test]
async fn a_client_that_does_not_wait_where_it_must_is_cut_off() {
    let envelope = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n";
    let mut early = Peer::greeted(settings()).await;
    early.send(format!("{envelope}DATA\r\ntoo early\r\n.\r\n")).await;
    early.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End with CRLF.CRLF\r\n").await;
    early.expect("503 5.5.0 You did not wait for the answer to the last command\r\n").await;
    assert_eq!(early.closed().await.contents(), [""; 0]);

    let features = Features { pipelining: false, ..Features::default() };
    let mut unoffered = Peer::greeted(Settings { features, ..settings() }).await;
    unoffered.send(envelope).await;
    unoffered.expect("250 2.1.0 Ok\r\n503 5.5.0 PIPELINING was not offered: wait for each answer\r\n").await;
    unoffered.closed().await;
}

#[tokio::test]
async fn what_is_switched_off_is_not_offered() {
    let mut peer = Peer::new(Settings { features: Features::none(), ..settings() }).await;
    peer.talk(&[
        ("EHLO client.test", "250 sink.test"),
        ("MAIL FROM:<a@x> BODY=8BITMIME", "555 A parameter was not offered, or has no such value"),
        ("MAIL FROM:<a@x>", "250 Ok"),
        ("RCPT TO:<b@x> NOTIFY=NEVER", "555 A parameter was not offered, or has no such value"),
        ("RCPT TO:<b@x>", "250 Ok"),
        ("DATA", "354 End with CRLF.CRLF"),
        (".", "250 Ok: taken"),
        ("QUIT", "221 Bye"),
    ])
    .await;
    assert_eq!(peer.closed().await.contents(), [""]);
}

#[tokio::test]
async fn everything_has_a_limit() {
    let mut peer = Peer::greeted(Settings { max_size: 10, max_recipients: 2, ..settings() }).await;
    peer.talk(&[
        (&format!("NOOP {}", "x".repeat(4089)), "250 2.0.0 Ok"),
        (&format!("NOOP {}", "x".repeat(4090)), "500 5.5.2 The line is too long"),
        (&format!("NOOP {}", "x".repeat(300_000)), "500 5.5.2 The line is too long"),
        ("MAIL FROM:<a@x> SIZE=11", "552 5.3.4 The message is too large"),
        ("MAIL FROM:<a@x> SIZE=10", "250 2.1.0 Ok"),
        ("RCPT TO:<b@x>", "250 2.1.5 Ok"),
        ("RCPT TO:<c@x>", "250 2.1.5 Ok"),
        ("RCPT TO:<d@x>", "452 4.5.3 Too many recipients"),
        ("DATA", "354 End with CRLF.CRLF"),
        ("012345678\r\n.", "552 5.3.4 The message is too large"),
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<b@x>", "250 2.1.5 Ok"),
        ("DATA", "354 End with CRLF.CRLF"),
        ("01234567\r\n.", "250 2.0.0 Ok: taken"),
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<b@x>", "250 2.1.5 Ok"),
        ("BDAT 9\r\n0123456", "250 2.0.0 Go on"),
        ("BDAT 4\r\n01", "552 5.3.4 The message is too large"),
        ("BDAT 2 LAST\r\n", "503 5.5.1 An earlier chunk was refused"),
        ("QUIT", "221 2.0.0 Bye"),
    ])
    .await;
    assert_eq!(peer.closed().await.contents(), ["01234567\r\n"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_left_after_the_time_allowed() {
    let peer = Peer::greeted(settings()).await;
    let begun = Instant::now();
    let error = peer.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_waited_once_a_group() {
    let begun = Instant::now();
    let mut peer = Peer::greeted(Settings { delay: Duration::from_secs(10), ..settings() }).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
    peer.send("MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n").await;
    peer.expect("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n354 End with CRLF.CRLF\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn the_policy_has_the_last_word() {
    let mut peer = Peer::greeted(settings()).await;
    peer.talk(&[
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<refused@x>", "550-5.1.1 No such user\r\n550 here"),
        ("RCPT TO:<deferred@x>", "450 4.2.0 Later"),
        ("RCPT TO:<sender@x>", "550 a@x"),
        ("DATA", "554 5.5.1 No valid recipients"),
        ("RCPT TO:<elsewhere@x>", "251 2.1.5 Will forward"),
        ("DATA", "354 End with CRLF.CRLF"),
        ("Subject: spam\r\n.", "554 5.7.1 Spam"),
        ("MAIL FROM:<a@x>", "250 2.1.0 Ok"),
        ("RCPT TO:<bye@x>", "421 4.3.2 Closing"),
    ])
    .await;
    assert_eq!(peer.closed().await.contents(), [""; 0]);
}

/// Starts a sink on a free port, with what ends it.
async fn listen(policy: Arc<dyn Policy>) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let sink = Sink::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().with(settings());
    let address = sink.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let task = tokio::spawn(sink.run(policy, async move {
        let _ = ended.await;
    }));
    (address, end, task)
}

/// Sends one message on a connection of its own, and waits for the end.
async fn send_one(address: SocketAddr, recipient: &str, content: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let octets = content.len();
    let session = format!(
        "EHLO client.test\r\n\
        MAIL FROM:<a@example.com> SIZE={octets}\r\nRCPT TO:<{recipient}> NOTIFY=FAILURE\r\nBDAT {octets} LAST\r\n{content}QUIT\r\n"
    );
    let (hello, rest) = session.split_at(session.find("MAIL").unwrap());
    stream.write_all(hello.as_bytes()).await.unwrap();
    let mut replies = Vec::new();
    while !replies.ends_with(b"250 SIZE 104857600\r\n") {
        assert_ne!(timeout(LIMIT, stream.read_buf(&mut replies)).await.unwrap().unwrap(), 0);
    }
    stream.write_all(rest.as_bytes()).await.unwrap();
    timeout(LIMIT, stream.read_to_end(&mut replies)).await.unwrap().unwrap();
    String::from_utf8(replies).unwrap()
}

#[tokio::test]
async fn a_counter_counts_over_many_connections() {
    let counter = Arc::new(Counter::default());
    let (address, end, task) = listen(Arc::<Counter>::clone(&counter)).await;
    let clients = (0..20).map(|_| send_one(address, "b@example.com", "12345678\r\n"));
    for replies in futures_util::future::join_all(clients).await {
        assert!(replies.ends_with("250 2.0.0 Ok: taken\r\n221 2.0.0 Bye\r\n"), "{replies}");
    }
    assert_eq!(counter.totals(), Totals { sessions: 20, messages: 20, recipients: 20, octets: 200 });
    // A connection that is open does not keep the sink from ending.
    let _idle = TcpStream::connect(address).await.unwrap();
    end.send(()).unwrap();
    timeout(LIMIT, task).await.unwrap().unwrap();
}

/// The command's output.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits for the line that says where the sink listens.
    async fn address(&self) -> SocketAddr {
        let find = async {
            loop {
                if let Some((address, _)) = self.text().strip_prefix("listening on ").and_then(|text| text.split_once(',')) {
                    return address.parse().unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, find).await.unwrap()
    }
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn args(options: &[&str]) -> Args {
    Command::try_parse_from(["sink", "--listen", "127.0.0.1:0"].iter().chain(options)).unwrap().args
}

/// Runs the command while `client` runs; returns its totals and output.
async fn command(args: Args, client: impl AsyncFnOnce(SocketAddr)) -> (Totals, String) {
    let (end, ended) = oneshot::channel::<()>();
    let output = Output::default();
    let run = run_until(args, output.clone(), async move {
        let _ = ended.await;
    });
    let client = async {
        client(output.address().await).await;
        end.send(()).unwrap();
    };
    let (totals, ()) = timeout(LIMIT, async { tokio::join!(run, client) }).await.unwrap();
    (totals.unwrap(), output.text())
}

#[tokio::test]
async fn the_command_keeps_messages_and_says_so() {
    let spool = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sink");
    let _ = std::fs::remove_dir_all(&spool);
    let options = ["--directory", spool.to_str().unwrap(), "--refuse", "nobody@*", "--defer", "*@slow.example"];
    let (totals, output) = command(args(&options), async |address| {
        assert!(send_one(address, "b@example.com", "one\r\n").await.contains("250 2.0.0 Ok: kept as 000001.eml"));
        assert!(send_one(address, "nobody@example.com", "x\r\n").await.contains("550 5.1.1 Refused by --refuse\r\n554 5.5.1"));
        assert!(send_one(address, "b@Slow.example", "x\r\n").await.contains("450 4.2.0 Deferred by --defer\r\n554 5.5.1"));
    })
    .await;
    assert_eq!(totals, Totals { sessions: 3, messages: 1, recipients: 1, octets: 5 });
    assert!(output.contains("from=<a@example.com> to=<b@example.com> size=5 000001.eml\n"), "{output}");
    assert!(output.contains("\nmessages: 1, recipients: 1, content: 5 B, sessions: 3, in "), "{output}");

    // A second run goes on counting where the first one ended.
    command(args(&options), async |address| {
        assert!(send_one(address, "c@example.com", "two\r\n").await.contains("kept as 000002.eml"));
    })
    .await;
    let mut files: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["000001.eml", "000001.json", "000002.eml", "000002.json"]);
    assert_eq!(std::fs::read(spool.join("000002.eml")).unwrap(), b"two\r\n");
    let json = std::fs::read(spool.join("000001.json")).unwrap();
    let sidecar: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(sidecar["reverse_path"], "a@example.com");
    assert_eq!(sidecar["forward_path"], serde_json::json!(["b@example.com"]));
    assert_eq!(sidecar["mail_parameters"], serde_json::json!(["SIZE=5"]));
    assert_eq!(sidecar["rcpt_parameters"], serde_json::json!([["NOTIFY=FAILURE"]]));
    assert_eq!(sidecar["name"], "client.test");
    // It is a sidecar of the drop directory, too.
    let envelope: lettre::address::Envelope = serde_json::from_slice(&json).unwrap();
    assert_eq!(envelope.to()[0].to_string(), "b@example.com");
    std::fs::remove_dir_all(&spool).unwrap();
}

#[tokio::test]
async fn the_command_counts_without_keeping() {
    let (totals, output) = command(args(&["--count", "--without", "chunking", "--without", "8bitmime"]), async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"EHLO client.test\r\n").await.unwrap();
        let mut replies = Vec::new();
        while !replies.ends_with(b"250 SIZE 104857600\r\n") {
            assert_ne!(timeout(LIMIT, stream.read_buf(&mut replies)).await.unwrap().unwrap(), 0);
        }
        let replies = String::from_utf8(replies).unwrap();
        assert!(!replies.contains("CHUNKING") && !replies.contains("8BITMIME") && replies.contains("250-DSN\r\n"), "{replies}");
    })
    .await;
    assert_eq!(totals, Totals { sessions: 1, ..Totals::default() });
    assert!(output.contains("messages: 0, recipients: 0, content: 0 B, sessions: 1, in "), "{output}");
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let occupied = Args { listen: address, ..args(&[]) };
    let error = run_until(occupied, Output::default(), async {}).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    let error = run_until(args(&["--directory", "/dev/null/x"]), Output::default(), async {}).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot keep messages in /dev/null/x: "), "{error}");
}
