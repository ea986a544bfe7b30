//! Times as `%START_TIME(...)%` writes them: strftime's specifiers in UTC, and Envoy's for fractions of a second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A format of a time, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeFormat(Box<[Item]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(Box<str>),
    /// One of strftime's letters.
    Field(u8),
    /// `%f`, `%3f`, `%E3f`: so many digits of the fraction.
    Fraction(u8),
    /// `%E3S`: the seconds of the minute with so many digits of the fraction.
    Seconds(u8),
    /// `%s`: seconds since the epoch.
    Epoch,
}

impl TimeFormat {
    /// RFC 3339 with milliseconds: `2026-11-21T15:04:05.678Z`.
    pub(super) fn default_format() -> TimeFormat {
        let literal = |text: &str| Item::Literal(text.into());
        TimeFormat(Box::new([
            Item::Field(b'F'),
            literal("T"),
            Item::Field(b'T'),
            literal("."),
            Item::Fraction(3),
            literal("Z"),
        ]))
    }

    pub(super) fn parse(text: &str) -> Result<TimeFormat, String> {
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('%') {
            literal.push_str(before);
            let (item, after) = read(from)?;
            match item {
                Item::Literal(text) => literal.push_str(&text),
                item => {
                    if !literal.is_empty() {
                        items.push(Item::Literal(std::mem::take(&mut literal).into()));
                    }
                    items.push(item);
                }
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            items.push(Item::Literal(literal.into()));
        }
        Ok(TimeFormat(items.into()))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let civil = Civil::new(since.as_secs());
        for item in &self.0 {
            match item {
                Item::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Item::Field(letter) => civil.write(out, *letter),
                Item::Fraction(digits) => fraction(out, since, *digits),
                Item::Seconds(digits) => {
                    civil.write(out, b'S');
                    out.push(b'.');
                    fraction(out, since, *digits);
                }
                Item::Epoch => number(out, since.as_secs()),
            }
        }
    }
}

/// The specifier at the start of `text`, behind its `%`, and what follows it.
fn read(text: &str) -> Result<(Item, &str), String> {
    let bytes = text.as_bytes();
    let after = |length: usize| text.get(length..).unwrap_or_default();
    match bytes {
        [digit @ b'1'..=b'9', b'f', ..] => return Ok((Item::Fraction(digit & 0xf), after(2))),
        [b'1'..=b'9', b's', ..] => return Ok((Item::Epoch, after(2))),
        [b'E', digit @ b'1'..=b'9', b'f', ..] => return Ok((Item::Fraction(digit & 0xf), after(3))),
        [b'E', digit @ b'1'..=b'9', b'S', ..] => return Ok((Item::Seconds(digit & 0xf), after(3))),
        [b'E', b'z', ..] => return Ok((Item::Literal("+00:00".into()), after(2))),
        _ => {}
    }
    let rest = after(1);
    match bytes.first() {
        Some(b'f') => Ok((Item::Fraction(9), rest)),
        Some(b's') => Ok((Item::Epoch, rest)),
        Some(b'%') => Ok((Item::Literal("%".into()), rest)),
        Some(b't') => Ok((Item::Literal("\t".into()), rest)),
        Some(b'n') => Err("a time must not hold a line break".into()),
        Some(letter) if FIELDS.contains(letter) => Ok((Item::Field(*letter), rest)),
        Some(_) => Err(format!("unknown specifier %{} of a time", text.chars().next().unwrap_or_default())),
        None => Err("a % without a specifier".into()),
    }
}

const FIELDS: &[u8] = b"aAbBcCdDeFgGhHIjklmMpPrRSTuUVwWxXyYzZ";
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment in the Gregorian calendar, UTC.
struct Civil {
    year: u64,
    /// 1..=12
    month: u64,
    /// 1..=31
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: u64,
    /// 1..=366
    yearday: u64,
}

#[expect(
    clippy::arithmetic_side_effects,
    reason = "days are seconds by 86,400: sums are far from the end of u64, and each difference takes less off than there is"
)]
impl Civil {
    fn new(epoch: u64) -> Civil {
        let (days, seconds) = (epoch / 86_400, epoch % 86_400);
        // Days are counted from 1 March of the year 0: leap days then end a year, and 400 years are a fixed number.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        // From 1 March: 306 days of the year are left on it.
        let yearday = if month > 2 { of_year + 60 + u64::from(leap) } else { of_year - 305 };
        Civil {
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            weekday: (days + 4) % 7,
            yearday,
        }
    }

