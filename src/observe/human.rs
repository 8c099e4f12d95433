//! Times, spans, sizes and numbers as people read them: takes values, hands on words.

use std::time::Duration;

use crate::clock::Timestamp;

/// The largest unit that fits, rounded down: `45s`, `3m`, `2h`, `5d`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long since, without a word; a clock that was set back counts as zero.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(then).try_into().unwrap_or_default())
}

/// `3m ago`, `now`, `in 2h`.
pub fn relative(then: Timestamp, now: Timestamp) -> String {
    match then.as_second() - now.as_second() {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(then.duration_since(now).try_into().unwrap_or_default())),
        _ => format!("{} ago", age(then, now)),
    }
}

/// `2026-11-22 09:43:05Z (3m ago)`.
pub fn moment(then: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", then.strftime("%Y-%m-%d %H:%M:%SZ"), relative(then, now))
}

/// `2.2 KiB`.
pub fn size(octets: u64) -> String {
    bytesize::ByteSize::b(octets).to_string()
}

/// `1 copy`, `2 copies`.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let told: Vec<String> = [0, 59, 60, 3599, 3600, 86_399, 86_400, 900_000].iter().map(|&s| span(Duration::from_secs(s))).collect();
        assert_eq!(told, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
        assert_eq!([relative(at(0), at(150)), relative(at(150), at(0)), relative(at(5), at(5))], ["2m ago", "in 2m", "now"]);
        assert_eq!(age(at(10), at(0)), "0s");
        assert_eq!(moment(at(1_790_000_000), at(1_790_000_060)), "2026-09-21 14:13:20Z (1m ago)");
    }
}
