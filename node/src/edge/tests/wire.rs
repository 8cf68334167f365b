//! What only shows on a real socket.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so() {
    let bed = Bed::with(|config| config.edge.connections_max = crate::config::Bounded::new(2)).await;
    let address = bed.node.state.config.edge.listen;
    let mut first = TcpStream::connect(address).await.unwrap();
    let _second = TcpStream::connect(address).await.unwrap();
    let refused = loop {
        let mut third = TcpStream::connect(address).await.unwrap();
        if bed.node.state.connections.open() == 2 {
            break read_to_end(&mut third).await;
        }
    };
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("edge.connections_max"),
        "{refused}"
    );
    first
        .write_all(
            format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    assert!(read_to_end(&mut first).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_finishes_its_headers_is_let_go() {
    let bed = Bed::with(|config| config.edge.header_timeout_ms = crate::config::Bounded::new(200)).await;
    let mut slow = TcpStream::connect(bed.node.state.config.edge.listen)
        .await
        .unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127")
        .await
        .unwrap();
    let answer = read_to_end(&mut slow).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn connect(bed: &Bed, origin: &str) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/api/v1/live", bed.host)
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {}", bed.key).parse().unwrap());
    headers.insert("origin", origin.parse().unwrap());
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn hear(socket: &mut Socket, topic: &str) -> Value {
    let heard = async {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["topic"] == topic {
                return event;
            }
        }
        panic!("the node hung up before {topic}");
    };
    tokio::time::timeout(SOON, heard).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_clients_hear_what_they_subscribed_to() {
    let bed = Bed::new().await;
    let own = format!("http://{}", bed.host);
    assert_eq!(connect(&bed, "http://evil.example").await.err(), Some(403));
    let mut socket = connect(&bed, &own).await.unwrap();
    let subscribe = json!({ "subscribe": ["servers", "actors", "status"] }).to_string();
    socket.send(Message::text(subscribe)).await.unwrap();
    let actors = hear(&mut socket, "actors").await;
    assert!(actors["reports"].as_array().unwrap().len() > 8, "{actors}");
    assert_eq!(
        hear(&mut socket, "status").await["status"]["node_id"],
        bed.node.state.node_id.to_string()
    );

    let new = json!({ "name": "slow", "command": "sleep", "args": ["60"], "enabled": false });
    assert_eq!(
        bed.post("/api/v1/servers", new.to_string()).await.status,
        StatusCode::CREATED
    );
    assert_eq!(hear(&mut socket, "server").await["server"]["name"], "slow");

    socket
        .send(Message::text("{\"subscribe\":[\"gossip\"]}"))
        .await
        .unwrap();
    let refused = hear(&mut socket, "refused").await;
    assert!(
        refused["detail"].as_str().unwrap().contains("allowed: servers"),
        "{refused}"
    );
    socket.send(Message::text("nonsense")).await.unwrap();
    hear(&mut socket, "refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_live_client_sees_no_actors() {
    let bed = Bed::new().await;
    let made = bed
        .post(
            "/api/v1/keys",
            json!({ "name": "eve", "role": "user" }).to_string(),
        )
        .await;
    let eve = Bed {
        key: made.json()["key"].as_str().unwrap().to_owned(),
        ..bed
    };
    let mut socket = connect(&eve, &format!("http://{}", eve.host)).await.unwrap();
    socket
        .send(Message::text("{\"subscribe\":[\"actors\"]}"))
        .await
        .unwrap();
    let refused = hear(&mut socket, "refused").await;
    assert!(
        refused["detail"].as_str().unwrap().contains("operator"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_the_built_in_server() {
    let bed = Bed::new().await;
    let answer = bed
        .post("/api/v1/ask", json!({ "text": "what time is it?" }).to_string())
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let answer = answer.json();
    assert_eq!(
        (&answer["status"], &answer["route"]["tool"]),
        (&json!("answered"), &json!("current_time")),
        "{answer:#}"
    );
    let listed = bed.get("/api/v1/servers").await.json();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["name"]),
        (&json!(1), &json!("troupe")),
        "{listed}"
    );
    let shown = bed.get("/api/v1/servers/troupe").await.json();
    assert_eq!(shown["tools_count"], 5, "{shown}");
}
