//! What a scalar is: as kubectl's reader has it, which is YAML 1.1 with some of 1.2
//! (sigs.k8s.io/yaml: resolve.go of its goyaml.v2, and how it goes on to JSON).

use serde_json::{Number, Value};

/// The prefix that a tag such as `!!str` stands for.
const TAGS: &str = "tag:yaml.org,2002:";

/// The value of a scalar. `is_plain`: without quotes, and no block of text.
pub(super) fn value(text: String, tag: Option<&str>, is_plain: bool) -> Value {
    let known = tag.map(|tag| tag.strip_prefix(TAGS).unwrap_or(tag));
    match known {
        // The mark "!" alone makes it a string, and comes without a tag.
        None if !is_plain => Value::String(text),
        None | Some("null" | "bool" | "int" | "float") => {
            resolved(&text).unwrap_or(Value::String(text))
        }
        // Of a tag that it does not know, kubectl's reader takes the text as well.
        Some(_) => Value::String(text),
    }
}

/// Whether this key takes in what its value holds.
pub(super) fn is_merge(text: &str, tag: Option<&str>, is_plain: bool) -> bool {
    text == "<<" && (is_plain || tag == Some("tag:yaml.org,2002:merge"))
}

/// A key as JSON has it.
pub(super) fn key(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(is) => Some(is.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => Some("null".to_owned()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// `None`: a string.
fn resolved(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Some(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Some(Value::Bool(false));
        }
        _ => {}
    }
    match text.as_bytes()[0] {
        // JSON has no infinity: `.inf` and `.nan`, which kubectl refuses, stay text, and are refused
        // wherever a number is expected.
        b'.' => is_decimal(text).then(|| float(text)).flatten(),
        b'0'..=b'9' | b'+' | b'-' => number(text),
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (is_negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, &plain[..]),
    };
    let integer = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => u64_of(&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => u64_of(&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => u64_of(&digits[2..], 2),
        [b'0', _, ..] => u64_of(&digits[1..], 8),
        _ => u64_of(digits, 10),
    };
    match integer {
        Some(integer) if is_negative => {
            // -2^63 is the least.
            if let Some(least) = 0_i64.checked_sub_unsigned(integer) {
                return Some(least.into());
            }
        }
        // A sign is for 64 bits with a sign.
        Some(integer) if plain.len() == digits.len() || i64::try_from(integer).is_ok() => {
            return Some(integer.into());
        }
        _ => {}
    }
    is_decimal(&plain).then(|| float(&plain)).flatten()
}

/// Digits alone: the standard library's reader takes a sign as well.
fn u64_of(digits: &str, radix: u32) -> Option<u64> {
    let is_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    is_digits.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    let is_exponent = |exponent: &str| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    };
    has_digits && is_digits(whole) && is_digits(fraction) && exponent.is_none_or(is_exponent)
}

/// A number that JSON would write without a fraction is an integer to its next reader.
fn float(text: &str) -> Option<Value> {
    /// Integers up to here are exact, and written in full.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let float: f64 = text.parse().ok()?;
    if float.fract() == 0.0 && float.abs() <= EXACT_MAX {
        let integer: i64 = format!("{float:.0}").parse().ok()?;
        return Some(integer.into());
    }
    Number::from_f64(float).map(Value::Number)
}
