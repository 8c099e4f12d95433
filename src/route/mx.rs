//! MX records: takes what DNS has, hands on the hosts that can be asked for addresses, in order (RFC 5321 5.1, RFC 7505).

use std::net::IpAddr;
use std::sync::Arc;

use super::Mx;
use super::explain::{Step, Trace};

/// More records than this are not looked at, the best go first: a hostile zone must not make one copy ask for thousands of names.
const MAX_EXCHANGERS: usize = 64;

/// What a domain's MX records say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exchangers {
    /// RFC 7505: it takes no mail.
    Null,
    /// Usable records by preference and name, each host once, at most [`MAX_EXCHANGERS`]; none where every record is unusable.
    Hosts(Vec<Mx>),
}

/// Sorts, and leaves out what is no host name.
pub(super) fn exchangers(records: &[Mx], trace: &mut Trace) -> Exchangers {
    if let [Mx { preference: 0, exchange }] = records
        && exchange.is_empty()
    {
        return Exchangers::Null;
    }
    let mut hosts = Vec::with_capacity(records.len());
    for record in records {
        match unusable(&record.exchange) {
            None => hosts.push(record.clone()),
            Some(reason) => trace.note(|| Step::UnusableMx { record: record.clone(), reason }),
        }
    }
    hosts.sort_unstable();
    let mut kept: Vec<Mx> = Vec::with_capacity(hosts.len());
    for record in hosts {
        if kept.len() < MAX_EXCHANGERS && !kept.iter().any(|better| better.exchange == record.exchange) {
            kept.push(record);
        }
    }
    Exchangers::Hosts(kept)
}

/// Why a name cannot be a mail server's, where it cannot.
fn unusable(host: &Arc<str>) -> Option<&'static str> {
    if host.is_empty() {
        // A null record beside others: RFC 7505 3 forbids the mixture; the others are what somebody wanted.
        return Some("empty name");
    }
    // No top-level domain is numeric (RFC 1123 2.1), so "192.0.2.1" and its fragments are addresses written where a name belongs.
    let last = host.rsplit('.').next().unwrap_or_default();
    if host.parse::<IpAddr>().is_ok() || last.bytes().all(|b| b.is_ascii_digit()) {
        return Some("an IP address, not a name");
    }
    if host.len() > 253 || host.split('.').any(|label| label.len() > 63) {
        return Some("over-long name");
    }
    let valid = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if host.split('.').all(valid) { None } else { Some("not a host name") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(texts: &[(u16, &str)]) -> Vec<Mx> {
        texts.iter().map(|(preference, exchange)| Mx { preference: *preference, exchange: (*exchange).into() }).collect()
    }

    fn hosts(texts: &[(u16, &str)]) -> Vec<(u16, String)> {
        match exchangers(&records(texts), &mut Trace::off()) {
            Exchangers::Null => panic!("null MX"),
            Exchangers::Hosts(hosts) => hosts.into_iter().map(|mx| (mx.preference, mx.exchange.to_string())).collect(),
        }
    }

    #[test]
    fn null_mx_is_one_record_of_preference_zero() {
        assert_eq!(exchangers(&records(&[(0, "")]), &mut Trace::off()), Exchangers::Null);
        assert_eq!(hosts(&[(10, "")]), []);
        assert_eq!(hosts(&[(0, ""), (10, "mx.example")]), [(10, "mx.example".to_owned())]);
    }

    #[test]
    fn what_is_no_host_name_is_left_out() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "abcdefgh.".repeat(28));
        let bad = [
            "",
            "192.0.2.1",
            "2001:db8::1",
            "192.0.2",
            "a b.example",
            "a..example",
            "[192.0.2.1]",
            "a\\.b.example",
            &long_label,
            &long_name,
        ];
        for bad in bad {
            assert_eq!(hosts(&[(10, bad), (20, "mx.example")]), [(20, "mx.example".to_owned())], "{bad}");
        }
        assert_eq!(hosts(&[(10, "_mx.1and1.example")]).len(), 1);
    }

    #[test]
    fn best_first_each_host_once() {
        let given = [(20, "b.example"), (10, "c.example"), (30, "c.example"), (10, "a.example")];
        let expected = [(10, "a.example"), (10, "c.example"), (20, "b.example")].map(|(p, h)| (p, h.to_owned()));
        assert_eq!(hosts(&given), expected);
    }

    #[test]
    fn a_zone_full_of_records_is_cut() {
        let many: Vec<Mx> = (0..1000).rev().map(|n| Mx { preference: n, exchange: format!("mx{n}.example").into() }).collect();
        let Exchangers::Hosts(hosts) = exchangers(&many, &mut Trace::off()) else { panic!("null MX") };
        assert_eq!(hosts.len(), MAX_EXCHANGERS);
        assert_eq!(hosts[0].preference, 0);
    }
}
