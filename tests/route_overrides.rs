//! Overrides: each condition, each action, how matches are collected and ordered, and what becomes of servers that DNS does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/route.rs"]
mod support;

use std::sync::Arc;

use smtp_direct::config::{Action, AddressFamily, Conditions, Config, Credentials, Override, TlsMode};
use smtp_direct::message::{Priority, ReversePath};
use smtp_direct::outcome::{AddressFault, DnsFault, Fault, Kind, judge};
use smtp_direct::route::{Condition, Decision, OverrideFate, RouteSource, Router, Rule, Step};
use support::*;

/// example.test with MX at 192.0.2.1, and servers named smart, bulk and other.
fn world() -> Arc<MemoryDns> {
    let dns = MemoryDns::new();
    dns.mx("example.test", &[(10, "mx.example.test")]).host("mx.example.test", &["192.0.2.1"]);
    dns.host("smart.isp.test", &["198.51.100.1"]).host("bulk.isp.test", &["198.51.100.2"]).host("other.isp.test", &["198.51.100.3"]);
    dns
}

fn with(overrides: Vec<Override>) -> Router {
    router(&configured(overrides), &world())
}

fn configured(overrides: Vec<Override>) -> Config {
    let mut config = config();
    config.dns.overrides = overrides;
    config
}

const DIRECT: &str = "mx.example.test 192.0.2.1:25";
const SMART: &str = "smart.isp.test 198.51.100.1:587";
const BULK: &str = "bulk.isp.test 198.51.100.2:25";
const OTHER: &str = "other.isp.test 198.51.100.3:25";

async fn goes_to(copy: &Copy, router: &Router) -> Vec<String> {
    endpoints(&*copy.route(router).await)
}

/// A rule with these conditions to the smart host: which copies take it?
async fn check(conditions: Conditions, takes: Vec<Copy>, does_not: Vec<Copy>) {
    let router = with(vec![rule(12, conditions, "smart.isp.test:587")]);
    for (number, copy) in takes.iter().enumerate() {
        let route = copy.route(&router).await;
        assert_eq!(endpoints(&route), [SMART], "copy {number} should match");
        assert_eq!(route.source, RouteSource::Overrides(vec![12]));
    }
    for (number, copy) in does_not.iter().enumerate() {
        let route = copy.route(&router).await;
        assert!(!matches!(route.source, RouteSource::Overrides(_)), "copy {number} should not match");
    }
}

#[tokio::test]
async fn domain_and_wildcard() {
    let router = with(vec![rule(1, to_domain(&["example.test", "*.example.test"]), "smart.isp.test:587")]);
    for address in ["a@example.test", "a@EXAMPLE.test", "a@sub.example.test", "a@deep.sub.example.test"] {
        assert_eq!(goes_to(&Copy::to(&[address]), &router).await, [SMART], "{address}");
    }
    assert_eq!(Copy::to(&["a@notexample.test"]).fault(&router).await, Fault::NoSuchDomain);
    let router = with(vec![rule(1, to_domain(&["*.example.test"]), "smart.isp.test:587")]);
    assert_eq!(goes_to(&Copy::to(&["a@example.test"]), &router).await, [DIRECT]);
}

#[tokio::test]
async fn sizes() {
    let sized = |size| Copy { size, ..Copy::default() };
    let conditions = Conditions { min_size: Some(1000), max_size: Some(2000), ..Conditions::default() };
    check(conditions, vec![sized(1000), sized(2000)], vec![sized(999), sized(2001)]).await;
}

#[tokio::test]
async fn senders_and_the_null_sender() {
    let from = |text| Copy { sender: ReversePath::parse(text).unwrap(), ..Copy::default() };
    let conditions = Conditions { sender: patterns(&["ceo@example.org", "*@board.example.org"]), ..Conditions::default() };
    check(conditions, vec![from("CEO@Example.ORG"), from("x@board.example.org")], vec![from("x@example.org"), from("")]).await;
    let conditions = Conditions { sender: patterns(&["<>"]), ..Conditions::default() };
    check(conditions, vec![from("")], vec![from("x@example.org")]).await;
}

