//! A client of Azure's blob service that costs little itself: requests that are signed, over connections that stay open.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use strongroom_azure::{AccountKey, AccountName, Headers, Method, http_date, sign_request};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_bench::{Failure, Outcome};

/// The version of the dialect, which both servers know.
const VERSION: &str = "2021-08-06";

/// An account of a server.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) address: SocketAddr,
    pub(crate) name: AccountName,
    pub(crate) key: AccountKey,
}

/// What a server said.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) snapshot: String,
    pub(crate) body: Vec<u8>,
}

/// A connection that stays open.
pub(crate) struct Connection {
    account: Account,
    reader: BufReader<TcpStream>,
}

impl Account {
    pub(crate) fn new(address: SocketAddr, name: &str, key: &str) -> Outcome<Self> {
        let bad = |what: &str| Failure::new(format!("the account has no valid {what}"));
        let name = AccountName::new(name).map_err(|_| bad("name"))?;
        let key = AccountKey::parse(key).map_err(|_| bad("key"))?;
        Ok(Self { address, name, key })
    }

    pub(crate) fn connect(&self) -> Outcome<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(2)))?;
        let reader = BufReader::with_capacity(256 << 10, stream);
        Ok(Connection { account: self.clone(), reader })
    }
}

impl Connection {
    /// Asks, and reads the whole answer; any other status than `wanted` is a failure.
    pub(crate) fn ask(
        &mut self,
        wanted: u16,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Outcome<Answer> {
        let account = &self.account;
        let target = format!("/{}{path}", account.name);
        let (host, date) = (account.address.to_string(), http_date(SystemClock.now()));
        let length = body.len().to_string();
        let mut all = vec![
            ("host", host.as_str()),
            ("x-ms-date", &date),
            ("x-ms-version", VERSION),
            ("content-length", &length),
        ];
        all.extend_from_slice(headers);
        let parsed =
            Headers::of(all.iter().copied()).map_err(|_| Failure::new("a header is not valid"))?;
        let verb = Method::parse(method).ok_or_else(|| Failure::new("no such method"))?;
        let signed = sign_request(&account.name, &account.key, verb, &target, &parsed);
        let signed = signed.map_err(|_| Failure::new("the request cannot be signed"))?;
        let mut head = format!("{method} {target} HTTP/1.1\r\nauthorization: {signed}\r\n");
        for (name, value) in all {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut message = head.into_bytes();
        if body.len() <= 64 << 10 {
            message.extend_from_slice(body);
        }
        let stream = self.reader.get_mut();
        stream.write_all(&message)?;
        if body.len() > 64 << 10 {
            stream.write_all(body)?;
        }
        let answer = self.answer()?;
        if answer.status == wanted {
            return Ok(answer);
        }
        let said = String::from_utf8_lossy(answer.body.get(..400).unwrap_or(&answer.body));
        Err(Failure::new(format!("{method} {path}: {} {said}", answer.status)))
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(Failure::new("the server has closed the connection"));
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn answer(&mut self) -> Outcome<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).unwrap_or_default().parse()?;
        let mut answer = Answer { status, snapshot: String::new(), body: Vec::new() };
        let (mut length, mut is_chunked) = (0_usize, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "transfer-encoding" => is_chunked = value == "chunked",
                "x-ms-snapshot" => value.clone_into(&mut answer.snapshot),
                _ => {}
            }
        }
        if !is_chunked {
            answer.body.resize(length, 0);
            self.reader.read_exact(&mut answer.body)?;
            return Ok(answer);
        }
        loop {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            let start = answer.body.len();
            answer.body.resize(start + size, 0);
            self.reader.read_exact(answer.body.get_mut(start..).unwrap_or_default())?;
            self.line()?;
            if size == 0 {
                return Ok(answer);
            }
        }
    }

    /// Creates a container.
    pub(crate) fn container(&mut self, name: &str) -> Outcome<()> {
        self.ask(201, "PUT", &format!("/{name}?restype=container"), &[], &[]).map(drop)
    }

    /// Creates a page blob.
    pub(crate) fn create(&mut self, path: &str, size: u64) -> Outcome<()> {
        let size = size.to_string();
        let headers = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", &*size)];
        self.ask(201, "PUT", path, &headers, &[]).map(drop)
    }

    /// Writes pages.
    pub(crate) fn put(&mut self, path: &str, offset: u64, data: &[u8]) -> Outcome<()> {
        let range = range(offset, data.len())?;
        let headers = [
            ("x-ms-page-write", "update"),
            ("x-ms-range", &*range),
            ("content-type", "application/octet-stream"),
        ];
        self.ask(201, "PUT", &format!("{path}?comp=page"), &headers, data).map(drop)
    }

    /// Reads bytes.
    pub(crate) fn get(&mut self, path: &str, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let range = range(offset, len)?;
        Ok(self.ask(206, "GET", path, &[("x-ms-range", &range)], &[])?.body)
    }

    /// Takes a snapshot; its id.
    pub(crate) fn snapshot(&mut self, path: &str) -> Outcome<String> {
        Ok(self.ask(201, "PUT", &format!("{path}?comp=snapshot"), &[], &[])?.snapshot)
    }

    /// The difference between two snapshots: how many ranges, over all pages of the answer.
    pub(crate) fn diff(&mut self, path: &str, since: &str, until: &str) -> Outcome<usize> {
        let (mut ranges, mut marker) = (0, String::new());
        let [since, until] = [since, until].map(|id| id.replace(':', "%3A"));
        loop {
            let next = if marker.is_empty() { String::new() } else { format!("&marker={marker}") };
            let query = format!("{path}?snapshot={until}&comp=pagelist&prevsnapshot={since}{next}");
            let answer = self.ask(200, "GET", &query, &[], &[])?;
            let text = String::from_utf8_lossy(&answer.body);
            ranges += text.matches("<Start>").count();
            let found = text.split_once("<NextMarker>").and_then(|(_, rest)| {
                rest.split_once("</NextMarker>").map(|(marker, _)| marker.to_owned())
            });
            match found.filter(|marker| !marker.is_empty()) {
                Some(found) => marker = found.replace('!', "%21").replace('=', "%3D"),
                None => return Ok(ranges),
            }
        }
    }
}

fn range(offset: u64, len: usize) -> Outcome<String> {
    let last = offset + u64::try_from(len)? - 1;
    Ok(format!("bytes={offset}-{last}"))
}
