//! The TLS of a link without its socket.
//!
//! Reading and writing share one TLS state. Here it is held only while bytes are encrypted or decrypted, not while the
//! system is asked to send or receive them: an answer often comes before the system is done with sending its question,
//! and its reader would have to wait for that.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use parking_lot::Mutex;
use rustls::Connection;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::messages::NodeStream;

/// The TLS state of a connection.
#[derive(Debug)]
pub(super) struct Crypt(Mutex<Connection>);

impl Crypt {
    /// Takes a stream apart whose handshake is done.
    pub(super) fn of(stream: NodeStream) -> (TcpStream, Self) {
        let (tcp, mut state) = match stream {
            TlsStream::Client(stream) => {
                let (tcp, state) = stream.into_inner();
                (tcp, Connection::Client(state))
            }
            TlsStream::Server(stream) => {
                let (tcp, state) = stream.into_inner();
                (tcp, Connection::Server(state))
            }
        };
        state.set_buffer_limit(None); // whatever is put in is taken out at once
        (tcp, Self(Mutex::new(state)))
    }

    /// Encrypts all of `plain`, and puts what is to be sent behind `sealed`.
    pub(super) fn seal(&self, plain: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
        let mut state = self.0.lock();
        state.writer().write_all(plain)?;
        while state.wants_write() {
            state.write_tls(sealed)?;
        }
        Ok(())
    }

    /// Decrypts what was received, and puts it behind `plain`. False when the peer has closed.
    pub(super) fn open(&self, mut sealed: &[u8], plain: &mut BytesMut) -> io::Result<bool> {
        let mut state = self.0.lock();
        loop {
            if !sealed.is_empty() {
                state.read_tls(&mut sealed)?;
            }
            let progress = state.process_new_packets().map_err(io::Error::other)?;
            let begin = plain.len();
            plain.resize(begin + progress.plaintext_bytes_to_read(), 0);
            state.reader().read_exact(&mut plain[begin..])?;
            if progress.peer_has_closed() || sealed.is_empty() {
                return Ok(!progress.peer_has_closed());
            }
        }
    }
}
