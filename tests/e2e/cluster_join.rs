//! Nodes that come into a cluster, and those that must not.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::forward::Forward;
use troupe_tests::scene::Scene;
use troupe_tests::{Cluster, Node, eventually, node};

const REFUSED_WITHIN: Duration = Duration::from_secs(60);

/// The address at which a member listens for other nodes.
async fn cluster_address(cluster: &Cluster, member: usize) -> String {
    let status = cluster.try_status(0).await.expect("the first node answers");
    let name = Cluster::name(member);
    let members = status["members"].as_array().expect("members");
    let found = members.iter().find(|one| one["name"] == name.as_str());
    let address = found.expect("a member")["cluster_address"].as_str();
    address.expect("an address").to_owned()
}

#[tokio::test]
async fn a_lone_node_is_a_cluster_of_one() {
    let scene = Scene::set(1, env!("CARGO_BIN_EXE_journal-server")).await;
    let traffic = scene.traffic().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outcome = traffic.finish().await;
    scene.assert_holds(&outcome).await;
    let began = outcome.began;
    outcome
        .placed
        .assert_all_succeeded("calls of the placed server", began);
    outcome
        .sessions
        .assert_all_succeeded("calls in legacy sessions", began);
    outcome
        .registry
        .writes
        .assert_all_succeeded("registrations", began);
}

#[tokio::test]
async fn what_is_written_at_one_node_is_read_at_all_and_a_restart_needs_no_string() {
    let mut cluster = Cluster::start(3).await;
    for writer in 0..3 {
        let name = format!("written-at-{writer}");
        let body = json!({ "name": name, "command": "true", "enabled": false });
        cluster.nodes[writer]
            .api
            .post("/api/v1/servers", &body)
            .await
            .ok();
        // whoever was answered reads what was written at once, at the same node
        cluster.nodes[writer]
            .api
            .get(&format!("/api/v1/servers/{name}"))
            .await
            .ok();
        for reader in 0..3 {
            eventually("read at every node", SETTLED_WITHIN, async || {
                let read = cluster.nodes[reader]
                    .api
                    .get(&format!("/api/v1/servers/{name}"))
                    .await;
                (read.status == 200).then_some(())
            })
            .await;
        }
    }
    // a key made at one node opens the others
    let made = cluster.nodes[1]
        .cli(&["key", "add", "reader", "--role", "user", "--json"])
        .await
        .json();
    let key = made["secret"]
        .as_str()
        .or(made["key"].as_str())
        .expect("a key")
        .to_owned();
    for reader in 0..3 {
        let api = cluster.nodes[reader].api.with_key(Some(&key));
        eventually("the key known", SETTLED_WITHIN, async || {
            (api.get("/api/v1/tools").await.status == 200).then_some(())
        })
        .await;
    }

    for member in [2, 0] {
        cluster.kill(member).await;
        cluster.nodes[member].start_again().await;
        cluster.wait_settled().await;
        cluster.nodes[member]
            .api
            .get("/api/v1/servers/written-at-1")
            .await
            .ok();
    }
    let listed = cluster.nodes[1].cli(&["node", "list"]).await.ok();
    for member in 0..3 {
        assert!(listed.contains(&Cluster::name(member)), "{listed}");
    }
}

#[tokio::test]
async fn a_join_string_admits_one_node_and_garbage_none() {
    let mut cluster = Cluster::start(1).await;
    let string = cluster.invite(0).await;
    let mut first = cluster.create(1, |options| options);
    first.join_at_start(&string);
    first.start_again().await;

    let mut second = cluster.create(2, |options| options);
    second.join_at_start(&string);
    let said = second.start_refused(REFUSED_WITHIN).await;
    assert!(said.contains("T8007"), "{said}");

    for garbage in [
        "",
        "garbage",
        "AAAA",
        &string[..string.len() / 2],
        &string.to_uppercase(),
    ] {
        if garbage.is_empty() {
            continue; // the environment variable counts as not set
        }
        let mut node = cluster.create(3, |options| options);
        node.join_at_start(garbage);
        let said = node.start_refused(REFUSED_WITHIN).await;
        assert!(!said.contains("panicked"), "{garbage}: {said}");
        assert!(
            !said.contains(&string),
            "the string is not repeated in the log: {said}"
        );
    }
    // the refused ones left nothing behind
    let status = cluster.try_status(0).await.expect("the first node answers");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2), "{status}");
    first.kill().await;
    cluster.kill(0).await;
}

