//! A service that is described by a document, as an MCP server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::Client;
use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde_json::{Value, json};
use troupe_protocol::access::Principal;
use troupe_protocol::mcp::{Era, ProtocolVersion, ToolDescriptor};
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};
use url::Url;

use super::answer::{failed, result_of};
use super::document::{Document, DocumentError, checked_base};
use super::request::Making;
use super::security::Credentials;
use super::tool::{Operation, Tools};
use crate::runtime::Deadline;
use crate::upstream::http_client::{self, in_words};
use crate::upstream::{BuiltinError, BuiltinServer};

/// Where a service is and what it takes to get in, in clear.
#[derive(Default)]
pub struct Access {
    /// Where it is; as the document says when nothing is given.
    pub base_url: Option<String>,
    /// Headers of each request.
    pub headers: BTreeMap<String, SecretString>,
    /// The credentials of the document's security schemes, by their names there.
    pub security: BTreeMap<String, SecretString>,
}

/// A service whose operations are tools.
pub struct OpenApiServer {
    info: Arc<UpstreamInfo>,
    tools: Arc<Vec<ToolDescriptor>>,
    operations: HashMap<String, Operation>,
    base_url: Url,
    headers: HeaderMap,
    credentials: Credentials,
    client: Client,
    notes: Vec<String>,
}

impl OpenApiServer {
    /// The server of a document. Takes a while for large ones: not for threads that others wait for.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn new(document: &Document, access: &Access) -> Result<Self, DocumentError> {
        let base_url = match &access.base_url {
            Some(text) => {
                let url = Url::parse(text).map_err(|error| DocumentError::BaseUrl(error.to_string()))?;
                checked_base(url)?
            }
            None => document.base_url(None)?,
        };
        let Tools {
            operations,
            mut notes,
        } = Tools::of(document)?;
        let (credentials, unknown) = Credentials::new(document, &access.security);
        let unknown = unknown
            .iter()
            .map(|name| format!("the document has no security scheme {name} that takes a credential"));
        notes.extend(unknown);
        let tools = operations
            .iter()
            .map(|operation| operation.descriptor.clone())
            .collect();
        let info = UpstreamInfo {
            era: Era::Modern,
            protocol_version: ProtocolVersion::LATEST_MODERN.to_string(),
            server_info: ServerInfo {
                name: document.title().unwrap_or("OpenAPI service").to_owned(),
                title: None,
                version: document.version().to_owned(),
            },
            capabilities: json!({ "tools": {} }),
            instructions: document.description().map(str::to_owned),
        };
        Ok(Self {
            info: Arc::new(info),
            tools: Arc::new(tools),
            operations: operations
                .into_iter()
                .map(|operation| (operation.descriptor.name.clone(), operation))
                .collect(),
            client: http_client::for_address(&base_url).map_err(DocumentError::BaseUrl)?,
            headers: http_client::headers_of(&access.headers)
                .map_err(|why| DocumentError::Other(format!("the {why}")))?,
            base_url,
            credentials,
            notes,
        })
    }

    /// What of the document could not become a tool, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    async fn run(&self, operation: &Operation, arguments: Value) -> Result<Value, BuiltinError> {
        let Value::Object(arguments) = arguments else {
            return Err(BuiltinError::InvalidArguments(
                "they must be an object".to_owned(),
            ));
        };
        let (credentials, missing) = match self.credentials.for_demands(&operation.demands) {
            Ok(credentials) => (credentials, Vec::new()),
            Err(missing) => (Vec::new(), missing),
        };
        let making = Making {
            client: &self.client,
            base_url: &self.base_url,
            headers: &self.headers,
            operation,
            credentials: &credentials,
        };
        let request = making
            .request(&arguments)
            .map_err(BuiltinError::InvalidArguments)?;
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Ok(failed(&format!(
                    "the service cannot be reached: {}",
                    in_words(&error)
                )));
            }
        };
        let is_refused = matches!(response.status().as_u16(), 401 | 403);
        let mut result = result_of(response).await;
        if is_refused && !missing.is_empty() {
            let advice = format!(
                "no credential is registered for its security scheme {}",
                missing.join(", ")
            );
            if let Some(content) = result["content"].as_array_mut() {
                content.push(json!({ "type": "text", "text": advice }));
            }
        }
        Ok(result)
    }
}

impl BuiltinServer for OpenApiServer {
    fn info(&self) -> Arc<UpstreamInfo> {
        Arc::clone(&self.info)
    }

    fn tools(&self) -> Arc<Vec<ToolDescriptor>> {
        Arc::clone(&self.tools)
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: Value,
        _: &'a Principal,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>> {
        Box::pin(async move {
            match self.operations.get(tool) {
                Some(operation) => self.run(operation, arguments).await,
                None => Err(BuiltinError::ToolNotFound(tool.to_owned())),
            }
        })
    }

    /// Whether anything answers where the service is; what it answers does not matter.
    fn reach(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let asked = self.client.head(self.base_url.clone()).send().await;
            asked.map(|_| ()).map_err(|error| in_words(&error))
        })
    }
}
