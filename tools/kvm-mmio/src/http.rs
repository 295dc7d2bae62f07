// SPDX-License-Identifier: GPL-2.0
//! As much of HTTP as somebody needs who scrapes metrics: a page for a GET, then the end of the
//! connection. There is no encryption: a proxy in front can have it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::signal::Stop;

/// A whole exchange takes no longer, so that nobody can keep a connection.
const DEADLINE: Duration = Duration::from_secs(5);

/// Connections at a time; others are closed.
const MOST: usize = 16;

/// Bytes of a request's head; what scrapers send has less than a tenth.
const MAX_HEAD: usize = 16 << 10;

/// How soon a connection, or a signal, is noticed.
const STEP: Duration = Duration::from_millis(50);

/// What somebody wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// The media types that are welcome.
    pub accept: String,
}

impl Request {
    /// None if it is no request.
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let accept = lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.eq_ignore_ascii_case("accept"))
            .map(|(_, value)| value.trim());
        version.starts_with("HTTP/1.").then(|| Self {
            method: method.to_owned(),
            path: target.split('?').next().unwrap_or_default().to_owned(),
            accept: accept.collect::<Vec<_>>().join(","),
        })
    }
}

/// What is said to it.
pub struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    pub fn ok(content_type: &'static str, body: String) -> Self {
        let status = "200 OK";
        Self {
            status,
            content_type,
            body,
        }
    }

    pub fn not_found() -> Self {
        Self::failure("404 Not Found")
    }

    fn failure(status: &'static str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{status}\n"),
        }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let Self {
            status,
            content_type,
            body,
        } = self;
        let allow = match *status {
            METHOD => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let mut text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             {allow}Connection: close\r\n\r\n",
            body.len()
        );
        if with_body {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

const METHOD: &str = "405 Method Not Allowed";

pub struct Server(TcpListener);

impl Server {
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        Ok(Self(
            listener.with_context(|| format!("cannot listen on {address}"))?,
        ))
    }

    /// With the port that the kernel has chosen, if it was to.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Answers until a signal comes.
    pub fn run(&self, stop: &Stop, answer: impl Fn(&Request) -> Answer + Sync) {
        let busy = AtomicUsize::new(0);
        thread::scope(|scope| {
            while !stop.requested() {
                // There may be nobody, and there may be no descriptor left for somebody.
                let Ok((stream, _)) = self.0.accept() else {
                    thread::sleep(STEP);
                    continue;
                };
                if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
                    busy.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                scope.spawn(|| {
                    // Whoever has gone or is too slow has no answer.
                    let _ = converse(stream, &answer);
                    busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
}

/// One exchange.
fn converse(mut stream: TcpStream, answer: &impl Fn(&Request) -> Answer) -> io::Result<()> {
    let end = Instant::now() + DEADLINE;
    stream.set_nonblocking(false)?;
    let head = read_head(&mut stream, end)?;
    let request = Request::parse(&head);
    let (answer, with_body) = match &request {
        Some(request) if request.method == "GET" => (answer(request), true),
        Some(request) if request.method == "HEAD" => (answer(request), false),
        Some(_) => (Answer::failure(METHOD), true),
        None => (Answer::failure("400 Bad Request"), true),
    };
    write(&mut stream, &answer.bytes(with_body), end)
}

/// What is left until then; an error if it is over.
fn rest(end: Instant) -> io::Result<Option<Duration>> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        rest => Ok(Some(rest)),
    }
}

/// Reads up to the empty line, or as much as there is.
fn read_head(stream: &mut TcpStream, end: Instant) -> io::Result<String> {
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") && head.len() < MAX_HEAD {
        stream.set_read_timeout(rest(end)?)?;
        match stream.read(&mut part)? {
            0 => break,
            size => head.extend_from_slice(&part[..size]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(rest(end)?)?;
        let size = stream.write(bytes)?;
        bytes = &bytes[size..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let head = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nACCEPT: text/plain;q=0.5\r\n\
                    Accept: */*\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/metrics")
        );
        assert_eq!(request.accept, "text/plain;q=0.5,*/*");
        for head in [
            "",
            "GET",
            "GET /",
            "GET / HTTP/2",
            "\r\n\r\n",
            "GET  / HTTP/1.1",
        ] {
            assert_eq!(Request::parse(head), None, "{head:?}");
        }
    }

    #[test]
    fn answers() {
        let text = |answer: Answer, body| String::from_utf8(answer.bytes(body)).unwrap();
        let page = || Answer::ok("text/plain", "abc".to_owned());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\
                    Connection: close\r\n\r\n";
        assert_eq!(text(page(), true), format!("{head}abc"));
        assert_eq!(text(page(), false), head);
        assert!(text(Answer::failure(METHOD), true).contains("\r\nAllow: GET, HEAD\r\n"));
    }
}
