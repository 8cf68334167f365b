//! Documents as tools, called at a service that is really there.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use troupe_protocol::access::Principal;
use troupe_protocol::server::{OpenApiSource, ServerName};

use super::*;
use crate::runtime::Deadline;
use crate::upstream::{BuiltinError, BuiltinServer};

/// Says what it was asked: method, address, some headers, body.
async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    match path.as_str() {
        "/v1/missing" => return (StatusCode::NOT_FOUND, "no such thing").into_response(),
        "/v1/closed" => return StatusCode::UNAUTHORIZED.into_response(),
        "/v1/empty" => return StatusCode::NO_CONTENT.into_response(),
        "/v1/picture" => return ([("content-type", "image/png")], vec![1_u8, 2, 3]).into_response(),
        "/v1/bytes" => {
            return ([("content-type", "application/octet-stream")], vec![255_u8, 254]).into_response();
        }
        "/v1/large" => return vec![b'x'; 1024 * 1024 + 1].into_response(),
        "/v1/list" => return axum::Json(json!([1, 2])).into_response(),
        _ => {}
    }
    let header = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let names = ["authorization", "x-key", "x-trace", "cookie", "content-type"];
    let headers: BTreeMap<&str, String> = names
        .into_iter()
        .filter_map(|name| Some((name, header(&parts.headers, name)?)))
        .collect();
    axum::Json(json!({
        "asked": format!("{} {}", parts.method, parts.uri),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
    .into_response()
}

struct Service {
    base_url: String,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn service() -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().fallback(echo);
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Service { base_url, task }
}

fn document(paths: Value) -> Value {
    json!({
        "openapi": "3.1.0", "info": {"title": "Things", "version": "7"}, "paths": paths,
        "components": {"securitySchemes": {
            "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
            "query": {"type": "apiKey", "in": "query", "name": "api key"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "sid"},
        }},
    })
}

fn server(document: &Value, service: &Service, security: &[(&str, &str)]) -> OpenApiServer {
    let document = Document::read(&document.to_string()).unwrap();
    let security = security
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let access = Access {
        base_url: Some(service.base_url.clone()),
        security: security.collect(),
        ..Access::default()
    };
    OpenApiServer::new(&document, &access).unwrap()
}

async fn call(server: &OpenApiServer, tool: &str, arguments: Value) -> Result<Value, BuiltinError> {
    let deadline = Deadline::within(Duration::from_secs(10));
    server
        .call(tool, arguments, &Principal::anonymous(), deadline)
        .await
}

async fn asked(server: &OpenApiServer, tool: &str, arguments: Value) -> Value {
    call(server, tool, arguments).await.unwrap()["structuredContent"].clone()
}

fn described(server: &OpenApiServer, tool: &str) -> Value {
    let tools = server.tools();
    let found = tools.iter().find(|descriptor| descriptor.name == tool);
    serde_json::from_str(found.unwrap().raw.get()).unwrap()
}

#[tokio::test]
async fn parameters_and_bodies_go_where_the_document_says() {
    let service = service().await;
    let body = |kind: &str, schema: Value| json!({"required": true, "content": {kind: {"schema": schema}}});
    let text = json!({"type": "string"});
    let server = server(
        &document(json!({
            "/things/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": true, "schema": text}],
                "get": {"operationId": "get thing", "summary": "One thing", "parameters": [
                    {"name": "filter[name]", "in": "query", "schema": text},
                    {"name": "tags", "in": "query", "explode": false, "schema": {"type": "array", "items": text}},
                    {"name": "X-Trace", "in": "header", "schema": text},
                    {"name": "Authorization", "in": "header", "schema": text},
                    {"name": "lang", "in": "cookie", "schema": text},
                    {"name": "id", "in": "query", "schema": {"type": "integer"}},
                ]},
                "delete": {},
            },
            "/things": {
                "post": {"operationId": "add", "requestBody": body("application/json", json!({"type": "object"}))},
                "put": {"operationId": "form", "requestBody": body("application/x-www-form-urlencoded", json!({}))},
            },
            "/files": {"post": {"operationId": "upload", "requestBody": body("multipart/form-data", json!({
                "type": "object", "properties": {"note": text, "file": {"type": "string", "format": "binary"}},
            }))}},
            "/raw": {"put": {"operationId": "raw", "requestBody": body("application/octet-stream", json!({}))}},
        })),
        &service,
        &[],
    );
    let tool = described(&server, "get_thing");
    assert_eq!(tool["description"], "One thing");
    assert_eq!(tool["annotations"]["readOnlyHint"], true);
    let properties: Vec<&String> = tool["inputSchema"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(
        properties,
        ["filter_name", "tags", "X-Trace", "lang", "id", "id_path"]
    );
    assert_eq!(tool["inputSchema"]["required"], json!(["id_path"]));
    assert_eq!(
        described(&server, "delete_things_id")["annotations"]["destructiveHint"],
        true
    );

    let arguments = json!({
        "id_path": "a b/c", "id": 3, "filter_name": "x&y", "tags": ["p", "q"], "X-Trace": "t", "lang": "de",
    });
    let seen = asked(&server, "get_thing", arguments).await;
    assert_eq!(
        seen["asked"],
        "GET /v1/things/a%20b%2Fc?filter%5Bname%5D=x%26y&tags=p,q&id=3"
    );
    assert_eq!(seen["headers"], json!({"cookie": "lang=de", "x-trace": "t"}));

    let seen = asked(&server, "add", json!({"body": {"a": 1}})).await;
    assert_eq!(
        (&seen["body"], &seen["headers"]["content-type"]),
        (&json!(r#"{"a":1}"#), &json!("application/json"))
    );
    let seen = asked(&server, "form", json!({"body": {"a": "b c", "d": [1, 2]}})).await;
    assert_eq!(seen["body"], "a=b%20c&d=1&d=2");
    let seen = asked(
        &server,
        "upload",
        json!({"body": {"note": "n", "file": "aGVsbG8="}}),
    )
    .await;
    let sent = seen["body"].as_str().unwrap();
    assert!(
        sent.contains("filename=\"file\"") && sent.contains("hello") && sent.contains("name=\"note\""),
        "{sent}"
    );
    assert_eq!(
        asked(&server, "raw", json!({"body": "aGVsbG8="})).await["body"],
        "hello"
    );

    for (tool, arguments, wrong) in [
        ("get_thing", json!({}), "id_path is missing"),
        ("get_thing", json!({"id_path": ".."}), "must not be . or .."),
        ("get_thing", json!({"id_path": ""}), "must not be empty"),
        (
            "get_thing",
            json!({"id_path": "a", "other": 1}),
            "no argument other",
        ),
        (
            "get_thing",
            json!({"id_path": "a", "X-Trace": "a\r\nb: c"}),
            "HTTP does not allow",
        ),
        ("add", json!({}), "body is missing"),
        ("raw", json!({"body": "not base64!"}), "must be base64"),
    ] {
        let error = call(&server, tool, arguments).await.unwrap_err();
        assert!(
            matches!(error, BuiltinError::InvalidArguments(_)) && error.to_string().contains(wrong),
            "{error}"
        );
    }
}

#[tokio::test]
async fn answers_of_all_kinds_are_results() {
    let service = service().await;
    let paths = ["missing", "closed", "empty", "picture", "bytes", "large", "list"];
    let item = |name: &str| {
        (
            format!("/{name}"),
            json!({"get": {"operationId": name, "security": [{"key": []}]}}),
        )
    };
    let paths: serde_json::Map<String, Value> = paths.into_iter().map(item).collect();
    let server = server(&document(Value::Object(paths)), &service, &[]);
    let result = |tool: &'static str| call(&server, tool, json!({}));
    let missing = result("missing").await.unwrap();
    assert_eq!(missing["isError"], true);
    assert_eq!(missing["content"][0]["text"], "HTTP 404 Not Found\nno such thing");
    let closed = result("closed").await.unwrap();
    assert!(
        closed["content"][1]["text"]
            .as_str()
            .unwrap()
            .contains("security scheme key"),
        "{closed}"
    );
    assert_eq!(
        result("empty").await.unwrap()["content"][0]["text"],
        "HTTP 204 No Content"
    );
    let picture = result("picture").await.unwrap();
    assert_eq!(
        picture["content"][0],
        json!({"type": "image", "data": "AQID", "mimeType": "image/png"})
    );
    let bytes = result("bytes").await.unwrap();
    assert_eq!(bytes["content"][0]["resource"]["blob"], "//4=");
    let large = result("large").await.unwrap();
    assert!(
        large["isError"] == true && large.to_string().contains("more than 1048576 bytes"),
        "{large}"
    );
    let list = result("list").await.unwrap();
    assert_eq!(
        list,
        json!({"content": [{"type": "text", "text": "[1,2]"}]}),
        "structured content is an object"
    );
    drop(service);
    let gone = result("list").await.unwrap();
    assert!(
        gone["isError"] == true && gone.to_string().contains("cannot be reached"),
        "{gone}"
    );
    assert!(server.reach().await.is_err());
}

#[tokio::test]
async fn credentials_are_carried_as_their_schemes_say_and_cannot_be_overridden() {
    let service = service().await;
    let all = json!([{"key": [], "query": [], "cookie": []}]);
    let parameters = json!([{"name": "x-key", "in": "header", "schema": {"type": "string"}}]);
    let server = server(
        &document(json!({"/a": {"get": {"operationId": "a", "security": all, "parameters": parameters}}})),
        &service,
        &[("key", "k"), ("query", "q&r"), ("cookie", "c;d")],
    );
    let seen = asked(&server, "a", json!({"x-key": "forged"})).await;
    assert_eq!(seen["asked"], "GET /v1/a?api%20key=q%26r");
    assert_eq!(seen["headers"], json!({"cookie": "sid=c%3Bd", "x-key": "k"}));
}

#[tokio::test]
async fn a_value_writes_no_other_parameter_and_nothing_that_the_entry_says() {
    let service = service().await;
    let parameters = json!([
        {"in": "query", "name": "limit"}, {"in": "query", "name": "tenant"}, {"in": "header", "name": "X-Trace"},
    ]);
    let operation = json!({"operationId": "find", "parameters": parameters, "security": [{"query": []}]});
    let document = Document::read(&document(json!({"/things": {"get": operation}})).to_string()).unwrap();
    let access = Access {
        base_url: Some(service.base_url.clone()),
        security: [("query".to_owned(), "mine".into())].into(),
        headers: [("x-trace".to_owned(), "mine".into())].into_iter().collect(),
    };
    let server = OpenApiServer::new(&document, &access).unwrap();
    for other in ["tenant", "api key"] {
        let told = call(&server, "find", json!({"limit": {other: "theirs"}})).await;
        assert!(told.unwrap_err().to_string().contains(other));
    }
    let asked = asked(
        &server,
        "find",
        json!({"limit": {"most": 3}, "X-Trace": "theirs"}),
    )
    .await;
    assert_eq!(asked["asked"], "GET /v1/things?most=3&api%20key=mine");
    assert_eq!(asked["headers"]["x-trace"], "mine");
}

#[test]
fn references_are_inlined_and_circles_kept() {
    let text = r##"
openapi: 3.0.3
info: {title: T, version: 1.0.0}
servers: [{url: "https://{region}.example.com/v1", variables: {region: {default: eu}}}]
paths:
  /nodes:
    post:
      requestBody: {$ref: "#/components/requestBodies/Node"}
      responses: {200: {description: ok}}
components:
  requestBodies:
    Node: {required: true, content: {application/json: {schema: {$ref: "#/components/schemas/Node"}}}}
  schemas:
    Node:
      type: object
      required: [id, name, kind]
      properties:
        id: {type: string, readOnly: true}
        name: {type: string, nullable: true, example: n}
        kind: {$ref: "#/components/schemas/Kind"}
        size: {type: integer, minimum: 0, exclusiveMinimum: true}
        default: {type: object, properties: {$ref: {type: string}}}
        children: {type: array, items: {$ref: "#/components/schemas/Node"}}
        far: {$ref: "other.yaml#/x"}
    Kind: {type: string, enum: [a, b], nullable: true, xml: {name: k}}
"##;
    let document = Document::read(text).unwrap();
    assert_eq!(
        document.base_url(None).unwrap().as_str(),
        "https://eu.example.com/v1"
    );
    let server = OpenApiServer::new(&document, &Access::default()).unwrap();
    let tool = described(&server, "post_nodes");
    let node = json!({
        "type": "object",
        "required": ["name", "kind"],
        "properties": {
            "name": {"type": ["string", "null"], "examples": ["n"]},
            "kind": {"type": ["string", "null"], "enum": ["a", "b", null]},
            "size": {"type": "integer", "exclusiveMinimum": 0},
            "default": {"type": "object", "properties": {"$ref": {"type": "string"}}},
            "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            "far": {"description": "described elsewhere: other.yaml#/x"},
        },
    });
    assert_eq!(tool["inputSchema"]["properties"]["body"], node);
    assert_eq!(tool["inputSchema"]["$defs"], json!({"Node": node}));
    assert!(jsonschema::validator_for(&tool["inputSchema"]).is_ok());
}

#[test]
fn a_document_that_grows_without_end_is_bounded() {
    // Each schema refers twice to the next: inlined, that would be 2^40 schemas.
    let schemas: serde_json::Map<String, Value> = (0..40)
        .map(|n| {
            let next = json!({"$ref": format!("#/components/schemas/S{}", n + 1)});
            (
                format!("S{n}"),
                json!({"type": "object", "properties": {"a": next, "b": next}}),
            )
        })
        .collect();
    let document = json!({
        "openapi": "3.1.0", "info": {}, "servers": [{"url": "https://h/"}],
        "components": {"schemas": schemas},
        "paths": {"/a": {"post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}}}},
    });
    let document = Document::read(&document.to_string()).unwrap();
    let server = OpenApiServer::new(&document, &Access::default()).unwrap();
    let bytes = server.tools()[0].raw.get().len();
    assert!(bytes < 200_000, "{bytes} bytes");
}

#[test]
fn what_is_no_document_says_why() {
    let refused = |text: &str| {
        let document = Document::read(text)?;
        OpenApiServer::new(&document, &Access::default())
    };
    for (text, why) in [
        ("{", "neither JSON nor YAML"),
        ("hello", "not an OpenAPI document"),
        (r#"{"swagger": "2.0", "paths": {}}"#, "Swagger"),
        (r#"{"openapi": "4.0.0", "paths": {}}"#, "its version is 4.0.0"),
        (r#"{"openapi": "3.1.0"}"#, "no paths"),
        (
            r#"{"openapi": "3.1.0", "paths": {"/a": {"get": {}}}}"#,
            "give base_url",
        ),
        (
            r#"{"openapi": "3.1.0", "paths": {}, "servers": [{"url": "https://h"}]}"#,
            "no operation",
        ),
        (
            r#"{"openapi": "3.1.0", "paths": {"/a": {"get": {}}}, "servers": [{"url": "file:///etc"}]}"#,
            "give base_url",
        ),
    ] {
        let error = refused(text).err().unwrap().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let large = " ".repeat(DOCUMENT_BYTES_MAX + 1);
    assert_eq!(
        refused(&large).err(),
        Some(DocumentError::TooLarge(DOCUMENT_BYTES_MAX + 1))
    );
}

#[tokio::test]
async fn a_document_is_fetched_and_what_it_lacks_is_found_out_before_it_is_registered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/openapi.json", listener.local_addr().unwrap());
    let text = json!({
        "openapi": "3.1.0", "paths": {"/a": {"get": {}}}, "servers": [{"url": "../v2"}],
        "info": {"title": "Things", "description": "\nAll about things.\nMore."},
    })
    .to_string();
    let served = text.clone();
    let app = Router::new().route("/api/openapi.json", axum::routing::get(|| async move { served }));
    let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        axum::serve(listener, app).await.unwrap();
    }));
    let mut source = OpenApiSource {
        url: Some(url.clone()),
        ..OpenApiSource::default()
    };
    let said = prepare(&mut source).await.unwrap();
    assert_eq!(said.description.as_deref(), Some("All about things."));
    assert_eq!(source.document.as_ref(), Some(&text));
    assert_eq!(source.base_url, Some(url.replace("/api/openapi.json", "/v2")));

    source.security.insert("nobody".to_owned(), "x".into());
    let error = prepare(&mut source).await.unwrap_err();
    assert!(error.to_string().contains("no security scheme nobody"), "{error}");
    let mut gone = OpenApiSource {
        url: Some(url.replace("openapi.json", "gone?key=secret")),
        ..OpenApiSource::default()
    };
    let error = prepare(&mut gone).await.unwrap_err().to_string();
    assert!(error.contains("404") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn documents_are_kept_in_pieces_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(folder.path()).unwrap();
    let documents = Documents::new(&store);
    let name = |text: &str| ServerName::new(text).unwrap();
    let (one, two) = (name("one"), name("one-two"));
    let long: String = "日本語 \"quoted\" \\ \n".repeat(20_000);
    documents.put(&one, &long).await.unwrap();
    documents.put(&one, "short").await.unwrap();
    documents.put(&two, "short").await.unwrap();
    let digest = Documents::digest(&long);
    assert_eq!(documents.get(&one, &digest).unwrap(), long);
    documents.forget_others(&one, Some(&digest)).await.unwrap();
    assert_eq!(documents.get(&one, &digest).unwrap(), long);
    let short = Documents::digest("short");
    assert!(documents.get(&one, &short).is_err());
    documents.forget_others(&one, None).await.unwrap();
    assert!(documents.get(&one, &digest).is_err());
    assert_eq!(documents.get(&two, &short).unwrap(), "short");
    let _ = Arc::new(store);
}

#[test]
fn a_small_text_that_stands_for_much_is_refused() {
    let many = |what: &str, count: usize| vec![what; count].join(",");
    let head = "openapi: 3.0.3\npaths: {}\n";
    let values = format!(
        "{head}a: &a [{}]\nb: [{}]\n",
        many("0", 1_000),
        many("*a", 60_000)
    );
    let error = Document::read(&values).unwrap_err();
    assert!(error.to_string().contains("aliases followed"), "{error}");
    let text = format!(
        "{head}a: &a {}\nb: [{}]\n",
        "x".repeat(100_000),
        many("*a", 60_000)
    );
    let error = Document::read(&text).unwrap_err();
    assert!(error.to_string().contains("aliases followed"), "{error}");
    // Those that stand for little are in order.
    let little = Document::read(&format!(
        "{head}x-a: &a [1, 200, true, null, 1.5, ~]\nx-b: *a\n404: y\n"
    ));
    little.unwrap();
}

#[test]
fn schemas_are_bounded_however_often_one_text_is_referred_to() {
    let properties: serde_json::Map<String, Value> = (0..400)
        .map(|number| {
            (
                format!("p{number}"),
                json!({ "$ref": "#/components/schemas/Large" }),
            )
        })
        .collect();
    let body =
        json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Body" } } } });
    let paths: serde_json::Map<String, Value> = (0..300)
        .map(|number| (format!("/p{number}"), json!({ "post": { "requestBody": body } })))
        .collect();
    let words: Vec<String> = (0..3_000).map(|number| format!("word {number}")).collect();
    let document = json!({
        "openapi": "3.0.3", "paths": paths,
        "components": { "schemas": {
            "Large": { "type": "string", "enum": words },
            "Body": { "type": "object", "additionalProperties": false, "properties": properties },
        } },
    });
    let document = Document::read(&document.to_string()).unwrap();
    let tools = tool::Tools::of(&document).unwrap();
    assert_eq!(tools.operations.len(), 300);
    let sizes = tools
        .operations
        .iter()
        .map(|operation| operation.descriptor.raw.get().len());
    let (largest, all) = (sizes.clone().max().unwrap(), sizes.sum::<usize>());
    assert!(largest < 512 * 1024, "{largest}");
    assert!(all < 128 * 1024 * 1024, "{all}");
    assert!(tools.notes[0].contains("too large"), "{:?}", tools.notes);
    let first: Value = serde_json::from_str(tools.operations[0].descriptor.raw.get()).unwrap();
    let described = &first["inputSchema"]["properties"]["body"];
    assert_eq!(
        described["additionalProperties"],
        Value::Null,
        "members that are not described are admitted"
    );
    assert!(described["properties"]["p0"]["enum"].is_array());
}
