//! How a newcomer exchanges a join string for an identity (`troupe-enrol/1`).
//!
//! One exchange over TLS, in which only the member has a certificate: the newcomer sends the token and a signing request,
//! the member has the token checked and used up by the cluster, and answers with a certificate, the authority, the
//! cluster key and what the cluster tells newcomers. Each message is JSON behind its length in 4 bytes (big-endian).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use troupe_protocol::cluster::frame::ClusterTiming;
use troupe_protocol::cluster::{Generation, Member, NodeName, is_local_only};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;
use zeroize::{Zeroize, Zeroizing};

use super::authority::{self, Authority, NodeCertificate};
use super::join::{JoinString, TokenHash};
use super::{ClusterIdentity, ClusterKey, EnrolError, IdentityError, tls};

/// The longest exchange, on both sides.
pub const ENROL_WITHIN: Duration = Duration::from_secs(10);
/// The largest message of the exchange.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024;

/// Who wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applicant {
    /// Its id, made by itself.
    pub node: NodeId,
    /// What it wants to be called.
    pub name: NodeName,
    /// Which of its starts this is.
    pub generation: Generation,
    /// The version of its program.
    pub version: String,
    /// The versions of the wire it speaks, from oldest to newest.
    pub wire_versions: (u16, u16),
    /// Where other nodes will reach it, as `host:port`.
    pub cluster_address: String,
    /// Where people and clients will reach it, as `host:port`.
    pub edge_address: String,
    /// On which times its leases rest; nothing when it does not say.
    #[serde(default)]
    pub timing: Option<ClusterTiming>,
}

/// What the cluster tells a newcomer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolGrant {
    /// The members there are, the newcomer among them if it has been added already.
    pub members: Vec<Member>,
}

/// Why the cluster does not take a newcomer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's code.
    pub code: Code,
    /// What to tell the newcomer.
    pub detail: String,
}

/// The SHA-256 of a newcomer's public key, in hex: once used, an invitation works for this key alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyFingerprint(pub(super) String);

/// Decides about newcomers: checks a token, uses it up for the whole cluster, and says who the members are.
pub trait EnrolDesk: Send + Sync + 'static {
    /// Takes a newcomer with this token, which has proven that it has this key, or refuses it.
    fn admit(
        &self,
        token: TokenHash,
        key: KeyFingerprint,
        applicant: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>>;

    /// Whether this node knows of an unused invitation with this token, as far as it can tell without asking others.
    fn knows(&self, token: TokenHash) -> bool;
}

#[derive(Serialize, Deserialize)]
struct Application {
    token: String,
    request: String,
    applicant: Applicant,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Accepted(Box<Papers>),
    Refused { code: String, detail: String },
}

#[derive(Serialize, Deserialize)]
struct Papers {
    certificate: String,
    authority_certificate: String,
    authority_key: String,
    cluster_key: String,
    grant: EnrolGrant,
}

impl Drop for Papers {
    fn drop(&mut self) {
        self.authority_key.zeroize();
        self.cluster_key.zeroize();
    }
}

/// What a newcomer has got.
pub(super) struct Accepted {
    pub authority: Authority,
    pub cluster_key: ClusterKey,
    pub certificate: NodeCertificate,
    pub grant: EnrolGrant,
}

/// The newcomer's side: tries one address after the other until a member decides. The key is kept by the caller: whoever
/// comes again, because the answer was lost, is known by it.
pub(super) async fn apply(
    applicant: &Applicant,
    join: &JoinString,
    key_pem: &str,
) -> Result<Accepted, EnrolError> {
    join.check_time(jiff::Timestamp::now())?;
    let mut failures = Vec::new();
    for address in join.addresses() {
        match tokio::time::timeout(ENROL_WITHIN, apply_at(address, applicant, join, key_pem)).await {
            Err(_) => failures.push(format!(
                "{address} did not answer within {} s",
                ENROL_WITHIN.as_secs()
            )),
            Ok(Err(EnrolError::Unreachable(reason))) => failures.push(reason),
            Ok(Err(error)) if is_of_this_member(&error) => failures.push(format!("{address}: {error}")),
            Ok(decided) => return decided,
        }
    }
    Err(EnrolError::Unreachable(failures.join("; ")))
}

/// Whether another member may do better: this one is starting, stopping, or has no majority with it. Whoever has been
/// taken in without being told may come again.
fn is_of_this_member(error: &EnrolError) -> bool {
    match error {
        EnrolError::Protocol(..) => true,
        EnrolError::Refused { code, .. } => matches!(
            code,
            Code::NoQuorum
                | Code::WriteOutcomeUnknown
                | Code::NodeUnreachable
                | Code::PeerOverloaded
                | Code::DeadlineExceeded
                | Code::ShuttingDown
        ),
        _ => false,
    }
}

