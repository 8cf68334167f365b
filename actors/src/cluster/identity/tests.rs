#![allow(clippy::unwrap_used)]
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use troupe_protocol::cluster::Generation;
use troupe_protocol::error::Code;
use ulid::Ulid;

use super::*;

fn node(number: u128) -> NodeId {
    NodeId::from_ulid(Ulid(number))
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Takes each token once.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Vec<TokenHash>>>);

impl EnrolDesk for Desk {
    fn admit(
        &self,
        token: TokenHash,
        _: KeyFingerprint,
        _: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        let mut open = self.0.lock().unwrap();
        let found = open.iter().position(|known| *known == token);
        let decided = found.map(|at| {
            open.remove(at);
            EnrolGrant::default()
        });
        let refusal = Refusal {
            code: Code::JoinRefused,
            detail: "the invitation has been used".to_owned(),
        };
        Box::pin(async move { decided.ok_or(refusal) })
    }

    fn knows(&self, token: TokenHash) -> bool {
        self.0.lock().unwrap().contains(&token)
    }
}

fn applicant(number: u128) -> Applicant {
    Applicant {
        node: node(number),
        name: "beta".parse().unwrap(),
        generation: Generation(1),
        version: "0.1.0".to_owned(),
        wire_versions: (1, 1),
        cluster_address: "127.0.0.1:1".to_owned(),
        edge_address: "127.0.0.1:2".to_owned(),
        timing: None,
    }
}

/// Refuses all and remembers with which keys they came.
#[derive(Clone, Default)]
struct Doorman(Arc<Mutex<Vec<KeyFingerprint>>>);

impl EnrolDesk for Doorman {
    fn admit(
        &self,
        _: TokenHash,
        key: KeyFingerprint,
        _: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        self.0.lock().unwrap().push(key);
        let (code, detail) = (Code::JoinRefused, "not today".to_owned());
        Box::pin(async move { Err(Refusal { code, detail }) })
    }

    fn knows(&self, _: TokenHash) -> bool {
        false
    }
}

/// A member that serves so many newcomers, and where.
async fn member(
    identity: Arc<ClusterIdentity>,
    desk: impl EnrolDesk,
    newcomers: usize,
) -> (String, tokio::task::JoinHandle<()>) {
    member_reached_from(identity, desk, newcomers, Ipv4Addr::LOCALHOST.into()).await
}

/// The same, for newcomers that seem to come from this address.
async fn member_reached_from(
    identity: Arc<ClusterIdentity>,
    desk: impl EnrolDesk,
    newcomers: usize,
    from: IpAddr,
) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    let serving = tokio::spawn(async move {
        for _ in 0..newcomers {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(identity.server_configuration(Protocol::Enrol));
            if let Ok(stream) = acceptor.accept(tcp).await {
                let _ = answer_applicant(&identity, &desk, from, || (), stream).await;
            }
        }
    });
    (address, serving)
}

/// A handshake over loopback: what each side says about the other.
async fn shake_hands(
    server: &ClusterIdentity,
    client: &ClusterIdentity,
    expected: NodeId,
) -> (std::io::Result<NodeId>, std::io::Result<NodeId>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (tcp, _) = listener.accept().await?;
        let stream = TlsAcceptor::from(server.server_configuration(Protocol::Link))
            .accept(tcp)
            .await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap();
        Ok(node_of(&certificates[0]).unwrap())
    };
    let dialling = async {
        let tcp = TcpStream::connect(address).await?;
        let name = server_name(expected).unwrap();
        let connector = TlsConnector::from(client.client_configuration(Protocol::Link));
        let stream = connector.connect(name, tcp).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap();
        Ok(node_of(&certificates[0]).unwrap())
    };
    tokio::join!(accepting, dialling)
}

