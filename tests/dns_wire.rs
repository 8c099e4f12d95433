//! DNS over the wire: every kind of answer a resolver gives, what it becomes, and what is sent; and the rows of SMTP-RULES.md end to end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/dns.rs"]
mod dns;
#[path = "support/route.rs"]
mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dns::{DnsServer, Script};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use smtp_direct::config::{Config, Dns as DnsConfig};
use smtp_direct::outcome::{AddressFault, DnsFault, Fault};
use smtp_direct::route::{CachedDns, Dns, DnsSetupError, Family, HickoryDns, LookupError, MxAnswer, RouteSource, Router};
use support::*;
use tokio::sync::Notify;

/// Asks these servers, waits shortly, sends once.
fn impatient(servers: &[&DnsServer]) -> DnsConfig {
    DnsConfig {
        servers: servers.iter().map(|server| server.address).collect(),
        timeout: Duration::from_millis(150),
        attempts: 0,
        ..config().dns
    }
}

fn patient(server: &DnsServer) -> DnsConfig {
    DnsConfig { servers: vec![server.address], ..config().dns }
}

fn resolver(config: &DnsConfig) -> HickoryDns {
    HickoryDns::new(config).unwrap()
}

async fn mx(resolver: &HickoryDns, name: &str) -> MxAnswer {
    bounded(resolver.mx(&domain(name))).await
}

fn records(answer: MxAnswer) -> (Vec<(u16, String)>, Duration) {
    let answer = answer.unwrap();
    let mut records: Vec<_> = answer.value.into_iter().map(|mx| (mx.preference, mx.exchange.to_string())).collect();
    records.sort();
    (records, answer.ttl)
}

fn code(name: &str) -> LookupError {
    LookupError::Soft(DnsFault::ResponseCode(name.to_owned()))
}

fn routed(server: &DnsServer) -> (CachedDns, Router) {
    let config = Config { dns: patient(server), ..config() };
    let cache = CachedDns::new(Arc::new(resolver(&config.dns)), &config.dns);
    let router = Router::new(&config, cache.clone(), identity(&["203.0.113.9"])).with_seed(7);
    (cache, router)
}

#[tokio::test]
async fn mx_records_come_with_their_time_to_live() {
    let server = DnsServer::start().await;
    server.mx("example.test", 321, &[(20, "B.Example.TEST"), (10, "a.example.test"), (0, "")]);
    let found = records(mx(&resolver(&patient(&server)), "example.test").await);
    assert_eq!(found, (vec![(0, String::new()), (10, "a.example.test".to_owned()), (20, "b.example.test".to_owned())], seconds(321)));
}

#[tokio::test]
async fn names_are_absolute_and_queries_have_edns_and_ask_for_recursion() {
    let server = DnsServer::start().await;
    server.mx("single", 60, &[(10, "a.test")]);
    let resolver = resolver(&patient(&server));
    records(mx(&resolver, "single").await);
    assert_eq!(server.last(), ("single.".to_owned(), true, true));
    assert_eq!((server.asked_in_all(), server.packets()), (1, (1, 0)));
}

