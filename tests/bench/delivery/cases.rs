//! Which cases each scenario has.

use std::time::Duration;

use crate::client::Style;
use crate::letters::Letters;
use crate::options::Options;
use crate::scenarios::{Case, Scenario};
use crate::sink::Offer;

/// The cases of `scenario`, in the order of the table.
pub fn cases(scenario: Scenario, options: &Options) -> Vec<Case> {
    let few = |count: usize| if options.quick { (count / 10).max(20) } else { count };
    let messages = few(options.messages);
    let base = |label: &str, letters: Letters| Case {
        scenario,
        label: label.to_owned(),
        letters,
        offer: Offer::PLAIN,
        ceiling: Some(Style::Chained),
        window: None,
        keeps_sessions: true,
        peers: true,
    };
    let windowed = |case: Case| Case {
        offer: Offer { chunking: true, ..case.offer },
        ceiling: Some(Style::Window(8)),
        window: Some(8),
        peers: false,
        ..case
    };
    match scenario {
        Scenario::Drain => {
            let many = |domains: usize, sites: usize| Letters { sites, ..Letters::small(messages, domains) };
            vec![
                base("1 domain", Letters::small(messages, 1)),
                windowed(base("1 domain, CHUNKING, window = 8", Letters::small(messages, 1))),
                // The peers have one relay: to them it is all the same.
                Case { peers: false, ..base("100 domains, one mail server", many(100, 1)) },
                Case { peers: false, ..base("1,000 domains, one mail server", many(1000, 1)) },
                // The bare client knows one.
                Case { peers: false, ceiling: None, ..base("1,000 domains, 100 mail servers", many(1000, 100)) },
            ]
        }
        Scenario::EndToEnd => vec![Case { ceiling: None, ..base("1 domain", Letters::small(messages, 1)) }],
        Scenario::Latency => {
            let kept = Case { ceiling: None, ..base("200 messages", Letters::small(200.min(few(2000)), 1)) };
            // The first message of an idle daemon, that often.
            let first = Case { keeps_sessions: false, peers: false, label: "200 messages, a session for each".to_owned(), ..kept.clone() };
            vec![kept, first]
        }
        Scenario::Large => vec![
            base("100 KB", Letters { size: 100_000, ..Letters::small(few(2000), 1) }),
            base("10 MB", Letters { size: 10_000_000, ..Letters::small(few(50), 1) }),
        ],
        Scenario::Million => {
            vec![Case {
                ceiling: None,
                peers: false,
                ..base(&format!("{} messages", options.million), Letters::small(options.million, 1000))
            }]
        }
        Scenario::Rtt => {
            let far = |milliseconds: u64, count: usize| {
                let delay = Duration::from_millis(milliseconds);
                let plain = base(&format!("{milliseconds} ms, PIPELINING"), Letters::small(few(count), 1));
                let plain = Case { offer: plain.offer.at(delay), ..plain };
                let chunking = windowed(Case { label: format!("{milliseconds} ms, CHUNKING, window = 8"), ..plain.clone() });
                [plain, chunking]
            };
            [far(20, 4000), far(100, 1000)].concat()
        }
    }
}
