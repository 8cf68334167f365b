//! Who a node is, and how it proves that it belongs to its cluster.
//!
//! # Layout
//! - [`ClusterIdentity`] (this file): the node's certificate, the cluster's authority and key, kept in one private file
//! - [`NodeRecord`]: id, name and count of starts of a node
//! - [`JoinString`]: what an operator carries from a member to a newcomer
//! - `enrol`: how a newcomer exchanges the join string for an identity, both sides
//! - `authority`: the certificates themselves; `tls`: what rustls is told about them
//!
//! Every node holds the authority's key, so that any of them can enrol others and renew its own certificate: there is no
//! node without which the cluster could not go on. Who takes a node's data folder therefore has the cluster; the files are
//! their owner's alone.
//!
//! Certificates are short-lived and renewed when a third of their time is left. Links that are open stay open; new
//! handshakes use the new certificate.

mod authority;
mod enrol;
mod error;
mod join;
mod node_record;
mod tls;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use troupe_protocol::id::NodeId;
use zeroize::Zeroizing;

use crate::store::files;

pub use enrol::{Applicant, ENROL_WITHIN, EnrolDesk, EnrolGrant, KeyFingerprint, Refusal, answer_applicant};
pub use error::{EnrolError, IdentityError};
pub use join::{INVITATION_VALID_FOR, JoinString, JoinStringError, TokenHash};
pub use node_record::NodeRecord;
pub use tls::{Protocol, node_of, server_name};

use authority::{Authority, NodeCertificate};
use tls::Configurations;

/// The folder within the data folder.
const FOLDER: &str = "cluster";
const IDENTITY_FILE: &str = "identity.json";
/// The key of a newcomer that has asked for a certificate and has none yet.
const APPLICANT_KEY_FILE: &str = "applicant.key";
const KEY_BYTES: usize = 32;

/// A secret that every node of the cluster knows and nobody else.
#[derive(Clone)]
pub struct ClusterKey(Zeroizing<[u8; KEY_BYTES]>);

impl ClusterKey {
    fn random() -> Result<Self, IdentityError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    fn from_text(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(bytes)
}

/// `cluster/identity.json`: one file, so that it is there whole or not at all.
#[derive(Serialize, Deserialize)]
struct Stored {
    node: NodeId,
    authority_certificate: String,
    authority_key: String,
    cluster_key: String,
    certificate: String,
    key: String,
}

/// What proves that this node belongs to its cluster, and lets it enrol others.
pub struct ClusterIdentity {
    node: NodeId,
    file: PathBuf,
    authority: Authority,
    cluster_key: ClusterKey,
    /// When the certificate in use ends, in seconds since 1970; also the lock of renewals.
    valid_until_s: Mutex<i64>,
    configurations: ArcSwap<Configurations>,
}

impl std::fmt::Debug for ClusterIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterIdentity({})", self.node)
    }
}

impl ClusterIdentity {
    /// The identity kept in a data folder; nothing when the node has none yet.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or belongs to another node.
    pub fn load(data: &Path, node: NodeId) -> Result<Option<Arc<Self>>, IdentityError> {
        let file = identity_file(data);
        let Some(text) = files::read_private(&file)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let damaged = |reason: String| IdentityError::Damaged {
            file: file.clone(),
            reason,
        };
        let stored: Stored = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if stored.node != node {
            return Err(damaged(format!(
                "it belongs to node {}, this is node {node}",
                stored.node
            )));
        }
        let authority = Authority::from_pem(&stored.authority_certificate, &stored.authority_key)
            .map_err(|error| damaged(error.to_string()))?;
        let certificate = NodeCertificate::from_pem(&stored.certificate, &stored.key)
            .map_err(|error| damaged(error.to_string()))?;
        let cluster_key = ClusterKey::from_text(&stored.cluster_key)
            .ok_or_else(|| damaged("the cluster key is not 32 bytes".to_owned()))?;
        Self::new(node, file, authority, cluster_key, certificate).map(Some)
    }

