//! The error reference: `/errors/T1001` for one code, `/errors` (the text of `ERRORS.md`) for all.

use std::fmt::Write;

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, header};
use troupe_protocol::error::{Code, CodeEntry};

use super::{extract::ApiPath, problem::ApiError};

/// One code: what it means and what to do. A page for browsers, text for others.
pub async fn error_page(ApiPath(code): ApiPath<String>, headers: HeaderMap) -> Response {
    let Ok(code) = code.parse::<Code>() else {
        return ApiError::not_found(&format!("/errors/{code}")).into_response();
    };
    let entry = code.entry();
    let wants_page = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")));
    if !wants_page {
        return section(entry).into_response();
    }
    // Nothing here needs escaping: the table is part of the program.
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {title}</title>\
         <style>body{{font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}}</style>\
         <main><h1>{code}: {title}</h1><p>HTTP status {status}</p><h2>What it means</h2><p>{meaning}</p>\
         <h2>What to do</h2><p>{action}</p></main></html>",
        title = entry.title,
        status = entry.http_status,
        meaning = entry.meaning,
        action = entry.action,
    ))
    .into_response()
}

/// All codes.
pub async fn error_reference() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/markdown; charset=utf-8")],
        reference(),
    )
}

/// The whole reference as Markdown: `ERRORS.md` is exactly this.
pub fn reference() -> String {
    let mut text = "# Error codes\n\n\
        Every error that Troupe reports has a stable code: in problem documents (`application/problem+json`,\n\
        RFC 9457) as `code`, on the command line before the message, in logs as `code`. A code never changes its\n\
        meaning. A node shows each under `/errors/CODE`.\n\n\
        This page is made from the table in `protocol/src/error.rs`; a test compares the two.\n"
        .to_owned();
    for (first_digit, family) in FAMILIES {
        let _ = write!(text, "\n## {family}\n");
        for entry in Code::TABLE
            .iter()
            .filter(|entry| entry.code as u16 / 1000 == *first_digit)
        {
            let _ = write!(text, "\n{}", section(entry));
        }
    }
    text
}

const FAMILIES: &[(u16, &str)] = &[
    (1, "T1…: requests"),
    (2, "T2…: the registry"),
    (3, "T3…: MCP servers and calls"),
    (4, "T4…: keys, roles, secrets"),
    (5, "T5…: routing and conversations"),
    (6, "T6…: storage and settings"),
    (7, "T7…: actors"),
    (8, "T8…: the cluster"),
];

fn section(entry: &CodeEntry) -> String {
    format!(
        "### {} {} (HTTP {})\n\n{}\n\nWhat to do: {}\n",
        entry.code, entry.title, entry.http_status, entry.meaning, entry.action
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `TROUPE_TEST_WRITE=1 cargo test -p troupe errors_page` writes the page anew.
    #[test]
    fn the_page_lists_every_code_as_the_table_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ERRORS.md");
        if std::env::var_os("TROUPE_TEST_WRITE").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == reference(),
            "ERRORS.md differs from the table in protocol/src/error.rs"
        );
        assert!(
            Code::TABLE
                .iter()
                .all(|entry| page.contains(&entry.code.to_string()))
        );
    }
}
