//! The headers that a site adds to the response head. In: raw JSON. Out: names and values that cannot end
//! their line, nor contradict the head's own framing.

use super::error::BadHandoff;
use super::raw::{Keys, Object, Value, decode, list};

/// Lines at most.
const HEADERS_MAX: usize = 64;
/// Bytes at most, all lines together with their separators.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Ours alone, in lower case.
const FRAMING: [&str; 7] = [
    "content-type",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "connection",
    "cache-control",
    "x-accel-buffering",
];

/// The payload's `response_headers`: one line an entry, several for an array.
pub(super) fn read(object: &Object<'_>) -> Result<Vec<(String, String)>, BadHandoff> {
    let Some(json) = object.object("response_headers")? else {
        return Ok(Vec::new());
    };
    let too_much = || object.refuse("response_headers", "at most 64 headers and 16 KiB together");
    let by_name = Object::read("response_headers.", json, Keys::AtMost(HEADERS_MAX)).ok_or_else(too_much)?;
    let mut headers = Vec::new();
    for (name, value) in by_name.entries() {
        check_name(object, name)?;
        push_lines(&mut headers, name, value).ok_or_else(|| {
            by_name
                .refuse(name, "a string, number or boolean without control characters, or an array of them")
        })?;
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len() + ": \r\n".len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
        return Err(too_much());
    }
    Ok(headers)
}

fn check_name(object: &Object<'_>, name: &str) -> Result<(), BadHandoff> {
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(object.refuse("response_headers", "an object whose names are valid header names"));
    }
    if name.eq_ignore_ascii_case("x-request-id") {
        return Err(object.refuse("response_headers", "without X-Request-Id: set request_id instead"));
    }
    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        let allowed = format!("without {}: handoffd sets it", name.to_ascii_lowercase());
        return Err(BadHandoff::value("response_headers", allowed));
    }
    Ok(())
}

/// One line for a scalar, several for an array, none for null; or nothing at all for what cannot be a header.
fn push_lines(headers: &mut Vec<(String, String)>, name: &str, value: Value<'_>) -> Option<()> {
    let values = match value {
        Value::Array(json) => list(json)?.into_iter().map(Value::of).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => vec![value],
    };
    for value in values {
        let text = match value {
            Value::Null => continue,
            Value::Bool(flag) => flag.to_string(),
            Value::Number(literal) => literal.to_owned(),
            Value::Text(json) => {
                decode(json).filter(|text| !text.bytes().any(|byte| byte.is_ascii_control()))?
            }
            Value::Array(_) | Value::Object(_) => return None,
        };
        headers.push((name.to_owned(), text));
    }
    Some(())
}

/// RFC 9110's `tchar`.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
