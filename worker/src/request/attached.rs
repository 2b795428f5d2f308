//! What the site attaches to its question, as the payload says it. In: raw JSON. Out: names of files, and images
//! whose base64 nobody has looked into yet.
//!
//! Never: touches a file; `crate::files` does.

use super::error::BadHandoff;
use super::raw::{Keys, Object, Value, list};

/// Files at most.
const FILES_MAX: usize = 64;
/// Images at most.
const IMAGES_MAX: usize = 64;
/// A file's name in the prompt is this long at most.
const REFERENCE_BYTES_MAX: usize = 128;
/// As in Linux (limits.h, `PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

const PATH_ALLOWED: &str = "a path of at most 4095 bytes without control characters";

/// What comes with a question, unread.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// The payload itself is in a file.
    pub payload_file: Option<PayloadFile>,
    /// Each reference once.
    pub files: Vec<AttachedFile>,
    /// In the site's order.
    pub images: Vec<AttachedImage>,
}

/// A payload that is in a file, and what came beside its name.
#[derive(Clone, Debug)]
pub struct PayloadFile {
    /// Where.
    pub path: String,
    /// The payload that names it: an object.
    pub(super) beside: String,
}

/// One file.
#[derive(Clone, Debug)]
pub struct AttachedFile {
    /// Its name in the prompt, there in braces; no braces in it.
    pub reference: String,
    /// Where.
    pub path: String,
    /// A media type in lower case; none: the file says it itself.
    pub mime: Option<String>,
}

/// One image.
#[derive(Clone)]
pub struct AttachedImage {
    /// `image/png` and the like, in lower case.
    pub mime: String,
    /// As the site wrote it.
    pub base64: String,
}

impl std::fmt::Debug for AttachedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AttachedImage({}, {} bytes of base64)", self.mime, self.base64.len())
    }
}

impl Attached {
    /// There is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload_file.is_none() && self.files.is_empty() && self.images.is_empty()
    }

    /// `attachments`, `attachment_types` and `images`.
    pub(super) fn read(object: &Object<'_>) -> Result<Self, BadHandoff> {
        Ok(Self { payload_file: None, files: files(object)?, images: images(object)? })
    }
}

/// The payload's `payload_file`.
pub(super) fn payload_file(object: &Object<'_>, payload: &str) -> Result<Option<PayloadFile>, BadHandoff> {
    let Some(path) = object.text("payload_file")? else { return Ok(None) };
    match is_path(&path) {
        true => Ok(Some(PayloadFile { path, beside: payload.to_owned() })),
        false => Err(object.refuse("payload_file", PATH_ALLOWED)),
    }
}

fn files(object: &Object<'_>) -> Result<Vec<AttachedFile>, BadHandoff> {
    let Some(json) = object.object("attachments")? else { return Ok(Vec::new()) };
    let attachments = Object::read("attachments.", json, Keys::AtMost(FILES_MAX))
        .ok_or_else(|| object.refuse("attachments", "an object of at most 64 files"))?;
    let types = match object.object("attachment_types")? {
        Some(json) => Object::read("attachment_types.", json, Keys::AtMost(FILES_MAX))
            .ok_or_else(|| object.refuse("attachment_types", "an object of at most 64 media types"))?,
        None => Object::empty("attachment_types."),
    };
    let mut files = Vec::new();
    for (reference, _) in attachments.entries() {
        if !is_reference(reference) {
            let allowed = "an object whose names have 1 to 128 bytes, without braces and control characters";
            return Err(object.refuse("attachments", allowed));
        }
        let Some(path) = attachments.text(reference)? else { continue };
        if !is_path(&path) {
            return Err(attachments.refuse(reference, PATH_ALLOWED));
        }
        let mime = match types.text(reference)? {
            Some(text) => Some(
                media_type(&text).ok_or_else(|| types.refuse(reference, "a media type like text/plain"))?,
            ),
            None => None,
        };
        files.push(AttachedFile { reference: reference.to_owned(), path, mime });
    }
    Ok(files)
}

fn images(object: &Object<'_>) -> Result<Vec<AttachedImage>, BadHandoff> {
    let refuse = || object.refuse("images", "an array of at most 64 objects with base64 and mime_type");
    let items = match object.value("images") {
        Value::Null => return Ok(Vec::new()),
        Value::Array(json) => list(json).filter(|items| items.len() <= IMAGES_MAX).ok_or_else(refuse)?,
        Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => return Err(refuse()),
    };
    items.into_iter().enumerate().map(|(index, json)| image(index, json)).collect()
}

