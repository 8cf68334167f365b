//! The built web UI, embedded into the binary.
//!
//! What lives here: the files of `web/dist` (made by `npm ci && npm run build` and committed), and what an HTTP edge
//! needs to serve one of them. What does not: HTTP types, routing, the fallback to [`INDEX`] for a page that the
//! browser's own router resolves. A crate of its own, so that a change in Rust does not embed the bundle again.

use std::borrow::Cow;
use std::fmt::Write as _;

use rust_embed::{Embed, EmbeddedFile};

/// The page that starts the UI; the edge answers it for every path that is neither a file nor an API.
pub const INDEX: &str = "index.html";

/// Vite puts a content hash into the name of everything in this folder, so those files never change.
const HASHED_FOLDER: &str = "assets/";

#[derive(Embed)]
#[folder = "dist/"]
struct Bundle;

/// One file of the bundle.
#[derive(Debug, Clone)]
pub struct Asset {
    /// The content as built; not compressed.
    pub bytes: Cow<'static, [u8]>,
    /// The media type by the file's extension, with a charset where it is text.
    pub mime: String,
    /// A strong validator, already in double quotes (RFC 9110 §8.8.3).
    pub etag: String,
    /// Whether the content under this path can never change, so that it may be cached for ever.
    pub immutable: bool,
}

/// The file at `path` (without a leading slash, as in `assets/app.js`), if the bundle has it.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    let file = Bundle::get(path)?;
    Some(Asset {
        mime: media_type(&file),
        etag: entity_tag(&file),
        immutable: path.starts_with(HASHED_FOLDER),
        bytes: file.data,
    })
}

/// Every path that [`asset`] knows.
pub fn paths() -> impl Iterator<Item = Cow<'static, str>> {
    Bundle::iter()
}

fn media_type(file: &EmbeddedFile) -> String {
    let essence = file.metadata.mimetype();
    let is_text = essence.starts_with("text/") || essence == "application/json";
    if is_text && !essence.contains("charset") {
        format!("{essence}; charset=utf-8")
    } else {
        essence.to_owned()
    }
}

/// Half of the content's SHA-256 is more than enough to tell two builds apart.
fn entity_tag(file: &EmbeddedFile) -> String {
    let hash = file.metadata.sha256_hash();
    let mut tag = String::with_capacity(34);
    tag.push('"');
    for byte in &hash[..16] {
        let _ = write!(tag, "{byte:02x}"); // writing to a String cannot fail
    }
    tag.push('"');
    tag
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_index_is_html_and_may_change() {
        let index = asset(INDEX).unwrap();
        assert_eq!(index.mime, "text/html; charset=utf-8");
        assert!(!index.immutable);
        assert_eq!(index.etag.len(), 34);
    }

    #[test]
    fn all_that_the_index_names_is_in_the_bundle() {
        let index = asset(INDEX).unwrap();
        let html = std::str::from_utf8(&index.bytes).unwrap();
        let named: Vec<&str> = html
            .split(['"', '\''])
            .filter_map(|part| part.strip_prefix('/'))
            .filter(|path| path.contains('.'))
            .collect();
        assert!(
            named.iter().any(|path| path.starts_with(HASHED_FOLDER)),
            "the index names no built file"
        );
        for path in named {
            assert!(
                asset(path).is_some(),
                "{path} is named by the index but not in the bundle"
            );
        }
    }

    #[test]
    fn built_files_are_immutable_and_typed() {
        let script = paths()
            .find(|path| path.starts_with(HASHED_FOLDER) && path.ends_with(".js"))
            .unwrap();
        let script = asset(&script).unwrap();
        assert!(script.immutable);
        assert_eq!(script.mime, "text/javascript; charset=utf-8");
    }

    #[test]
    fn a_path_outside_the_bundle_is_none() {
        assert!(asset("../Cargo.toml").is_none());
        assert!(asset("").is_none());
    }
}
