//! Those who do not belong get nowhere and hold up nobody.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::bed::{Bed, id};
use crate::cluster::identity::{Protocol, server_name};
use crate::runtime::testkit::PATIENCE;

/// Whether the other side closes before it says anything.
async fn gets_nothing(mut stream: impl AsyncReadExt + Unpin) -> bool {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(_) => !answer.windows(7).any(|bytes| bytes == b"welcome"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn silent_connections_hold_up_nobody() {
    let bed = Bed::new();
    let (one, two) = (bed.node(1).await, bed.node(2).await);
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&two.address).await.unwrap());
    }
    one.knows(&[(2, &two.address)]);
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
    // The last ones are within the bound: they end when their time is over.
    assert!(gets_nothing(silent.pop().unwrap()).await);
}

#[tokio::test]
async fn garbage_gets_nowhere() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        &[22, 3, 1, 255, 255],
        &[255; 70_000],
    ] {
        let mut stream = TcpStream::connect(&two.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
        assert!(gets_nothing(stream).await);
    }
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_member_of_another_cluster_gets_nowhere() {
    let (bed, other) = (Bed::new(), Bed::new());
    let (two, stranger) = (bed.node(2).await, other.node(1).await);
    stranger.knows(&[(2, &two.address)]);
    stranger.complains(2, "certificate").await;
    assert!(!stranger.links.is_up(id(2)) && !two.links.is_up(id(1)));

    // One that accepts any certificate still has none that is accepted.
    let tcp = TcpStream::connect(&two.address).await.unwrap();
    let trusting = trusting_client(Protocol::Link);
    let connected = TlsConnector::from(trusting)
        .connect(server_name(id(2)).unwrap(), tcp)
        .await;
    if let Ok(mut stream) = connected {
        let _ = stream.write_all(&[0, 0, 0, 2, b'{', b'}']).await;
        assert!(gets_nothing(stream).await);
    }
}

#[tokio::test]
async fn a_member_cannot_pass_for_another() {
    let bed = Bed::new();
    let two = bed.node(2).await;
    let identity = bed.identity(1);
    let tcp = TcpStream::connect(&two.address).await.unwrap();
    let connector = TlsConnector::from(identity.client_configuration(Protocol::Link));
    let mut stream = connector.connect(server_name(id(2)).unwrap(), tcp).await.unwrap();
    let hello = serde_json::json!({
        "wire_min": 1, "wire_max": 1, "node": id(3), "generation": 1, "instance": 1, "dispatcher": 1, "key": 1,
    });
    let hello = hello.to_string();
    stream.write_u32(hello.len() as u32).await.unwrap();
    stream.write_all(hello.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert!(gets_nothing(stream).await);
    assert!(!two.links.is_up(id(3)) && !two.links.is_up(id(1)));
}

#[tokio::test]
async fn http_and_links_need_a_certificate_and_enrolment_a_desk() {
    let bed = Bed::new();
    let mut two = bed.node(2).await;
    for protocol in [Protocol::Http, Protocol::Link, Protocol::Enrol] {
        let tcp = TcpStream::connect(&two.address).await.unwrap();
        let connector = TlsConnector::from(trusting_client(protocol));
        if let Ok(stream) = connector.connect(server_name(id(2)).unwrap(), tcp).await {
            assert!(gets_nothing(stream).await, "{protocol:?}");
        }
    }
    assert!(two.http.try_recv().is_err());
}

/// A client without a certificate, which trusts everybody.
fn trusting_client(protocol: Protocol) -> std::sync::Arc<rustls::ClientConfig> {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct Anybody;
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anybody))
        .with_no_client_auth();
    configuration.alpn_protocols = vec![protocol.name().to_vec()];
    std::sync::Arc::new(configuration)
}
