//! What the tests of several dialects share.

use handoff_config::backend::OnDisconnect;
use serde_json::Value;

use super::{Asking, Question};
use crate::failure::Failure;
use crate::request::{ChatRequest, Part, parse};

pub(super) fn request(payload: Value) -> ChatRequest {
    parse(payload.to_string().as_bytes()).unwrap()
}

pub(super) fn question(request: &ChatRequest) -> Question<'_> {
    Question { request, model: "m", on_disconnect: request.on_disconnect.unwrap_or(OnDisconnect::Cancel) }
}

pub(super) fn body(asking: &Asking) -> String {
    String::from_utf8(asking.call.body.clone()).unwrap()
}

pub(super) fn header<'a>(asking: &'a Asking, name: &str) -> &'a str {
    asking.call.headers[name].to_str().unwrap()
}

pub(super) fn refusal(asked: Result<Asking, Failure>) -> String {
    asked.unwrap_err().to_string()
}

/// A picture, words and a document.
pub(super) fn parts() -> Vec<Part> {
    let text = |text: &str| text.to_owned();
    vec![
        Part::Image { mime: text("image/png"), base64: text("aQ==") },
        Part::Text(text("last")),
        Part::Document { mime: text("application/pdf"), base64: text("cA=="), name: text("p.pdf") },
    ]
}
