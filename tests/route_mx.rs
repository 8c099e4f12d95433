//! Routes by DNS: each row of the first table of SMTP-RULES.md, order and limits, sites, and what a cached route costs.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/route.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smtp_direct::config::{AddressFamily, Config, TlsMode};
use smtp_direct::outcome::{AddressFault, DnsFault, Fault, judge};
use smtp_direct::route::{AddressFate, CachedDns, RouteSource, Router, Step};
use support::*;

fn status(fault: &Fault) -> String {
    let verdict = judge(fault);
    format!("{} {}", verdict.kind.as_str(), verdict.status)
}

fn servfail(name: &str) -> Fault {
    Fault::Dns { name: name.to_owned(), fault: DnsFault::ResponseCode("SERVFAIL".to_owned()) }
}

fn known_as(config: &Config, dns: &Arc<MemoryDns>, own: &[&str]) -> Router {
    Router::new(config, CachedDns::new(dns.clone(), &config.dns), identity(own)).with_seed(7)
}

#[tokio::test]
async fn mx_sorted_by_preference() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(20, "b.test"), (10, "a.test"), (30, "c.test")]);
    dns.host("a.test", &["192.0.2.1"]).host("b.test", &["192.0.2.2"]).host("c.test", &["192.0.2.3"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25", "b.test 192.0.2.2:25", "c.test 192.0.2.3:25"]);
    assert_eq!(route.endpoints.iter().map(|e| e.preference).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(route.source, RouteSource::Mx { cached: false });
    assert_eq!(route.site.as_str(), "1 a.test:25, 2 b.test:25, 3 c.test:25");
}

#[tokio::test]
async fn mx_equals_are_shuffled_within_their_preference_only() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (10, "b.test"), (10, "c.test"), (20, "d.test")]);
    for (host, ip) in [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3"), ("d.test", "192.0.2.4")] {
        dns.host(host, &[ip]);
    }
    let router = router(&config(), &dns);
    let mut first = HashMap::<Arc<str>, usize>::new();
    for _ in 0..300 {
        let route = Copy::default().route(&router).await;
        assert_eq!(&*route.endpoints[3].host, "d.test");
        *first.entry(route.endpoints[0].host.clone()).or_default() += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| *count > 50), "{first:?}");
}

#[tokio::test]
async fn mx_interleaves_ipv6_and_ipv4_so_that_neither_crowds_out_the_other() {
    let dns = MemoryDns::new();
    let many_v6 = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5", "2001:db8::6", "192.0.2.1", "192.0.2.2"];
    dns.mx("example.test", &[(10, "a.test")]).host("a.test", &many_v6);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    let families: String = route.endpoints.iter().map(|e| if e.address.is_ipv6() { '6' } else { '4' }).collect();
    assert_eq!(families, "64646");
}

#[tokio::test]
async fn max_addresses_bounds_the_route_and_worse_preferences_are_not_asked_for() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "b.test")]);
    dns.host("a.test", &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).host("b.test", &["192.0.2.4"]);
    let mut config = config();
    config.smtp.max_addresses = 3;
    let router = router(&config, &dns);
    assert_eq!(sorted_ips(&*Copy::default().route(&router).await), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(dns.asked("b.test", "A"), 0);
    config.smtp.max_addresses = 2;
    let two = Router::new(&config, CachedDns::new(dns.clone(), &config.dns), identity(&[]));
    let chosen: HashSet<Vec<String>> =
        futures_util::future::join_all((0..200).map(|_| async { sorted_ips(&*Copy::default().route(&two).await) }))
            .await
            .into_iter()
            .collect();
    assert_eq!(chosen.len(), 3, "each pair of the three has its turn: {chosen:?}");
}

#[tokio::test]
async fn mx_nxdomain_fails_5_1_2() {
    let dns = MemoryDns::new();
    let fault = Copy::default().fault(&router(&config(), &dns)).await;
    assert_eq!((fault.clone(), status(&fault).as_str()), (Fault::NoSuchDomain, "failed 5.1.2"));
    assert_eq!(dns.asked("example.test", "A") + dns.asked("example.test", "AAAA"), 0);
}

