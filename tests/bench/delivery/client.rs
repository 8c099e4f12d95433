//! A client with nothing behind it: no queue, no disk, no logic; pre-built octets on ten connections. As such it is the ceiling of what
//! any MTA could reach with this sink on this machine; and it hands mail in to the peers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memchr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::letters::{Letters, SENDER};
use crate::process::own_thread_cpu;

/// How much a client says before it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Waits for every answer, as without PIPELINING.
    Serial,
    /// The envelope at once, then the content.
    Pipelined,
    /// Content, final dot and the next envelope at once: one turn a message.
    Chained,
    /// BDAT, with so many messages under way.
    Window(usize),
}

/// Where to, and how.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub to: SocketAddr,
    pub style: Style,
    pub connections: usize,
    /// Messages after which a connection is closed and another opened.
    pub per_connection: usize,
}

impl Client {
    /// Ten connections, kept for as long as it takes.
    pub fn ceiling(to: SocketAddr, style: Style) -> Self {
        Self { to, style, connections: 10, per_connection: usize::MAX }
    }

    /// Sends all of them; returns the CPU time that it took, without that of building the octets.
    pub fn send(&self, letters: &Letters, limit: Duration) -> Result<Duration, String> {
        let sessions: Vec<Vec<Script>> = (0..self.connections)
            .map(|connection| {
                let own: Vec<usize> = (connection..letters.count).step_by(self.connections).collect();
                own.chunks(self.per_connection).map(|part| Script::new(letters, part, self.style)).collect()
            })
            .collect();
        let to = self.to;
        let send = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            let before = own_thread_cpu();
            let sent = runtime.block_on(async {
                let connections: Vec<_> = sessions.into_iter().map(|scripts| tokio::spawn(play_all(to, scripts))).collect();
                for connection in connections {
                    connection.await.map_err(|error| error.to_string())??;
                }
                Ok::<_, String>(())
            });
            sent.map(|()| own_thread_cpu() - before)
        };
        // A thread of its own, so that its time can be told from the rest.
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(send()));
        hears.recv_timeout(limit).map_err(|_| format!("the client was not done within {limit:?}"))?
    }
}

/// What is written together, and how many answers come to it.
struct Step {
    octets: Vec<u8>,
    answers: usize,
}

/// What a session writes, and how many steps may be unanswered.
struct Script {
    steps: Vec<Step>,
    window: usize,
}

impl Script {
    fn new(letters: &Letters, numbers: &[usize], style: Style) -> Self {
        let mut script = Self { steps: Vec::new(), window: 1 };
        match style {
            Style::Serial => numbers.iter().for_each(|&n| {
                script
                    .steps
                    .extend([from(), to(letters, n), b"DATA\r\n".to_vec(), ended(letters, n)].map(|octets| Step { octets, answers: 1 }));
            }),
            Style::Pipelined => numbers.iter().for_each(|&n| {
                script.steps.push(Step { octets: envelope(letters, n), answers: 3 });
                script.steps.push(Step { octets: ended(letters, n), answers: 1 });
            }),
            Style::Chained => {
                script.steps.extend(numbers.first().map(|&n| Step { octets: envelope(letters, n), answers: 3 }));
                for (at, &n) in numbers.iter().enumerate() {
                    let mut step = Step { octets: ended(letters, n), answers: 1 };
                    if let Some(&next) = numbers.get(at + 1) {
                        step.octets.extend(envelope(letters, next));
                        step.answers += 3;
                    }
                    script.steps.push(step);
                }
            }
            Style::Window(window) => {
                script.window = window;
                script.steps.extend(numbers.iter().map(|&n| {
                    let content = letters.content(n);
                    let mut octets = [from(), to(letters, n), format!("BDAT {} LAST\r\n", content.len()).into_bytes()].concat();
                    octets.extend(content);
                    Step { octets, answers: 3 }
                }));
            }
        }
        script
    }
}

fn from() -> Vec<u8> {
    format!("MAIL FROM:<{SENDER}>\r\n").into_bytes()
}

fn to(letters: &Letters, n: usize) -> Vec<u8> {
    format!("RCPT TO:<{}>\r\n", letters.recipient(n)).into_bytes()
}

fn envelope(letters: &Letters, n: usize) -> Vec<u8> {
    [from(), to(letters, n), b"DATA\r\n".to_vec()].concat()
}

fn ended(letters: &Letters, n: usize) -> Vec<u8> {
    let mut content = letters.content(n);
    content.extend_from_slice(b".\r\n");
    content
}

async fn play_all(to: SocketAddr, scripts: Vec<Script>) -> Result<(), String> {
    for script in scripts {
        let mut connection = Connection::open(to).await?;
        connection.play(&script).await?;
        connection.quit().await?;
    }
    Ok(())
}

/// One SMTP connection, past EHLO.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| format!("connecting to {to}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = Self { stream, input: Vec::with_capacity(4096) };
        connection.answers(1).await?;
        connection.say(b"EHLO client.bench.test\r\n", 1).await?;
        Ok(connection)
    }

    /// One message, each answer waited for; when its final dot was written.
    pub async fn deliver(&mut self, letters: &Letters, n: usize) -> Result<Instant, String> {
        for line in [from(), to(letters, n), b"DATA\r\n".to_vec()] {
            self.say(&line, 1).await?;
        }
        let octets = ended(letters, n);
        let now = Instant::now();
        self.say(&octets, 1).await?;
        Ok(now)
    }

    pub async fn quit(mut self) -> Result<(), String> {
        self.say(b"QUIT\r\n", 1).await
    }

    async fn say(&mut self, octets: &[u8], answers: usize) -> Result<(), String> {
        self.stream.write_all(octets).await.map_err(|error| format!("writing: {error}"))?;
        self.answers(answers).await
    }

    async fn play(&mut self, script: &Script) -> Result<(), String> {
        if script.window == 1 {
            for step in &script.steps {
                self.say(&step.octets, step.answers).await?;
            }
            return Ok(());
        }
        // Answered half a window at a time, so that several messages leave in one write.
        let (mut sent, mut together) = (0, Vec::new());
        let refill = script.window.div_ceil(2);
        for answered in (0..script.steps.len()).step_by(refill) {
            let until = script.steps.len().min(answered + script.window);
            together.clear();
            script.steps[sent..until].iter().for_each(|step| together.extend_from_slice(&step.octets));
            sent = until;
            self.stream.write_all(&together).await.map_err(|error| format!("writing: {error}"))?;
            let due = &script.steps[answered..script.steps.len().min(answered + refill)];
            self.answers(due.iter().map(|step| step.answers).sum()).await?;
        }
        Ok(())
    }

    /// Reads so many answers, all of which must be good.
    async fn answers(&mut self, mut count: usize) -> Result<(), String> {
        loop {
            let mut at = 0;
            while count > 0
                && let Some(end) = memchr(b'\n', &self.input[at..])
            {
                let line = &self.input[at..at + end];
                if !matches!(line.first(), Some(b'2' | b'3')) {
                    return Err(format!("the server said {:?}", String::from_utf8_lossy(line)));
                }
                count -= usize::from(line.get(3) != Some(&b'-'));
                at += end + 1;
            }
            self.input.drain(..at);
            if count == 0 {
                return Ok(());
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Err(error) => return Err(format!("reading: {error}")),
            }
        }
    }
}
