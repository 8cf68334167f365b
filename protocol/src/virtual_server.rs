//! Virtual servers: chosen tools, resources and prompts of registered servers, offered as a server of their own.
//!
//! Here are the shapes only. What is wrong with a definition and how it is kept: `actors::registry::virtual_servers`;
//! how its clients are answered: `actors::session`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::mcp::ListKind;
use crate::server::{RawJson, ServerName};
use crate::time::Timestamp;

/// What a virtual server is: the body of a `PUT`, and the content of a file for `troupe virtual add`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct VirtualDefinition {
    /// Its name; where a path or the command line names it, the same or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServerName>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What models are told when they begin; the description when nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// What it offers, in this order.
    pub items: Vec<VirtualItem>,
}

/// One thing that a virtual server offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct VirtualItem {
    /// What it is; a tool when nothing is given.
    #[serde(default)]
    #[ts(as = "Option<VirtualKind>")]
    pub kind: VirtualKind,
    /// The registered server that has it.
    pub server: ServerName,
    /// How that server calls it: the name of a tool or prompt, the URI of a resource, a URI template.
    pub name: String,
    /// What it is called here; the same when nothing is given. A template keeps its own.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    #[ts(rename = "as")]
    pub exposed_as: Option<String>,
    /// The title for people, instead of the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The description for models, instead of the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Arguments that every call has with these values. Clients neither see nor set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, RawJson>>")]
    pub fixed: BTreeMap<String, Value>,
    /// Arguments that no call has. Clients neither see nor set them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[ts(as = "Option<BTreeSet<String>>")]
    pub hidden: BTreeSet<String>,
    /// How long a call may take, in milliseconds; never longer than the server's entry allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub timeout_ms: Option<u64>,
}

impl VirtualItem {
    /// What it is called here.
    pub fn exposed_name(&self) -> &str {
        self.exposed_as.as_deref().unwrap_or(&self.name)
    }

    /// Whether clients are kept from an argument.
    pub fn conceals(&self, argument: &str) -> bool {
        self.fixed.contains_key(argument) || self.hidden.contains(argument)
    }

    /// Whether clients are kept from any argument.
    pub fn conceals_any(&self) -> bool {
        !self.fixed.is_empty() || !self.hidden.is_empty()
    }
}

/// What a thing of a virtual server is.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    TS,
    ToSchema,
    strum::Display,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum VirtualKind {
    /// A tool.
    #[default]
    Tool,
    /// A resource.
    Resource,
    /// A template of resources' addresses.
    ResourceTemplate,
    /// A prompt.
    Prompt,
}

impl VirtualKind {
    /// The list in which servers have such things.
    pub const fn list(self) -> ListKind {
        match self {
            Self::Tool => ListKind::Tools,
            Self::Resource => ListKind::Resources,
            Self::ResourceTemplate => ListKind::ResourceTemplates,
            Self::Prompt => ListKind::Prompts,
        }
    }

    /// What people call such things.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Resource => "resource",
            Self::ResourceTemplate => "resource template",
            Self::Prompt => "prompt",
        }
    }
}

/// A virtual server in a list: what everybody may know who may use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct VirtualSummary {
    /// Its name.
    pub name: ServerName,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The path at which MCP clients connect to it.
    pub path: String,
    /// How many tools it offers.
    pub tools_count: u32,
    /// How many resources and templates it offers.
    pub resources_count: u32,
    /// How many prompts it offers.
    pub prompts_count: u32,
    /// The servers behind it.
    pub servers: Vec<ServerName>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Everything about a virtual server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct VirtualDetail {
    /// As lists have it.
    #[serde(flatten)]
    pub summary: VirtualSummary,
    /// What it is.
    pub definition: VirtualDefinition,
    /// Who changed it last.
    pub updated_by: String,
    /// What does not fit the servers behind it as they are now.
    pub warnings: Vec<VirtualWarning>,
}

/// Something that a virtual server promises and cannot keep now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct VirtualWarning {
    /// What the thing is.
    pub kind: VirtualKind,
    /// What it is called here.
    pub name: String,
    /// The server that should have it.
    pub server: ServerName,
    /// What is wrong.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_short_definition_is_enough_and_a_wrong_member_is_refused() {
        let text = r#"{"items":[{"server":"time","name":"now"},
            {"kind":"resource_template","server":"files","name":"file:///{path}"}]}"#;
        let definition: VirtualDefinition = serde_json::from_str(text).unwrap();
        assert_eq!(definition.items[0].kind, VirtualKind::Tool);
        assert_eq!(definition.items[0].exposed_name(), "now");
        assert_eq!(definition.items[1].kind.list(), ListKind::ResourceTemplates);
        let back = serde_json::to_value(&definition).unwrap();
        assert_eq!(
            back["items"][0],
            serde_json::json!({"kind":"tool","server":"time","name":"now"})
        );
        let wrong = r#"{"items":[{"server":"time","name":"now","rename":"x"}]}"#;
        let error = serde_json::from_str::<VirtualDefinition>(wrong)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rename") && error.contains("timeout_ms"),
            "{error}"
        );
    }
}
