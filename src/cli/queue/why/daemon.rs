//! What the running daemon tells of a message's copies, over its socket.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::control::client::{Client, encoded};
use crate::control::{Cache, CopyNow, MessageNow, SiteLine};
use crate::delivery::live::{Down, Live, LiveCopy, LiveSite, Obstacle, Place};
use crate::message::MessageId;
use crate::retry::later;

/// Asks it; `None` where it does not answer: what the queue holds is told all the same.
pub(in crate::cli) fn live(client: &Client, id: MessageId, now: Timestamp) -> Option<Live> {
    let answer: MessageNow = client.get(&format!("/v1/messages/{id}/now")).ok()?;
    let cache: Option<Cache> = client.get("/v1/cache").ok();
    let copies = answer.copies.iter().filter_map(|copy| {
        let mut live = live_copy(copy, answer.workers.total, now)?;
        if let Some(site) = &mut live.site {
            // A site that it does not know any more is none that is down.
            site.down = client.get::<SiteLine>(&format!("/v1/sites/{}", encoded(&site.site))).ok().and_then(|line| down(&line));
        }
        live.answer_age = cache.as_ref().and_then(|cache| answer_age(cache, &copy.domain));
        Some(live)
    });
    Some(Live { at: now, copies: copies.collect() })
}

/// What the site's health says, where it is left alone.
fn down(line: &SiteLine) -> Option<Down> {
    let time = |text: &Option<String>| text.as_deref()?.parse().ok();
    let health = &line.health;
    (health.state == "down").then_some(())?;
    Some(Down { since: time(&health.since)?, until: time(&health.until)?, reason: health.error.clone().unwrap_or_default() })
}

/// Of the answer that says where mail for the domain goes, in whole seconds.
fn answer_age(cache: &Cache, domain: &str) -> Option<u64> {
    let entry = cache.entries.iter().find(|entry| entry.record_type == "MX" && entry.name.trim_end_matches('.') == domain)?;
    Duration::try_from_secs_f64(entry.age).ok().map(|age| age.as_secs())
}

/// Of a copy that is due or on its way; of others the queue itself says more.
fn live_copy(copy: &CopyNow, workers: u64, now: Timestamp) -> Option<LiveCopy> {
    let reason = || copy.reason.clone().unwrap_or_default();
    let count = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
    let obstacle = || match copy.waits_for.as_deref() {
        Some("paused") => Obstacle::Pause { reason: reason() },
        Some("rate") => {
            let wait = Duration::try_from_secs_f64(copy.rate_wait.unwrap_or_default()).unwrap_or_default();
            Obstacle::Rate { until: later(now, wait) }
        }
        Some("site-limit") => Obstacle::SiteLimit { sessions: count(copy.sessions), limit: count(copy.limit) },
        Some("workers") => Obstacle::Workers { total: count(Some(workers)) },
        _ => Obstacle::Nothing,
    };
    let place = match (copy.state.as_str(), copy.waits_for.as_deref()) {
        ("sending", _) => Place::Sending {
            phase: phase(copy.phase.as_deref()).to_owned(),
            host: copy.host.clone(),
            since: copy.since.as_deref().and_then(|since| since.parse().ok()),
        },
        ("waiting", _) => Place::Board { number: count(copy.place), of: count(copy.of), obstacle: obstacle() },
        ("routing", _) => Place::Routing,
        ("deferred", _) => Place::Deferred,
        ("due", Some("paused")) => Place::Paused { reason: reason() },
        ("due", Some("site-full")) => Place::Parked,
        ("due", _) => Place::Queue,
        _ => return None,
    };
    let site = copy.site.clone().map(|site| LiveSite { site, down: None });
    Some(LiveCopy { copy: copy.copy, place, site, answer_age: None })
}

