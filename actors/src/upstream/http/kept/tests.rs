#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use super::*;

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);
const ONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
const NONE: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
const IN_PARTS: &str =
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n||3\r\none\r\n||4\r\n two\r\n||0\r\n\r\n";
const AT_ONCE: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n";
const UNENDED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";

/// A server that answers requests on each connection with these texts, one after another, and then closes it.
struct Server {
    connections: Arc<KeptConnections>,
    /// Connections that it has closed, or has seen closed.
    closed: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

async fn server(answers: &'static [&'static [&'static str]]) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&closed);
    let serving = tokio::spawn(async move {
        for of_connection in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in *of_connection {
                let mut request = [0; 4096];
                if stream.read(&mut request).await.unwrap_or_default() == 0 {
                    break;
                }
                for part in answer.split_inclusive("||") {
                    let part = part.trim_end_matches("||").as_bytes();
                    stream.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if *answer == UNENDED {
                    // Whoever gave the answer up closes the connection.
                    let _ = stream.read(&mut request).await;
                }
            }
            drop(stream);
            counted.fetch_add(1, Ordering::SeqCst);
        }
        std::future::pending::<()>().await;
    });
    Server {
        connections: connections_to(port),
        closed,
        _serving: AbortOnDropHandle::new(serving),
    }
}

fn connections_to(port: u16) -> Arc<KeptConnections> {
    let origin = format!("http://127.0.0.1:{port}/").parse().unwrap();
    Arc::new(KeptConnections::new(origin))
}

impl Server {
    async fn ask(&self) -> Result<Response<KeptBody>, Failed> {
        let request = Request::post("/").header("host", "x");
        let asked = self
            .connections
            .send(request.body(Full::from("question")).unwrap());
        timeout(PATIENCE, asked).await.unwrap()
    }

    async fn text(&self) -> Result<String, Failed> {
        let mut body = self.ask().await?.into_body();
        let mut text = Vec::new();
        while let Some(chunk) = timeout(PATIENCE, body.chunk())
            .await
            .unwrap()
            .map_err(Failed::Broken)?
        {
            text.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8(text).unwrap())
    }

    fn idle(&self) -> usize {
        self.connections.idle.lock().len()
    }

    async fn closed(&self, expected: usize) {
        let reached = async {
            while self.closed.load(Ordering::SeqCst) < expected {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_an_answer_of_any_form() {
    let server = server(&[&[ONE, IN_PARTS, NONE, ONE]]).await;
    for expected in ["one", "one two", "", "one"] {
        assert_eq!(server.text().await.unwrap(), expected);
        assert_eq!(server.idle(), 1);
    }
}

#[tokio::test]
async fn one_that_the_server_has_closed_is_replaced() {
    let server = server(&[&[ONE], &[ONE]]).await;
    assert_eq!(server.text().await.unwrap(), "one");
    server.closed(1).await;
    // Whether it is known to be closed yet or not, nothing was sent over it that could have been acted upon.
    let again = server.text().await;
    if again != Ok("one".to_owned()) {
        assert!(matches!(again, Err(Failed::Broken(_))), "{again:?}");
        assert_eq!(server.text().await.unwrap(), "one");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_nothing_is_kept() {
    let server = server(&[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none"], &[""]]).await;
    assert!(matches!(server.text().await, Err(Failed::Broken(_))));
    assert_eq!(server.idle(), 0);
    assert!(matches!(server.text().await, Err(Failed::Broken(_))));
    assert_eq!(server.idle(), 0);
}

#[tokio::test]
async fn an_answer_that_is_given_up_closes_its_connection() {
    let server = server(&[&[UNENDED], &[UNENDED], &[ONE]]).await;
    drop(server.ask().await.unwrap());
    server.closed(1).await;
    let mut body = server.ask().await.unwrap().into_body();
    assert_eq!(body.chunk().await.unwrap().unwrap(), "one");
    drop(body);
    server.closed(2).await;
    assert_eq!(server.idle(), 0);
    assert_eq!(server.text().await.unwrap(), "one");
}

#[tokio::test]
async fn a_call_that_is_given_up_closes_its_connection() {
    let server = server(&[&[""], &[ONE]]).await;
    let asked = server.ask();
    let given_up = timeout(Duration::from_millis(50), asked).await;
    assert!(given_up.is_err() || matches!(given_up, Ok(Err(Failed::Broken(_)))));
    assert_eq!(server.idle(), 0);
    server.closed(1).await;
    assert_eq!(server.text().await.unwrap(), "one");
}

#[tokio::test]
async fn an_answer_that_is_here_need_not_be_read_to_its_end() {
    let server = server(&[&[NONE, AT_ONCE, ONE]]).await;
    drop(server.ask().await.unwrap());
    assert_eq!(server.idle(), 1);
    let mut body = server.ask().await.unwrap().into_body();
    assert_eq!(body.chunk().await.unwrap().unwrap(), "one");
    drop(body);
    assert_eq!(server.idle(), 1);
    assert_eq!(server.text().await.unwrap(), "one");
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_sent() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let request = Request::get("/").header("host", "x").body(Full::default());
    let Err(Failed::NotConnected(words)) = connections_to(port).send(request.unwrap()).await else {
        panic!("somebody listens");
    };
    assert!(words.starts_with("connecting failed: "), "{words}");
    assert!(words.contains("refused"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_nobody_uses_are_closed_after_a_while() {
    let server = server(&[&[ONE, ONE]]).await;
    // The pause of the clock ends once all wait for the network.
    assert_eq!(server.text().await.unwrap(), "one");
    assert_eq!(server.idle(), 1);
    sleep(IDLE_TIMEOUT + 2 * SWEEP_EVERY).await;
    assert_eq!(server.idle(), 0);
    server.closed(1).await;
}
