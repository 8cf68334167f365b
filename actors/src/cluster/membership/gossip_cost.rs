//! What gossip would cost for noticing silent members: chitchat between 10 nodes that have nothing to say but that they
//! live. Measured without UDP, IP and the sealing of messages, which come on top.
//!
//! `cargo test … gossip_cost -- --ignored --nocapture`; the figures are in the module above.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use chitchat::transport::ChannelTransport;
use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat};

const NODES: u16 = 10;
const MEASURED_FOR: Duration = Duration::from_secs(5);

fn configuration(number: u16, gossip_interval: Duration) -> ChitchatConfig {
    let address: SocketAddr = ([127, 0, 0, 1], 10_000 + number).into();
    ChitchatConfig {
        chitchat_id: ChitchatId {
            node_id: ulid::Ulid::generate().to_string().into(),
            generation_id: 1,
            gossip_advertise_addr: address,
        },
        cluster_id: "troupe".to_owned(),
        gossip_interval,
        listen_addr: address,
        seed_nodes: vec!["127.0.0.1:10000".to_owned()],
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(60),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn gossip_cost() {
    for interval_ms in [100, 250, 500, 1_000, 2_000] {
        let transport = ChannelTransport::with_mtu(1_400);
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let configuration = configuration(number, Duration::from_millis(interval_ms));
            nodes.push(
                spawn_chitchat(configuration, Vec::new(), &transport)
                    .await
                    .unwrap(),
            );
        }
        tokio::time::sleep(Duration::from_millis(interval_ms * 5)).await;
        let before = transport.statistics();
        tokio::time::sleep(MEASURED_FOR).await;
        let after = transport.statistics();
        let per_node_and_s = f64::from(NODES) * MEASURED_FOR.as_secs_f64();
        let bytes = (after.num_bytes_total - before.num_bytes_total) as f64 / per_node_and_s;
        let messages = (after.num_messages_total - before.num_messages_total) as f64 / per_node_and_s;
        println!("every {interval_ms} ms: {bytes:.0} bytes/s, {messages:.1} messages/s per node");
        for node in nodes {
            node.shutdown().await.unwrap();
        }
    }
}
