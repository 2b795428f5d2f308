//! What a question consists of when it is more than text. In: text, and what the site attached. Out: parts, in the
//! order in which the model is to read them.

/// One part of the last user message.
#[derive(Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A picture.
    Image {
        /// `image/png` and the like.
        mime: String,
        /// Its bytes, in standard base64 with padding and without line breaks.
        base64: String,
    },
    /// A document that the model reads itself.
    Document {
        /// `application/pdf`.
        mime: String,
        /// Its bytes, in standard base64 with padding and without line breaks.
        base64: String,
        /// The file's name, without its way; never empty.
        name: String,
    },
}

impl Part {
    /// Its words; none: it has no such.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image { .. } | Self::Document { .. } => None,
        }
    }
}

impl std::fmt::Debug for Part {
    /// Sizes: content belongs in no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Image { mime, base64 } => write!(f, "Image({mime}, {} bytes of base64)", base64.len()),
            Self::Document { mime, base64, .. } => {
                write!(f, "Document({mime}, {} bytes of base64)", base64.len())
            }
        }
    }
}
