//! Durations and sizes as people write them: text in, [`Duration`] or octets out, and back without loss.

use std::time::Duration;

use bytesize::ByteSize;
use thiserror::Error;

/// The longest duration: ten years. Clock arithmetic overflows far beyond, and what is longer is a slip of the pen.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(3650 * 86_400);
/// The largest size: 1 PiB.
pub(super) const MAX_SIZE: u64 = 1 << 50;
/// Digits in a row: humantime multiplies and adds within `u64`, and what is longer could overflow there.
const MAX_DIGITS: usize = 9;
/// Characters of a duration: bounds the sum of its parts.
const MAX_TEXT: usize = 64;

/// At most so many in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// How many in a second, on average.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

/// The words for periods, the one that is written first.
const PERIODS: [(&[&str], u64); 3] = [(&["s", "sec", "second"], 1), (&["m", "min", "minute"], 60), (&["h", "hour"], 3600)];

/// How much of a file system is to stay free: the smaller of the two, where both are given; where neither is, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MinFree {
    /// Octets; not 0.
    pub octets: Option<u64>,
    /// Hundredths of the file system, 1 to 99.
    pub percent: Option<u8>,
}

impl MinFree {
    /// In octets, of a file system of this size; 0: it does not matter.
    pub fn of(self, total: u64) -> u64 {
        let share = self.percent.map(|percent| total / 100 * u64::from(percent));
        self.octets.into_iter().chain(share).min().unwrap_or(0)
    }
}

/// Why a text is no duration, size or rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnitError {
    /// A bare number.
    #[error("a duration needs a unit: write \"30s\", \"5m\", \"2h 30m\" or \"5d\"")]
    DurationWithoutUnit,
    /// Something else.
    #[error("not a duration: write \"30s\", \"5m\", \"2h 30m\" or \"5d\"")]
    NotADuration,
    /// `M` is a month to the library and a minute to most people.
    #[error("\"M\" may mean minutes or months: write \"m\" for minutes or \"d\" for days")]
    AmbiguousMonth,
    /// Over ten years.
    #[error("too long: a duration is at most 3650d")]
    DurationTooLong,
    /// A number that no clock needs.
    #[error("too long: numbers have at most ten digits")]
    SpanTooLong,
    /// A bare number.
    #[error("a size needs a unit: write \"500 B\", \"50 KiB\" or \"20 MiB\"")]
    SizeWithoutUnit,
    /// Something else.
    #[error("not a size: write \"500 B\", \"50 KiB\" or \"20 MiB\"")]
    NotASize,
    /// No number, or no period.
    #[error("not a rate: write \"20/s\", \"100/m\" or \"1000/h\"")]
    NotARate,
    /// Over 1 PiB.
    #[error("too large: a size is at most 1 PiB")]
    SizeTooLarge,
    /// Neither sizes nor shares of a whole.
    #[error("neither a size nor a share: write \"100 MB\", \"1%\", \"100 MB or 1%\" (the smaller one) or 0")]
    NotFreeSpace,
    /// A whole or more.
    #[error("a share must be below 100%")]
    ShareTooLarge,
}

/// Reads `30s`, `5m`, `2h 30m`, `2h30m`, `1.5h`, `5d`, `250ms`: at most 3650 days. A number without a unit is refused.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let text = text.trim();
    if is_bare_number(text) {
        return Err(UnitError::DurationWithoutUnit);
    }
    if text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M") {
        return Err(UnitError::AmbiguousMonth);
    }
    let duration = read_duration(text, MAX_DIGITS, UnitError::DurationTooLong)?;
    if duration > MAX_DURATION { Err(UnitError::DurationTooLong) } else { Ok(duration) }
}

/// Reads a span of time of a command line: as [`parse_duration`], without its bound, and with numbers of one digit more.
pub fn parse_span(text: &str) -> Result<Duration, UnitError> {
    read_duration(text, MAX_DIGITS + 1, UnitError::SpanTooLong)
}

/// humantime, kept from sums beside 2^64 seconds, where it panics: by the length of the text and of its numbers.
fn read_duration(text: &str, digits: usize, too_long: UnitError) -> Result<Duration, UnitError> {
    if text.len() > MAX_TEXT || digits_across_space(text) {
        return Err(UnitError::NotADuration);
    }
    if text.split(|c: char| !c.is_ascii_digit()).any(|number| number.len() > digits) {
        return Err(too_long);
    }
    humantime::parse_duration(text).map_err(|_| UnitError::NotADuration)
}

/// Writes what [`parse_duration`] reads as the same value: `0s`, `2h 30m`, `5d`.
pub fn show_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanos / 1_000_000, "ms"),
        (nanos / 1000 % 1000, "us"),
        (nanos % 1000, "ns"),
    ];
    let shown: Vec<String> = parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Reads `20/s`, `100/m` (or `100/min`), `1000/h`.
