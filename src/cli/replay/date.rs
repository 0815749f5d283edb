//! Dates as shops write them: `2010-12-01 08:26:00`, `2010-12-01T08:26:00Z`, `12/1/2010 8:26`,
//! `01.12.2010 08:26`.
//!
//! A date with the year last can be meant in two ways. A dot or a dash means the day comes first; with
//! a slash the month does, unless the file holds a slash date whose first number is over 12. The
//! time zone is not stated in such files; times are only used for order and distance.

use jiff::civil::DateTime;

/// Which of the two numbers in front of the year is the day, in dates with slashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DateOrder {
    day_first: u64,
    month_first: u64,
}

impl DateOrder {
    /// Takes note of one date of the file.
    pub(super) fn learn(&mut self, text: &str) {
        let Some((day, _)) = split(text) else { return };
        if !day.contains('/') {
            return;
        }
        let numbers: Vec<u16> = day.split('/').filter_map(|part| part.parse().ok()).collect();
        if let [first, second, _] = numbers[..] {
            self.day_first += u64::from(first > 12 && first <= 31);
            self.month_first += u64::from(second > 12 && second <= 31);
        }
    }

    /// Seconds since 1970, as if the file's clock were UTC.
    pub(super) fn seconds(self, text: &str) -> Option<i64> {
        let (day, clock) = split(text)?;
        let mark = day.chars().find(|c| !c.is_ascii_digit())?;
        let numbers: Vec<&str> = day.split(mark).collect();
        let [a, b, c] = numbers[..] else { return None };
        let (year, month, day) = if a.len() == 4 {
            (a, b, c)
        } else if mark == '/' && self.day_first <= self.month_first {
            (c, a, b)
        } else {
            (c, b, a)
        };
        let century = if year.len() == 2 { 2000 } else { 0 };
        let year: i16 = year.parse().ok()?;
        let mut time = clock.split(':').map(|part| part.split('.').next().unwrap_or_default());
        let mut part = || time.next().map_or(Some(0), |text| text.parse().ok());
        let (hour, minute, second) = (part()?, part()?, part()?);
        let at = DateTime::new(
            year.checked_add(century)?,
            month.parse().ok()?,
            day.parse().ok()?,
            hour,
            minute,
            second,
            0,
        );
        Some(at.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

/// Day and time of day; the latter may be absent.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim().trim_end_matches('Z').trim_end_matches("+00:00");
    let (day, clock) = text.split_once(['T', ' ']).unwrap_or((text, "0:0"));
    (!day.is_empty()).then_some((day, clock.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_291_191_960; // 2010-12-01 08:26:00

    fn learned(texts: &[&str]) -> DateOrder {
        let mut order = DateOrder::default();
        for text in texts {
            order.learn(text);
        }
        order
    }

    #[test]
    fn the_same_minute_in_every_spelling() {
        for text in [
            "2010-12-01 08:26:00",
            "2010-12-01T08:26:00",
            "2010-12-01T08:26:00.000Z",
            "2010-12-01T08:26:00+00:00",
            "2010/12/01 8:26",
            "12/1/2010 8:26",
            "12/01/10 8:26",
            "01.12.2010 08:26",
            "01-12-2010 08:26",
        ] {
            assert_eq!(learned(&[text]).seconds(text), Some(AT), "{text}");
        }
        assert_eq!(DateOrder::default().seconds("2010-12-01"), Some(AT - 8 * 3600 - 26 * 60));
    }

    #[test]
    fn a_first_number_over_twelve_tells_that_the_day_comes_first() {
        let british = learned(&["01/12/2010 08:26", "13/12/2010 10:00"]);
        assert_eq!(british.seconds("01/12/2010 08:26"), Some(AT));
        let american = learned(&["12/1/2010 8:26", "12/13/2010 10:00"]);
        assert_eq!(american.seconds("12/1/2010 8:26"), Some(AT));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "",
            "yesterday",
            "2010-13-01 08:26",
            "2010-02-30 08:26",
            "2010-12-01 25:00",
            "1/2",
            "٣/1/2010",
        ] {
            assert_eq!(DateOrder::default().seconds(bad), None, "{bad}");
        }
    }
}