#[tokio::test]
async fn addresses_of_both_families() {
    let server = DnsServer::start().await;
    server.host("a.test", 60, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let resolver = resolver(&patient(&server));
    let mut v4 = resolver.addresses("a.test", Family::V4).await.unwrap().value;
    v4.sort();
    assert_eq!(v4, ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let v6 = resolver.addresses("a.test", Family::V6).await.unwrap();
    assert_eq!((v6.value, v6.ttl), (vec!["2001:db8::1".parse().unwrap()], seconds(60)));
}

#[tokio::test]
async fn negative_answers_hold_for_the_smaller_of_soa_ttl_and_minimum() {
    let server = DnsServer::start().await;
    server.on("nx1.test", RecordType::MX, Script::nxdomain(900, 30)).on("nx2.test", RecordType::MX, Script::nxdomain(40, 900));
    server.on("none.test", RecordType::MX, Script::nodata(900, 50)).on("bare.test", RecordType::MX, Script::code(ResponseCode::NXDomain));
    let resolver = resolver(&patient(&server));
    for (name, negative_ttl) in [("nx1.test", Some(seconds(30))), ("nx2.test", Some(seconds(40))), ("bare.test", None)] {
        assert_eq!(mx(&resolver, name).await, Err(LookupError::NoSuchName { negative_ttl }), "{name}");
    }
    assert_eq!(mx(&resolver, "none.test").await, Err(LookupError::NoData { negative_ttl: Some(seconds(50)) }));
}

#[tokio::test]
async fn response_codes_are_soft_and_final_for_this_lookup() {
    let server = DnsServer::start().await;
    let codes = [
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::FormErr, "FORMERR"),
        (ResponseCode::NotImp, "NOTIMP"),
    ];
    let resolver = resolver(&DnsConfig { attempts: 2, ..patient(&server) });
    for (number, (response, word)) in codes.into_iter().enumerate() {
        let name = format!("code{number}.test");
        server.on(&name, RecordType::MX, Script::code(response));
        assert_eq!(mx(&resolver, &name).await, Err(code(word)));
        assert_eq!(server.asked(&name, RecordType::MX), 1, "a server that answered is not asked the same again");
    }
}

#[tokio::test]
async fn silence_is_a_timeout_after_the_configured_attempts() {
    let server = DnsServer::start().await;
    server.on("silent.test", RecordType::MX, Script::silence());
    assert_eq!(mx(&resolver(&impatient(&[&server])), "silent.test").await, Err(LookupError::Soft(DnsFault::Timeout)));
    assert_eq!(server.asked("silent.test", RecordType::MX), 1);
    let again = DnsConfig { attempts: 2, ..impatient(&[&server]) };
    assert_eq!(mx(&resolver(&again), "silent.test").await, Err(LookupError::Soft(DnsFault::Timeout)));
    assert_eq!(server.asked("silent.test", RecordType::MX), 1 + 3);
}

#[tokio::test]
async fn nonsense_and_referrals_are_soft() {
    let server = DnsServer::start().await;
    server.on("garbage.test", RecordType::MX, Script::garbage()).on("referral.test", RecordType::MX, Script::referral());
    server.on("unrelated.test", RecordType::MX, dns::mx("other.test", 60, &[(10, "a.test")]));
    let resolver = resolver(&impatient(&[&server]));
    for name in ["garbage.test", "referral.test", "unrelated.test"] {
        let answer = mx(&resolver, name).await;
        assert!(matches!(answer, Err(LookupError::Soft(_))), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let server = DnsServer::start().await;
    let hosts: Vec<(u16, String)> = (0..60).map(|n| (n, format!("mail-exchanger-number-{n}.example.test"))).collect();
    let borrowed: Vec<(u16, &str)> = hosts.iter().map(|(preference, host)| (*preference, host.as_str())).collect();
    server.on("example.test", RecordType::MX, dns::mx("example.test", 60, &borrowed).truncated());
    assert_eq!(records(mx(&resolver(&patient(&server)), "example.test").await).0, hosts);
    assert_eq!(server.packets(), (1, 1));
}

#[tokio::test]
async fn a_large_zone_is_cut_to_its_best_records() {
    let server = DnsServer::start().await;
    let hosts: Vec<(u16, String)> = (0..500).rev().map(|n| (n, format!("m{n}.test"))).collect();
    let borrowed: Vec<(u16, &str)> = hosts.iter().map(|(preference, host)| (*preference, host.as_str())).collect();
    server.on("example.test", RecordType::MX, dns::mx("example.test", 60, &borrowed).truncated());
    let found = records(mx(&resolver(&patient(&server)), "example.test").await).0;
    assert_eq!((found.len(), found[0].0, found[63].0), (64, 0, 63));
}

#[tokio::test]
async fn cnames_are_followed_within_and_across_answers() {
    let server = DnsServer::start().await;
    server.on("inside.test", RecordType::MX, dns::mx("end.test", 300, &[(10, "a.test")]).behind_cname("inside.test", 70, "end.test"));
    server.on("across.test", RecordType::MX, Script::default().behind_cname("across.test", 80, "middle.test"));
    server.on("middle.test", RecordType::MX, Script::default().behind_cname("middle.test", 400, "end.test"));
    server.mx("end.test", 300, &[(10, "a.test")]);
    let resolver = resolver(&patient(&server));
    assert_eq!(records(mx(&resolver, "inside.test").await), (vec![(10, "a.test".to_owned())], seconds(70)));
    assert_eq!(server.asked("end.test", RecordType::MX), 0);
    assert_eq!(records(mx(&resolver, "across.test").await), (vec![(10, "a.test".to_owned())], seconds(80)));
}

#[tokio::test]
async fn the_end_of_a_cname_chain_decides() {
    let server = DnsServer::start().await;
    server.on("dangling.test", RecordType::MX, Script::nxdomain(60, 60).behind_cname("dangling.test", 20, "gone.test"));
    server.on("empty.test", RecordType::MX, Script::nodata(60, 60).behind_cname("empty.test", 20, "there.test"));
    server.on("far.test", RecordType::MX, Script::default().behind_cname("far.test", 20, "gone.test"));
    server.on("gone.test", RecordType::MX, Script::nxdomain(60, 60));
    server.on("loop1.test", RecordType::MX, Script::default().behind_cname("loop1.test", 20, "loop2.test"));
    server.on("loop2.test", RecordType::MX, Script::default().behind_cname("loop2.test", 20, "loop1.test"));
    let resolver = resolver(&patient(&server));
    let negative_ttl = Some(seconds(20));
    assert_eq!(mx(&resolver, "dangling.test").await, Err(LookupError::NoSuchName { negative_ttl }));
    assert_eq!(mx(&resolver, "empty.test").await, Err(LookupError::NoData { negative_ttl }));
    assert_eq!(mx(&resolver, "far.test").await, Err(LookupError::NoSuchName { negative_ttl }));
    let looping = mx(&resolver, "loop1.test").await;
    assert!(matches!(looping, Err(LookupError::Soft(DnsFault::Other(_)))), "{looping:?}");
}

#[tokio::test]
async fn special_names_never_reach_a_resolver() {
    let server = DnsServer::start().await;
    let resolver = resolver(&patient(&server));
    for name in ["invalid", "mail.invalid", "abc.onion"] {
        assert!(matches!(mx(&resolver, name).await, Err(LookupError::NoSuchName { .. })), "{name}");
    }
    assert!(matches!(mx(&resolver, "localhost").await, Err(LookupError::NoData { .. })));
    assert_eq!(resolver.addresses("localhost", Family::V4).await.unwrap().value, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(resolver.addresses("mail.localhost", Family::V6).await.unwrap().value, ["::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(server.packets(), (0, 0));
}

#[tokio::test]
async fn a_server_that_fails_leads_to_the_next_which_stays_preferred() {
    let (refuses, silent, good) = (DnsServer::start().await, DnsServer::start().await, DnsServer::start().await);
    for name in ["one.test", "two.test"] {
        silent.on(name, RecordType::MX, Script::silence());
        good.mx(name, 60, &[(10, "a.test")]);
    }
    let resolver = resolver(&impatient(&[&refuses, &silent, &good]));
    assert!(mx(&resolver, "one.test").await.is_ok());
    assert_eq!((refuses.asked_in_all(), silent.asked_in_all(), good.asked_in_all()), (1, 1, 1));
    assert!(mx(&resolver, "two.test").await.is_ok());
    assert_eq!((refuses.asked_in_all(), silent.asked_in_all(), good.asked_in_all()), (1, 1, 2));
    // All fail: the answer that says something is told, not the silence.
    good.on("three.test", RecordType::MX, Script::silence());
    silent.on("three.test", RecordType::MX, Script::silence());
    assert_eq!(mx(&resolver, "three.test").await, Err(code("REFUSED")));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_soft() {
    let gone = DnsServer::start().await;
    let config = impatient(&[&gone]);
    drop(gone);
    let answer = mx(&resolver(&config), "example.test").await;
    assert!(matches!(answer, Err(LookupError::Soft(_))), "{answer:?}");
}

#[tokio::test]
async fn many_lookups_at_once_all_get_their_answers() {
    let server = DnsServer::start().await;
    let names: Vec<String> = (0..400).map(|n| format!("d{n}.test")).collect();
    for name in &names {
        // Over TCP hickory turns requests away beyond its limit: all go over one connection here.
        server.on(name, RecordType::MX, dns::mx(name, 60, &[(10, "a.test")]).truncated());
    }
    let resolver = resolver(&patient(&server));
    let answers = futures_util::future::join_all(names.iter().map(|name| mx(&resolver, name))).await;
    let failed: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn fifty_copies_at_once_make_one_mx_query() {
    let server = DnsServer::start().await;
    let release = Arc::new(Notify::new());
    server.on("example.test", RecordType::MX, dns::mx("example.test", 60, &[(10, "a.test")]).held(&release)).host(
        "a.test",
        60,
        &["192.0.2.1"],
    );
    let (cache, router) = routed(&server);
    let router = Arc::new(router);
    let mut copies = tokio::task::JoinSet::new();
    for n in 0..50 {
        let router = router.clone();
        copies.spawn(async move { endpoints(&*Copy::to(&[&format!("user{n}@example.test")]).route(&router).await) });
    }
    bounded(async {
        while cache.stats().joined < 49 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.notify_one();
    let routes = bounded(copies.join_all()).await;
    assert!(routes.iter().all(|route| *route == ["a.test 192.0.2.1:25"]));
    assert_eq!((server.asked("example.test", RecordType::MX), server.asked("a.test", RecordType::A)), (1, 1));
}

#[tokio::test]
async fn a_second_message_asks_nothing_over_the_wire() {
    let server = DnsServer::start().await;
    server.mx("example.test", 60, &[(10, "a.test")]).host("a.test", 60, &["192.0.2.1"]);
    let (_, router) = routed(&server);
    Copy::default().route(&router).await;
    let packets = server.packets();
    assert_eq!(Copy::default().route(&router).await.source, RouteSource::Mx { cached: true });
    assert_eq!(server.packets(), packets);
}

#[tokio::test]
async fn the_rows_of_the_table_over_the_wire() {
    let server = DnsServer::start().await;
    let (_, router) = routed(&server);
    let fault = async |name: &str| Copy::to(&[&format!("joe@{name}")]).fault(&router).await;

    server.on("nx.test", RecordType::MX, Script::nxdomain(60, 60));
    assert_eq!(fault("nx.test").await, Fault::NoSuchDomain);

    server.on("nomx.test", RecordType::MX, Script::nodata(60, 60)).host("nomx.test", 60, &["192.0.2.1"]);
    let route = Copy::to(&["joe@nomx.test"]).route(&router).await;
    assert_eq!((endpoints(&route), &route.source), (vec!["nomx.test 192.0.2.1:25".to_owned()], &RouteSource::ImplicitMx));

    server.on("nothing.test", RecordType::MX, Script::nodata(60, 60)).host("nothing.test", 60, &[]);
    assert_eq!(fault("nothing.test").await, Fault::NoAddress(AddressFault::None));

    server.mx("null.test", 60, &[(0, "")]);
    assert_eq!(fault("null.test").await, Fault::NullMx);

    server.on("sick.test", RecordType::MX, Script::code(ResponseCode::ServFail)).host("sick.test", 60, &["192.0.2.1"]);
    assert_eq!(fault("sick.test").await, Fault::Dns { name: "sick.test".to_owned(), fault: DnsFault::ResponseCode("SERVFAIL".to_owned()) });
    assert_eq!(server.asked("sick.test", RecordType::A), 0);

    // A half-broken zone: one host fails, the other serves.
    server.mx("half.test", 60, &[(10, "broken.test"), (20, "a.test")]).host("a.test", 60, &["192.0.2.1"]);
    let servfail = || Script::code(ResponseCode::ServFail);
    server.on("broken.test", RecordType::A, servfail()).on("broken.test", RecordType::AAAA, servfail());
    assert_eq!(endpoints(&*Copy::to(&["joe@half.test"]).route(&router).await), ["a.test 192.0.2.1:25"]);

    // MX to a CNAME: followed; the name stays the one of the MX record.
    let target = dns::addresses("real.test", 60, &["192.0.2.3".parse().unwrap()]).behind_cname("alias.test", 60, "real.test");
    server.mx("cname.test", 60, &[(10, "alias.test")]).on("alias.test", RecordType::A, target);
    server.on("alias.test", RecordType::AAAA, Script::nodata(60, 60).behind_cname("alias.test", 60, "real.test"));
    assert_eq!(endpoints(&*Copy::to(&["joe@cname.test"]).route(&router).await), ["alias.test 192.0.2.3:25"]);

    server.mx("literal.test", 60, &[(10, "192.0.2.9"), (20, "a.test")]);
    assert_eq!(endpoints(&*Copy::to(&["joe@literal.test"]).route(&router).await), ["a.test 192.0.2.1:25"]);

    server.mx("self.test", 60, &[(10, "own.test"), (20, "a.test")]).host("own.test", 60, &["203.0.113.9"]);
    assert_eq!(fault("self.test").await, Fault::LoopsBack);

    server.mx("loopback.test", 60, &[(10, "lo.test")]).host("lo.test", 60, &["127.0.0.1", "::1"]);
    assert!(matches!(fault("loopback.test").await, Fault::NoAddress(AddressFault::Blocked(_))));
}

#[tokio::test]
async fn the_systems_resolvers_are_read_or_the_error_says_what_to_do() {
    match HickoryDns::new(&config().dns) {
        Ok(resolver) => assert!(!format!("{resolver:?}").contains("servers: 0")),
        Err(error) => assert!(matches!(error, DnsSetupError::System(_)) && error.to_string().contains("dns.servers"), "{error}"),
    }
}
