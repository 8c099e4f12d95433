//! The DNS cache: what is remembered for how long, what is forgotten first, one query for many, expired answers while DNS fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/route.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use smtp_direct::config::Dns as DnsConfig;
use smtp_direct::outcome::DnsFault;
use smtp_direct::route::{CachedDns, Family, Freshness, Lookup, LookupError, Mx};
use support::*;
use tokio::time::advance;

fn settings() -> DnsConfig {
    config().dns
}

fn cache(dns: &Arc<MemoryDns>, settings: &DnsConfig) -> CachedDns {
    CachedDns::new(dns.clone(), settings)
}

async fn mx(cache: &CachedDns, name: &str) -> Lookup<Mx> {
    bounded(cache.mx(&domain(name))).await
}

fn servfail() -> LookupError {
    LookupError::Soft(DnsFault::ResponseCode("SERVFAIL".to_owned()))
}

const INSTANT: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn an_answer_serves_until_its_time_to_live_and_no_longer() {
    let dns = MemoryDns::new();
    dns.mx_for("example.test", &[(10, "a.test")], seconds(300));
    let cache = cache(&dns, &settings());
    assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Fresh);
    advance(seconds(300) - INSTANT).await;
    let second = mx(&cache, "example.test").await;
    assert_eq!((second.freshness, dns.asked("example.test", "MX")), (Freshness::Cached, 1));
    assert_eq!(&*second.result.unwrap()[0].exchange, "a.test");
    advance(INSTANT).await;
    assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Fresh);
    assert_eq!(dns.asked("example.test", "MX"), 2);
}

