//! Signing in: passwords, and how often strangers may guess them.
//!
//! A password is kept as an argon2id hash, which takes time and 19 MiB on purpose. So two are hashed at
//! once, in memory that is used again; a few requests wait, few of one address, and others are
//! refused. A try is counted before it is hashed, by address and name: five are free, and then each
//! has to wait twice as long as the one before. So nobody locks a user out from elsewhere. The counts
//! are in a table of fixed size, whose places nobody outside can foresee: it cannot be filled or
//! emptied by guessing names. An unknown name takes as long as a wrong password. Failures are
//! recorded together, once a minute at most.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Output, ParamsString, Salt},
};
use jiff::Timestamp;
use serde_json::json;
use strongroom_api::{Role, Scope, SignIn, TokenIssued};
use strongroom_base::{Clock, UserId, codes, lock, message};
use strongroom_catalog::{Filter, Query, Stored};
use tokio::sync::Semaphore;

use super::{
    throttle::{Throttle, counts, network},
    tokens::{Issue, SESSION},
};
use crate::{
    audit,
    error::{ControlError, Result},
    lookup::find_user,
    model::UserDoc,
    rights::{Caller, Grant},
    service::Control,
};

/// What signing in is called in the audit log.
const ACTION: &str = "access.sign_in";

/// Passwords that are hashed at once.
const AT_ONCE: usize = 2;

/// Requests of strangers whose passwords are hashed or wait for it.
const WAITING: usize = 16;

/// Of them, those of one address.
const WAITING_OF_ONE: usize = 4;

/// How long failures are gathered before they are recorded.
const GATHER: Duration = Duration::from_mins(1);

/// Names and addresses that one record has.
const NAMED: usize = 10;

/// The hash of nobody's password: checked for users who have none, so that it takes as long.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The most memory that a stored hash may ask for, in KiB.
const MAX_MEMORY: u32 = 64 << 10;

/// Failures that are not yet recorded.
#[derive(Debug, Default)]
struct Failed {
    count: u64,
    first: Option<Timestamp>,
    names: BTreeMap<String, u64>,
    addresses: BTreeMap<String, u64>,
    /// When the last record was written.
    written: Option<Duration>,
}

fn count_up(map: &mut BTreeMap<String, u64>, key: String) {
    if map.len() < NAMED || map.contains_key(&key) {
        let count = map.entry(key).or_default();
        *count = count.saturating_add(1);
    }
}

/// Requests whose passwords are hashed or wait for it.
#[derive(Debug, Default)]
struct Room {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// What is known of those who sign in.
#[derive(Debug)]
pub(crate) struct SignIns {
    turns: Arc<Semaphore>,
    memory: Arc<Mutex<Vec<Vec<Block>>>>,
    room: Mutex<Room>,
    throttle: Mutex<Throttle>,
    failed: Mutex<Failed>,
    /// How much was hashed.
    hashed: Arc<Hashed>,
}

/// How much was hashed: passwords, and the blocks of memory that they took.
#[derive(Debug, Default)]
struct Hashed {
    passwords: AtomicU64,
    blocks: AtomicU64,
}

impl Hashed {
    fn add(&self, params: &Params) {
        let blocks = u64::try_from(params.block_count()).unwrap_or(u64::MAX);
        self.passwords.fetch_add(1, Relaxed);
        self.blocks.fetch_add(blocks.saturating_mul(params.t_cost().into()), Relaxed);
    }
}

impl Default for SignIns {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            memory: Arc::default(),
            room: Mutex::default(),
            throttle: Mutex::default(),
            failed: Mutex::default(),
            hashed: Arc::default(),
        }
    }
}

/// A place in the room.
struct Seat<'a> {
    room: &'a Mutex<Room>,
    of: Option<IpAddr>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut room = lock(self.room);
        room.all = room.all.saturating_sub(1);
        if let Some(of) = self.of
            && let Some(count) = room.by_address.get_mut(&of)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                room.by_address.remove(&of);
            }
        }
    }
}

