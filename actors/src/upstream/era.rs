//! Which era a server speaks, judged by its answers. Pure.

use serde::Deserialize;
use serde_json::Value;
use troupe_protocol::jsonrpc::{ErrorObject, RawReply};
use troupe_protocol::mcp::{self, Era, ProtocolVersion, meta};
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};

use super::error::Failure;
use super::frame::Dialect;

/// What the answer to `server/discover` says.
#[derive(Debug, PartialEq)]
pub(super) enum Probe {
    /// The server is modern and speaks our revision.
    Modern(UpstreamInfo),
    /// The server is modern and does not want to speak with us.
    Refused(String),
    /// The server is to be asked to `initialize`.
    Legacy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoverResult {
    supported_versions: Vec<String>,
    #[serde(default)]
    capabilities: Value,
    #[serde(default, rename = "_meta")]
    meta: Value,
    #[serde(default)]
    instructions: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult {
    protocol_version: String,
    #[serde(default)]
    capabilities: Value,
    #[serde(default)]
    server_info: Value,
    #[serde(default)]
    instructions: Value,
}

/// Judges the answer to `server/discover`.
///
/// Only an error code that exists in no legacy revision proves a modern server; legacy ones answer unknown requests
/// before `initialize` with whatever they like.
pub(super) fn judge_discover(reply: &RawReply) -> Probe {
    match reply {
        RawReply::Result(result) => match serde_json::from_str::<DiscoverResult>(result.get()) {
            Ok(result) => judge_versions(&result.supported_versions)
                .unwrap_or_else(|| Probe::Modern(result.into_info())),
            Err(_) => Probe::Legacy,
        },
        RawReply::Error(error) => match ErrorObject::read(error) {
            Some(error) if error.code == mcp::code::UNSUPPORTED_PROTOCOL_VERSION => {
                let supported = supported_in(&error);
                judge_versions(&supported).unwrap_or(Probe::Refused(error.message))
            }
            Some(error) if mcp::code::is_modern(error.code) => Probe::Refused(error.message),
            _ => Probe::Legacy,
        },
    }
}

/// What remains to be done with a server that speaks these revisions; nothing if it speaks ours.
fn judge_versions(supported: &[String]) -> Option<Probe> {
    let speaks = |era| {
        supported
            .iter()
            .filter_map(|text| text.parse::<ProtocolVersion>().ok())
            .any(|v| v.era() == era)
    };
    if speaks(Era::Modern) {
        None
    } else if speaks(Era::Legacy) {
        Some(Probe::Legacy)
    } else {
        Some(Probe::Refused(format!(
            "it speaks only the protocol versions {}",
            supported.join(", ")
        )))
    }
}

fn supported_in(error: &ErrorObject) -> Vec<String> {
    let data = error
        .data
        .as_ref()
        .and_then(|data| serde_json::from_str::<Value>(data.get()).ok())
        .unwrap_or_default();
    let supported = data["supported"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    supported
        .iter()
        .filter_map(|version| version.as_str().map(str::to_owned))
        .collect()
}

/// Judges the answer to `initialize`.
pub(super) fn judge_initialize(reply: &RawReply) -> Result<(Dialect, UpstreamInfo), Failure> {
    let result = match reply {
        RawReply::Result(result) => result,
        RawReply::Error(error) => {
            let words =
                ErrorObject::read(error).map_or_else(|| error.get().to_owned(), |error| error.message);
            return Err(Failure::Protocol(format!("it refused to initialize: {words}")));
        }
    };
    let result: InitializeResult = serde_json::from_str(result.get())
        .map_err(|error| Failure::Protocol(format!("its answer to initialize cannot be read: {error}")))?;
    let version: ProtocolVersion = result
        .protocol_version
        .parse()
        .map_err(|error| Failure::Protocol(format!("{error}")))?;
    let info = UpstreamInfo {
        era: Era::Legacy,
        protocol_version: version.to_string(),
        server_info: info_of(result.server_info),
        capabilities: result.capabilities,
        instructions: result.instructions.as_str().map(str::to_owned),
    };
    Ok((Dialect { version }, info))
}

/// What a server calls itself is for people only: one that says it oddly is served all the same.
fn info_of(value: Value) -> ServerInfo {
    serde_json::from_value(value).unwrap_or_default()
}

impl DiscoverResult {
    fn into_info(self) -> UpstreamInfo {
        let server_info = self.meta.get(meta::SERVER_INFO).cloned().unwrap_or_default();
        UpstreamInfo {
            era: Era::Modern,
            protocol_version: ProtocolVersion::LATEST_MODERN.to_string(),
            server_info: info_of(server_info),
            capabilities: self.capabilities,
            instructions: self.instructions.as_str().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::value::RawValue;

    fn result(text: &str) -> RawReply {
        RawReply::Result(RawValue::from_string(text.to_owned()).unwrap())
    }

    fn error(text: &str) -> RawReply {
        RawReply::Error(RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn a_modern_server_is_known_by_its_discovery() {
        let probe = judge_discover(&result(
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},
                "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"time","version":"1"}}}"#,
        ));
        let Probe::Modern(info) = probe else {
            panic!("{probe:?}")
        };
        assert_eq!((info.era, info.server_info.name.as_str()), (Era::Modern, "time"));
    }

    #[test]
    fn only_modern_errors_prove_a_modern_server() {
        for legacy in [
            r#"{"code":-32601,"message":"Method not found"}"#,
            r#"{"code":-32602,"message":"Invalid request parameters","data":""}"#,
            r#"{"code":-32000,"message":"Bad Request: Server not initialized"}"#,
            r#"{"code":-32022,"message":"x","data":{"supported":["2025-11-25"]}}"#,
        ] {
            assert_eq!(judge_discover(&error(legacy)), Probe::Legacy, "{legacy}");
        }
        let newer = error(r#"{"code":-32022,"message":"x","data":{"supported":["2031-01-01"]}}"#);
        assert!(matches!(judge_discover(&newer), Probe::Refused(reason) if reason.contains("2031-01-01")));
        assert!(matches!(
            judge_discover(&error(r#"{"code":-32020,"message":"x"}"#)),
            Probe::Refused(_)
        ));
    }

    #[test]
    fn a_legacy_server_chooses_the_revision() {
        let (dialect, info) = judge_initialize(&result(
            r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"2","x":1}}"#,
        ))
        .unwrap();
        assert_eq!(
            (dialect.version, info.era),
            (ProtocolVersion::V2024_11_05, Era::Legacy)
        );
        assert!(judge_initialize(&result(r#"{"protocolVersion":"1999-01-01"}"#)).is_err());
        assert!(judge_initialize(&error(r#"{"code":-1,"message":"no"}"#)).is_err());
    }
}