#[tokio::test]
async fn failing_for_and_min_attempts() {
    let failing = |time: Option<u64>| Copy { failing_for: time.map(seconds), ..Copy::default() };
    let conditions = Conditions { failing_for: Some(seconds(7200)), ..Conditions::default() };
    check(conditions, vec![failing(Some(7200)), failing(Some(9000))], vec![failing(Some(7199)), failing(None)]).await;
    let tried = |attempts| Copy { attempts, ..Copy::default() };
    check(Conditions { min_attempts: Some(4), ..Conditions::default() }, vec![tried(4), tried(5)], vec![tried(3), tried(0)]).await;
}

#[tokio::test]
async fn priority_class_and_tag() {
    let class = |priority| Copy { priority, ..Copy::default() };
    let conditions = Conditions { priority_class: vec![Priority::Bulk], ..Conditions::default() };
    check(conditions, vec![class(Priority::Bulk)], vec![class(Priority::Normal), class(Priority::Urgent)]).await;
    let tagged = |tag: Option<&str>| Copy { tag: tag.map(str::to_owned), ..Copy::default() };
    let conditions = Conditions { tag: patterns(&["newsletter-*"]), ..Conditions::default() };
    check(conditions, vec![tagged(Some("newsletter-7"))], vec![tagged(Some("news")), tagged(None)]).await;
}

#[tokio::test]
async fn all_conditions_of_a_rule_must_hold() {
    let conditions = Conditions { min_size: Some(1000), min_attempts: Some(1), ..to_domain(&["example.test"]) };
    let copy = |size, attempts| Copy { size, attempts, ..Copy::default() };
    check(conditions, vec![copy(1000, 1)], vec![copy(999, 1), copy(1000, 0)]).await;
}

#[tokio::test]
async fn a_recipient_condition_splits_the_copy() {
    let joe = Conditions { recipient: patterns(&["joe@example.test", "jim@example.test"]), ..Conditions::default() };
    let router = with(vec![rule(3, joe, "smart.isp.test:587")]);
    let parts = Copy::to(&["ann@example.test", "joe@example.test", "bob@example.test", "JIM@example.test"]).parts(&router).await;
    let found: Vec<_> = parts.into_iter().map(|part| (part.recipients, endpoints(&sent(part.decision)))).collect();
    assert_eq!(found, [(vec![0, 2], vec![DIRECT.to_owned()]), (vec![1, 3], vec![SMART.to_owned()])]);
    // None of the rule's recipients, or only they: one part.
    assert_eq!(goes_to(&Copy::to(&["ann@example.test", "bob@example.test"]), &router).await, [DIRECT]);
    assert_eq!(goes_to(&Copy::to(&["joe@example.test"]), &router).await, [SMART]);
}

#[tokio::test]
async fn final_for_one_recipient_is_not_final_for_the_others() {
    let joe = Conditions { recipient: patterns(&["joe@*"]), ..Conditions::default() };
    let router = with(vec![last(rule(1, joe, "smart.isp.test:587")), rule(2, everything(), "bulk.isp.test:25")]);
    let parts = Copy::to(&["joe@example.test", "ann@example.test"]).parts(&router).await;
    let found: Vec<_> = parts.into_iter().map(|part| (part.recipients, endpoints(&sent(part.decision)))).collect();
    assert_eq!(found, [(vec![0], vec![SMART.to_owned()]), (vec![1], vec![BULK.to_owned()])]);
}

