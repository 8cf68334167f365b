//! What rustls is told: TLS 1.3 only, certificates of the cluster's authority on both sides.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use troupe_protocol::id::NodeId;

use super::authority::{NodeCertificate, fingerprint};
use super::{Certificate, IdentityError};

/// What is spoken on a connection to the node port, agreed on during the TLS handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A link: asks, tells and streams. Certificates on both sides.
    Link,
    /// HTTP between nodes. Certificates on both sides.
    Http,
    /// A newcomer exchanges a join string for an identity. It has no certificate yet.
    Enrol,
}

impl Protocol {
    /// Its name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Link => b"troupe-link/1",
            Self::Http => b"troupe-http/1",
            Self::Enrol => b"troupe-enrol/1",
        }
    }

    /// The first of the names that a client offers which is known.
    pub fn of_offer<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let known = [Self::Link, Self::Http, Self::Enrol];
        names.find_map(|name| known.into_iter().find(|protocol| protocol.name() == name))
    }
}

const NODE_SUFFIX: &str = ".node.troupe.internal";
/// By this name any member is known to a newcomer, who does not know their ids.
const ANY_NODE: &str = "any.node.troupe.internal";

/// The names in the certificate of a node.
pub(super) fn names_of(node: NodeId) -> Vec<String> {
    vec![name_of(node), ANY_NODE.to_owned()]
}

fn name_of(node: NodeId) -> String {
    format!("{}{NODE_SUFFIX}", node.to_string().to_ascii_lowercase())
}

/// The name by which a node is dialled: the handshake fails if its certificate is another node's.
///
/// # Errors
/// None in practice: ids are well-formed names.
pub fn server_name(node: NodeId) -> Result<ServerName<'static>, IdentityError> {
    ServerName::try_from(name_of(node)).map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// Whose certificate it is. The handshake has checked that the authority issued it.
///
/// # Errors
/// When it is no node's.
pub fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, IdentityError> {
    let refuse = |reason: String| IdentityError::Certificate(reason);
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| refuse(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| refuse(error.to_string()))?;
    let names = names.map(|names| names.value.general_names.as_slice());
    let ids = names.unwrap_or_default().iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => name.strip_suffix(NODE_SUFFIX),
        _ => None,
    });
    let node = ids
        .into_iter()
        .find_map(|id| id.to_ascii_uppercase().parse().ok());
    node.ok_or_else(|| refuse("it names no node".to_owned()))
}

/// The configurations for one certificate of this node.
pub(super) struct Configurations {
    link_server: Arc<ServerConfig>,
    http_server: Arc<ServerConfig>,
    enrol_server: Arc<ServerConfig>,
    link_client: Arc<ClientConfig>,
    http_client: Arc<ClientConfig>,
}

impl Configurations {
    pub(super) fn new(authority: &Certificate, node: &NodeCertificate) -> Result<Self, IdentityError> {
        Ok(Self {
            link_server: mutual_server(authority, node, Protocol::Link)?,
            http_server: mutual_server(authority, node, Protocol::Http)?,
            enrol_server: enrol_server(authority, node)?,
            link_client: client(authority, node, Protocol::Link)?,
            http_client: client(authority, node, Protocol::Http)?,
        })
    }

    pub(super) fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        Arc::clone(match protocol {
            Protocol::Link => &self.link_server,
            Protocol::Http => &self.http_server,
            Protocol::Enrol => &self.enrol_server,
        })
    }

    /// A member has no reason to enrol; it dials as for a link.
    pub(super) fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(match protocol {
            Protocol::Link | Protocol::Enrol => &self.link_client,
            Protocol::Http => &self.http_client,
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn chain(authority: &Certificate, node: &NodeCertificate) -> Vec<Certificate> {
    vec![node.certificate().clone(), authority.clone()]
}

fn mutual_server(
    authority: &Certificate,
    node: &NodeCertificate,
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier);
    let configuration = builder.with_single_cert(chain(authority, node), node.key_der())?;
    Ok(finished(configuration, protocol))
}

fn enrol_server(authority: &Certificate, node: &NodeCertificate) -> Result<Arc<ServerConfig>, IdentityError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth();
    let configuration = builder.with_single_cert(chain(authority, node), node.key_der())?;
    Ok(finished(configuration, Protocol::Enrol))
}

/// Without resumption: each handshake looks at the certificates as they are now.
fn finished(mut configuration: ServerConfig, protocol: Protocol) -> Arc<ServerConfig> {
    configuration.alpn_protocols = vec![protocol.name().to_vec()];
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    Arc::new(configuration)
}

fn client(
    authority: &Certificate,
    node: &NodeCertificate,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut configuration = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(chain(authority, node), node.key_der())?;
    configuration.alpn_protocols = vec![protocol.name().to_vec()];
    configuration.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(configuration))
}

/// How a newcomer, who only knows the authority's fingerprint, dials a member; and by which name.
pub(super) fn newcomer(
    fingerprint: [u8; 32],
) -> Result<(Arc<ClientConfig>, ServerName<'static>), IdentityError> {
    let verifier = ByFingerprint {
        fingerprint,
        provider: provider(),
    };
    let mut configuration = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    configuration.alpn_protocols = vec![Protocol::Enrol.name().to_vec()];
    configuration.resumption = rustls::client::Resumption::disabled();
    let name =
        ServerName::try_from(ANY_NODE).map_err(|error| IdentityError::Certificate(error.to_string()))?;
    Ok((Arc::new(configuration), name))
}

/// Trusts the authority whose certificate has this SHA-256, which members send along, and checks the rest as always.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| fingerprint(certificate) == self.fingerprint)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(authority)?, Arc::clone(&self.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
