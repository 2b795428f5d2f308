//! What a file is to a model. In: bytes, and a media type if the site names one. Out: a part of a question.
//!
//! Never: believes that bytes are text which are not UTF-8; passes on base64 that it has not read itself.

use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::request::{AttachedImage, Part};

/// A text is this large at most.
pub(super) const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// An image or a document is this large at most.
pub(super) const BINARY_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Sites and browsers disagree about padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a part becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// UTF-8, whatever it is called.
    Text,
    /// With its media type.
    Image(String),
    /// With its media type.
    Document(String),
    /// Nobody says: text, if it can be.
    Unknown,
    /// Known, and nothing for a model.
    Other,
}

/// Why bytes are no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPart {
    /// Not UTF-8.
    NotText,
    /// Neither text nor an image nor a PDF.
    Unsupported,
    /// No base64.
    NotBase64,
    /// Larger than this.
    TooLarge(usize),
}

/// By what the site says, else by the file's name.
pub(super) fn kind(mime: Option<&str>, path: &str) -> Kind {
    match mime {
        None | Some("application/octet-stream") => kind_of_name(path),
        Some("application/pdf") => Kind::Document("application/pdf".to_owned()),
        Some(mime) if is_text(mime) => Kind::Text,
        Some(mime) if mime.starts_with("image/") => Kind::Image(mime.to_owned()),
        Some(_) => Kind::Other,
    }
}

impl Kind {
    /// How large it may be.
    pub(super) fn bytes_max(&self) -> usize {
        match self {
            Self::Text | Self::Unknown | Self::Other => TEXT_BYTES_MAX,
            Self::Image(_) | Self::Document(_) => BINARY_BYTES_MAX,
        }
    }

    /// The part that these bytes are.
    pub(super) fn part(self, bytes: Vec<u8>, path: &str) -> Result<Part, NoPart> {
        match self {
            Self::Text => text(bytes).ok_or(NoPart::NotText),
            Self::Unknown => text(bytes).ok_or(NoPart::Unsupported),
            Self::Other => Err(NoPart::Unsupported),
            Self::Image(mime) => Ok(Part::Image { mime, base64: STANDARD.encode(bytes) }),
            Self::Document(mime) => {
                let name = Path::new(path).file_name().map_or("file".into(), |name| name.to_string_lossy());
                Ok(Part::Document { mime, base64: STANDARD.encode(bytes), name: name.into_owned() })
            }
        }
    }
}

/// An image that came with the payload. White space in its base64, and missing padding, are forgiven.
pub(super) fn image(image: AttachedImage) -> Result<Part, NoPart> {
    let AttachedImage { mime, mut base64 } = image;
    base64.retain(|c| !c.is_ascii_whitespace());
    let bytes = LENIENT.decode(&base64).map_err(|_| NoPart::NotBase64)?;
    if bytes.len() > BINARY_BYTES_MAX {
        return Err(NoPart::TooLarge(BINARY_BYTES_MAX));
    }
    Ok(Part::Image { mime, base64: STANDARD.encode(bytes) })
}

fn text(bytes: Vec<u8>) -> Option<Part> {
    let text = String::from_utf8(bytes).ok()?;
    // A byte order mark is no character of the text; NUL is none of any.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    (!text.contains('\0')).then_some(Part::Text(text))
}

fn is_text(mime: &str) -> bool {
    const TEXTS: [&str; 9] = [
        "application/json",
        "application/x-ndjson",
        "application/xml",
        "application/javascript",
        "application/yaml",
        "application/x-yaml",
        "application/toml",
        "application/sql",
        "application/x-sh",
    ];
    mime.starts_with("text/") || mime.ends_with("+json") || mime.ends_with("+xml") || TEXTS.contains(&mime)
}

fn kind_of_name(path: &str) -> Kind {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    let image = |mime: &str| Kind::Image(mime.to_owned());
    match extension.unwrap_or_default().to_ascii_lowercase().as_str() {
        "png" => image("image/png"),
        "jpg" | "jpeg" => image("image/jpeg"),
        "gif" => image("image/gif"),
        "webp" => image("image/webp"),
        "pdf" => Kind::Document("application/pdf".to_owned()),
        "txt" | "md" | "csv" | "json" | "xml" | "html" | "svg" => Kind::Text,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(base64: &str) -> AttachedImage {
        AttachedImage { mime: "image/png".to_owned(), base64: base64.to_owned() }
    }

    #[test]
    fn the_sites_word_counts_more_than_the_name() {
        assert_eq!(kind(Some("text/plain"), "a.png"), Kind::Text);
        assert_eq!(kind(Some("image/svg+xml"), "a"), Kind::Text);
        assert_eq!(kind(Some("application/octet-stream"), "a.JPG"), Kind::Image("image/jpeg".to_owned()));
        assert_eq!(kind(Some("image/avif"), "a"), Kind::Image("image/avif".to_owned()));
        assert_eq!(kind(None, "dir/a.pdf"), Kind::Document("application/pdf".to_owned()));
        assert_eq!(kind(None, "a.rs"), Kind::Unknown);
        assert_eq!(kind(Some("application/zip"), "a.txt"), Kind::Other);
    }

    #[test]
    fn bytes_are_text_only_if_they_are() {
        let part = |kind: Kind, bytes: &[u8]| kind.part(bytes.to_vec(), "a/b.bin");
        assert_eq!(part(Kind::Text, "\u{feff}ä".as_bytes()), Ok(Part::Text("ä".to_owned())));
        assert_eq!(part(Kind::Text, b"\xff"), Err(NoPart::NotText));
        assert_eq!(part(Kind::Unknown, b"\x7fELF\0"), Err(NoPart::Unsupported));
        assert_eq!(part(Kind::Other, b"x"), Err(NoPart::Unsupported));
        let document = Kind::Document("application/pdf".to_owned()).part(b"%PDF".to_vec(), "a/b.pdf");
        let Ok(Part::Document { base64, name, .. }) = document else { panic!("{document:?}") };
        assert_eq!((base64.as_str(), name.as_str()), ("JVBERg==", "b.pdf"));
    }

    #[test]
    fn an_images_base64_is_made_what_every_upstream_reads() {
        for written in ["iVBORw0K", "iVBO\r\nRw0K\n", "iVBORw0KGg", "iVBORw0KGg=="] {
            let Ok(Part::Image { base64, .. }) = image(attached(written)) else { panic!("{written}") };
            assert!(base64 == "iVBORw0K" || base64 == "iVBORw0KGg==", "{base64}");
        }
        for wrong in ["a", "data:image/png;base64,iVBORw0K", "*"] {
            assert_eq!(image(attached(wrong)), Err(NoPart::NotBase64), "{wrong}");
        }
    }
}
