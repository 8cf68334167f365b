//! A call as an HTTP request. Pure but for taking the client that will send it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use url::Url;

use super::security::Credential;
use super::style::{Place, Style, text_of};
use super::tool::{Body, Operation, Parameter, essence};

/// What the answer may be; JSON where the service can choose.
const ACCEPTED: HeaderValue = HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.8");

/// What a request is made from.
pub(super) struct Making<'a> {
    pub client: &'a Client,
    pub base_url: &'a Url,
    /// The headers of every request.
    pub headers: &'a HeaderMap,
    pub operation: &'a Operation,
    pub credentials: &'a [&'a Credential],
}

impl Making<'_> {
    /// The request. `Err` says what is wrong with the arguments.
    pub fn request(&self, arguments: &Map<String, Value>) -> Result<RequestBuilder, String> {
        let operation = self.operation;
        let known = |name: &str| {
            let is_parameter = operation
                .parameters
                .iter()
                .any(|parameter| parameter.argument == name);
            is_parameter || operation.body.as_ref().is_some_and(|body| body.argument == name)
        };
        if let Some(unknown) = arguments.keys().find(|name| !known(name)) {
            return Err(format!("the tool has no argument {unknown}"));
        }
        let given = given(&operation.parameters, arguments)?;
        for (parameter, value) in &given {
            self.check_members(parameter, value)?;
        }
        let url = self.url(&given)?;
        let mut headers = self.headers.clone();
        headers.entry(ACCEPT).or_insert(ACCEPTED);
        let mut cookies = Vec::new();
        for (parameter, value) in &given {
            match parameter.place {
                // What the server's entry says is not the caller's to change.
                Place::Header if self.headers.contains_key(&parameter.name) => {}
                Place::Header => {
                    let value = parameter.style.in_header(value);
                    insert(&mut headers, &parameter.name, &value)?;
                }
                Place::Cookie => cookies.extend(parameter.style.pairs(&parameter.name, value)),
                Place::Path | Place::Query => {}
            }
        }
        // After what the caller gave: a parameter must not stand in for a credential.
        for credential in self.credentials {
            let value = credential.value.expose_secret();
            match credential.place {
                Place::Header => insert(&mut headers, &credential.name, value)?,
                Place::Cookie => cookies.push((credential.name.clone(), encoded(value))),
                Place::Path | Place::Query => {}
            }
        }
        if !cookies.is_empty() {
            let of_entry = self.headers.get(COOKIE).and_then(|cookies| cookies.to_str().ok());
            let cookies: Vec<String> = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .chain(of_entry.map(str::to_owned))
                .collect();
            insert(&mut headers, COOKIE.as_str(), &cookies.join("; "))?;
        }
        let request = self
            .client
            .request(operation.method.clone(), url)
            .headers(headers);
        match &operation.body {
            Some(body) => with_body(request, body, arguments),
            None => Ok(request),
        }
    }

    /// An object whose members are written as parameters must not write another one, or a credential.
    fn check_members(&self, parameter: &Parameter, value: &Value) -> Result<(), String> {
        let Some(members) = value.as_object().filter(|_| parameter.style.spreads_members()) else {
            return Ok(());
        };
        let others = self.operation.parameters.iter();
        let others = others.filter(|other| other.place == parameter.place && other.name != parameter.name);
        let credentials = self.credentials.iter();
        let credentials = credentials.filter(|credential| credential.place == parameter.place);
        let mut taken = others
            .map(|other| &other.name)
            .chain(credentials.map(|credential| &credential.name));
        match taken.find(|name| members.contains_key(*name)) {
            Some(name) => Err(format!(
                "{} must not have a member {name}: that is a parameter of its own",
                parameter.argument
            )),
            None => Ok(()),
        }
    }

    fn url(&self, given: &[(&Parameter, &Value)]) -> Result<Url, String> {
        let mut path = self.operation.path.clone();
        for (parameter, value) in given
            .iter()
            .filter(|(parameter, _)| parameter.place == Place::Path)
        {
            let written = parameter.style.in_path(&parameter.name, value);
            if written.is_empty() {
                return Err(format!("{} must not be empty", parameter.argument));
            }
            path = path.replace(&format!("{{{}}}", parameter.name), &written);
        }
        // Encoded or not, these would lead to another path than the document names.
        let is_step = |segment: &str| matches!(segment.replace("%2E", ".").as_str(), "." | "..");
        if path.split('/').any(is_step) {
            return Err("a part of the path must not be . or ..".to_owned());
        }
        let base = self.base_url.as_str().trim_end_matches('/');
        let mut url = Url::parse(&format!("{base}/{}", path.trim_start_matches('/')))
            .map_err(|error| format!("the arguments make no address: {error}"))?;
        if url.origin() != self.base_url.origin() {
            return Err("the arguments lead to another service".to_owned());
        }
        let mut query: Vec<String> = url.query().map(str::to_owned).into_iter().collect();
        for (parameter, value) in given
            .iter()
            .filter(|(parameter, _)| parameter.place == Place::Query)
        {
            let pairs = parameter.style.pairs(&parameter.name, value);
            query.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
        }
        let keys = self
            .credentials
            .iter()
            .filter(|credential| credential.place == Place::Query);
        query
            .extend(keys.map(|key| format!("{}={}", encoded(&key.name), encoded(key.value.expose_secret()))));
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        Ok(url)
    }
}