pub fn parse_rate(text: &str) -> Result<Rate, UnitError> {
    let (count, period) = text.split_once('/').ok_or(UnitError::NotARate)?;
    let count = count.trim().parse().ok().filter(|&count| count > 0).ok_or(UnitError::NotARate)?;
    let period = period.trim();
    let known = PERIODS.iter().find(|(words, _)| words.contains(&period)).ok_or(UnitError::NotARate)?;
    Ok(Rate { count, per: Duration::from_secs(known.1) })
}

/// Writes what [`parse_rate`] reads as the same value.
pub fn show_rate(rate: Rate) -> String {
    let word = PERIODS.iter().find(|(_, seconds)| *seconds == rate.per.as_secs()).and_then(|(words, _)| words.first()).unwrap_or(&"s");
    format!("{}/{word}", rate.count)
}

/// Reads `500 B`, `50 KiB`, `20 MiB`, `1.5 GiB`: at most 1 PiB, in octets. `K`, `M` and `G`, with or without `B`, are decimal:
/// `25M` is 25,000,000. A number without a unit is refused.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    if is_bare_number(text) {
        return Err(UnitError::SizeWithoutUnit);
    }
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start();
    if unit.eq_ignore_ascii_case("b") && text.contains('.') {
        return Err(UnitError::NotASize);
    }
    match text.parse::<ByteSize>() {
        Ok(ByteSize(size)) if size > MAX_SIZE => Err(UnitError::SizeTooLarge),
        Ok(ByteSize(size)) => Ok(size),
        Err(_) => Err(UnitError::NotASize),
    }
}

/// Writes what [`parse_size`] reads as the same value, in the largest unit that needs no fraction: `50 KiB`, `25 MB`, `1025 B`.
pub fn show_size(octets: u64) -> String {
    const UNITS: [(u64, &str); 10] = [
        (bytesize::PIB, "PiB"),
        (bytesize::TIB, "TiB"),
        (bytesize::GIB, "GiB"),
        (bytesize::MIB, "MiB"),
        (bytesize::KIB, "KiB"),
        (bytesize::PB, "PB"),
        (bytesize::TB, "TB"),
        (bytesize::GB, "GB"),
        (bytesize::MB, "MB"),
        (bytesize::KB, "KB"),
    ];
    let fitting = UNITS.iter().find(|(factor, _)| octets >= *factor && octets.is_multiple_of(*factor));
    // 500,000 B is better read as such than as 500 KB, which many take for KiB; from a million on digits are hard to count.
    match fitting {
        Some((factor, unit)) if unit.contains('i') || octets >= bytesize::MB => format!("{} {unit}", octets / factor),
        _ => format!("{octets} B"),
    }
}

/// Reads `100 MB`, `1%`, `100 MB or 1%`; a zero of either kind: nothing.
pub fn parse_min_free(text: &str) -> Result<MinFree, UnitError> {
    let mut wanted = MinFree::default();
    let mut parts: Vec<&str> = text.split(" or ").map(str::trim).collect();
    if parts.iter().any(|part| matches!(*part, "0" | "0%" | "0 %" | "0 B")) {
        return if parts.len() == 1 { Ok(wanted) } else { Err(UnitError::NotFreeSpace) };
    }
    if let Some(at) = parts.iter().position(|part| part.ends_with('%')) {
        let number = parts.remove(at).trim_end_matches('%').trim_end();
        let percent = number.parse::<u64>().ok().filter(|percent| *percent > 0).ok_or(UnitError::NotFreeSpace)?;
        wanted.percent = Some(u8::try_from(percent).ok().filter(|percent| *percent < 100).ok_or(UnitError::ShareTooLarge)?);
    }
    match parts[..] {
        [] => {}
        [size] => match parse_size(size) {
            Ok(0) | Err(UnitError::NotASize) => return Err(UnitError::NotFreeSpace),
            size => wanted.octets = Some(size?),
        },
        _ => return Err(UnitError::NotFreeSpace),
    }
    Ok(wanted)
}

/// Writes what [`parse_min_free`] reads as the same value.
pub fn show_min_free(wanted: MinFree) -> String {
    let parts: Vec<String> = wanted.octets.map(show_size).into_iter().chain(wanted.percent.map(|percent| format!("{percent}%"))).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(" or ") }
}

fn is_bare_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'_')
}

