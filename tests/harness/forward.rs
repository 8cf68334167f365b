//! A door that leads elsewhere: what connects to one address is connected to another, bytes untouched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Such a door; it closes when dropped.
pub struct Forward {
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Forward {
    /// Listens at `from`, which nobody listens at, and connects whoever comes to `to`.
    pub async fn start(from: &str, to: &str) -> Self {
        let listener = TcpListener::bind(from).await;
        let listener = listener.unwrap_or_else(|error| panic!("{from}: {error}"));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, to) = (Arc::clone(&connections), to.to_owned());
        let serving = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let Ok(mut far) = TcpStream::connect(&to).await else {
                    continue;
                };
                counted.fetch_add(1, Ordering::Relaxed);
                passing.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        Self { connections, serving }
    }

    /// How many connections it led to the other address so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