#[test]
fn an_identity_is_kept_in_one_file_that_is_its_owners_alone() {
    let data = tempfile::tempdir().unwrap();
    assert!(ClusterIdentity::load(data.path(), node(1)).unwrap().is_none());
    let made = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let file = identity_file(data.path());
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let loaded = ClusterIdentity::load(data.path(), node(1)).unwrap().unwrap();
    assert_eq!(loaded.cluster_key().as_bytes(), made.cluster_key().as_bytes());
    assert!(matches!(
        ClusterIdentity::load(data.path(), node(2)),
        Err(IdentityError::Damaged { .. })
    ));
    std::fs::write(&file, "{}").unwrap();
    assert!(matches!(
        ClusterIdentity::load(data.path(), node(1)),
        Err(IdentityError::Damaged { .. })
    ));
}

#[tokio::test]
async fn a_newcomer_with_an_invitation_becomes_a_member_once() {
    let (data, newcomer_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let probe = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = probe.local_addr().unwrap().to_string();
    drop(probe);
    let desk = Desk::default();
    let (address, _serving) = member(Arc::clone(&founder), desk.clone(), 2).await;
    let (join, hash) = founder
        .invite(vec![dead, address], now(), INVITATION_VALID_FOR)
        .unwrap();
    desk.0.lock().unwrap().push(hash);
    let join: JoinString = join.to_string().parse().unwrap();

    let (newcomer, _) = ClusterIdentity::enrol(newcomer_data.path(), &applicant(2), &join)
        .await
        .unwrap();
    assert_eq!(
        newcomer.cluster_key().as_bytes(),
        founder.cluster_key().as_bytes()
    );
    let reloaded = ClusterIdentity::load(newcomer_data.path(), node(2))
        .unwrap()
        .unwrap();
    let (server_saw, client_saw) = shake_hands(&founder, &reloaded, node(1)).await;
    assert_eq!((server_saw.unwrap(), client_saw.unwrap()), (node(2), node(1)));

    let again = ClusterIdentity::enrol(newcomer_data.path(), &applicant(3), &join).await;
    assert!(
        matches!(again, Err(EnrolError::Refused { code: Code::JoinRefused, detail }) if detail.contains("used"))
    );
}

#[tokio::test]
async fn a_newcomer_comes_again_with_the_key_that_it_had() {
    let (data, newcomer_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other_data = tempfile::tempdir().unwrap();
    let founder = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let doorman = Doorman::default();
    let (address, _serving) = member(Arc::clone(&founder), doorman.clone(), 3).await;
    let (join, _) = founder
        .invite(vec![address], now(), INVITATION_VALID_FOR)
        .unwrap();
    for folder in [&newcomer_data, &newcomer_data, &other_data] {
        let refused = ClusterIdentity::enrol(folder.path(), &applicant(2), &join).await;
        assert!(matches!(refused, Err(EnrolError::Refused { .. })));
    }
    let keys = doorman.0.lock().unwrap();
    assert_eq!(keys[0], keys[1], "the same newcomer");
    assert_ne!(keys[0], keys[2], "another one that says the same name and id");
}

#[tokio::test]
async fn a_newcomer_that_others_cannot_reach_is_told_so_and_keeps_its_invitation() {
    let (data, newcomer_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let desk = Desk::default();
    let elsewhere: IpAddr = [192, 0, 2, 8].into();
    let (address, _serving) = member_reached_from(Arc::clone(&founder), desk.clone(), 3, elsewhere).await;
    let (join, hash) = founder
        .invite(vec![address], now(), INVITATION_VALID_FOR)
        .unwrap();
    desk.0.lock().unwrap().push(hash);
    let mut newcomer = applicant(2);
    for unreachable in ["127.0.0.1:7501", "0.0.0.0:7501"] {
        newcomer.cluster_address = unreachable.to_owned();
        let refused = ClusterIdentity::enrol(newcomer_data.path(), &newcomer, &join).await;
        assert!(
            matches!(refused, Err(EnrolError::Refused { code: Code::JoinRefused, detail }) if detail.contains("--cluster-listen"))
        );
    }
    newcomer.cluster_address = "192.0.2.8:7501".to_owned();
    ClusterIdentity::enrol(newcomer_data.path(), &newcomer, &join)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newcomer_gives_its_token_to_no_other_cluster() {
    let (data, other_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let other = ClusterIdentity::create(other_data.path(), node(1)).unwrap();
    let (address, _serving) = member(other, Desk::default(), 1).await;
    let (join, _) = ours.invite(vec![address], now(), INVITATION_VALID_FOR).unwrap();
    let refused = ClusterIdentity::enrol(data.path(), &applicant(2), &join).await;
    assert!(matches!(refused, Err(EnrolError::Unreachable(reason)) if reason.contains("UnknownIssuer")));
}

#[tokio::test]
async fn members_are_who_their_certificate_says() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let founder = ClusterIdentity::create(folders[0].path(), node(1)).unwrap();
    let stranger = ClusterIdentity::create(folders[1].path(), node(2)).unwrap();
    let (_, dialled) = shake_hands(&founder, &stranger, node(1)).await;
    assert!(dialled.is_err(), "another authority is not trusted");
    let (_, dialled) = shake_hands(&founder, &founder, node(7)).await;
    assert!(dialled.is_err(), "another node than the one that was dialled");
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
    let data = tempfile::tempdir().unwrap();
    let identity = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let day = |days: i64| jiff::Timestamp::from_second(now().as_second() + days * 24 * 3600).unwrap();
    let old = identity.server_configuration(Protocol::Link);
    assert!(!identity.renew_if_due(day(18)).unwrap());
    assert!(identity.renew_if_due(day(21)).unwrap());
    assert!(!identity.renew_if_due(day(22)).unwrap());
    assert!(!Arc::ptr_eq(&old, &identity.server_configuration(Protocol::Link)));
    let loaded = ClusterIdentity::load(data.path(), node(1)).unwrap().unwrap();
    assert!(!loaded.renew_if_due(day(22)).unwrap(), "the new one is kept");
}

#[test]
fn a_certificate_from_a_clock_that_was_ahead_is_replaced_when_the_clock_is_right() {
    let data = tempfile::tempdir().unwrap();
    let identity = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let day = |days: i64| jiff::Timestamp::from_second(now().as_second() + days * 24 * 3600).unwrap();
    assert!(identity.renew_if_due(day(40)).unwrap());
    assert!(identity.renew_if_due(day(0)).unwrap());
    assert!(!identity.renew_if_due(day(0)).unwrap(), "the new one is right");
}

#[test]
fn bad_join_strings_are_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let identity = ClusterIdentity::create(data.path(), node(1)).unwrap();
    let (join, hash) = identity
        .invite(
            vec!["10.0.0.1:7501".to_owned(), "[::1]:7501".to_owned()],
            now(),
            INVITATION_VALID_FOR,
        )
        .unwrap();
    let text = join.to_string();
    let read: JoinString = format!(" {text}\n").parse().unwrap();
    assert_eq!(read.addresses(), join.addresses());
    assert_eq!(read.token_hash(), hash);
    assert_eq!(
        TokenHash::try_from(String::from(hash)).unwrap(),
        hash,
        "the hash is read as it is written"
    );
    let error = |text: &str| text.parse::<JoinString>().err().unwrap();
    assert_eq!(error("hello, world!"), JoinStringError::Foreign);
    assert_eq!(error(""), JoinStringError::Foreign);
    assert_eq!(error(&text[..text.len() - 8]), JoinStringError::Damaged);
    let later = jiff::Timestamp::from_second(now().as_second() + 2 * 3600).unwrap();
    assert!(matches!(
        read.check_time(later),
        Err(JoinStringError::Expired { minutes: 59..=60 })
    ));
    assert!(identity.invite(Vec::new(), now(), INVITATION_VALID_FOR).is_err());
}
