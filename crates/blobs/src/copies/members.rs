//! Which copies a store has: the file `copies.json` in the folder of each.
//!
//! Every change of it has a greater number, and is durable in all copies that belong to the store then before a record
//! is acknowledged without the others. So of all the files that are found the one with the greatest number is right, if
//! each copy that it counts on is among those found.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crc32c::crc32c;
use serde::{Deserialize, Serialize};
use strongroom_base::{Entropy, EntropyExt as _};

use crate::{
    journal::sync_folder,
    replication::{Era, Role, Standing},
    rows::Ticks,
};

/// The name of the file.
const NAME: &str = "copies.json";
/// The version of the file, of a store that is at one server.
const FORMAT: u32 = 1;
/// The same for one that is at two: earlier programs would take changes that only the primary may take.
const REPLICATED: u32 = 2;
/// The longest file that is read, in bytes.
const MAX: u64 = 1 << 20;

/// The id of a copy, random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct CopyId(u128);

impl CopyId {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        Self(u128::from_be_bytes(entropy.array()))
    }
}

impl From<CopyId> for String {
    fn from(id: CopyId) -> Self {
        format!("{:032x}", id.0)
    }
}

impl TryFrom<String> for CopyId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// Why and since when a copy does not have every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    /// The first record that it may lack; 0 for a copy that was never whole.
    pub(crate) since: u64,
    /// When it was left out.
    pub(crate) at: Ticks,
    /// Why.
    pub(crate) reason: String,
}

/// One copy, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its id.
    pub(crate) id: CopyId,
    /// Where it was found last.
    pub(crate) path: PathBuf,
    /// Set while it does not have every change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<LeftOut>,
}

/// The copies of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    format: u32,
    /// The id of the store.
    pub(crate) store: CopyId,
    /// Greater with each change.
    pub(crate) number: u64,
    /// The copies, in the order in which they were added.
    pub(crate) copies: Vec<Member>,
    /// Which part this server plays, if the store is or was at two servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Standing>,
    /// Who decided the history of the store, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) eras: Vec<Era>,
}

/// The file of one copy.
#[derive(Serialize, Deserialize)]
struct File {
    /// The copy in whose folder it is.
    this: CopyId,
    #[serde(flatten)]
    members: Members,
}

impl Members {
    /// Of a store with one copy.
    pub(crate) fn new(store: [u8; 16], id: CopyId, path: &Path) -> Self {
        let first = Member { id, path: absolute(path), left_out: None };
        let store = CopyId(u128::from_be_bytes(store));
        Self {
            format: FORMAT,
            store,
            number: 1,
            copies: vec![first],
            standing: None,
            eras: Vec::new(),
        }
    }

    /// Says which part this server plays.
    pub(crate) const fn set_standing(&mut self, standing: Standing) {
        self.format = REPLICATED;
        self.standing = Some(standing);
    }

    /// Which part this server plays when the store is opened: a primary does not know whether it still is.
    pub(crate) fn standing_at_opening(&self) -> Standing {
        let mut standing = self.standing.unwrap_or_default();
        if standing.role == Role::Primary {
            standing.role = Role::Waiting;
        }
        standing
    }

    /// One copy.
    pub(crate) fn get(&self, id: CopyId) -> Option<&Member> {
        self.copies.iter().find(|member| member.id == id)
    }

    /// One copy, to change it.
    pub(crate) fn get_mut(&mut self, id: CopyId) -> Option<&mut Member> {
        self.copies.iter_mut().find(|member| member.id == id)
    }

    /// The copy that was found last at a path.
    pub(crate) fn at(&self, path: &Path) -> Option<&Member> {
        let path = absolute(path);
        self.copies.iter().find(|member| member.path == path)
    }

    /// The copies that have every change.
    pub(crate) fn whole(&self) -> impl Iterator<Item = &Member> {
        self.copies.iter().filter(|member| member.left_out.is_none())
    }

