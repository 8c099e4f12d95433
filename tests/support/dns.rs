//! A scripted DNS server on a loopback port, UDP and TCP: each (name, type) has an answer, and what was asked is counted.
#![allow(dead_code, unreachable_pub)]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What the server does with a question.
#[derive(Clone, Default)]
pub struct Script {
    code: Option<ResponseCode>,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    silent: bool,
    truncated: bool,
    garbage: bool,
    held: Option<Arc<Notify>>,
}

type Key = (String, RecordType);

#[derive(Default)]
struct Log {
    /// Message ids by question: a query that is sent again has the same id.
    ids: HashMap<Key, HashSet<u16>>,
    udp: usize,
    tcp: usize,
    /// Of the last query: its name as sent, whether it had EDNS and asked for recursion.
    last: Option<(String, bool, bool)>,
}

struct Shared {
    scripts: Mutex<HashMap<Key, Script>>,
    log: Mutex<Log>,
}

/// Runs until it is dropped.
pub struct DnsServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.").replace("..", ".")).unwrap()
}

impl Script {
    fn records(owner: &str, ttl: u32, data: impl IntoIterator<Item = RData>) -> Self {
        Self { answers: data.into_iter().map(|data| Record::from_rdata(name(owner), ttl, data)).collect(), ..Self::default() }
    }

    pub fn code(code: ResponseCode) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// NXDOMAIN with a SOA record of this time to live and minimum.
    pub fn nxdomain(ttl: u32, minimum: u32) -> Self {
        Self { code: Some(ResponseCode::NXDomain), ..Self::nodata(ttl, minimum) }
    }

    pub fn nodata(ttl: u32, minimum: u32) -> Self {
        let soa = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 3600, 600, 86400, minimum);
        Self { authorities: vec![Record::from_rdata(name("test"), ttl, RData::SOA(soa))], ..Self::default() }
    }

    /// No error, no answer, and other servers' names.
    pub fn referral() -> Self {
        Self { authorities: vec![Record::from_rdata(name("test"), 60, RData::NS(NS(name("ns.test"))))], ..Self::default() }
    }

    pub fn silence() -> Self {
        Self { silent: true, ..Self::default() }
    }

    pub fn garbage() -> Self {
        Self { garbage: true, ..Self::default() }
    }

    /// Over UDP: nothing but the truncation bit.
    pub fn truncated(self) -> Self {
        Self { truncated: true, ..self }
    }

    /// The answer waits for a notification; one each.
    pub fn held(self, by: &Arc<Notify>) -> Self {
        Self { held: Some(by.clone()), ..self }
    }

    /// The CNAME of `owner` in front of this script's answers.
    pub fn behind_cname(mut self, owner: &str, ttl: u32, target: &str) -> Self {
        self.answers.insert(0, Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target)))));
        self
    }
}

impl DnsServer {
    /// Binds a port that is free for UDP and TCP.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { scripts: Mutex::default(), log: Mutex::default() });
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), shared.clone()));
        tasks.spawn(serve_tcp(tcp, shared.clone()));
        Self { address, shared, tasks }
    }

    pub fn on(&self, owner: &str, record_type: RecordType, script: Script) -> &Self {
        self.shared.scripts.lock().unwrap().insert((owner.to_owned(), record_type), script);
        self
    }

    pub fn mx(&self, owner: &str, ttl: u32, records: &[(u16, &str)]) -> &Self {
        self.on(owner, RecordType::MX, mx(owner, ttl, records))
    }

    /// A and AAAA records; the family without any is NODATA.
    pub fn host(&self, owner: &str, ttl: u32, addresses: &[&str]) -> &Self {
        let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).partition(IpAddr::is_ipv6);
        for (record_type, addresses) in [(RecordType::AAAA, v6), (RecordType::A, v4)] {
            let script = if addresses.is_empty() { Script::nodata(60, 60) } else { self::addresses(owner, ttl, &addresses) };
            self.on(owner, record_type, script);
        }
        self
    }

    /// How many different queries came for this question, however often each was sent.
    pub fn asked(&self, owner: &str, record_type: RecordType) -> usize {
        self.shared.log.lock().unwrap().ids.get(&(owner.to_owned(), record_type)).map_or(0, HashSet::len)
    }

    pub fn asked_in_all(&self) -> usize {
        self.shared.log.lock().unwrap().ids.values().map(HashSet::len).sum()
    }

    /// Packets over UDP and messages over TCP.
    pub fn packets(&self) -> (usize, usize) {
        let log = self.shared.log.lock().unwrap();
        (log.udp, log.tcp)
    }

    /// The last query: name as sent, EDNS, recursion desired.
    pub fn last(&self) -> (String, bool, bool) {
        self.shared.log.lock().unwrap().last.clone().unwrap()
    }
}

pub fn mx(owner: &str, ttl: u32, records: &[(u16, &str)]) -> Script {
    Script::records(owner, ttl, records.iter().map(|(preference, host)| RData::MX(MX::new(*preference, name(host)))))
}

pub fn addresses(owner: &str, ttl: u32, addresses: &[IpAddr]) -> Script {
    let data = addresses.iter().map(|address| match address {
        IpAddr::V4(v4) => RData::A(A(*v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
    });
    Script::records(owner, ttl, data)
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let query = buffer[..length].to_vec();
        let (socket, shared) = (socket.clone(), shared.clone());
        answers.spawn(async move {
            shared.log.lock().unwrap().udp += 1;
            if let Some(answer) = shared.answer(&query, true).await {
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve_stream(stream, shared.clone()));
    }
}

async fn serve_stream(mut stream: TcpStream, shared: Arc<Shared>) {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        if stream.read_exact(&mut query).await.is_err() {
            return;
        }
        shared.log.lock().unwrap().tcp += 1;
        if let Some(answer) = shared.answer(&query, false).await {
            let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(answer);
            if stream.write_all(&framed).await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    async fn answer(&self, query: &[u8], udp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        let owner = question.name().to_lowercase().to_ascii();
        let key = (owner.trim_end_matches('.').to_owned(), question.query_type());
        {
            let mut log = self.log.lock().unwrap();
            log.ids.entry(key.clone()).or_default().insert(query.metadata.id);
            log.last = Some((question.name().to_ascii(), query.edns.is_some(), query.metadata.recursion_desired));
        }
        // What is not scripted is a mistake of the test: REFUSED shows it.
        let script = self.scripts.lock().unwrap().get(&key).cloned().unwrap_or_else(|| Script::code(ResponseCode::Refused));
        if script.silent {
            return None;
        }
        if let Some(held) = &script.held {
            held.notified().await;
        }
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = script.code.unwrap_or(ResponseCode::NoError);
        answer.add_query(question);
        if query.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        if udp && script.truncated {
            answer.metadata.truncation = true;
        } else {
            answer.insert_answers(script.answers);
            answer.insert_authorities(script.authorities);
        }
        let mut bytes = answer.to_vec().unwrap();
        if script.garbage {
            bytes.truncate(14);
        }
        Some(bytes)
    }
}
