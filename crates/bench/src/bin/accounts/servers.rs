//! The servers that are measured: Strongroom's storage accounts, and Azurite.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use strongroom_azure::{ConnectionString, Secret};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_bench::{Failure, Outcome, place::remove};

use crate::client::Account;

/// A server that ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) account: Account,
    pub(crate) folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    /// Serves accounts with an empty folder.
    pub(crate) fn strongroom(program: &Path, work: &Path) -> Outcome<Self> {
        let folder = work.join("strongroom");
        remove(&folder)?;
        let create = Command::new(program)
            .args(["storage", "account", "create", "bench", "--output", "json", "--data-dir"])
            .arg(&folder)
            .output()?;
        let made: Value = serde_json::from_slice(&create.stdout)?;
        let key =
            made.pointer("/keys/0/value").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut child = Command::new(program)
            .args(["storage", "serve", "--listen", "127.0.0.1:0", "--tls", "off", "--data-dir"])
            .arg(&folder)
            .stderr(Stdio::piped())
            .spawn()?;
        let said = child.stderr.take().ok_or_else(|| Failure::new("the server says nothing"))?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        let address = line.trim().rsplit("//").next().unwrap_or_default();
        let address = address.parse().map_err(|_| Failure::new(line.clone()))?;
        Ok(Self { child, account: Account::new(address, "bench", &key)?, folder })
    }

    /// Serves Azurite's account with an empty folder. `program` is its `main.js` for blobs.
    pub(crate) fn azurite(program: &Path, work: &Path) -> Outcome<Self> {
        let folder = work.join("azurite");
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let port = strongroom_testing::free_port();
        let child = Command::new("node")
            .arg(program)
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobPort"])
            .arg(port.to_string())
            .arg("--location")
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // Azurite has the account of emulators, which everybody knows.
        let known = ConnectionString::parse("UseDevelopmentStorage=true").ok();
        let account = known.and_then(|known| match (known.account, known.secret) {
            (Some(name), Secret::Key(key)) => Some(Account { address, name, key }),
            _ => None,
        });
        let account = account.ok_or_else(|| Failure::new("emulators have no account"))?;
        let server = Self { child, account, folder };
        for _ in 0..300 {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            SystemClock.sleep(Duration::from_millis(100));
        }
        Err(Failure::new("Azurite does not listen"))
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next());
        let kilobytes: u64 =
            kilobytes.ok_or_else(|| Failure::new("the system does not say its memory"))?.parse()?;
        Ok(kilobytes << 10)
    }
}
