//! Numbers as shops write them, read exactly: `2.55`, `2,55`, `1,234.00`, `1.234,00`, `2.550`.
//!
//! No float is ever made of a price. A number with one mark and three digits behind it can be meant
//! in two ways (`2,550`); how the rest of the file writes its prices decides ([`Marks::learn`]).

/// Ten-thousandths of the currency's unit in one minor unit.
pub(super) const PARTS_PER_MINOR: i64 = 100;

/// The digits kept behind the decimal mark; further ones must be zeros.
const DECIMALS_MAX: usize = 4;

/// The largest price or quantity that is read, in ten-thousandths: a hundred million. Beyond it a
/// number is a mistake, and a line's amount still fits 128 bits with room for every line of a file.
const PARTS_MAX: i64 = 1_000_000_000_000;

/// How a file means a number with one mark and three digits behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    decimal_comma: u64,
    decimal_dot: u64,
}

impl Marks {
    /// Takes note of one price of the file.
    pub(super) fn learn(&mut self, text: &str) {
        let text = text.trim();
        let (commas, dots) = (text.matches(',').count(), text.matches('.').count());
        let decimals = |mark| text.rsplit(mark).next().map_or(0, str::len);
        let telling = |mark| decimals(mark) != 3 || text.trim_start_matches('-').starts_with('0');
        match (commas, dots) {
            (0, 1) if telling('.') => self.decimal_dot += 1,
            (1, 0) if telling(',') => self.decimal_comma += 1,
            (0, _) | (_, 0) => {}
            _ if text.rfind(',') > text.rfind('.') => self.decimal_comma += 1,
            _ => self.decimal_dot += 1,
        }
    }

    /// The decimal mark of a number, if it has one.
    fn decimal_mark(self, text: &str) -> Option<char> {
        let (commas, dots) = (text.matches(',').count(), text.matches('.').count());
        let file_mark = if self.decimal_comma > self.decimal_dot { ',' } else { '.' };
        let ambiguous = |mark: char| {
            let behind = text.rsplit(mark).next().map_or(0, str::len);
            let before = text.split(mark).next().unwrap_or_default().trim_start_matches('-');
            behind == 3 && (1..=3).contains(&before.len()) && !before.starts_with('0')
        };
        match (commas, dots) {
            (1, 0) if ambiguous(',') => (file_mark == ',').then_some(','),
            (0, 1) if ambiguous('.') => (file_mark == '.').then_some('.'),
            (1, 0) => Some(','),
            (0, 1) => Some('.'),
            (0, _) | (_, 0) => None,
            _ if text.rfind(',') > text.rfind('.') => Some(','),
            _ => Some('.'),
        }
    }

    /// A number in ten-thousandths, exactly. `None` when the text is none.
    pub(super) fn parts(self, text: &str) -> Option<i64> {
        let text = text.trim().trim_start_matches('£').trim_start();
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits = digits.trim_start_matches('£');
        let (whole, fraction) = match self.decimal_mark(digits) {
            Some(mark) => digits.rsplit_once(mark)?,
            None => (digits, ""),
        };
        let whole = ungrouped(whole)?;
        let fraction = fraction.trim_end_matches('0');
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if fraction.len() > DECIMALS_MAX || !plain(fraction) || digits.len() > 32 {
            return None;
        }
        let padded: i64 = format!("{fraction:0<DECIMALS_MAX$}").parse().ok()?;
        let parts = whole.checked_mul(10_000)?.checked_add(padded)?;
        (parts <= PARTS_MAX).then_some(sign * parts)
    }

    /// A whole number.
    pub(super) fn whole(self, text: &str) -> Option<i32> {
        let parts = self.parts(text)?;
        if parts % 10_000 != 0 {
            return None;
        }
        i32::try_from(parts / 10_000).ok()
    }
}

/// The digits in front of the decimal mark, with or without marks between groups of three.
fn ungrouped(text: &str) -> Option<i64> {
    let is_mark = |c: char| matches!(c, ',' | '.' | '\'' | ' ' | '\u{a0}' | '\u{202f}');
    let mut groups = text.split(is_mark);
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let well_grouped = (1..=3).contains(&first.len()) && rest.iter().all(|group| group.len() == 3);
    let legal = if rest.is_empty() { !first.is_empty() } else { well_grouped };
    let joined: String = std::iter::once(first).chain(rest).collect();
    let plain = joined.bytes().all(|byte| byte.is_ascii_digit());
    if legal && plain { joined.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn learned(texts: &[&str]) -> Marks {
        let mut marks = Marks::default();
        for text in texts {
            marks.learn(text);
        }
        marks
    }

    #[test]
    fn prices_are_read_exactly_in_every_spelling() {
        let marks = learned(&["2.55", "0.85"]);
        let cases = [
            ("2.55", 25_500),
            ("2,55", 25_500),
            ("2.550", 25_500),
            ("1,234.00", 12_340_000),
            ("1.234,00", 12_340_000),
            ("1,234", 12_340_000),
            ("1,234,567.5", 12_345_675_000),
            ("1 234,5", 12_345_000),
            ("18.0", 180_000),
            ("18", 180_000),
            ("0.001", 10),
            ("0,001", 10),
            ("-11062.06", -110_620_600),
            ("£2.55", 25_500),
            (" 0.55 ", 5_500),
            ("38970.0", 389_700_000),
        ];
        for (text, parts) in cases {
            assert_eq!(marks.parts(text), Some(parts), "{text}");
        }
        for bad in [
            "",
            "-",
            ".",
            "free",
            "2.5.5",
            "1,23,4.0",
            "1e3",
            "0x10",
            "2.55001",
            "12,34,56",
            "٣",
            "99999999999",
            "NaN",
            "--1",
        ] {
            assert_eq!(marks.parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_rest_of_the_file_decides_what_three_digits_behind_a_mark_mean() {
        let comma = learned(&["2,55", "0,85", "3,390"]);
        assert_eq!(comma.parts("3,390"), Some(33_900));
        assert_eq!(comma.parts("1.234"), Some(12_340_000));
        let dot = learned(&["2.55", "3.390"]);
        assert_eq!(dot.parts("3.390"), Some(33_900));
        assert_eq!(dot.parts("1,234"), Some(12_340_000));
    }

    #[test]
    fn quantities_are_whole() {
        let marks = learned(&["2.55"]);
        let cases =
            [("6", Some(6)), ("6.0", Some(6)), ("1,200", Some(1_200)), ("-74215", Some(-74_215))];
        for (text, whole) in cases {
            assert_eq!(marks.whole(text), whole, "{text}");
        }
        assert_eq!(marks.whole("6.5"), None);
        assert_eq!(marks.whole("9999999999"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pence in -10_000_000i64..10_000_000) {
            let (sign, magnitude) = (if pence < 0 { "-" } else { "" }, pence.abs());
            let marks = learned(&["0.01"]);
            for mark in ['.', ','] {
                let text = format!("{sign}{}{mark}{:02}", magnitude / 100, magnitude % 100);
                prop_assert_eq!(marks.parts(&text), Some(pence * PARTS_PER_MINOR));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", digits in "[-0-9.,' ]{0,40}") {
            for text in [text, digits] {
                let mut marks = Marks::default();
                marks.learn(&text);
                let _ = (marks.parts(&text), marks.whole(&text));
            }
        }
    }
}
