//! The streams of an exec or an attach: containerd's streaming server over WebSocket, protocol
//! `v4.channel.k8s.io`. Each message begins with its channel's number.

use std::net::TcpStream;

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::common::LIMIT;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// An open connection. What arrives is kept until it is asked for.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    /// What the process has written to its standard output so far.
    pub out: String,
    /// And to standard error.
    pub err: String,
    /// The Kubernetes status that ends an exec.
    status: Option<Value>,
    closed: bool,
}

impl Stream {
    /// Connects to the address that the CRI gave out. It is good for one connection only.
    pub fn open(url: &str) -> Self {
        let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
        let protocol = "v4.channel.k8s.io";
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let address = request.uri().authority().unwrap().as_str().to_owned();
        let tcp = TcpStream::connect(&address).unwrap_or_else(|e| panic!("{address}: {e}"));
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        let (socket, answer) = tungstenite::client(request, tcp).unwrap();
        assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], protocol);
        Self {
            socket,
            out: String::new(),
            err: String::new(),
            status: None,
            closed: false,
        }
    }

    fn send(&mut self, channel: u8, data: &[u8]) {
        let message = [&[channel], data].concat();
        self.socket.send(Message::binary(message)).unwrap();
    }

    /// Writes to the process's standard input.
    pub fn input(&mut self, text: &str) {
        self.send(STDIN, text.as_bytes());
    }

    /// Tells the new size of the terminal.
    pub fn resize(&mut self, width: u16, height: u16) {
        let size = serde_json::json!({"Width": width, "Height": height});
        self.send(RESIZE, size.to_string().as_bytes());
    }

    /// Takes in the next message.
    fn take(&mut self) {
        let message = match self.socket.read() {
            Ok(Message::Binary(message)) => message,
            Ok(Message::Close(_)) => {
                self.closed = true;
                return;
            }
            Ok(_) => return,
            // containerd ends the connection without the closing handshake.
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(_)) => {
                self.closed = true;
                return;
            }
            Err(e) => panic!("{e}; so far: {:?} {:?}", self.out, self.err),
        };
        let Some((channel, data)) = message.split_first() else {
            return;
        };
        let text = String::from_utf8_lossy(data);
        match *channel {
            STDOUT => self.out.push_str(&text),
            STDERR => self.err.push_str(&text),
            // The first message says only that the connection stands.
            ERROR if data.is_empty() => {}
            ERROR => self.status = Some(serde_json::from_str(&text).unwrap()),
            other => panic!("a message on channel {other}"),
        }
    }

    /// Reads until the process has written `text` to its standard output, and forgets all up to there.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.out.find(text) {
                self.out.drain(..at + text.len());
                return;
            }
            assert!(!self.closed, "no {text:?} in {:?}", self.out);
            self.take();
        }
    }

    /// Reads to the end and returns the exit code as the status tells it; an attach has none.
    pub fn end(&mut self) -> Option<i32> {
        while !self.closed {
            self.take();
        }
        let status = self.status.as_ref()?;
        if status["status"] == "Success" {
            return Some(0);
        }
        let causes = status["details"]["causes"].as_array();
        let code = causes
            .into_iter()
            .flatten()
            .find(|cause| cause["reason"] == "ExitCode")
            .unwrap_or_else(|| panic!("{status}"));
        Some(code["message"].as_str().unwrap().parse().unwrap())
    }
}