#[tokio::test(start_paused = true)]
async fn addresses_are_cached_by_family() {
    let dns = MemoryDns::new();
    dns.host("a.test", &["192.0.2.1", "2001:db8::1"]);
    let cache = cache(&dns, &settings());
    let host: Arc<str> = "a.test".into();
    assert!(cache.addresses_in_memory(&host, Family::V4).is_none());
    assert_eq!(*cache.addresses(&host, Family::V4).await.result.unwrap(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(cache.addresses_in_memory(&host, Family::V4).is_some());
    assert!(cache.addresses_in_memory(&host, Family::V6).is_none());
    assert_eq!(*cache.addresses(&host, Family::V6).await.result.unwrap(), ["2001:db8::1".parse::<std::net::IpAddr>().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn times_to_live_are_brought_into_the_configured_range() {
    let dns = MemoryDns::new();
    dns.mx_for("short.test", &[(10, "a.test")], Duration::ZERO).mx_for("long.test", &[(10, "a.test")], seconds(1_000_000));
    let settings = DnsConfig { min_ttl: seconds(5), max_ttl: seconds(600), ..settings() };
    let cache = cache(&dns, &settings);
    for (name, ttl) in [("short.test", seconds(5)), ("long.test", seconds(600))] {
        mx(&cache, name).await;
        advance(ttl - INSTANT).await;
        assert_eq!(mx(&cache, name).await.freshness, Freshness::Cached, "{name}");
        advance(INSTANT).await;
        assert_eq!(mx(&cache, name).await.freshness, Freshness::Fresh, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nxdomain_and_nodata_are_cached_for_the_soa_minimum() {
    let dns = MemoryDns::new();
    dns.host("nomx.test", &["192.0.2.1"]);
    let cache = cache(&dns, &settings());
    for name in ["nowhere.test", "nomx.test"] {
        let first = mx(&cache, name).await.result.unwrap_err();
        advance(NEGATIVE_TTL - INSTANT).await;
        let second = mx(&cache, name).await;
        assert_eq!((second.freshness, dns.asked(name, "MX")), (Freshness::Cached, 1), "{name}");
        assert_eq!(std::mem::discriminant(&first), std::mem::discriminant(&second.result.unwrap_err()));
        advance(INSTANT).await;
        assert_eq!(mx(&cache, name).await.freshness, Freshness::Fresh);
        assert_eq!(dns.asked(name, "MX"), 2, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_negative_answer_without_soa_has_the_least_time_to_live() {
    let dns = MemoryDns::new();
    dns.missing("nowhere.test", "MX", LookupError::NoSuchName { negative_ttl: None });
    let cache = cache(&dns, &DnsConfig { min_ttl: seconds(5), ..settings() });
    mx(&cache, "nowhere.test").await;
    advance(seconds(5) - INSTANT).await;
    assert_eq!(mx(&cache, "nowhere.test").await.freshness, Freshness::Cached);
    advance(INSTANT).await;
    assert_eq!(mx(&cache, "nowhere.test").await.freshness, Freshness::Fresh);
}

#[tokio::test(start_paused = true)]
async fn the_one_least_recently_used_goes_first() {
    let dns = MemoryDns::new();
    for name in ["one.test", "two.test", "three.test"] {
        dns.mx(name, &[(10, "a.test")]);
    }
    let cache = cache(&dns, &DnsConfig { cache_size: 2, ..settings() });
    mx(&cache, "one.test").await;
    mx(&cache, "two.test").await;
    mx(&cache, "one.test").await;
    mx(&cache, "three.test").await;
    assert_eq!(cache.stats().entries, 2);
    assert_eq!(mx(&cache, "one.test").await.freshness, Freshness::Cached);
    assert_eq!(mx(&cache, "three.test").await.freshness, Freshness::Cached);
    assert_eq!(mx(&cache, "two.test").await.freshness, Freshness::Fresh);
    assert_eq!(dns.asked("two.test", "MX"), 2);
}

#[tokio::test(start_paused = true)]
async fn mx_and_addresses_share_one_size() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]).host("a.test", &["192.0.2.1", "2001:db8::1"]);
    let cache = cache(&dns, &DnsConfig { cache_size: 2, ..settings() });
    mx(&cache, "example.test").await;
    cache.addresses(&"a.test".into(), Family::V4).await;
    cache.addresses(&"a.test".into(), Family::V6).await;
    assert_eq!(cache.stats().entries, 2);
    assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Fresh);
}

#[tokio::test(start_paused = true)]
async fn size_zero_remembers_nothing_and_still_joins_queries() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]);
    let cache = cache(&dns, &DnsConfig { cache_size: 0, ..settings() });
    mx(&cache, "example.test").await;
    mx(&cache, "example.test").await;
    assert_eq!(dns.asked("example.test", "MX"), 2);
    let held = dns.hold("example.test", "MX");
    let name = domain("example.test");
    let (answers, ()) = bounded(join(join_all((0..50).map(|_| cache.mx(&name))), async { held.notify_one() })).await;
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    assert_eq!(dns.asked("example.test", "MX"), 3);
    assert_eq!((cache.stats().entries, cache.entries().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn fifty_lookups_at_once_are_one_query() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]);
    let held = dns.hold("example.test", "MX");
    let cache = cache(&dns, &settings());
    let mut lookups = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let cache = cache.clone();
        lookups.spawn(async move { cache.mx(&domain("example.test")).await.result.is_ok() });
    }
    while cache.stats().joined < 49 {
        tokio::task::yield_now().await;
    }
    held.notify_one();
    assert!(bounded(lookups.join_all()).await.into_iter().all(|ok| ok));
    assert_eq!(dns.asked("example.test", "MX"), 1);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.joined, stats.hits, stats.under_way), (1, 49, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_harms_nobody() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]);
    let held = dns.hold("example.test", "MX");
    let cache = cache(&dns, &settings());
    let name = domain("example.test");
    let mut leader = Box::pin(cache.mx(&name));
    assert!(futures_util::poll!(&mut leader).is_pending());
    let follower = tokio::spawn({
        let cache = cache.clone();
        async move { cache.mx(&domain("example.test")).await }
    });
    while cache.stats().joined < 1 {
        tokio::task::yield_now().await;
    }
    drop(leader);
    held.notify_one();
    let answer = bounded(follower).await.unwrap();
    assert!(answer.result.is_ok());
    assert_eq!(dns.asked("example.test", "MX"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_everybody_left_ends_and_the_next_one_is_new() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]);
    let held = dns.hold("example.test", "MX");
    let cache = cache(&dns, &settings());
    let name = domain("example.test");
    let mut abandoned = Box::pin(cache.mx(&name));
    assert!(futures_util::poll!(&mut abandoned).is_pending());
    assert_eq!(cache.stats().under_way, 1);
    drop(abandoned);
    assert_eq!(cache.stats().under_way, 0);
    held.notify_one();
    assert!(mx(&cache, "example.test").await.result.is_ok());
    assert_eq!(dns.asked("example.test", "MX"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_soft_error_serves_for_five_seconds() {
    let dns = MemoryDns::new();
    dns.broken("example.test", "MX");
    let cache = cache(&dns, &settings());
    for _ in 0..1000 {
        assert_eq!(mx(&cache, "example.test").await.result.unwrap_err(), servfail());
    }
    assert_eq!(dns.asked("example.test", "MX"), 1);
    dns.mx("example.test", &[(10, "a.test")]);
    advance(seconds(5)).await;
    assert!(mx(&cache, "example.test").await.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn soft_errors_push_out_no_answers_but_one_another() {
    let dns = MemoryDns::new();
    let names: Vec<String> = (0..8).map(|n| format!("good{n}.test")).collect();
    let cache = cache(&dns, &DnsConfig { cache_size: 9, ..settings() });
    for name in &names {
        dns.mx(name, &[(10, "a.test")]);
        mx(&cache, name).await;
    }
    for n in 0..100 {
        let name = format!("bad{n}.test");
        dns.broken(&name, "MX");
        mx(&cache, &name).await;
        mx(&cache, &name).await;
    }
    for name in &names {
        assert_eq!(mx(&cache, name).await.freshness, Freshness::Cached, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_answer_serves_while_dns_fails() {
    let dns = MemoryDns::new();
    dns.mx_for("example.test", &[(10, "a.test")], seconds(300));
    let cache = cache(&dns, &DnsConfig { serve_stale: seconds(3600), ..settings() });
    mx(&cache, "example.test").await;
    dns.broken("example.test", "MX");
    advance(seconds(301)).await;
    let stale = mx(&cache, "example.test").await;
    assert_eq!((stale.freshness, stale.result.is_ok(), dns.asked("example.test", "MX")), (Freshness::Stale, true, 2));
    // DNS is asked again after 30 s, not for every copy.
    for _ in 0..100 {
        assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Stale);
    }
    assert_eq!(dns.asked("example.test", "MX"), 2);
    advance(seconds(30)).await;
    assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Stale);
    assert_eq!(dns.asked("example.test", "MX"), 3);
    // Until serve_stale is over: from then on the error counts.
    advance(seconds(3600)).await;
    assert_eq!(mx(&cache, "example.test").await.result.unwrap_err(), servfail());
}

#[tokio::test(start_paused = true)]
async fn dns_that_came_back_replaces_the_expired_answer() {
    let dns = MemoryDns::new();
    dns.mx_for("example.test", &[(10, "old.test")], seconds(300));
    let cache = cache(&dns, &settings());
    mx(&cache, "example.test").await;
    dns.broken("example.test", "MX");
    advance(seconds(300)).await;
    assert_eq!(mx(&cache, "example.test").await.freshness, Freshness::Stale);
    dns.mx("example.test", &[(10, "new.test")]);
    advance(seconds(30)).await;
    let fresh = mx(&cache, "example.test").await;
    assert_eq!((fresh.freshness, &*fresh.result.unwrap()[0].exchange), (Freshness::Fresh, "new.test"));
}

#[tokio::test(start_paused = true)]
async fn expired_negative_answers_never_serve() {
    let dns = MemoryDns::new();
    dns.host("nomx.test", &["192.0.2.1"]);
    let cache = cache(&dns, &settings());
    for name in ["nowhere.test", "nomx.test"] {
        mx(&cache, name).await;
        dns.broken(name, "MX");
        advance(NEGATIVE_TTL).await;
        assert_eq!(mx(&cache, name).await.result.unwrap_err(), servfail(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn serve_stale_zero_turns_it_off() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test")]);
    let cache = cache(&dns, &DnsConfig { serve_stale: Duration::ZERO, ..settings() });
    mx(&cache, "example.test").await;
    dns.broken("example.test", "MX");
    advance(seconds(300)).await;
    assert_eq!(mx(&cache, "example.test").await.result.unwrap_err(), servfail());
}

#[tokio::test(start_paused = true)]
async fn the_list_and_the_counts_show_what_is_there() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "a.test"), (20, "b.test")]).host("a.test", &["192.0.2.1"]);
    let cache = cache(&dns, &settings());
    mx(&cache, "example.test").await;
    cache.addresses(&"a.test".into(), Family::V4).await;
    mx(&cache, "nowhere.test").await;
    mx(&cache, "nowhere.test").await;
    let shown: Vec<_> = cache.entries().into_iter().map(|e| (e.name, e.record_type, e.answer, e.expires_in)).collect();
    let expected = [
        ("nowhere.test", "MX", "no such name", Some(NEGATIVE_TTL)),
        ("a.test", "A", "192.0.2.1", Some(seconds(300))),
        ("example.test", "MX", "10 a.test, 20 b.test", Some(seconds(300))),
    ];
    assert_eq!(shown, expected.map(|(name, kind, answer, left)| (name.to_owned(), kind, answer.to_owned(), left)));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.joined, stats.stale, stats.entries, stats.capacity), (1, 3, 0, 0, 3, 1000));
    advance(seconds(300)).await;
    assert!(cache.entries().iter().all(|entry| entry.expires_in.is_none()));
}

#[tokio::test(start_paused = true)]
async fn flushing_forgets_one_name_or_all() {
    let dns = MemoryDns::new();
    dns.mx("one.test", &[(10, "a.test")]).host("one.test", &["192.0.2.1"]).mx("two.test", &[(10, "a.test")]);
    let cache = cache(&dns, &settings());
    mx(&cache, "one.test").await;
    cache.addresses(&"one.test".into(), Family::V4).await;
    mx(&cache, "two.test").await;
    assert_eq!(cache.flush(Some("one.test")), 2);
    assert_eq!(mx(&cache, "two.test").await.freshness, Freshness::Cached);
    assert_eq!(mx(&cache, "one.test").await.freshness, Freshness::Fresh);
    assert_eq!(cache.flush(None), 2);
    assert_eq!(cache.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_under_way_does_not_bring_back_what_was_flushed() {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "old.test")]);
    let held = dns.hold("example.test", "MX");
    let cache = cache(&dns, &settings());
    let name = domain("example.test");
    let mut waiting = Box::pin(cache.mx(&name));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    cache.flush(None);
    held.notify_one();
    assert!(bounded(waiting).await.result.is_ok());
    assert_eq!(cache.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_answers_unless_the_servers_changed() {
    let dns = MemoryDns::new();
    for name in ["one.test", "two.test", "three.test"] {
        dns.mx(name, &[(10, "a.test")]);
    }
    let cache = cache(&dns, &settings());
    for name in ["one.test", "two.test", "three.test"] {
        mx(&cache, name).await;
    }
    let smaller = DnsConfig { cache_size: 2, ..settings() };
    cache.reconfigure(dns.clone(), &smaller);
    assert_eq!((cache.stats().entries, cache.stats().capacity), (2, 2));
    assert_eq!(mx(&cache, "three.test").await.freshness, Freshness::Cached);
    cache.reconfigure(dns.clone(), &DnsConfig { cache_size: 0, ..settings() });
    assert_eq!(cache.stats().entries, 0);
    cache.reconfigure(dns.clone(), &settings());
    mx(&cache, "one.test").await;
    cache.reconfigure(dns.clone(), &DnsConfig { servers: vec!["192.0.2.53:53".parse().unwrap()], ..settings() });
    assert_eq!(mx(&cache, "one.test").await.freshness, Freshness::Fresh);
}