#[tokio::test]
async fn mx_nodata_is_implicit_mx() {
    let dns = MemoryDns::new();
    dns.host("example.test", &["192.0.2.1"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["example.test 192.0.2.1:25"]);
    assert_eq!((&route.source, route.site.as_str()), (&RouteSource::ImplicitMx, "1 example.test:25"));
}

#[tokio::test]
async fn mx_nodata_without_addresses_fails_5_4_4() {
    let dns = MemoryDns::new();
    dns.missing("example.test", "TXT", smtp_direct::route::LookupError::NoData { negative_ttl: None });
    let fault = Copy::default().fault(&router(&config(), &dns)).await;
    assert_eq!((fault.clone(), status(&fault).as_str()), (Fault::NoAddress(AddressFault::None), "failed 5.4.4"));
}

#[tokio::test]
async fn mx_null_fails_5_1_10_and_nothing_is_asked() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(0, "")]).host("example.test", &["192.0.2.1"]);
    let fault = Copy::default().fault(&router(&config(), &dns)).await;
    assert_eq!((fault.clone(), status(&fault).as_str()), (Fault::NullMx, "failed 5.1.10"));
    assert_eq!(dns.asked_in_all(), 1);
    // Beside others it is no null MX: the others are used.
    dns.mx("mixed.test", &[(0, ""), (10, "a.test")]).host("a.test", &["192.0.2.2"]);
    let route = Copy::to(&["a@mixed.test"]).route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.2:25"]);
}

#[tokio::test]
async fn mx_soft_error_defers_4_4_3_and_never_falls_back_to_a() {
    for fault in [DnsFault::ResponseCode("SERVFAIL".to_owned()), DnsFault::Timeout, DnsFault::Bogus, DnsFault::Other("x".to_owned())] {
        let dns = MemoryDns::new();
        dns.missing("example.test", "MX", fault.clone().into()).host("example.test", &["192.0.2.1"]);
        let found = Copy::default().fault(&router(&config(), &dns)).await;
        assert_eq!((found.clone(), status(&found).as_str()), (Fault::Dns { name: "example.test".to_owned(), fault }, "deferred 4.4.3"));
        assert_eq!(dns.asked("example.test", "A"), 0);
    }
}

#[tokio::test]
async fn mx_soft_error_of_a_host_outweighs_hard_ones() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "gone.test"), (20, "sick.test"), (30, "blocked.test"), (40, "mail.sender.test")]);
    dns.broken("sick.test", "A").host("blocked.test", &["127.0.0.1"]);
    assert_eq!(Copy::default().fault(&router(&config(), &dns)).await, servfail("sick.test"));
    // One family that answers "none" does not outweigh the other that fails.
    dns.host("sick.test", &[]).broken("sick.test", "AAAA");
    dns.mx("example.test", &[(20, "sick.test")]);
    assert_eq!(Copy::default().fault(&router(&config(), &dns)).await, servfail("sick.test"));
    // The implicit MX as well.
    dns.host("implicit.test", &[]).broken("implicit.test", "A");
    assert_eq!(Copy::to(&["a@implicit.test"]).fault(&router(&config(), &dns)).await, servfail("implicit.test"));
}

#[tokio::test]
async fn mx_soft_error_of_a_host_leaves_the_others() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "sick.test"), (10, "a.test"), (20, "b.test")]);
    dns.broken("sick.test", "A").broken("sick.test", "AAAA").host("a.test", &["192.0.2.1"]).host("b.test", &["192.0.2.2"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25", "b.test 192.0.2.2:25"]);
}

#[tokio::test]
async fn mx_records_that_are_no_names_are_skipped() {
    let dns = MemoryDns::new();
    let long = format!("{}.test", "a".repeat(64));
    dns.mx("example.test", &[(1, "192.0.2.9"), (2, ""), (3, &long), (10, "a.test")]).host("a.test", &["192.0.2.1"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25"]);
    assert_eq!(route.site.as_str(), "1 a.test:25");
    dns.mx("literal.test", &[(10, "192.0.2.9")]).host("literal.test", &["192.0.2.9"]);
    let fault = Copy::to(&["a@literal.test"]).fault(&router(&config(), &dns)).await;
    assert_eq!(fault, Fault::NoAddress(AddressFault::None), "there are MX records, so the domain is no implicit MX");
}

#[tokio::test]
async fn mx_to_self_by_name_drops_that_preference_and_all_worse() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "mail.sender.test"), (20, "b.test"), (30, "c.test")]);
    for (host, ip) in [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")] {
        dns.host(host, &[ip]);
    }
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25"]);
}

#[tokio::test]
async fn mx_to_self_by_address_drops_that_preference_and_all_worse() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "alias.test"), (20, "b.test"), (30, "c.test")]);
    for (host, ip) in [("a.test", "192.0.2.1"), ("alias.test", "203.0.113.9"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")] {
        dns.host(host, &[ip]);
    }
    let route = Copy::default().route(&known_as(&config(), &dns, &["203.0.113.9", "2001:db8::9"])).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25"]);
}

