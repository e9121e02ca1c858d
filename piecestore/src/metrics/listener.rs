//! The port that is scraped: a thread of its own with plain blocking I/O, one connection at a time.
//!
//! Enough of HTTP/1.1 (RFC 9112) for a scraper and a browser: one request, one answer, and the connection is closed. A peer that is slow costs its
//! own time-out; the cores do nothing but put the figures up.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::text::render;
use crate::admin::Board;

/// How long a request may take to arrive, and an answer to leave.
const PEER_WAIT: Duration = Duration::from_secs(2);

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Takes the port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Answers scrapers until the process ends. Each board is that of the node in the directory beside it.
pub fn serve(listener: TcpListener, boards: Vec<(String, Arc<Board>)>) -> io::Result<()> {
    let run = move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = answer(stream, &boards) {
                        tracing::debug!(%error, "a request for metrics failed");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics was not accepted");
                    // Out of descriptors, perhaps: they come back, and this is not to spin until then.
                    std::thread::sleep(PEER_WAIT);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .stack_size(256 << 10)
        .spawn(run)?;
    Ok(())
}

fn answer(mut stream: TcpStream, boards: &[(String, Arc<Board>)]) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let mut words = head.split(|byte| byte.is_ascii_whitespace());
    let (method, target) = (words.next(), words.next());
    let path = target.map(|target| {
        target
            .split(|&byte| byte == b'?')
            .next()
            .unwrap_or_default()
    });
    let (status, kind, body) = match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ("200 OK", kind, scrape(boards))
        }
        (Some(b"GET"), _) => (
            "404 Not Found",
            "text/plain",
            "the figures are at /metrics\n".to_owned(),
        ),
        _ => (
            "405 Method Not Allowed",
            "text/plain",
            "only GET is answered\n".to_owned(),
        ),
    };
    stream.set_write_timeout(Some(PEER_WAIT))?;
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

/// Asks all nodes at once, so that it takes one look of the cores and not one for each node.
fn scrape(boards: &[(String, Arc<Board>)]) -> String {
    let questions: Vec<u64> = boards.iter().map(|(_, board)| board.ask_status()).collect();
    let nodes: Vec<_> = boards
        .iter()
        .zip(questions)
        .map(|((directory, board), question)| {
            let json = board.status_after(question);
            let status = json.and_then(|json| serde_json::from_str(&json).ok());
            (directory.clone(), status)
        })
        .collect();
    render(&nodes)
}

/// Reads up to the empty line that ends a request's head.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PEER_WAIT;
    let mut head = Vec::new();
    let mut bytes = [0; 1_024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(head)
}