fn image(index: usize, json: &str) -> Result<AttachedImage, BadHandoff> {
    let refuse = |key: &str, allowed| BadHandoff::value(format!("images[{index}]{key}"), allowed);
    let image = Object::read("", json, Keys::Only(&["base64", "mime_type"]))
        .ok_or_else(|| refuse("", "an object with base64 and mime_type"))?;
    let text = |key| image.text(key).ok().flatten();
    let mime = text("mime_type").and_then(|text| media_type(&text)).filter(|mime| mime.starts_with("image/"));
    Ok(AttachedImage {
        mime: mime.ok_or_else(|| refuse(".mime_type", "an image's media type like image/png"))?,
        base64: text("base64").ok_or_else(|| refuse(".base64", "an image in base64"))?,
    })
}

fn is_reference(name: &str) -> bool {
    (1..=REFERENCE_BYTES_MAX).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '{' | '}'))
}

fn is_path(path: &str) -> bool {
    path.len() < PATH_BYTES_MAX && !path.contains(char::is_control)
}

/// `type/subtype` in lower case, without its parameters (RFC 9110, 8.3.1).
fn media_type(text: &str) -> Option<String> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let (kind, subtype) = essence.split_once('/')?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 127
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    (is_name(kind) && is_name(subtype)).then(|| essence.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::parse;

    fn attached(entries: serde_json::Value) -> Result<Attached, String> {
        let mut payload = json!({"prompt": "hi"});
        payload.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone());
        parse(payload.to_string().as_bytes()).map(|request| request.attached).map_err(|bad| bad.to_string())
    }

    #[test]
    fn files_have_paths_and_perhaps_types() {
        let attached = attached(json!({
            "attachments": {"a": "x/a.txt", "b c": "b", "none": null},
            "attachment_types": {"a": "Text/Plain; charset=utf-8", "unknown": "text/plain"},
            "images": [{"base64": "AAAA", "mime_type": "image/PNG", "more": 1}],
        }))
        .unwrap();
        let files: Vec<_> = attached
            .files
            .iter()
            .map(|f| (f.reference.as_str(), f.path.as_str(), f.mime.as_deref()))
            .collect();
        assert_eq!(files, [("a", "x/a.txt", Some("text/plain")), ("b c", "b", None)]);
        assert_eq!(attached.images[0].mime, "image/png");
        assert_eq!(attached.images[0].base64, "AAAA");
    }

    #[test]
    fn nothing_is_attached_by_empty_values() {
        for entries in [
            json!({}),
            json!({"attachments": {}, "attachment_types": [], "images": []}),
            json!({"attachments": [], "images": null, "payload_file": ""}),
        ] {
            assert!(attached(entries.clone()).unwrap().is_empty(), "{entries}");
        }
    }

    #[test]
    fn a_refusal_says_which_attachment_it_means() {
        let many: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), json!("a"))).collect();
        for (entries, expected) in [
            (json!({"attachments": "a"}), "attachments: must be an object"),
            (json!({"attachments": many}), "attachments: must be an object of at most 64 files"),
            (json!({"attachments": {"a": ["b"]}}), "attachments.a: must be a string"),
            (
                json!({"attachments": {"a": "b\0c"}}),
                "attachments.a: must be a path of at most 4095 bytes without control characters",
            ),
            (
                json!({"attachments": {"{a}": "b"}}),
                "attachments: must be an object whose names have 1 to 128 bytes, without braces and control characters",
            ),
            (
                json!({"attachments": {"a": "b"}, "attachment_types": {"a": "png"}}),
                "attachment_types.a: must be a media type like text/plain",
            ),
            (
                json!({"images": {}}),
                "images: must be an array of at most 64 objects with base64 and mime_type",
            ),
            (json!({"images": ["AAAA"]}), "images[0]: must be an object with base64 and mime_type"),
            (
                json!({"images": [{"base64": "AAAA", "mime_type": "text/plain"}]}),
                "images[0].mime_type: must be an image's media type like image/png",
            ),
            (json!({"images": [{"mime_type": "image/png"}]}), "images[0].base64: must be an image in base64"),
            (json!({"payload_file": ["a"]}), "payload_file: must be a string"),
            (
                json!({"payload_file": "a\nb"}),
                "payload_file: must be a path of at most 4095 bytes without control characters",
            ),
        ] {
            assert_eq!(attached(entries.clone()).unwrap_err(), expected, "{entries}");
        }
    }

    #[test]
    fn a_payload_file_needs_no_question_beside_it() {
        let request = parse(br#"{"payload_file":"p.json","user_id":7}"#).unwrap();
        assert_eq!(request.attached.payload_file.unwrap().path, "p.json");
    }
}