#[tokio::test]
async fn mx_best_is_self_fails_5_4_6() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "mail.sender.test"), (20, "b.test")]).host("b.test", &["192.0.2.2"]);
    let fault = Copy::default().fault(&router(&config(), &dns)).await;
    assert_eq!((fault.clone(), status(&fault).as_str()), (Fault::LoopsBack, "failed 5.4.6"));
    // A better one without address changes nothing; the implicit MX and a literal loop as well.
    dns.mx("example.test", &[(5, "gone.test"), (10, "mail.sender.test")]);
    assert_eq!(Copy::default().fault(&router(&config(), &dns)).await, Fault::LoopsBack);
    dns.host("implicit.test", &["203.0.113.9"]);
    let own = known_as(&config(), &dns, &["203.0.113.9"]);
    assert_eq!(Copy::to(&["a@implicit.test"]).fault(&own).await, Fault::LoopsBack);
    assert_eq!(Copy::to(&["a@[203.0.113.9]"]).fault(&own).await, Fault::LoopsBack);
}

#[tokio::test]
async fn mx_to_blocked_targets_is_skipped() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "bad.test"), (20, "a.test")]);
    let blocked =
        ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1"];
    dns.host("bad.test", &[&blocked[..], &["192.0.2.1"]].concat()).host("a.test", &["192.0.2.2"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["bad.test 192.0.2.1:25", "a.test 192.0.2.2:25"]);
}

#[tokio::test]
async fn mx_only_to_blocked_targets_fails_5_4_4() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "bad.test"), (20, "gone.test")]).host("bad.test", &["127.0.0.1"]);
    let fault = Copy::default().fault(&router(&config(), &dns)).await;
    assert_eq!(fault, Fault::NoAddress(AddressFault::Blocked("bad.test [127.0.0.1]".to_owned())));
    assert_eq!(status(&fault), "failed 5.4.4");
}

#[tokio::test]
async fn loopback_that_is_not_blocked_is_no_loop() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]).host("a.test", &["127.0.0.1"]);
    let mut config = config();
    config.dns.blocked_targets.clear();
    config.smtp.port = 2525;
    let route = Copy::default().route(&known_as(&config, &dns, &["127.0.0.1", "::1"])).await;
    assert_eq!(endpoints(&route), ["a.test 127.0.0.1:2525"]);
}

#[tokio::test]
async fn address_literal_goes_to_that_address_without_mx() {
    let dns = MemoryDns::new();
    let router = router(&config(), &dns);
    let route = Copy::to(&["a@[192.0.2.1]"]).route(&router).await;
    assert_eq!(endpoints(&route), ["192.0.2.1 192.0.2.1:25"]);
    assert_eq!((&route.source, route.site.as_str()), (&RouteSource::Literal, "1 192.0.2.1:25"));
    let route = Copy::to(&["a@[IPv6:2001:db8::1]"]).route(&router).await;
    assert_eq!(endpoints(&route), ["2001:db8::1 [2001:db8::1]:25"]);
    assert_eq!(route.site.as_str(), "1 [2001:db8::1]:25");
    for blocked in ["a@[127.0.0.1]", "a@[IPv6:::1]", "a@[IPv6:::ffff:127.0.0.1]"] {
        let fault = Copy::to(&[blocked]).fault(&router).await;
        assert!(matches!(fault, Fault::NoAddress(AddressFault::Blocked(_))), "{blocked}: {fault:?}");
    }
    assert_eq!(dns.asked_in_all(), 0);
}

#[tokio::test]
async fn address_family_limits_lookups_and_addresses() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]).host("a.test", &["2001:db8::1", "192.0.2.1"]);
    for (family, expected, unasked) in [(AddressFamily::Ipv4, "192.0.2.1", "AAAA"), (AddressFamily::Ipv6, "2001:db8::1", "A")] {
        let mut config = config();
        config.dns.address_family = family;
        let before = dns.asked("a.test", unasked);
        let router = router(&config, &dns);
        assert_eq!(sorted_ips(&*Copy::default().route(&router).await), [expected]);
        assert_eq!(dns.asked("a.test", unasked), before);
        let other_literal = if family == AddressFamily::Ipv4 { "a@[IPv6:2001:db8::1]" } else { "a@[192.0.2.1]" };
        assert_eq!(Copy::to(&[other_literal]).fault(&router).await, Fault::NoAddress(AddressFault::None));
    }
    // An IPv4 address in an AAAA record is an IPv4 address.
    dns.host("a.test", &["::ffff:192.0.2.7"]);
    let mut config = config();
    assert_eq!(sorted_ips(&*Copy::default().route(&router(&config, &dns)).await), ["192.0.2.7"]);
    config.dns.address_family = AddressFamily::Ipv6;
    assert_eq!(Copy::default().fault(&router(&config, &dns)).await, Fault::NoAddress(AddressFault::None));
}