async fn apply_at(
    address: &str,
    applicant: &Applicant,
    join: &JoinString,
    key_pem: &str,
) -> Result<Accepted, EnrolError> {
    let unreachable = |error: std::io::Error| EnrolError::Unreachable(format!("{address}: {error}"));
    let broken = |error: std::io::Error| EnrolError::Protocol(address.to_owned(), error.to_string());
    let (configuration, name) = tls::newcomer(*join.fingerprint())?;
    let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
    let connector = tokio_rustls::TlsConnector::from(configuration);
    // A member that cannot prove who it is may be a leftover of another cluster: the next address may be right.
    let mut stream = connector.connect(name, tcp).await.map_err(unreachable)?;
    let key = authority::key_from_pem(key_pem)?;
    let application = Application {
        token: STANDARD.encode(join.token()),
        request: STANDARD.encode(authority::request(&key)?),
        applicant: applicant.clone(),
    };
    send(&mut stream, &application).await.map_err(broken)?;
    match receive(&mut stream).await.map_err(broken)? {
        Decision::Refused { code, detail } => Err(EnrolError::Refused {
            code: code.parse().unwrap_or(Code::JoinRefused),
            detail,
        }),
        Decision::Accepted(papers) => {
            let papers_broken = |what: &str| EnrolError::Protocol(address.to_owned(), what.to_owned());
            let cluster_key = ClusterKey::from_text(&papers.cluster_key)
                .ok_or_else(|| papers_broken("the cluster key is not 32 bytes"))?;
            let certificate = authority::certificate_from_pem(&papers.certificate)?;
            if tls::node_of(&certificate)? != applicant.node {
                return Err(papers_broken("the certificate is for another node"));
            }
            Ok(Accepted {
                authority: Authority::from_pem(&papers.authority_certificate, &papers.authority_key)?,
                cluster_key,
                certificate: NodeCertificate::new(certificate, key),
                grant: papers.grant.clone(),
            })
        }
    }
}

/// The member's side: serves one newcomer, which has come from this address, on a stream whose TLS handshake is done. Says
/// who was taken in. `known` is called when the newcomer shows a token that is known.
///
/// # Errors
/// When the newcomer does not keep to the protocol or is refused.
pub async fn answer_applicant<S: AsyncRead + AsyncWrite + Unpin>(
    identity: &ClusterIdentity,
    desk: &dyn EnrolDesk,
    from: IpAddr,
    known: impl FnOnce(),
    mut stream: S,
) -> Result<NodeId, EnrolError> {
    let exchange = async {
        let broken = |error: std::io::Error| EnrolError::Protocol("a newcomer".to_owned(), error.to_string());
        let application: Application = receive(&mut stream).await.map_err(broken)?;
        let node = application.applicant.node;
        if token_of(&application).is_ok_and(|token| desk.knows(TokenHash::of(&token))) {
            known();
        }
        let decided = decide(identity, desk, from, &application).await;
        let (decision, outcome) = match decided {
            Ok(papers) => (Decision::Accepted(Box::new(papers)), Ok(node)),
            Err(Refusal { code, detail }) => {
                let (code_text, text) = (code.to_string(), detail.clone());
                let decision = Decision::Refused {
                    code: code_text,
                    detail: text,
                };
                (decision, Err(EnrolError::Refused { code, detail }))
            }
        };
        send(&mut stream, &decision).await.map_err(broken)?;
        // The newcomer closes first, so that the answer is not lost with the connection.
        let _ = stream.read(&mut [0; 1]).await;
        outcome
    };
    let timed_out = || EnrolError::Protocol("a newcomer".to_owned(), "it took too long".to_owned());
    tokio::time::timeout(ENROL_WITHIN, exchange)
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

fn token_of(application: &Application) -> Result<Zeroizing<Vec<u8>>, base64::DecodeError> {
    STANDARD.decode(&application.token).map(Zeroizing::new)
}

async fn decide(
    identity: &ClusterIdentity,
    desk: &dyn EnrolDesk,
    from: IpAddr,
    application: &Application,
) -> Result<Papers, Refusal> {
    let refuse = |detail: &str| Refusal {
        code: Code::JoinRefused,
        detail: detail.to_owned(),
    };
    let address = &application.applicant.cluster_address;
    if is_local_only(address) && !from.to_canonical().is_loopback() {
        return Err(refuse(&format!(
            "other nodes cannot reach it: it listens for them at {address}, which is its own machine alone, and comes from \
             {from}. Start it with --cluster-listen and an address of its machine, such as {from}:7501, or set \
             cluster.advertise; the join string is still good"
        )));
    }
    let token = token_of(application).map_err(|_| refuse("the token is not base64"))?;
    let request = STANDARD
        .decode(&application.request)
        .map_err(|_| refuse("the signing request is not base64"))?;
    // Before the token is used up: a request that cannot be signed must not cost the invitation.
    let node = application.applicant.node;
    let failed = |error: IdentityError| refuse(&format!("the signing request cannot be signed: {error}"));
    let certificate = identity
        .authority()
        .sign_request(node, &request, jiff::Timestamp::now())
        .map_err(failed)?;
    let key = authority::key_fingerprint(&certificate).map_err(failed)?;
    let grant = desk
        .admit(
            TokenHash::of(&token),
            KeyFingerprint(key),
            application.applicant.clone(),
        )
        .await?;
    Ok(Papers {
        certificate: authority::to_pem(&certificate),
        authority_certificate: authority::to_pem(identity.authority().certificate()),
        authority_key: identity.authority().key_pem(),
        cluster_key: identity.cluster_key().to_text().to_string(),
        grant,
    })
}

async fn send<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> std::io::Result<()> {
    let body = Zeroizing::new(serde_json::to_vec(message)?);
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| std::io::Error::other("the message is too large"))?;
    stream.write_u32(length).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let length = stream.read_u32().await?;
    if length > MESSAGE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "a message of {length} bytes is over the limit of {MESSAGE_BYTES_MAX}"
        )));
    }
    let mut body = Zeroizing::new(vec![0; length as usize]);
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