#[tokio::test]
async fn matches_are_ordered_by_priority() {
    let rules = vec![
        with_priority(rule(1, everything(), "other.isp.test:25"), 30),
        with_priority(rule(2, everything(), "smart.isp.test:587"), 10),
        with_priority(rule(3, everything(), "bulk.isp.test:25"), 20),
    ];
    let route = Copy::default().route(&with(rules)).await;
    assert_eq!(endpoints(&route), [SMART, BULK, OTHER]);
    assert_eq!(route.source, RouteSource::Overrides(vec![1, 2, 3]));
    assert_eq!(route.site.as_str(), "1 smart.isp.test:587, 2 bulk.isp.test:25, 3 other.isp.test:25");
    assert_eq!(route.endpoints.iter().map(|e| e.preference).collect::<Vec<_>>(), [10, 20, 30]);
}

#[tokio::test]
async fn equal_priorities_are_shuffled_and_the_site_stays() {
    let router = with(vec![rule(1, everything(), "smart.isp.test:587"), rule(2, everything(), "bulk.isp.test:25")]);
    let mut first = std::collections::HashMap::<String, usize>::new();
    let mut sites = std::collections::HashSet::new();
    for _ in 0..200 {
        let route = Copy::default().route(&router).await;
        *first.entry(endpoints(&route)[0].clone()).or_default() += 1;
        sites.insert(route.site.clone());
    }
    assert!(first[SMART] > 50 && first[BULK] > 50, "{first:?}");
    assert_eq!(sites.len(), 1, "{sites:?}");
}

#[tokio::test]
async fn final_stops_the_collecting() {
    let rules = |stop| {
        let first = with_priority(rule(1, everything(), "smart.isp.test:587"), 20);
        vec![if stop { last(first) } else { first }, with_priority(rule(2, everything(), "bulk.isp.test:25"), 10)]
    };
    assert_eq!(goes_to(&Copy::default(), &with(rules(true))).await, [SMART]);
    assert_eq!(goes_to(&Copy::default(), &with(rules(false))).await, [BULK, SMART]);
    // A final rule that does not match stops nothing.
    let elsewhere = last(rule(1, to_domain(&["elsewhere.test"]), "smart.isp.test:587"));
    assert_eq!(goes_to(&Copy::default(), &with(vec![elsewhere, rule(2, everything(), "bulk.isp.test:25")])).await, [BULK]);
}

fn action(line: usize, action: Action) -> Override {
    Override { line, conditions: everything(), action, is_final: false }
}

#[tokio::test]
async fn hold_reject_and_discard() {
    let reason = || "moving house".to_owned();
    let expected = Rule { line: 5, reason: reason() };
    let dns = world();
    let decide = async |what: Action| Copy::default().decision(&router(&configured(vec![action(5, what)]), &dns)).await.unwrap();
    assert!(matches!(decide(Action::Hold { reason: reason() }).await, Decision::Hold(rule) if rule == expected));
    assert!(matches!(decide(Action::Reject { reason: reason() }).await, Decision::Reject(rule) if rule == expected));
    assert!(matches!(decide(Action::Discard { reason: reason() }).await, Decision::Discard(rule) if rule == expected));
    assert_eq!(dns.asked_in_all(), 0, "an action needs no DNS");
}

#[tokio::test]
async fn the_first_action_wins_over_servers() {
    let hold = || action(2, Action::Hold { reason: "first".to_owned() });
    let reject = || action(3, Action::Reject { reason: "second".to_owned() });
    let server = || rule(1, everything(), "smart.isp.test:587");
    let held = Copy::default().decision(&with(vec![server(), hold(), reject()])).await.unwrap();
    assert!(matches!(held, Decision::Hold(rule) if rule.line == 2));
    let sent_first = Copy::default().route(&with(vec![last(server()), hold()])).await;
    assert_eq!(endpoints(&sent_first), [SMART]);
}

#[tokio::test]
async fn credentials_and_tls_reach_the_endpoints() {
    let credentials = Arc::new(Credentials::new("joe", "secret", false));
    let mut login = rule(1, everything(), "smart.isp.test:587");
    if let Action::Send { tls, credentials: slot, .. } = &mut login.action {
        *tls = TlsMode::Verify;
        *slot = Some(credentials.clone());
    }
    let route = Copy::default().route(&with(vec![login])).await;
    assert_eq!(route.endpoints[0].credentials, Some(credentials));
    assert_eq!(route.endpoints[0].tls, TlsMode::Verify);
    assert!(!format!("{route:?}").contains("secret"));
}

