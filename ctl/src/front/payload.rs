//! A request's wishes as the daemon's payload. In: query, body, Last-Event-ID. Out: JSON.
//! Never: passes on a key that is not listed here: clients of a site do not choose files or headers.

use serde_json::{Map, Value};

use super::reply::Reply;
use super::request::{Method, Request};

/// What a client may say.
const KEYS: [&str; 8] = ["prompt", "format", "backend", "model", "include", "system", "user_id", "mock"];

/// The JSON to hand over: the body's fields win over the query's.
pub(super) fn payload(request: &Request) -> Result<Vec<u8>, Reply> {
    let mut payload = Map::from_iter([
        ("format".into(), "content".into()),
        ("method".into(), request.method.name().into()),
    ]);
    add_form(&mut payload, request.query.as_bytes())?;
    if request.method == Method::Post {
        add_body(&mut payload, &request.body)?;
    }
    if let Some(id) = &request.last_event_id {
        payload.insert("last_event_id".into(), id.as_str().into());
    }
    Ok(Value::Object(payload).to_string().into_bytes())
}

/// JSON, whatever its Content-Type (`curl -d` calls everything a form); no form starts with a brace.
fn add_body(payload: &mut Map<String, Value>, body: &[u8]) -> Result<(), Reply> {
    let body = body.trim_ascii();
    if !body.starts_with(b"{") {
        return add_form(payload, body);
    }
    let fields: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| Reply::bad_request("the body is no valid JSON object"))?;
    payload.extend(fields.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str())));
    Ok(())
}

/// `key=value&…`, as a query or as a form's body.
fn add_form(payload: &mut Map<String, Value>, form: &[u8]) -> Result<(), Reply> {
    for field in form.split(|byte| *byte == b'&') {
        let equals = field.iter().position(|byte| *byte == b'=').unwrap_or(field.len());
        let value = decode(field.get(equals + 1..).unwrap_or_default());
        match decode(&field[..equals]).as_str() {
            "mock" => {
                let mock: Map<String, Value> = serde_json::from_str(&value)
                    .map_err(|_| Reply::bad_request("mock is no valid JSON object"))?;
                payload.insert("mock".into(), mock.into());
            }
            "lastEventId" => drop(payload.insert("last_event_id".into(), value.into())),
            // `include=usage,reasoning`
            "include" => drop(payload.insert("include".into(), value.split(',').collect())),
            key if KEYS.contains(&key) => drop(payload.insert(key.into(), value.into())),
            _ => {}
        }
    }
    Ok(())
}

/// Undoes percent-encoding; a stray percent sign stays, what is not UTF-8 is replaced.
fn decode(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.first_chunk().filter(|_| first == b'%').and_then(|digits| hex(*digits));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
        bytes.push(escaped.unwrap_or(if first == b'+' { b' ' } else { first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digits: [u8; 2]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(value(digits[0])? * 16 + value(digits[1])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(method: Method, query: &str, body: &str) -> Request {
        Request {
            method,
            path: "/stream".into(),
            query: query.into(),
            last_event_id: None,
            body: body.into(),
        }
    }

    fn read(request: &Request) -> Value {
        serde_json::from_slice(&payload(request).unwrap()).unwrap()
    }

    #[test]
    fn a_query_becomes_a_payload() {
        let query = "prompt=gr%C3%BCn+und+100%25&format=text&mock=%7B%22length%22:3%7D&include=usage,reasoning&backend=b&lastEventId=r:1&evil=1";
        let expected = json!({"prompt": "grün und 100%", "format": "text", "method": "GET", "backend": "b", "include": ["usage", "reasoning"],
            "mock": {"length": 3}, "last_event_id": "r:1"});
        assert_eq!(read(&request(Method::Get, query, "")), expected);
    }

    #[test]
    fn a_body_is_json_or_a_form_and_wins_over_the_query() {
        let json_body = r#" {"prompt":"b","user_id":7,"payload_file":"/etc/passwd"}"#;
        let expected = json!({"prompt": "b", "user_id": 7, "format": "text", "method": "POST"});
        assert_eq!(read(&request(Method::Post, "prompt=a&format=text", json_body)), expected);
        let expected = json!({"prompt": "b c", "format": "content", "method": "POST"});
        assert_eq!(read(&request(Method::Post, "", "prompt=b+c&submit=go\r\n")), expected);
    }

    #[test]
    fn the_last_event_id_header_wins_over_the_query() {
        let mut head = request(Method::Head, "lastEventId=old", "");
        head.last_event_id = Some("new".into());
        assert_eq!(read(&head), json!({"format": "content", "method": "HEAD", "last_event_id": "new"}));
    }

    #[test]
    fn broken_json_is_refused() {
        assert_eq!(payload(&request(Method::Post, "", "{\"prompt\"")).unwrap_err().status, "400 Bad Request");
        assert_eq!(payload(&request(Method::Get, "mock=5", "")).unwrap_err().status, "400 Bad Request");
    }

    #[test]
    fn decoding_takes_any_bytes() {
        assert_eq!(decode(b"%"), "%");
        assert_eq!(decode(b"%4"), "%4");
        assert_eq!(decode(b"%zz%41"), "%zzA");
        assert_eq!(decode(b"%ff"), "\u{fffd}");
    }
}