fn phase(word: Option<&str>) -> &'static str {
    match word {
        Some("connecting") => "a session is being opened",
        Some("next") => "it is next in a session",
        Some("transaction") => "it is being sent",
        _ => "what came of it is being recorded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_understood() {
        let now = Timestamp::from_second(1_000).unwrap();
        let says = |json: &str| {
            let whole = r#"{"copy":1,"domain":"d","to":[],"text":"","attempts":0,"due_at":null,"site":null,"phase":null,"host":null,"address":null,
                    "since":null,"place":null,"of":null,"waits_for":null,"sessions":null,"limit":null,"rate_wait":null,"reason":null,
                    "last":null,"state":"due"}"#;
            let mut whole: serde_json::Value = serde_json::from_str(whole).unwrap();
            let said: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).unwrap();
            whole.as_object_mut().unwrap().extend(said);
            live_copy(&serde_json::from_value(whole).unwrap(), 10, now).map(|live| live.place)
        };
        let board = |obstacle| Some(Place::Board { number: 3, of: 7, obstacle });
        let until = Timestamp::from_second(1_060).unwrap();
        for (json, expected) in [
            (r#"{"state":"held"}"#, None),
            (r#"{"state":"deferred"}"#, Some(Place::Deferred)),
            (r#"{"state":"due","waits_for":"memory"}"#, Some(Place::Queue)),
            (r#"{"state":"due","waits_for":"site-full"}"#, Some(Place::Parked)),
            (r#"{"state":"due","waits_for":"paused","reason":"x"}"#, Some(Place::Paused { reason: "x".to_owned() })),
            (r#"{"state":"routing"}"#, Some(Place::Routing)),
            (r#"{"state":"waiting","place":3,"of":7,"waits_for":"nothing"}"#, board(Obstacle::Nothing)),
            (r#"{"state":"waiting","place":3,"of":7,"waits_for":"workers"}"#, board(Obstacle::Workers { total: 10 })),
            (r#"{"state":"waiting","place":3,"of":7,"waits_for":"rate","rate_wait":60.0}"#, board(Obstacle::Rate { until })),
            (
                r#"{"state":"waiting","place":3,"of":7,"waits_for":"site-limit","sessions":5,"limit":5}"#,
                board(Obstacle::SiteLimit { sessions: 5, limit: 5 }),
            ),
            (
                r#"{"state":"sending","phase":"transaction","host":"mx1.d","since":"1970-01-01T00:17:40Z"}"#,
                Some(Place::Sending { phase: "it is being sent".to_owned(), host: Some("mx1.d".to_owned()), since: Some(until) }),
            ),
        ] {
            assert_eq!(says(json), expected, "{json}");
        }
    }

    #[test]
    fn a_site_is_down_while_it_is_left_alone() {
        let line = |state: &str| {
            let health =
                format!(r#"{{"state":"{state}","since":"1970-01-01T00:16:40Z","until":"1970-01-01T00:17:40Z","error":"refused"}}"#);
            let whole = format!(
                r#"{{"name":"s","sessions":0,"limit":1,"connected":0,"idle":0,"waiting":0,"copies":0,"parked_domains":0,"health":{health},"rate":null,
                    "throttled_for":null,"paused":null,"delivered":0,"deferred":1,"failed":0,"last":null,"last_error":null}}"#
            );
            down(&serde_json::from_str(&whole).unwrap())
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(line("down"), Some(Down { since: at(1_000), until: at(1_060), reason: "refused".to_owned() }));
        assert_eq!((line("up"), line("unproven")), (None, None));
    }

    #[test]
    fn the_age_is_that_of_the_domains_mx_answer() {
        let entry = |name: &str, kind: &str, age: f64| serde_json::json!({"name": name, "type": kind, "answer": "", "age": age, "expires_in": null, "hits": 0});
        let entries = [entry("d.test", "A", 1.0), entry("other.test", "MX", 2.0), entry("d.test", "MX", 35.9)];
        let cache = serde_json::json!({"capacity": 10, "hits": 0, "misses": 0, "entries": entries});
        let cache: Cache = serde_json::from_value(cache).unwrap();
        assert_eq!((answer_age(&cache, "d.test"), answer_age(&cache, "none.test")), (Some(35), None));
    }
}