    /// Reads the file in a folder: which copy it is, and what it knows. `None` without a file.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<(CopyId, Self)>> {
        let path = folder.join(NAME);
        let bytes = match fs::metadata(&path) {
            Ok(known) if known.len() > MAX => return Err(damaged()),
            Ok(_) => fs::read(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        let (line, checksum) = text.trim_end().split_once('\n').ok_or_else(damaged)?;
        if checksum != format!("{:08x}", crc32c(line.as_bytes())) {
            return Err(damaged());
        }
        let File { this, members } = serde_json::from_str(line).map_err(|_| damaged())?;
        if !(FORMAT..=REPLICATED).contains(&members.format) {
            return Err(io::Error::other("another version made copies.json"));
        }
        Ok(Some((this, members)))
    }

    /// Writes the file in the folder of a copy, durably.
    pub(crate) fn write(&self, folder: &Path, this: CopyId) -> io::Result<()> {
        let file = File { this, members: self.clone() };
        let line = serde_json::to_string(&file).map_err(io::Error::other)?;
        let text = format!("{line}\n{:08x}\n", crc32c(line.as_bytes()));
        let (path, unfinished) = (folder.join(NAME), folder.join("copies.unfinished"));
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync_folder(folder)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "copies.json is damaged")
}

/// A path that means the same in every process.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let whole = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    whole.unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut members = Members::new([7; 16], CopyId(5), Path::new("/srv/a"));
        members.number = 3;
        let reason = "the journal cannot be written".to_owned();
        let left_out = LeftOut { since: 9, at: Ticks(17_000_000_000_000_000), reason };
        let path = PathBuf::from("/srv/b");
        members.copies.push(Member { id: CopyId(6), path, left_out: Some(left_out) });
        members.write(folder.path(), CopyId(5)).expect("writes");
        let written = fs::read(folder.path().join(NAME)).expect("reads");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/copies-v1.json");
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            fs::write(&golden, &written).expect("writes");
        }
        assert!(fs::read(&golden).expect("the golden file") == written);
    }

    #[test]
    fn the_file_of_a_server_of_two_is_what_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut members = Members::new([7; 16], CopyId(5), Path::new("/srv/a"));
        let server = crate::replication::ServerId::try_from("2a".to_owned()).expect("an id");
        let standing = Standing { role: Role::Primary, epoch: 3, server: Some(server) };
        members.set_standing(standing);
        members.eras = vec![Era { epoch: 3, server, first: 1000 }];
        members.write(folder.path(), CopyId(5)).expect("writes");
        let written = fs::read(folder.path().join(NAME)).expect("reads");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/copies-v2.json");
        if std::env::var_os("STRONGROOM_BLESS").is_some() {
            fs::write(&golden, &written).expect("writes");
        }
        assert!(fs::read(&golden).expect("the golden file") == written);
        let (_, read) = Members::read(folder.path()).expect("reads").expect("is there");
        assert_eq!(read.standing, Some(standing));
        assert_eq!(read.standing_at_opening().role, Role::Waiting);
    }

    #[test]
    fn a_file_says_what_was_written_and_damage_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Members::read(folder.path()).expect("is not there").is_none());
        let mut members = Members::new([7; 16], CopyId(5), folder.path());
        let left_out = LeftOut { since: 9, at: Ticks(17), reason: "the disk failed".to_owned() };
        let path = PathBuf::from("/srv/b");
        members.copies.push(Member { id: CopyId(6), path, left_out: Some(left_out) });
        members.write(folder.path(), CopyId(5)).expect("writes");
        let read = Members::read(folder.path()).expect("reads");
        assert_eq!(read, Some((CopyId(5), members)));
        let path = folder.path().join(NAME);
        let whole = fs::read(&path).expect("reads");
        for at in 0..whole.len() - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("writes");
            Members::read(folder.path()).expect_err("is damaged");
        }
    }
}