/// "1 0s": humantime takes it for ten seconds.
fn digits_across_space(text: &str) -> bool {
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let next_is_number = words.peek().is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit() || c == '.'));
        if next_is_number && word.ends_with(|c: char| c.is_ascii_digit() || c == '.') {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let seconds = |n| Ok(Duration::from_secs(n));
        for (text, expected) in [
            ("0s", seconds(0)),
            ("30s", seconds(30)),
            ("5m", seconds(300)),
            (" 5 min ", seconds(300)),
            ("2h 30m", seconds(9000)),
            ("2h30m", seconds(9000)),
            ("1.5h", seconds(5400)),
            ("5d", seconds(432_000)),
            ("1 week", seconds(604_800)),
            ("3650d", seconds(3650 * 86_400)),
            ("250ms", Ok(Duration::from_millis(250))),
            ("", Err(UnitError::NotADuration)),
            ("5", Err(UnitError::DurationWithoutUnit)),
            ("0", Err(UnitError::DurationWithoutUnit)),
            ("-5m", Err(UnitError::NotADuration)),
            ("five minutes", Err(UnitError::NotADuration)),
            ("5 parsecs", Err(UnitError::NotADuration)),
            ("1 0s", Err(UnitError::NotADuration)),
            ("5m 3", Err(UnitError::NotADuration)),
            ("5M", Err(UnitError::AmbiguousMonth)),
            ("3651d", Err(UnitError::DurationTooLong)),
            ("18446744073709551615s 1000ms", Err(UnitError::DurationTooLong)),
            ("999999999y 999999999y", Err(UnitError::DurationTooLong)),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, expected) in [
            ("0 B", Ok(0)),
            ("500 B", Ok(500)),
            ("500B", Ok(500)),
            ("50 KiB", Ok(51_200)),
            ("20 MiB", Ok(20_971_520)),
            (" 20mib ", Ok(20_971_520)),
            ("25M", Ok(25_000_000)),
            ("25 MB", Ok(25_000_000)),
            ("1.5 KiB", Ok(1536)),
            ("1 PiB", Ok(1 << 50)),
            ("", Err(UnitError::NotASize)),
            ("500", Err(UnitError::SizeWithoutUnit)),
            ("-5 MiB", Err(UnitError::NotASize)),
            ("MiB", Err(UnitError::NotASize)),
            ("1.2.3 MiB", Err(UnitError::NotASize)),
            ("1.5 B", Err(UnitError::NotASize)),
            ("1e3 B", Err(UnitError::NotASize)),
            ("20 MiB/s", Err(UnitError::NotASize)),
            ("20 megs", Err(UnitError::NotASize)),
            ("2 PiB", Err(UnitError::SizeTooLarge)),
            ("99999999999999 EiB", Err(UnitError::SizeTooLarge)),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn free_space() {
        let wanted = |octets, percent| Ok(MinFree { octets, percent });
        for (text, expected) in [
            ("0", wanted(None, None)),
            ("0%", wanted(None, None)),
            ("2 GiB", wanted(Some(2 << 30), None)),
            ("5%", wanted(None, Some(5))),
            (" 5 % ", wanted(None, Some(5))),
            ("100 MB or 1%", wanted(Some(100_000_000), Some(1))),
            ("1% or 100 MB", wanted(Some(100_000_000), Some(1))),
            ("99%", wanted(None, Some(99))),
            ("100%", Err(UnitError::ShareTooLarge)),
            ("300 %", Err(UnitError::ShareTooLarge)),
            ("00%", Err(UnitError::NotFreeSpace)),
            ("0.5%", Err(UnitError::NotFreeSpace)),
            ("-1%", Err(UnitError::NotFreeSpace)),
            ("%", Err(UnitError::NotFreeSpace)),
            ("", Err(UnitError::NotFreeSpace)),
            ("1% or 2%", Err(UnitError::NotFreeSpace)),
            ("1 MB or 2 MB", Err(UnitError::NotFreeSpace)),
            ("1% or 0", Err(UnitError::NotFreeSpace)),
            ("1% or", Err(UnitError::NotFreeSpace)),
            ("much", Err(UnitError::NotFreeSpace)),
            ("100", Err(UnitError::SizeWithoutUnit)),
            ("2 PiB", Err(UnitError::SizeTooLarge)),
        ] {
            assert_eq!(parse_min_free(text), expected, "{text:?}");
        }
        for (octets, percent) in [(None, None), (Some(1), None), (None, Some(99)), (Some(100_000_000), Some(1))] {
            let wanted = MinFree { octets, percent };
            assert_eq!(parse_min_free(&show_min_free(wanted)), Ok(wanted));
        }
    }

    #[test]
    fn shown_in_the_unit_that_fits() {
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_secs(9000)), "2h 30m");
        assert_eq!(show_duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!(show_duration(Duration::from_millis(1250)), "1s 250ms");
        for (octets, shown) in [
            (0, "0 B"),
            (500, "500 B"),
            (51_200, "50 KiB"),
            (20 << 20, "20 MiB"),
            (25_000_000, "25 MB"),
            (500_500, "500500 B"),
            (1025, "1025 B"),
        ] {
            assert_eq!(show_size(octets), shown);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(nanos in 0..=MAX_DURATION.as_nanos(), scale in 0u32..18, octets in 0..=MAX_SIZE) {
            let nanos = nanos / 10u128.pow(scale);
            let duration = Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            for octets in [octets, octets >> 10 << 10, octets >> 20 << 20, octets / 1000 * 1000, octets / 1_000_000 * 1_000_000] {
                prop_assert_eq!(parse_size(&show_size(octets)), Ok(octets));
            }
        }

        #[test]
        fn no_text_makes_them_panic(text in "[0-9 .smhdMyKiB\\PC]{0,80}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