#[tokio::test]
async fn one_address_behind_two_names_is_tried_once() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "b.test")]).host("a.test", &["192.0.2.1"]).host("b.test", &["192.0.2.1", "192.0.2.2"]);
    let route = Copy::default().route(&router(&config(), &dns)).await;
    assert_eq!(endpoints(&route), ["a.test 192.0.2.1:25", "b.test 192.0.2.2:25"]);
    // Where the name is verified, the other name may be the one that the certificate proves.
    let mut config = config();
    config.tls.mode = TlsMode::Verify;
    let route = Copy::default().route(&router(&config, &dns)).await;
    assert_eq!(endpoints(&route)[0], "a.test 192.0.2.1:25");
    assert_eq!(sorted_ips(&route), ["192.0.2.1", "192.0.2.1", "192.0.2.2"]);
}

#[tokio::test]
async fn domains_that_share_mail_servers_share_a_site() {
    let dns = MemoryDns::new();
    dns.mx("one.test", &[(10, "a.test"), (20, "b.test"), (20, "c.test")]).mx("two.test", &[(5, "a.test"), (7, "c.test"), (7, "b.test")]);
    dns.mx("three.test", &[(5, "b.test"), (7, "a.test"), (7, "c.test")]);
    for (host, ip) in [("a.test", "192.0.2.1"), ("b.test", "192.0.2.2"), ("c.test", "192.0.2.3")] {
        dns.host(host, &[ip]);
    }
    let router = router(&config(), &dns);
    let one = Copy::to(&["x@one.test"]).route(&router).await.site.clone();
    assert_eq!(one.as_str(), "1 a.test:25, 2 b.test:25, 2 c.test:25");
    assert_eq!(Copy::to(&["x@two.test"]).route(&router).await.site, one);
    assert_ne!(Copy::to(&["x@three.test"]).route(&router).await.site, one, "another order is another site");
}

#[tokio::test]
async fn a_second_message_to_a_domain_causes_no_query() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "b.test")]).host("a.test", &["192.0.2.1"]).host("b.test", &["2001:db8::1"]);
    let router = router(&config(), &dns);
    let first = Copy::default().route(&router).await;
    let queries = dns.asked_in_all();
    assert_eq!(queries, 5);
    let second = Copy::to(&["somebody.else@example.test"]).route(&router).await;
    assert_eq!(dns.asked_in_all(), queries);
    assert_eq!(second.source, RouteSource::Mx { cached: true });
    assert_eq!((endpoints(&first), &first.site), (endpoints(&second), &second.site));
}

#[tokio::test]
async fn hosts_of_one_preference_are_asked_for_at_once() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (10, "b.test")]).host("a.test", &["192.0.2.1"]).host("b.test", &["192.0.2.2"]);
    let held: Vec<_> =
        [("a.test", "A"), ("b.test", "A"), ("a.test", "AAAA"), ("b.test", "AAAA")].map(|(host, kind)| dns.hold(host, kind)).into();
    let router = router(&config(), &dns);
    let copy = Copy::default();
    let mut route = Box::pin(copy.route(&router));
    // Everything is asked for before anything is answered.
    assert!(futures_util::poll!(&mut route).is_pending());
    assert_eq!(dns.asked_in_all(), 5);
    held.iter().for_each(|notify| notify.notify_one());
    assert_eq!(sorted_ips(&*route.await), ["192.0.2.1", "192.0.2.2"]);
}

#[tokio::test]
async fn the_explanation_tells_every_step() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (15, "192.0.2.9"), (20, "mail.sender.test")]).host("a.test", &["127.0.0.1", "192.0.2.1"]);
    let router = router(&config(), &dns);
    let copy = Copy::default();
    let recipients: Vec<_> = copy.recipients.iter().collect();
    let lines = async || router.explain(&copy.query(&recipients)).await.steps.iter().map(Step::to_string).collect::<Vec<_>>();
    let expected = [
        "MX of example.test: 10 a.test, 15 192.0.2.9, 20 mail.sender.test",
        "MX record 15 \"192.0.2.9\": skipped (an IP address, not a name)",
        "AAAA of a.test: no such record",
        "A of a.test: 127.0.0.1, 192.0.2.1",
        "a.test [127.0.0.1]: skipped, 127.0.0.0/8 is in dns.blocked_targets",
        "a.test [192.0.2.1]: used",
        "mail.sender.test is this host: its preference and all worse ones are dropped",
    ];
    assert_eq!(lines().await, expected);
    assert_eq!(lines().await[0], format!("{} (cached 0s ago)", expected[0]));
    let explanation = router.explain(&copy.query(&recipients)).await;
    let used = |step: &&Step| matches!(step, Step::Address { fate: AddressFate::Used, .. });
    assert_eq!(explanation.steps.iter().filter(used).count(), sent(explanation.parts[0].decision.clone()).endpoints.len());
}