#[tokio::test]
async fn mx_puts_the_real_servers_in_at_its_priority() {
    let dns = world();
    dns.mx("example.test", &[(5, "mx.example.test"), (50, "mx2.example.test")]).host("mx2.example.test", &["192.0.2.2"]);
    let mut real = with_priority(rule(2, everything(), "mx"), 20);
    if let Action::Send { tls, .. } = &mut real.action {
        *tls = TlsMode::Require;
    }
    let rules = vec![
        with_priority(rule(1, everything(), "smart.isp.test:587"), 10),
        real,
        with_priority(rule(3, everything(), "bulk.isp.test:25"), 30),
    ];
    let route = Copy::default().route(&router(&configured(rules), &dns)).await;
    assert_eq!(endpoints(&route), [SMART, DIRECT, "mx2.example.test 192.0.2.2:25", BULK]);
    assert_eq!(route.endpoints.iter().map(|e| e.preference).collect::<Vec<_>>(), [10, 20, 20, 30]);
    assert_eq!(route.endpoints[1].tls, TlsMode::Require);
    assert_eq!(route.site.as_str(), "1 smart.isp.test:587, 2 mx.example.test:25, 3 mx2.example.test:25, 4 bulk.isp.test:25");
}

#[tokio::test]
async fn mx_alone_is_as_without_override_but_for_its_tls() {
    let mut real = rule(1, everything(), "mx");
    if let Action::Send { tls, .. } = &mut real.action {
        *tls = TlsMode::Verify;
    }
    let router = with(vec![real]);
    let route = Copy::default().route(&router).await;
    assert_eq!(endpoints(&route), [DIRECT]);
    assert_eq!(route.endpoints[0].tls, TlsMode::Verify);
    assert_eq!(Copy::to(&["a@nowhere.test"]).fault(&router).await, Fault::NoSuchDomain);
}

#[tokio::test]
async fn a_failing_mx_leaves_the_other_servers() {
    let rules = || vec![rule(1, everything(), "mx"), with_priority(rule(2, everything(), "smart.isp.test:587"), 20)];
    assert_eq!(goes_to(&Copy::to(&["a@nowhere.test"]), &with(rules())).await, [SMART]);
    let dns = world();
    dns.broken("example.test", "MX");
    assert_eq!(goes_to(&Copy::default(), &router(&configured(rules()), &dns)).await, [SMART]);
}

#[tokio::test]
async fn literals_are_dialled_without_dns() {
    let dns = MemoryDns::new();
    let rules = vec![rule(1, everything(), "[2001:db8::7]:2525"), with_priority(rule(2, everything(), "192.0.2.7:26"), 20)];
    let mut config = configured(rules);
    // What an administrator wrote is not filtered by the families of what DNS says.
    config.dns.address_family = AddressFamily::Ipv4;
    let route = Copy::default().route(&router(&config, &dns)).await;
    assert_eq!(endpoints(&route), ["2001:db8::7 [2001:db8::7]:2525", "192.0.2.7 192.0.2.7:26"]);
    assert_eq!(route.site.as_str(), "1 [2001:db8::7]:2525, 2 192.0.2.7:26");
    assert_eq!(dns.asked_in_all(), 0);
}

