//! A connection that sends exactly the bytes that a test gives it. A proper HTTP client cannot be made to misbehave.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::waiting::PATIENCE;

/// A connection to a server.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server takes connections")
    }

    /// Connects, if there is somebody.
    ///
    /// # Errors
    /// The system's, if there is nobody.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The system's, if the other end has closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Says that no more will be sent.
    pub fn end(&self) {
        // It may have been closed from the other end.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// GETs.
    pub fn get(&mut self, path: &str) -> Response {
        self.try_get(path).expect("an answer")
    }

    /// GETs, if that is possible.
    ///
    /// # Errors
    /// The system's, or that the answer was not one.
    pub fn try_get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// POSTs.
    pub fn post(&mut self, path: &str, headers: &[&str], body: &[u8]) -> Response {
        self.try_post(path, headers, body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// POSTs, if that is possible.
    ///
    /// # Errors
    /// The system's, or that the answer was not one.
    pub fn try_post(&mut self, path: &str, headers: &[&str], body: &[u8]) -> io::Result<Response> {
        self.send(&post(path, headers, body))?;
        self.response()
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// The system's, or that there is none.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let ended = line.strip_suffix("\r\n").or(line.strip_suffix('\n'));
        Ok(ended.ok_or(io::ErrorKind::UnexpectedEof)?.to_owned())
    }

    /// Reads a response's status and headers.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn head(&mut self) -> io::Result<Response> {
        let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no response: {line:?}"));
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").or(first.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| wrong(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| wrong(&line))?;
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// Reads a response; not one that answers to HEAD, and none of 1xx.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head()?;
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            response.body = vec![0; length];
            self.0.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads one chunk of a body; none if it was the last.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16);
        let length = length.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut chunk = vec![0; length];
        self.0.read_exact(&mut chunk)?;
        self.line()?;
        Ok((length > 0).then_some(chunk))
    }

    /// Whether the other end closes within this time, however it does.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream().set_read_timeout(Some(time)).expect("a time");
        let read = io::copy(&mut self.0, &mut io::sink());
        !read.is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

/// The bytes of a POST.
pub fn post(path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, if it is there; once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(&value.1)
    }

    /// A header that must be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// This response, if it has that status.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// This problem document, if it is one of that status and type.
    pub fn problem(self, status: u16, r#type: &str) -> Value {
        let response = self.expect(status);
        assert_eq!(response.must("content-type"), "application/problem+json");
        let body = response.json();
        assert_eq!((&body["type"], &body["status"]), (&Value::from(r#type), &Value::from(status)), "{body}");
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {body}");
        }
        body
    }
}