    /// Founds a cluster: makes its authority and key, and this node's certificate.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn create(data: &Path, node: NodeId) -> Result<Arc<Self>, IdentityError> {
        let authority = Authority::create()?;
        let cluster_key = ClusterKey::random()?;
        let key = authority::new_key()?;
        Self::adopt(data, node, authority, cluster_key, &key)
    }

    /// Joins a cluster: exchanges a join string for an identity.
    ///
    /// # Errors
    /// See [`EnrolError`].
    pub async fn enrol(
        data: &Path,
        applicant: &Applicant,
        join: &JoinString,
    ) -> Result<(Arc<Self>, EnrolGrant), EnrolError> {
        let key_file = data.join(FOLDER).join(APPLICANT_KEY_FILE);
        let key_pem = applicant_key(data, &key_file)?;
        let accepted = enrol::apply(applicant, join, &key_pem).await?;
        let certificate = accepted.certificate;
        let file = identity_file(data);
        write(
            data,
            &file,
            applicant.node,
            &accepted.authority,
            &accepted.cluster_key,
            &certificate,
        )?;
        files::remove(&key_file).map_err(IdentityError::File)?;
        let identity = Self::new(
            applicant.node,
            file,
            accepted.authority,
            accepted.cluster_key,
            certificate,
        )?;
        Ok((identity, accepted.grant))
    }

    fn adopt(
        data: &Path,
        node: NodeId,
        authority: Authority,
        cluster_key: ClusterKey,
        key: &KeyPair,
    ) -> Result<Arc<Self>, IdentityError> {
        let certificate = authority.issue(node, key, jiff::Timestamp::now())?;
        let file = identity_file(data);
        write(data, &file, node, &authority, &cluster_key, &certificate)?;
        Self::new(node, file, authority, cluster_key, certificate)
    }

    fn new(
        node: NodeId,
        file: PathBuf,
        authority: Authority,
        cluster_key: ClusterKey,
        certificate: NodeCertificate,
    ) -> Result<Arc<Self>, IdentityError> {
        let configurations = Configurations::new(authority.certificate(), &certificate)?;
        Ok(Arc::new(Self {
            node,
            file,
            authority,
            cluster_key,
            valid_until_s: Mutex::new(certificate.valid_until_s()?),
            configurations: ArcSwap::from_pointee(configurations),
        }))
    }

    /// Whose identity it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The secret that all nodes of the cluster share.
    pub fn cluster_key(&self) -> &ClusterKey {
        &self.cluster_key
    }

    /// An invitation for one newcomer, to be found at one of these addresses of members (`host:port`), and the hash
    /// under which its token is kept until it is used.
    ///
    /// # Errors
    /// When the system gives no random bytes, or there are too many addresses.
    pub fn invite(
        &self,
        addresses: Vec<String>,
        now: jiff::Timestamp,
        valid_for: Duration,
    ) -> Result<(JoinString, TokenHash), IdentityError> {
        let fingerprint = authority::fingerprint(self.authority.certificate());
        let join = JoinString::new(addresses, fingerprint, random()?, now, valid_for)?;
        let hash = join.token_hash();
        Ok((join, hash))
    }

    /// What names the cluster, as long as it exists: the SHA-256 of its authority's certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex::encode(authority::fingerprint(self.authority.certificate()))
    }

    /// Whether an invitation leads to the cluster that this identity belongs to.
    pub fn is_invited_by(&self, join: &JoinString) -> bool {
        authority::fingerprint(self.authority.certificate()) == *join.fingerprint()
    }

    /// Renews the certificate when a third of its time is left, or when it was made while the clock was ahead. True when it
    /// did.
    ///
    /// # Errors
    /// When the new one cannot be made or kept; the old one stays in use.
    pub fn renew_if_due(&self, now: jiff::Timestamp) -> Result<bool, IdentityError> {
        let mut valid_until_s = self.valid_until_s.lock();
        if !authority::is_renewal_due(*valid_until_s, now) {
            return Ok(false);
        }
        let certificate = self.authority.issue(self.node, &authority::new_key()?, now)?;
        let configurations = Configurations::new(self.authority.certificate(), &certificate)?;
        let data = self.file.parent().and_then(Path::parent);
        write(
            data.unwrap_or(Path::new(".")),
            &self.file,
            self.node,
            &self.authority,
            &self.cluster_key,
            &certificate,
        )?;
        *valid_until_s = certificate.valid_until_s()?;
        self.configurations.store(Arc::new(configurations));
        Ok(true)
    }

    /// What a listener tells a peer that wants this protocol.
    pub fn server_configuration(&self, protocol: Protocol) -> Arc<ServerConfig> {
        self.configurations.load().server(protocol)
    }

    /// How another node is dialled for this protocol.
    pub fn client_configuration(&self, protocol: Protocol) -> Arc<ClientConfig> {
        self.configurations.load().client(protocol)
    }

    /// Another node's identity in the same cluster, without enrolment.
    #[cfg(test)]
    pub(crate) fn sibling(&self, data: &Path, node: NodeId) -> Result<Arc<Self>, IdentityError> {
        let certificate = authority::to_pem(self.authority.certificate());
        let authority = Authority::from_pem(&certificate, &self.authority.key_pem())?;
        let key = authority::new_key()?;
        Self::adopt(data, node, authority, self.cluster_key.clone(), &key)
    }

    fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn identity_file(data: &Path) -> PathBuf {
    data.join(FOLDER).join(IDENTITY_FILE)
}

/// The key with which this newcomer asks, kept before anybody hears of it: its invitation works for this key alone once
/// it was used, and the answer may be lost.
fn applicant_key(data: &Path, file: &Path) -> Result<Zeroizing<String>, IdentityError> {
    if let Some(kept) = files::read_private(file)? {
        return Ok(Zeroizing::new(kept));
    }
    let pem = Zeroizing::new(authority::new_key()?.serialize_pem());
    files::create_private_folder(&data.join(FOLDER))?;
    files::write_private(file, pem.as_bytes())?;
    Ok(pem)
}

fn write(
    data: &Path,
    file: &Path,
    node: NodeId,
    authority: &Authority,
    cluster_key: &ClusterKey,
    certificate: &NodeCertificate,
) -> Result<(), IdentityError> {
    let stored = Stored {
        node,
        authority_certificate: authority::to_pem(authority.certificate()),
        authority_key: authority.key_pem(),
        cluster_key: cluster_key.to_text().to_string(),
        certificate: authority::to_pem(certificate.certificate()),
        key: certificate.key_pem(),
    };
    let text = serde_json::to_vec_pretty(&stored).map(Zeroizing::new);
    let text = text.map_err(|error| IdentityError::Damaged {
        file: file.to_owned(),
        reason: error.to_string(),
    })?;
    files::create_private_folder(&data.join(FOLDER))?;
    Ok(files::write_private(file, &text)?)
}

/// A certificate as it travels.
type Certificate = CertificateDer<'static>;