impl SignIns {
    /// A place for a stranger, if there is one.
    fn seat(&self, from: Option<IpAddr>) -> Option<Seat<'_>> {
        let of = from.map(network).filter(counts);
        let mut room = lock(&self.room);
        let own = of.and_then(|of| room.by_address.get(&of)).copied().unwrap_or(0);
        if room.all >= WAITING || own >= WAITING_OF_ONE {
            return None;
        }
        room.all = room.all.saturating_add(1);
        if let Some(of) = of {
            room.by_address.insert(of, own.saturating_add(1));
        }
        Some(Seat { room: &self.room, of })
    }

    fn admit(&self, from: Option<IpAddr>, name: &str, clock: &dyn Clock) -> Result<()> {
        let mut throttle = lock(&self.throttle);
        match throttle.admit(from, name, clock.monotonic()) {
            Some(wait) => Err(too_often(wait.as_secs().saturating_add(1))),
            None => Ok(()),
        }
    }

    fn succeeded(&self, from: Option<IpAddr>, name: &str) {
        let mut throttle = lock(&self.throttle);
        throttle.succeeded(from, name);
    }

    /// Works with the memory that a hash takes.
    async fn with_memory<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> Result<T, String> + Send + 'static,
    ) -> Result<T> {
        let bug = |error: String| ControlError::from(message!(BUG, "{error}", error));
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|error| bug(error.to_string()))?;
        let (memory, hashed) = (Arc::clone(&self.memory), Arc::clone(&self.hashed));
        // The allocator would keep memory for each thread that ever hashed. The client may hang up, but
        // the work continues, and keeps its turn.
        let done = Control::blocking(move || {
            let _turn = turn;
            let free = || lock(&memory);
            let mut own = Memory { blocks: free().pop().unwrap_or_default(), hashed };
            let done = work(&mut own);
            free().push(own.blocks);
            Ok(done)
        });
        done.await?.map_err(bug)
    }

    /// The hash of a password, as it is kept.
    pub(super) async fn hash(&self, password: String, salt: [u8; 16]) -> Result<String> {
        self.with_memory(move |memory| {
            let words = |error: &dyn std::fmt::Display| format!("argon2: {error}");
            let params = Params::default();
            let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
            fill(memory, &params, password.as_bytes(), &salt, &mut out)
                .map_err(|error| words(&error))?;
            let hash = PasswordHash {
                algorithm: Algorithm::Argon2id.ident(),
                version: Some(Version::V0x13.into()),
                params: ParamsString::try_from(&params).map_err(|error| words(&error))?,
                salt: Some(Salt::new(&salt).map_err(|error| words(&error))?),
                hash: Some(Output::new(&out).map_err(|error| words(&error))?),
            };
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether a password is the one of a hash. It takes as long if there is no hash.
    async fn is(&self, hash: String, password: String) -> Result<bool> {
        self.with_memory(move |memory| {
            let known = PasswordHash::new(&hash).ok();
            let parsed = match known {
                Some(parsed) => parsed,
                None => PasswordHash::new(NOBODY).map_err(|error| format!("argon2: {error}"))?,
            };
            let right = matches(memory, &parsed, password.as_bytes());
            Ok(right && !hash.is_empty())
        })
        .await
    }
}

/// Memory for a hash.
struct Memory {
    blocks: Vec<Block>,
    hashed: Arc<Hashed>,
}

fn fill(
    memory: &mut Memory,
    params: &Params,
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> argon2::Result<()> {
    memory.hashed.add(params);
    memory.blocks.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon2.hash_password_into_with_memory(password, salt, out, &mut memory.blocks)
}

fn matches(memory: &mut Memory, hash: &PasswordHash, password: &[u8]) -> bool {
    let (Ok(params), Some(salt), Some(right)) = (Params::try_from(hash), &hash.salt, &hash.hash)
    else {
        return false;
    };
    let known = hash.algorithm == Algorithm::Argon2id.ident()
        && hash.version == Some(Version::V0x13.into())
        && params.m_cost() <= MAX_MEMORY;
    let mut out = vec![0; right.len()];
    let filled = known && fill(memory, &params, password, salt, &mut out).is_ok();
    // Comparing them takes the same time wherever they differ.
    filled && Output::new(&out).is_ok_and(|out| out == *right)
}

fn too_often(seconds: u64) -> ControlError {
    ControlError::TooOften { seconds }
}

impl Control {
    /// The hash of a password, as it is kept.
    pub(super) async fn hash_password(&self, password: String) -> Result<String> {
        use strongroom_base::EntropyExt as _;
        self.sign_ins.hash(password, self.entropy.array()).await
    }

    /// How many passwords were hashed, and how many blocks of memory were filled for it.
    pub fn hashed(&self) -> (u64, u64) {
        let Hashed { passwords, blocks } = &*self.sign_ins.hashed;
        (passwords.load(Relaxed), blocks.load(Relaxed))
    }

    /// Checks that a user, who has a token, has the password too: its hash.
    pub(super) async fn prove(&self, user: UserId, password: &str) -> Result<String> {
        let found = in_read!(self, tx => { find_user(tx, &user.to_string()).await })?.doc;
        self.sign_ins.admit(None, &found.user.name, &*self.clock)?;
        let hash = found.password.clone();
        if !self.sign_ins.is(hash, password.to_owned()).await? {
            let code = &codes::AUTH_PASSWORD;
            return Err(ControlError::refused(code, code.meaning));
        }
        self.sign_ins.succeeded(None, &found.user.name);
        Ok(found.password)
    }

    /// Signs in with a name and a password; `from` is the address of the client.
    pub async fn sign_in(&self, request: SignIn, from: Option<IpAddr>) -> Result<TokenIssued> {
        let name: String = request.name.chars().take(200).collect();
        let Some(_seat) = self.sign_ins.seat(from) else { return Err(too_often(1)) };
        self.sign_ins.admit(from, &name, &*self.clock)?;
        let found = in_read!(self, tx => {
            Ok(tx.first::<UserDoc>(&Query::new(Filter::all().eq("name", name.as_str()))).await?)
        })?;
        let hash = found.as_ref().map(|found| found.doc.password.clone()).unwrap_or_default();
        let right = self.sign_ins.is(hash, request.password).await?;
        let user = match found {
            Some(found) if right && !found.doc.user.disabled => found.doc.user.id,
            _ => {
                self.sign_in_failed(name, from).await?;
                return Err(ControlError::refused(&codes::AUTH_FAILED, codes::AUTH_FAILED.meaning));
            }
        };
        self.sign_ins.succeeded(from, &name);
        let now = self.now();
        let expires = self.ends_after(SESSION);
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_user(tx, &user.to_string()).await?;
            doc.user.last_sign_in = Some(now);
            tx.update(&doc, version).await?;
            let limit = Grant { role: Role::VaultAdmin, scope: Scope::Server };
            let issue = Issue { name: "sign-in", limit, expires, parent: None };
            let issued = self.issue(tx, &doc.user, issue).await?;
            let caller = Caller { name: doc.user.name.clone(), ..Caller::nobody() };
            let detail = json!({ "token": issued.token.id, "address": from });
            audit::entry(tx, &caller, ACTION, &name, "allowed", detail).await?;
            Ok(issued)
        })
    }

    /// Counts a failure for the audit log, and writes what is there unless it was written just now.
    async fn sign_in_failed(&self, name: String, from: Option<IpAddr>) -> Result<()> {
        {
            let mut failed = lock(&self.sign_ins.failed);
            failed.count = failed.count.saturating_add(1);
            let now = self.now();
            failed.first.get_or_insert(now);
            count_up(&mut failed.names, name);
            if let Some(from) = from {
                count_up(&mut failed.addresses, from.to_string());
            }
        }
        self.record_failed_sign_ins(false).await
    }

    /// Writes the failures of the last minute into the audit log, as one record; at the end at once.
    pub async fn record_failed_sign_ins(&self, at_the_end: bool) -> Result<()> {
        let gathered = {
            let mut failed = lock(&self.sign_ins.failed);
            let now = self.clock.monotonic();
            let recent = failed.written.is_some_and(|at| now.saturating_sub(at) < GATHER);
            if failed.count == 0 || (recent && !at_the_end) {
                return Ok(());
            }
            std::mem::replace(&mut *failed, Failed { written: Some(now), ..Failed::default() })
        };
        let mut names = gathered.names.keys();
        let name = match (names.next(), names.next()) {
            (Some(name), None) => name.clone(),
            _ => String::new(),
        };
        let caller = Caller { name: name.clone(), ..Caller::nobody() };
        let detail = json!({
            "failures": gathered.count, "since": gathered.first,
            "names": gathered.names, "addresses": gathered.addresses,
        });
        in_write!(self, tx => {
            audit::entry(tx, &caller, ACTION, &name, "denied", detail).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "a caller's address may be unknown")]
    fn address(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn a_hash_is_as_the_library_makes_it() {
        use argon2::{PasswordHasher as _, PasswordVerifier as _};
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let ours = SignIns::default();
        let hash = runtime.block_on(ours.hash("a long password".to_owned(), [7; 16]));
        let hash = hash.expect("a hash");
        assert!(Argon2::default().verify_password(b"a long password", hash.as_str()).is_ok());
        let theirs = Argon2::default().hash_password_with_salt(b"a long password", &[7; 16]);
        assert_eq!(theirs.expect("a hash").to_string(), hash);
        let is = |hash: &str, password: &str| {
            runtime.block_on(ours.is(hash.to_owned(), password.to_owned())).expect("asks")
        };
        assert!(is(&hash, "a long password"));
        assert!(!is(&hash, "another password"));
        assert!(!is("", "a long password") && !is("no hash", "a long password"));
        let memory = ours.memory.lock().expect("locks");
        assert_eq!(memory.len(), 1, "memory is used again");
    }

    #[test]
    fn few_wait_and_fewer_of_one_address() {
        let ours = SignIns::default();
        let mut seats: Vec<_> = (0..WAITING_OF_ONE).map(|_| ours.seat(address(1))).collect();
        assert!(seats.iter().all(Option::is_some));
        assert!(ours.seat(address(1)).is_none());
        seats.extend((WAITING_OF_ONE..WAITING).map(|_| ours.seat(None)));
        assert!(seats.iter().all(Option::is_some));
        assert!(ours.seat(address(2)).is_none());
        drop(seats);
        assert!(ours.seat(address(1)).is_some());
        assert!(ours.room.lock().expect("locks").by_address.is_empty());
    }
}
