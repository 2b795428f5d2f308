//! What an error says, in each of the forms that APIs and the proxies before them have for it. In: bytes. Out: words
//! for machines, a sentence for people. Never: fails; what is in no known form has no words.

use serde_json::Value;

/// A word is this long at most.
const WORD_BYTES_MAX: usize = 64;
/// A sentence that is not JSON is cut to this many characters.
const SENTENCE_CHARS_MAX: usize = 200;
/// Where an error may stand in JSON.
const PLACES: &[&str] = &["/error", "/response/error", "/choices/0/error", "/detail"];

/// What an error says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Of lower case letters, digits and `_`; the most precise one first.
    pub(super) words: Vec<String>,
    /// An HTTP status, where it names one.
    pub(super) status: Option<u64>,
    /// May be empty.
    pub(super) sentence: String,
}

impl Said {
    pub(super) fn of_body(body: &[u8]) -> Self {
        if let Ok(json) = serde_json::from_slice::<Value>(body) {
            return Self::of_json(&json);
        }
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        let sentence = if text.starts_with('<') { title(text) } else { text };
        Self { sentence: sentence.chars().take(SENTENCE_CHARS_MAX).collect(), ..Self::default() }
    }

    fn of_json(json: &Value) -> Self {
        let json = json.get(0).unwrap_or(json);
        let inner = PLACES.iter().find_map(|place| json.pointer(place).filter(|value| is_truthy(value)));
        let error = inner.unwrap_or(json);
        match error {
            Value::String(sentence) => {
                Self { words: word(sentence).into_iter().collect(), status: None, sentence: sentence.clone() }
            }
            // FastAPI's: what is wrong with which parameter.
            Value::Array(errors) => errors.first().map_or_else(Self::default, Self::of_object),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Self::of_object(error),
        }
    }

    fn of_object(error: &Value) -> Self {
        let text = |key: &str| error.get(key).and_then(Value::as_str);
        let mut words: Vec<String> =
            ["code", "type", "status", "error"].iter().filter_map(|key| word(text(key)?)).collect();
        words.dedup();
        let status = ["code", "status", "status_code"].iter().find_map(|key| {
            let number = error.get(key)?;
            number.as_str().map_or_else(|| number.as_u64(), |digits| digits.parse().ok())
        });
        let sentence =
            ["message", "msg", "detail", "error_description", "title"].iter().find_map(|key| text(key));
        Self { words, status, sentence: sentence.unwrap_or_default().to_owned() }
    }
}

/// As Python has it: the client libraries of these APIs ask `if error`.
pub(in super::super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// A word is for programs, `RateLimitError` as much as `rate_limit_error`; `error` says nothing.
fn word(text: &str) -> Option<String> {
    if text.len() > WORD_BYTES_MAX {
        return None;
    }
    let (mut word, mut after_small) = (String::new(), false);
    for letter in text.chars() {
        if letter.is_ascii_uppercase() && after_small {
            word.push('_');
        }
        after_small = letter.is_ascii_lowercase();
        word.push(letter.to_ascii_lowercase());
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_word = word.bytes().all(fits) && word.contains(|letter: char| letter.is_ascii_lowercase());
    (is_word && !matches!(word.as_str(), "error" | "null" | "none")).then_some(word)
}

/// A web page's title, which is all that is worth a log line.
fn title(html: &str) -> &str {
    let lower = html.to_ascii_lowercase();
    let between = |open: &str, close: &str| {
        let begin = lower.find(open)? + open.len();
        let end = begin + lower[begin..].find(close)?;
        html.get(begin..end).map(str::trim)
    };
    between("<title>", "</title>").or_else(|| between("<h1>", "</h1>")).unwrap_or("a web page")
}