#[tokio::test]
async fn overrides_are_exempt_from_blocked_targets_and_self_detection() {
    let dns = world();
    dns.host("here.test", &["127.0.0.1"]).host("mail.sender.test", &["203.0.113.9"]);
    let rules = vec![
        rule(1, everything(), "here.test:1025"),
        with_priority(rule(2, everything(), "mail.sender.test:2525"), 20),
        with_priority(rule(3, everything(), "127.0.0.1:26"), 30),
    ];
    let config = configured(rules);
    let cache = smtp_direct::route::CachedDns::new(dns, &config.dns);
    let router = Router::new(&config, cache, identity(&["203.0.113.9"]));
    let expected = ["here.test 127.0.0.1:1025", "mail.sender.test 203.0.113.9:2525", "127.0.0.1 127.0.0.1:26"];
    assert_eq!(goes_to(&Copy::default(), &router).await, expected);
}

#[tokio::test]
async fn the_real_mx_of_an_override_are_not_exempt() {
    let dns = world();
    dns.host("mx.example.test", &["127.0.0.1"]);
    let fault = Copy::default().fault(&router(&configured(vec![rule(1, everything(), "mx")]), &dns)).await;
    assert!(matches!(fault, Fault::NoAddress(AddressFault::Blocked(_))), "{fault:?}");
}

#[tokio::test]
async fn a_server_is_resolved_by_address_not_by_mx() {
    let dns = world();
    dns.mx("smart.isp.test", &[(10, "mx.example.test")]);
    let router = router(&configured(vec![rule(1, everything(), "smart.isp.test:587")]), &dns);
    assert_eq!(goes_to(&Copy::default(), &router).await, [SMART]);
    assert_eq!(dns.asked("smart.isp.test", "MX"), 0);
}

#[tokio::test]
async fn a_server_without_address_defers_and_others_are_tried() {
    let typo = || rule(1, everything(), "smrat.isp.test:587");
    let fault = Copy::default().fault(&with(vec![typo()])).await;
    assert_eq!(judge(&fault).kind, Kind::Deferred, "a mistake in the configuration is not to return mail: {fault}");
    assert!(fault.to_string().contains("smrat.isp.test") && fault.to_string().contains("line 1"), "{fault}");
    assert_eq!(goes_to(&Copy::default(), &with(vec![typo(), with_priority(rule(2, everything(), "bulk.isp.test:25"), 20)])).await, [BULK]);

    let dns = world();
    dns.broken("smart.isp.test", "A").broken("smart.isp.test", "AAAA");
    let fault = Copy::default().fault(&router(&configured(vec![rule(1, everything(), "smart.isp.test:587")]), &dns)).await;
    let servfail = DnsFault::ResponseCode("SERVFAIL".to_owned());
    assert_eq!(fault, Fault::Dns { name: "smart.isp.test".to_owned(), fault: servfail });
}

#[tokio::test]
async fn the_explanation_says_why_each_rule_applied_or_not() {
    let rules = vec![
        rule(1, to_domain(&["elsewhere.test"]), "other.isp.test:25"),
        rule(5, Conditions { min_size: Some(1 << 20), ..everything() }, "other.isp.test:25"),
        rule(9, Conditions { recipient: patterns(&["bob@*"]), ..Conditions::default() }, "other.isp.test:25"),
        last(rule(13, everything(), "smart.isp.test:587")),
        rule(17, everything(), "bulk.isp.test:25"),
    ];
    let copy = Copy::default();
    let recipients: Vec<_> = copy.recipients.iter().collect();
    let explanation = with(rules).explain(&copy.query(&recipients)).await;
    let fates: Vec<_> = explanation
        .steps
        .iter()
        .filter_map(|step| if let Step::Override { line, fate } = step { Some((*line, *fate)) } else { None })
        .collect();
    let expected = [
        (1, OverrideFate::Unmet(Condition::Domain)),
        (5, OverrideFate::Unmet(Condition::MinSize)),
        (9, OverrideFate::Unmet(Condition::Recipient)),
        (13, OverrideFate::Matched),
        (17, OverrideFate::AfterFinal(13)),
    ];
    assert_eq!(fates, expected);
    assert_eq!(explanation.steps.last().unwrap().to_string(), "smart.isp.test [198.51.100.1]: used");
    assert_eq!(explanation.parts.len(), 1);
}
