//! What can be wrong with a request to the registry.

use troupe_protocol::access::TemplateError;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::{FieldError, InvalidServerName, ServerName};

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is no slug.
    #[error(transparent)]
    InvalidName(#[from] InvalidServerName),
    /// The server is part of every node.
    #[error("the server `troupe` is part of every node and cannot be registered, changed or removed")]
    BuiltIn,
    /// The name is taken.
    #[error("a server named {name} is registered already: choose another name, or change that server")]
    Exists {
        /// The name.
        name: ServerName,
    },
    /// Another server has this manifest.
    #[error("{manifest_name} is registered already, as {name}: publish a new version of it there")]
    ManifestTaken {
        /// The name in the manifest.
        manifest_name: String,
        /// The server that has it.
        name: ServerName,
    },
    /// There is no such server.
    #[error("no server is named {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The version exists with other content.
    #[error(
        "version {version} of {manifest_name} is published already with other content: \
         versions cannot be changed, publish a new one"
    )]
    VersionExists {
        /// The name in the manifest.
        manifest_name: String,
        /// The version.
        version: String,
    },
    /// There is no such version.
    #[error("{manifest_name} has no version {version:?}")]
    VersionNotFound {
        /// The name in the manifest.
        manifest_name: String,
        /// The version.
        version: String,
    },
    /// The manifest does not follow the schema.
    #[error("the manifest is wrong: {0}")]
    Manifest(#[from] FieldError),
    /// The manifest of a patch names another server.
    #[error(
        "manifest.name is {given:?}, but this server is {expected:?}: a version must carry the same name"
    )]
    OtherManifest {
        /// What was given.
        given: String,
        /// What would be right.
        expected: String,
    },
    /// A field of the request is wrong.
    #[error("{field}: {detail}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong and what would be right.
        detail: String,
    },
    /// A reference to a secret cannot be read.
    #[error("{field}: {source}")]
    Template {
        /// The header or variable.
        field: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// It cannot be enabled, since nothing says how to reach it.
    #[error("{name} has neither a command nor a URL: give it one before it is enabled")]
    NoTransport {
        /// The server.
        name: String,
    },
    /// The imported text is not of its format.
    #[error("cannot import: {detail}")]
    Import {
        /// What is wrong and what would be right.
        detail: String,
    },
    /// A parameter of a list is wrong.
    #[error("{parameter}: {detail}")]
    Query {
        /// Which.
        parameter: &'static str,
        /// What is wrong and what would be right.
        detail: String,
    },
    /// A limit would be passed.
    #[error("{0}")]
    Limit(String),
    /// A secret could not be sealed or removed.
    #[error("cannot seal the secrets of the server: {detail}")]
    Vault {
        /// The vault's code.
        code: Code,
        /// What it said.
        detail: String,
    },
    /// The change could not be stored.
    #[error("cannot store the change: {detail}")]
    Store {
        /// The store's code.
        code: Code,
        /// What it said.
        detail: String,
    },
    /// The registry did not answer.
    #[error("the registry did not answer: {detail}")]
    Unavailable {
        /// Why.
        code: Code,
        /// In words.
        detail: String,
    },
}

impl RegistryError {
    /// Whether this is said because of what is registered, not because of what was asked: it may be otherwise at other
    /// nodes.
    pub(super) fn is_of_the_state(&self) -> bool {
        matches!(
            self,
            Self::Exists { .. }
                | Self::ManifestTaken { .. }
                | Self::NotFound { .. }
                | Self::VersionExists { .. }
                | Self::VersionNotFound { .. }
        )
    }

    pub(super) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            detail: detail.into(),
        }
    }

    pub(super) fn store(error: &impl Coded) -> Self {
        Self::Store {
            code: error.code(),
            detail: error.to_string(),
        }
    }

    pub(super) fn import(detail: impl Into<String>) -> Self {
        Self::Import {
            detail: detail.into(),
        }
    }
}

impl Coded for RegistryError {
    fn code(&self) -> Code {
        match self {
            Self::InvalidName(_) => Code::InvalidServerName,
            Self::BuiltIn => Code::ServerIsBuiltIn,
            Self::Exists { .. } | Self::ManifestTaken { .. } => Code::ServerExists,
            Self::NotFound { .. } => Code::ServerNotFound,
            Self::VersionExists { .. } => Code::VersionExists,
            Self::VersionNotFound { .. } => Code::VersionNotFound,
            Self::Manifest(_) | Self::OtherManifest { .. } => Code::InvalidManifest,
            Self::Field { .. } | Self::Query { .. } | Self::Limit(_) => Code::InvalidField,
            Self::Template { .. } => Code::InvalidSecretTemplate,
            Self::NoTransport { .. } => Code::NoTransport,
            Self::Import { .. } => Code::InvalidImport,
            Self::Vault { code, .. } | Self::Store { code, .. } | Self::Unavailable { code, .. } => *code,
        }
    }
}
