//! A client that says every byte itself.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use azure::{AccountKey, AccountName, Headers, Method};
use strongroom_azure as azure;
use strongroom_base::{Clock as _, SystemClock};

/// The clients of a server: its address, and the keys of its accounts.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) keys: BTreeMap<String, String>,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and error code.
    pub(crate) fn code(&self) -> (u16, &str) {
        (self.status, self.header("x-ms-error-code"))
    }
}

impl Client {
    pub(crate) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_nodelay(true).expect("sets");
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("sets");
        Connection { reader: BufReader::new(stream) }
    }

    /// Asks with the key of `acct`, in path style.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.ask_as("acct", method, &format!("/acct{path}"), headers, body)
    }

    pub(crate) fn ask_as(
        &self,
        account: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let host = self.address.to_string();
        let mut all = vec![("host", host.as_str())];
        all.extend(headers.iter().filter(|(name, _)| *name != "host"));
        if let Some((_, host)) = headers.iter().find(|(name, _)| *name == "host") {
            all[0].1 = host;
        }
        let head = self.signed(account, method, target, &all, body.len());
        let mut connection = self.connect();
        connection.send(&head);
        connection.send(body);
        connection.answer(method == "HEAD").expect("an answer")
    }

    /// The head of a signed request.
    pub(crate) fn signed(
        &self,
        account: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> Vec<u8> {
        let date = azure::http_date(SystemClock.now());
        let length = length.to_string();
        let mut all = headers.to_vec();
        if !all.iter().any(|(name, _)| *name == "x-ms-version") {
            all.push(("x-ms-version", "2026-10-06"));
        }
        all.push(("x-ms-date", &date));
        all.push(("content-length", &length));
        let parsed = Headers::of(all.iter().copied()).expect("headers");
        let name = AccountName::new(account).expect("a name");
        let key = AccountKey::parse(&self.keys[account]).expect("a key");
        let method_of = Method::parse(method).expect("a method");
        let signed = azure::sign_request(&name, &key, method_of, target, &parsed).expect("signs");
        let mut head = format!("{method} {target} HTTP/1.1\r\nauthorization: {signed}\r\n");
        for (name, value) in all {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) fn container(&self, name: &str) {
        let created = self.ask("PUT", &format!("/{name}?restype=container"), &[], b"");
        assert_eq!(created.status, 201, "{}", created.text());
    }

    /// Creates a page blob in a container of `acct`.
    pub(crate) fn page_blob(&self, path: &str, size: u64) -> Answer {
        let size = size.to_string();
        let headers = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", &*size)];
        let created = self.ask("PUT", path, &headers, b"");
        assert_eq!(created.status, 201, "{}", created.text());
        created
    }

    pub(crate) fn put_page(&self, path: &str, offset: usize, data: &[u8]) -> Answer {
        let range = format!("bytes={offset}-{}", offset + data.len() - 1);
        let headers = [("x-ms-page-write", "update"), ("x-ms-range", &*range)];
        let query = format!("{path}?comp=page");
        self.ask("PUT", &query, &headers, data)
    }
}

/// A connection that says every byte itself.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The other side may have ended: then the answer says why.
        self.reader.get_mut().write_all(bytes).ok();
    }

    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).ok()?;
        (length > 0).then(|| line.trim_end().to_owned())
    }

    /// Reads an answer; none if the connection ends before one.
    pub(crate) fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ")?;
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = Vec::new();
        if is_head || status == 304 || status == 204 {
            return Some(Answer { status, headers, body });
        }
        if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).ok()?;
                let mut chunk = vec![0; size + 2];
                self.reader.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            let length = headers.get("content-length")?.parse().ok()?;
            body = vec![0; length];
            self.reader.read_exact(&mut body).ok()?;
        }
        Some(Answer { status, headers, body })
    }
}