    fn write(&self, out: &mut Vec<u8>, letter: u8) {
        let hour12 = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
        let short = |name: &'static str| name.get(..3).unwrap_or(name).as_bytes();
        match letter {
            b'a' => out.extend_from_slice(short(self.day_name())),
            b'A' => out.extend_from_slice(self.day_name().as_bytes()),
            b'b' | b'h' => out.extend_from_slice(short(self.month_name())),
            b'B' => out.extend_from_slice(self.month_name().as_bytes()),
            b'c' => self.write_all(out, b"a b e T Y"),
            b'C' => padded(out, self.year / 100, 2, b'0'),
            b'd' => padded(out, self.day, 2, b'0'),
            b'D' | b'x' => self.write_all(out, b"m/d/y"),
            b'e' => padded(out, self.day, 2, b' '),
            b'F' => self.write_all(out, b"Y-m-d"),
            b'g' => padded(out, self.iso_week().0 % 100, 2, b'0'),
            b'G' => number(out, self.iso_week().0),
            b'H' => padded(out, self.hour, 2, b'0'),
            b'I' => padded(out, hour12, 2, b'0'),
            b'j' => padded(out, self.yearday, 3, b'0'),
            b'k' => padded(out, self.hour, 2, b' '),
            b'l' => padded(out, hour12, 2, b' '),
            b'm' => padded(out, self.month, 2, b'0'),
            b'M' => padded(out, self.minute, 2, b'0'),
            b'p' => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            b'P' => out.extend_from_slice(if self.hour < 12 { b"am" } else { b"pm" }),
            b'r' => self.write_all(out, b"I:M:S p"),
            b'R' => self.write_all(out, b"H:M"),
            b'S' => padded(out, self.second, 2, b'0'),
            b'T' | b'X' => self.write_all(out, b"H:M:S"),
            b'u' => number(out, if self.weekday == 0 { 7 } else { self.weekday }),
            b'U' => padded(out, (self.yearday + 6 - self.weekday) / 7, 2, b'0'),
            b'V' => padded(out, self.iso_week().1, 2, b'0'),
            b'w' => number(out, self.weekday),
            b'W' => padded(out, (self.yearday + 6 - (self.weekday + 6) % 7) / 7, 2, b'0'),
            b'y' => padded(out, self.year % 100, 2, b'0'),
            b'Y' => number(out, self.year),
            b'z' => out.extend_from_slice(b"+0000"),
            b'Z' => out.extend_from_slice(b"UTC"),
            _ => {}
        }
    }

    /// Letters are fields, everything else stands for itself.
    fn write_all(&self, out: &mut Vec<u8>, pattern: &[u8]) {
        for byte in pattern {
            if byte.is_ascii_alphabetic() { self.write(out, *byte) } else { out.push(*byte) }
        }
    }

    fn day_name(&self) -> &'static str {
        DAYS.iter().copied().nth(usize::try_from(self.weekday).unwrap_or_default()).unwrap_or_default()
    }

    fn month_name(&self) -> &'static str {
        MONTHS.iter().copied().nth(usize::try_from(self.month - 1).unwrap_or_default()).unwrap_or_default()
    }

    /// Year and week of ISO 8601: week 1 holds the year's first Thursday.
    fn iso_week(&self) -> (u64, u64) {
        let monday_based = (self.weekday + 6) % 7;
        let week = (self.yearday + 9 - monday_based) / 7;
        let long = |year: u64| {
            let last = |y: u64| (y + y / 4 - y / 100 + y / 400) % 7;
            last(year) == 4 || last(year - 1) == 3
        };
        if week == 0 {
            (self.year - 1, if long(self.year - 1) { 53 } else { 52 })
        } else if week == 53 && !long(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn padded(out: &mut Vec<u8>, value: u64, width: usize, pad: u8) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(pad, width.saturating_sub(text.len())));
    out.extend_from_slice(text);
}

/// The first `digits` digits of the fraction of the second.
fn fraction(out: &mut Vec<u8>, since: Duration, digits: u8) {
    let mut value = u64::from(since.subsec_nanos());
    for _ in digits..9 {
        value /= 10;
    }
    if digits > 0 {
        padded(out, value, usize::from(digits), b'0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(text: &str, secs: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(text).unwrap().write(&mut out, UNIX_EPOCH + Duration::new(secs, nanos));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_moments() {
        let mut out = Vec::new();
        TimeFormat::default_format().write(&mut out, UNIX_EPOCH + Duration::new(1_522_280_158, 500_000_000));
        assert_eq!(out, b"2018-03-28T23:35:58.500Z");
        assert_eq!(format("%Y/%m/%dT%H:%M:%S%z %s", 1_522_280_158, 0), "2018/03/28T23:35:58+0000 1522280158");
        assert_eq!(format("%s.%3f %f %1f %6f", 1_522_280_158, 12_345_678), "1522280158.012 012345678 0 012345");
        assert_eq!(format("%3s %E3f %E3S %Ez", 5, 120_000_000), "5 120 05.120 +00:00");
        assert_eq!(format("%a %A %b %B %e %j %p %I %y %% %Z", 0, 0), "Thu Thursday Jan January  1 001 AM 12 70 % UTC");
        assert_eq!(format("%F %j %u %V %G", 1_709_164_800, 0), "2024-02-29 060 4 09 2024");
        assert_eq!(format("%F %j %U %W", 1_735_603_200, 0), "2024-12-31 366 52 53");
        assert_eq!(format("%G-%V", 1_609_459_200, 0), "2020-53"); // 2021-01-01
        assert_eq!(format("%c|%r|%D|%R", 951_782_400, 0), "Tue Feb 29 00:00:00 2000|12:00:00 AM|02/29/00|00:00");
    }

    #[test]
    fn refuses_line_breaks_and_unknown_letters() {
        for bad in ["%n", "%Q", "%", "x%"] {
            assert!(TimeFormat::parse(bad).is_err(), "{bad}");
        }
    }
}