/// The parameters that have a value.
fn given<'a>(
    parameters: &'a [Parameter],
    arguments: &'a Map<String, Value>,
) -> Result<Vec<(&'a Parameter, &'a Value)>, String> {
    let mut given = Vec::new();
    for parameter in parameters {
        match arguments.get(&parameter.argument) {
            Some(value) if !value.is_null() => given.push((parameter, value)),
            _ if parameter.required => return Err(format!("{} is missing", parameter.argument)),
            _ => {}
        }
    }
    Ok(given)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), String> {
    let invalid = || format!("{name} has a name or value that HTTP does not allow");
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
    value.set_sensitive(true);
    headers.insert(header, value);
    Ok(())
}

fn with_body(
    request: RequestBuilder,
    body: &Body,
    arguments: &Map<String, Value>,
) -> Result<RequestBuilder, String> {
    let value = match arguments.get(&body.argument) {
        Some(value) if !value.is_null() => value,
        _ if body.required => return Err(format!("{} is missing", body.argument)),
        _ => return Ok(request),
    };
    let essence = essence(&body.media_type);
    if essence == "multipart/form-data" {
        return Ok(request.multipart(form(body, value)?));
    }
    let bytes = match essence.as_str() {
        json if json == "application/json" || json.ends_with("+json") => value.to_string().into_bytes(),
        "application/x-www-form-urlencoded" => {
            let members = members(body, value)?.iter();
            let pairs = members.flat_map(|(name, value)| Style::FORM.pairs(name, value));
            let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join("&").into_bytes()
        }
        _ if body.is_bytes => bytes_of(&body.argument, value)?,
        _ => text_of(value).into_bytes(),
    };
    // A range is no type: what it stands for cannot be known.
    let media_type = if essence.contains('*') {
        "application/octet-stream"
    } else {
        &body.media_type
    };
    Ok(request.header(CONTENT_TYPE, media_type).body(bytes))
}

fn members<'a>(body: &Body, value: &'a Value) -> Result<&'a Map<String, Value>, String> {
    let members = value.as_object();
    members.ok_or_else(|| {
        format!(
            "{} must be an object: its members are those of a form",
            body.argument
        )
    })
}

fn form(body: &Body, value: &Value) -> Result<Form, String> {
    let mut form = Form::new();
    for (name, value) in members(body, value)? {
        let values = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values.iter().filter(|value| !value.is_null()) {
            let part = if body.bytes_members.contains(name) {
                let bytes = bytes_of(name, value)?;
                // Services tell files from fields by their file names.
                let part = Part::bytes(bytes).file_name(name.clone());
                part.mime_str("application/octet-stream")
                    .map_err(|error| error.to_string())?
            } else if value.is_object() {
                let part = Part::text(value.to_string());
                part.mime_str("application/json")
                    .map_err(|error| error.to_string())?
            } else {
                Part::text(text_of(value))
            };
            form = form.part(name.clone(), part);
        }
    }
    Ok(form)
}

fn bytes_of(name: &str, value: &Value) -> Result<Vec<u8>, String> {
    let wrong = || format!("{name} must be base64");
    STANDARD
        .decode(value.as_str().ok_or_else(wrong)?)
        .map_err(|_| wrong())
}
