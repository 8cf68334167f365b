//! `/api/openapi.json`: the API described for machines.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header;
use troupe_protocol::error::Problem;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, ContentBuilder, Info, OpenApiBuilder, PathItem, Ref, ResponseBuilder,
        SecurityRequirement,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{EdgeState, auth::SESSION_COOKIE};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new().routes(routes!(openapi_json))
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "node", responses((status = 200, body = Object)))]
async fn openapi_json() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// What the document says before its paths.
pub fn preamble() -> utoipa::openapi::OpenApi {
    let mut info = Info::new("Troupe", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Administration and observation of a Troupe node. Lists are pages `{items, next_cursor?, total}`; errors are \
         problem documents (RFC 9457) with a stable code, explained under /errors/CODE."
            .to_owned(),
    );
    let mut components = Components::new();
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    let key = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE)));
    components.add_security_scheme("key", key);
    components.add_security_scheme("session", session);
    let either = [
        SecurityRequirement::new("key", Vec::<String>::new()),
        SecurityRequirement::new("session", Vec::<String>::new()),
    ];
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some(either))
        .build()
}

/// The whole document. Every operation may answer with a problem.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = super::documented().into_openapi();
    let problem = ResponseBuilder::new()
        .description("a problem document")
        .content(
            "application/problem+json",
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build(),
        )
        .build();
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            operation
                .responses
                .responses
                .insert("default".to_owned(), problem.clone().into());
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}
