//! Remembers which packs a verify has found good, so that an interrupted one can be resumed.
//!
//! A text file in the vault's cache folder: a line that says which verify it is, then the name of
//! a pack a line. Losing it costs only time. A last line that was cut off is not taken for a pack.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use strongroom_base::{Clock, PackId};

use strongroom_vault::{VaultError, audit::make_anew};

use crate::Result;

/// How long what was verified may stay in memory only.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// The file of one verify.
pub(super) struct Done {
    path: PathBuf,
    file: BufWriter<File>,
    flushed: Duration,
    /// When the first of the resumed runs began.
    pub(super) began: Option<Timestamp>,
    /// The packs that were found good then.
    pub(super) packs: HashSet<PackId>,
}

impl Done {
    /// Opens the file of this kind of verify, to begin or to continue.
    pub(super) fn open(
        dir: &Path,
        mode: &str,
        copies: &[String],
        resume: bool,
        clock: &dyn Clock,
    ) -> Result<Self> {
        let path = dir.join(format!("verify-{mode}"));
        let open = || {
            fs::create_dir_all(dir)?;
            let earlier = if resume { read(&path, copies)? } else { None };
            let (began, packs) = earlier.unzip();
            let packs: HashSet<PackId> = packs.unwrap_or_default();
            // Written again in one step, so that nothing is appended to a cut-off last line.
            let new = path.with_extension("new");
            let mut file = BufWriter::new(make_anew(&new)?);
            writeln!(file, "{}", head(began.unwrap_or_else(|| clock.now()), copies))?;
            for pack in &packs {
                writeln!(file, "{pack}")?;
            }
            file.flush()?;
            fs::rename(&new, &path)?;
            Ok(Self { path: path.clone(), file, flushed: clock.monotonic(), began, packs })
        };
        open().map_err(|source: io::Error| VaultError::Local { path: path.clone(), source })
    }

    /// A pack was found good.
    pub(super) fn add(&mut self, pack: &PackId, clock: &dyn Clock) -> Result<()> {
        let mut add = || {
            writeln!(self.file, "{pack}")?;
            let now = clock.monotonic();
            if now.saturating_sub(self.flushed) >= FLUSH_EVERY {
                self.flushed = now;
                self.file.flush()?;
            }
            Ok(())
        };
        let added: io::Result<()> = add();
        added.map_err(|source| VaultError::Local { path: self.path.clone(), source })
    }

    /// The verify was interrupted: keeps what is known.
    pub(super) fn keep(mut self) -> Result<()> {
        self.file.flush().map_err(|source| VaultError::Local { path: self.path.clone(), source })
    }

    /// The verify has come to its end: there is nothing to resume.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path)
            .map_err(|source| VaultError::Local { path: self.path.clone(), source })
    }
}

/// The first line. The copies are part of it: a pack counts as verified only if all were read.
fn head(began: Timestamp, copies: &[String]) -> String {
    let copies = blake3::hash(copies.join("\n").as_bytes());
    format!("strongroom verify 1 {began} {copies}")
}

fn read(path: &Path, copies: &[String]) -> io::Result<Option<(Timestamp, HashSet<PackId>)>> {
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut line = String::new();
    file.read_line(&mut line)?;
    let began = line.split(' ').nth(3).and_then(|time| time.parse::<Timestamp>().ok());
    let Some(began) = began.filter(|began| head(*began, copies) == line.trim_end()) else {
        return Ok(None);
    };
    let packs = file.lines().map_while(io::Result::ok).filter_map(|line| line.parse().ok());
    Ok(Some((began, packs.collect())))
}
