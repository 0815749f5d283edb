//! What no text of a request may hold, wherever it stands.
//!
//! Control characters: PostgreSQL refuses U+0000, and none of the others has a place in a name or an
//! address. Card numbers: a number that passes the Luhn check in a free text would bring databases,
//! logs and webhooks into the scope of the card industry's rules, so it is refused at the border.
//!
//! Both are looked for over the whole body before any field has a type, so that a new field can't
//! forget them. A first pass over the raw bytes, which nearly every body passes, keeps it cheap.

use serde_json::Value;

use super::problem::FieldError;

/// Card numbers have 13 to 19 digits (ISO/IEC 7812).
const CARD_DIGITS_MIN: usize = 13;
/// See [`CARD_DIGITS_MIN`].
const CARD_DIGITS_MAX: usize = 19;

/// Fields that hold the name of something in somebody's system: an article (every EAN-13 and GTIN-14 has
/// 13 or 14 digits), a marketplace's order (Amazon's have 17 in three groups), a customer. One in ten such
/// numbers passes the Luhn check by chance, and a system sends its names again and again.
const NOT_FREE_TEXT: &[&str] = &["sku", "channel_order_ref", "customer_id"];

/// Fields that may have several lines.
const MULTI_LINE: &[&str] = &["description"];

/// How many fields are named in one answer; more would only make it long.
const FIELD_ERRORS_MAX: usize = 50;

/// Whether the raw JSON may hold something of what [`check`] refuses: false for nearly every body.
pub(super) fn is_suspicious(raw: &[u8]) -> bool {
    let mut digits = 0;
    for &byte in raw {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                if digits >= CARD_DIGITS_MIN {
                    return true;
                }
            }
            b' ' | b'-' => {}
            // An escape (of a control character, a quote or a digit), DEL, and the first byte of the
            // control characters U+0080 to U+009F.
            b'\\' | 0x7f | 0xc2 => return true,
            _ => digits = 0,
        }
    }
    false
}

/// Every text in the value that is refused, with its path.
pub(super) fn check(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, &mut String::new(), "", &mut errors);
    errors
}

fn walk(value: &Value, path: &mut String, name: &str, errors: &mut Vec<FieldError>) {
    use std::fmt::Write as _;
    if errors.len() >= FIELD_ERRORS_MAX {
        return;
    }
    match value {
        Value::String(text) => {
            if let Some(message) = fault(name, text) {
                errors.push(FieldError::new(path.clone(), message));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let length = path.len();
                write!(path, "[{index}]").expect("a String takes any text");
                walk(item, path, name, errors);
                path.truncate(length);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(key);
                if let Some(message) = fault("", key) {
                    errors.push(FieldError::new(path.escape_debug().to_string(), message));
                }
                walk(member, path, key, errors);
                path.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is wrong with a text in the field `name`, if anything.
pub(super) fn fault(name: &str, text: &str) -> Option<&'static str> {
    let line_break = |c: char| matches!(c, '\n' | '\r' | '\t') && MULTI_LINE.contains(&name);
    if text.chars().any(|c| c.is_control() && !line_break(c)) {
        return Some("must not hold control characters");
    }
    let is_an_id = text.parse::<uuid::Uuid>().is_ok();
    if !is_an_id && !NOT_FREE_TEXT.contains(&name) && holds_card_number(text) {
        return Some("must not hold a payment card number; send the token of the payment form");
    }
    None
}

/// Whether some run of digit groups, joined by single spaces or dashes, is a card number.
///
/// Groups are taken whole: `12 4111…` finds the card behind the house number, but a number inside a
/// longer one is not looked for, or every long number would hold a "card" by chance.
fn holds_card_number(text: &str) -> bool {
    let mut run: Vec<Vec<u8>> = Vec::new();
    let mut previous = ' ';
    for c in text.chars().chain(std::iter::once('.')) {
        match c.to_digit(10) {
            Some(digit) => {
                let digit = u8::try_from(digit).expect("below ten");
                match run.last_mut() {
                    Some(group) if previous.is_ascii_digit() => group.push(digit),
                    _ => run.push(vec![digit]),
                }
            }
            None if matches!(c, ' ' | '-') && previous.is_ascii_digit() => {}
            None => {
                if has_card_in_groups(&run) {
                    return true;
                }
                run.clear();
            }
        }
        previous = c;
    }
    false
}

fn has_card_in_groups(groups: &[Vec<u8>]) -> bool {
    (0..groups.len()).any(|start| {
        let mut digits: Vec<u8> = Vec::with_capacity(CARD_DIGITS_MAX);
        for group in &groups[start..] {
            digits.extend_from_slice(group);
            if digits.len() > CARD_DIGITS_MAX {
                return false;
            }
            if digits.len() >= CARD_DIGITS_MIN && passes_luhn(&digits) {
                return true;
            }
        }
        false
    })
}

fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| match (place % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) if digit >= 5 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn card_numbers_are_found_as_people_write_them() {
        for bad in [
            "4111111111111111",
            "my card is 4111 1111 1111 1111 thanks",
            "12 4111-1111-1111-1111",
            "378282246310005",
            "x4222222222222y",
            "6304000000000000000",
        ] {
            assert!(fault("name", bad).is_some(), "{bad}");
        }
        for good in [
            "4111111111111112",
            "4111 1111",
            "85123A",
            "+49 30 123456",
            "0190163d-8694-739b-aea5-966c26f8ad91",
            "41111111111111114111111111111111",
        ] {
            assert_eq!(fault("name", good), None, "{good}");
        }
        for name in ["sku", "channel_order_ref", "customer_id"] {
            assert_eq!(fault(name, "4006381333931"), None, "{name} is not free text");
        }
        let amazons = "302-8114217-1009100";
        assert!(fault("name", amazons).is_some(), "it passes the check by chance");
        assert_eq!(fault("channel_order_ref", amazons), None);
        assert!(fault("channel_order_ref", "a\u{0}").is_some());
    }

    #[test]
    fn faults_are_named_by_path() {
        let body = json!({"lines": [{"sku": "a"}, {"sku": "a\u{0}"}], "note": "4111111111111111", "description": "a\nb"});
        let fields: Vec<_> = check(&body).into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["lines[1].sku", "note"]);
    }

    proptest! {
        /// The cheap first pass never lets a text through that the second would refuse.
        #[test]
        fn the_first_pass_misses_nothing(text in "[0-9 \\-a\u{0}\u{1f}\u{7f}\u{85}]{0,40}", card in prop::sample::select(vec!["", "4111 1111 1111 1111", "378282246310005"])) {
            let value = json!({"name": text + card});
            let raw = serde_json::to_vec(&value).unwrap();
            prop_assert!(check(&value).is_empty() || is_suspicious(&raw));
        }
    }
}