#[tokio::test]
async fn a_removed_node_ends_and_its_folder_does_not_come_back() {
    let mut cluster = Cluster::start(2).await;
    let name = Cluster::name(1);
    cluster.nodes[0].cli(&["node", "remove", &name]).await.ok();
    let code = cluster.nodes[1].wait_exit(REFUSED_WITHIN).await;
    let said = cluster.nodes[1].log();
    assert!(code.is_some_and(|code| code != 0), "exit code {code:?}: {said}");
    assert!(said.contains("removed from its cluster"), "{said}");

    let string = cluster.invite(0).await;
    for string in [None, Some(string)] {
        if let Some(string) = &string {
            cluster.nodes[1].join_at_start(string);
        }
        let said = cluster.nodes[1].start_refused(REFUSED_WITHIN).await;
        assert!(
            said.contains("T8007") && said.contains("removed from its cluster"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_second_node_of_the_same_name_is_refused() {
    let cluster = Cluster::start(2).await;
    let mut namesake = cluster.create(1, |options| options);
    namesake.join_at_start(&cluster.invite(0).await);
    let said = namesake.start_refused(REFUSED_WITHIN).await;
    assert!(said.contains("T8006"), "{said}");
    cluster.wait_settled().await;
}

#[tokio::test]
async fn a_node_of_another_cluster_gets_nowhere() {
    let ours = Cluster::start(1).await;
    let our_door = cluster_address(&ours, 0).await;
    let mut theirs = Cluster::start(1).await;
    let string = theirs.invite(0).await; // names the one member that there is
    let first_door = cluster_address(&theirs, 0).await;
    theirs.join().await;
    theirs.wait_settled().await;
    let second_door = cluster_address(&theirs, 1).await;

    // a member of theirs looks for its peer, where there is now a door that leads to us, whose authority is another
    theirs.kill(1).await;
    let forward = Forward::start(&second_door, &our_door).await;
    eventually("their member at our door", SETTLED_WITHIN, async || {
        (forward.connections() >= 3).then_some(())
    })
    .await;
    let status = theirs.try_status(0).await.expect("their member answers");
    let members = status["members"].as_array().expect("members");
    let peer = members.iter().find(|member| member["is_self"] == false);
    let link = &peer.expect("its peer")["link"];
    assert!(link.is_object() && link["state"] != "up", "{status}");

    // a newcomer that theirs invited: the authority that it was told of is not the one that it meets
    theirs.kill(0).await;
    let forward = Forward::start(&first_door, &our_door).await;
    let mut lured = theirs.create(2, |options| options);
    lured.join_at_start(&string);
    let said = lured.start_refused(REFUSED_WITHIN).await;
    assert!(forward.connections() > 0, "it was at our door: {said}");
    assert!(
        said.contains("no member of the cluster can take this node in"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");

    // and ours is as it was, and goes on
    let status = ours.try_status(0).await.expect("our node answers");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(1), "{status}");
    let body = json!({ "name": "written", "command": "true", "enabled": false });
    ours.nodes[0].api.post("/api/v1/servers", &body).await.ok();
    assert!(
        !ours.nodes[0].log().contains("panicked"),
        "{}",
        ours.nodes[0].log()
    );
}

#[tokio::test]
async fn strangers_at_the_node_port_get_nowhere_and_block_nobody() {
    let mut cluster = Cluster::start(2).await;
    let door = cluster_address(&cluster, 0).await;
    // silent ones that hold their connection, and a slow one
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(&door).await.expect("the port is open"));
    }
    let mut slow = TcpStream::connect(&door).await.expect("the port is open");
    slow.write_all(&[0x16, 0x03, 0x01, 0x02])
        .await
        .expect("the beginning of a handshake");
    // garbage, and HTTP in clear
    let pieces: [&[u8]; 3] = [&[0xff; 4096], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[0; 65_536]];
    for piece in pieces {
        let mut stream = TcpStream::connect(&door).await.expect("the port is open");
        let _ = stream.write_all(piece).await;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(
            closed.is_ok(),
            "a stranger that sends {:?}… is left open",
            &piece[..4]
        );
        assert!(answer.len() < 1024, "{} bytes for a stranger", answer.len());
    }
    let gossip = UdpSocket::bind("127.0.0.1:0").await.expect("a UDP socket");
    for size in [0, 1, 64, 1400, 60_000] {
        gossip
            .send_to(&vec![0xa5; size], &door)
            .await
            .expect("datagrams go out");
    }
    // meanwhile members come and write as ever
    let third = cluster.join().await;
    cluster.wait_settled().await;
    let body = json!({ "name": "written", "command": "true", "enabled": false });
    cluster.nodes[third].api.post("/api/v1/servers", &body).await.ok();
    let mut answer = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut answer)).await;
    assert!(cut.is_ok(), "a handshake that does not go on is ended");
    // whoever speaks TLS but has no certificate is not served either
    let config = unauthenticated();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(&door).await.expect("the port is open");
    let name = "troupe".try_into().expect("a name");
    if let Ok(mut stream) = connector.connect(name, stream).await {
        let _ = stream.write_all(&[0; 1024]).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(
            ended.is_ok() && answer.is_empty(),
            "{} bytes without a certificate",
            answer.len()
        );
    }
    drop(silent);
    let log = cluster.nodes[0].log();
    assert!(!log.contains("panicked"), "{log}");
}

/// A TLS client that trusts anybody, presents nothing, and asks for a link.
fn unauthenticated() -> rustls::ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"troupe-link/1".to_vec()];
    config
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nodes speak TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn nodes_start_beside_each_other_without_a_word_about_ports() {
    // lone nodes, none told where to listen for others: the default port goes to one of them
    let (one, other) = tokio::join!(Node::start(), Node::start());
    for node in [&one, &other] {
        let status = node
            .api
            .request(Method::GET, "/api/v1/cluster")
            .send()
            .await
            .expect("an answer");
        assert_eq!(status.status().as_u16(), 200);
    }
    assert_ne!(one.listen, other.listen);
    let _ = node::free_address();
}
