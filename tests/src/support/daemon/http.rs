//! As much HTTP as a client of bitcoind needs: connections that are kept open, and bodies whose length is known.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::node::{Answer, Node};

/// How often a server that waits looks whether it should stop.
const LOOK: Duration = Duration::from_millis(1);

/// Accepts connections until told to stop; then all of them are closed.
pub(super) fn serve(listener: &TcpListener, node: &Arc<Node>, stop: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("a listener can be asked without waiting");
    let mut connections = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                node.lock().connections += 1;
                stream.set_nonblocking(false).expect("a connection can be waited for");
                let own = stream.try_clone().expect("a descriptor can be copied");
                let (node, stop) = (Arc::clone(node), Arc::clone(stop));
                connections.push((stream, thread::spawn(move || converse(own, &node, &stop))));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK),
            Err(error) => panic!("the listener failed: {error}"),
        }
    }
    for (stream, thread) in connections {
        let _ = stream.shutdown(Shutdown::Both);
        thread.join().expect("a connection ends");
    }
}

/// Answers request after request, until either side has enough.
fn converse(stream: TcpStream, node: &Node, stop: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    while let Some((authorization, body)) = read_request(&mut reader) {
        if !node.wait_while_hanging(stop) {
            return;
        }
        let authorized =
            |credentials: &str| authorization == Some(format!("Basic {}", BASE64.encode(credentials)));
        let (status, text) = match node.answer(authorized, &body, stop) {
            Answer::Json(value) => (200, value.to_string()),
            Answer::Error(status, value) => (status, value.to_string()),
            Answer::Text(status, text) => (status, text.to_owned()),
        };
        let mut answer = format!(
            "HTTP/1.1 {status} Words\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let torn = is_torn(node);
        answer.push_str(if torn { &text[..text.len() / 2] } else { &text });
        let drip = node.lock().switches.drip;
        let stream = reader.get_mut();
        if write(stream, answer.as_bytes(), drip).is_err() || torn {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Writes an answer, in pieces if it is to drip.
fn write(stream: &mut TcpStream, answer: &[u8], drip: Option<(usize, Duration)>) -> std::io::Result<()> {
    const LONG_BYTES: usize = 400;
    let Some((pieces, pause)) = drip.filter(|_| answer.len() > LONG_BYTES) else {
        return stream.write_all(answer);
    };
    answer.chunks(answer.len().div_ceil(pieces)).try_for_each(|piece| {
        thread::sleep(pause);
        stream.write_all(piece)
    })
}

fn is_torn(node: &Node) -> bool {
    let torn = &mut node.lock().switches.torn_answers;
    let is_torn = *torn > 0;
    *torn = torn.saturating_sub(1);
    is_torn
}

/// The header `Authorization` and the body of the next request; none at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(Option<String>, Vec<u8>)> {
    let (mut length, mut authorization) = (0, None);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().expect("a length"),
                "authorization" => authorization = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((authorization, body))
}
