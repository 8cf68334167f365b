//! OpenAPI documents as MCP servers: each operation is a tool, and calling it makes the HTTP request that it describes.
//!
//! # Layout
//! - `document`: reading a document (3.0 and 3.1, JSON and YAML), following its references
//! - `schema`: its schemas as those of tools: references inlined, 3.0 lifted to JSON Schema 2020-12
//! - `tool`: its operations as tools
//! - `security`: which credentials a request carries, and where
//! - `request`, `style`, `answer`: a call as an HTTP request, parameters in their styles, the response as a tool's result
//! - `server`: all of that as a server that is called like those which are part of the node
//! - `prepare`: what a user gives, completed and checked; `kept`: the documents of registered servers, replicated
//!
//! The documents are read as JSON values and not with typed crates: schemas have to reach clients with all their keywords,
//! and an oddity in one operation must not cost the others.
//!
//! Sources: the OpenAPI Specification 3.0.4 and 3.1.1; RFC 6570 for the styles of parameters.

mod answer;
mod bounded;
mod document;
mod kept;
mod prepare;
mod request;
mod schema;
mod security;
mod server;
mod style;
mod tool;

pub use document::{DOCUMENT_BYTES_MAX, Document, DocumentError};
pub use kept::{Documents, TREES};
pub use prepare::{Prepared, prepare};
pub use server::{Access, OpenApiServer};

#[cfg(test)]
mod tests;
