//! Signs of ransomware in the names of files: what became of the names between two moments of a file system.
//!
//! Ransomware gives the files that it has encrypted one new extension, and leaves a note of the same name in each
//! folder. Both are counted here. Contents are not looked at.

use std::collections::BTreeMap;

use crate::tree::Kind;

/// Replaced files from which on an extension is a sign, and the folders in which they must lie.
const MIN_FILES: u64 = 50;
const MIN_FOLDERS: u64 = 3;
/// Folders with a new file of one name from which on the name is a sign.
const MIN_NOTES: u64 = 10;
/// A name or extension is new if there are that many times as many files with it as before.
const NEW: u64 = 10;
/// Longer extensions are none.
const EXTENSION_MAX: usize = 64;
/// Signs of each kind that are returned, the largest first.
const MOST: usize = 20;

/// What names say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Extensions that files have in place of others, the most files first.
    pub replaced: Vec<ReplacedFiles>,
    /// New files of one name, the most folders first.
    pub notes: Vec<SameName>,
}

impl Signs {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.notes.is_empty()
    }
}

/// Files that are gone, and files with a new extension in the same folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedFiles {
    /// The extension, without its dot.
    pub extension: Vec<u8>,
    /// The number of files.
    pub files: u64,
    /// The number of folders that they are in.
    pub folders: u64,
    /// The path of one of them.
    pub example: Vec<u8>,
}

/// New files of one name, in folders that were there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SameName {
    /// The name.
    pub name: Vec<u8>,
    /// The number of folders.
    pub folders: u64,
    /// The path of one of them.
    pub example: Vec<u8>,
}

/// Numbers of files, by folder.
type Counts<'a> = BTreeMap<&'a [u8], u64>;
/// What new files have in common, the numbers of the files that have it, and the path of one of them.
type Found<'a> = BTreeMap<&'a [u8], (Counts<'a>, &'a [u8])>;

/// A file that is new.
struct New<'a> {
    folder: &'a [u8],
    name: &'a [u8],
    path: &'a [u8],
}

/// What the names of two moments say: paths, and what is there.
pub fn signs<'a>(before: &BTreeMap<&'a [u8], Kind>, after: &BTreeMap<&'a [u8], Kind>) -> Signs {
    let files = |of: &BTreeMap<&'a [u8], Kind>| -> Vec<&'a [u8]> {
        of.iter().filter(|(_, kind)| **kind == Kind::File).map(|(path, _)| *path).collect()
    };
    let (old, new) = (files(before), files(after));
    // Which files are gone, by folder.
    let mut gone = Counts::new();
    for path in old.iter().filter(|path| !after.contains_key(**path)) {
        let count = gone.entry(split(path).0).or_default();
        *count = count.saturating_add(1);
    }
    let new: Vec<New<'a>> = new
        .into_iter()
        .filter(|path| !before.contains_key(path))
        .map(|path| {
            let (folder, name) = split(path);
            New { folder, name, path }
        })
        .collect();
    let replaced = replaced(&old, &new, &gone);
    // Files that lie in many folders have one new name in each when they are renamed.
    let is_replaced = |file: &New<'_>| {
        let extension = extension(file.name);
        replaced.iter().any(|sign| extension == Some(sign.extension.as_slice()))
    };
    let others: Vec<New<'a>> = new.into_iter().filter(|file| !is_replaced(file)).collect();
    Signs { notes: notes(before, &old, &others), replaced }
}

fn replaced(old: &[&[u8]], new: &[New<'_>], gone: &Counts<'_>) -> Vec<ReplacedFiles> {
    let mut known: BTreeMap<&[u8], u64> = BTreeMap::new();
    for path in old {
        if let Some(extension) = extension(split(path).1) {
            let count = known.entry(extension).or_default();
            *count = count.saturating_add(1);
        }
    }
    let mut found = Found::new();
    for file in new {
        if let Some(extension) = extension(file.name)
            && gone.contains_key(file.folder)
        {
            let (folders, _) = found.entry(extension).or_insert((Counts::new(), file.path));
            let count = folders.entry(file.folder).or_default();
            *count = count.saturating_add(1);
        }
    }
    let counted = found.into_iter().map(|(extension, (folders, example))| {
        let in_place = |(folder, count): (&&[u8], &u64)| *count.min(gone.get(folder).unwrap_or(&0));
        ReplacedFiles {
            extension: extension.to_vec(),
            files: folders.iter().map(in_place).fold(0, u64::saturating_add),
            folders: u64::try_from(folders.len()).unwrap_or(u64::MAX),
            example: example.to_vec(),
        }
    });
    let is_sign = |found: &ReplacedFiles| {
        let known = known.get(found.extension.as_slice()).copied().unwrap_or(0);
        found.files >= MIN_FILES
            && found.folders >= MIN_FOLDERS
            && known.saturating_mul(NEW) <= found.files
    };
    let mut signs: Vec<ReplacedFiles> = counted.filter(is_sign).collect();
    signs.sort_by(|a, b| (b.files, &a.extension).cmp(&(a.files, &b.extension)));
    signs.truncate(MOST);
    signs
}

fn notes(before: &BTreeMap<&[u8], Kind>, old: &[&[u8]], new: &[New<'_>]) -> Vec<SameName> {
    let folder_was_there = |folder: &[u8]| {
        let folder = if folder.is_empty() { b"/" } else { folder };
        before.get(folder) == Some(&Kind::Folder)
    };
    let mut found = Found::new();
    for file in new.iter().filter(|file| folder_was_there(file.folder)) {
        let (folders, _) = found.entry(file.name).or_insert((Counts::new(), file.path));
        folders.insert(file.folder, 1);
    }
    let mut known: BTreeMap<&[u8], u64> = BTreeMap::new();
    for name in old.iter().map(|path| split(path).1).filter(|name| found.contains_key(name)) {
        let count = known.entry(name).or_default();
        *count = count.saturating_add(1);
    }
    let counted = found.into_iter().map(|(name, (folders, example))| SameName {
        name: name.to_vec(),
        folders: u64::try_from(folders.len()).unwrap_or(u64::MAX),
        example: example.to_vec(),
    });
    let is_sign = |found: &SameName| {
        let known = known.get(found.name.as_slice()).copied().unwrap_or(0);
        found.folders >= MIN_NOTES && known.saturating_mul(NEW) <= found.folders
    };
    let mut signs: Vec<SameName> = counted.filter(is_sign).collect();
    signs.sort_by(|a, b| (b.folders, &a.name).cmp(&(a.folders, &b.name)));
    signs.truncate(MOST);
    signs
}

/// Folder and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) = path.split_at(at.unwrap_or(0));
    (folder, name.strip_prefix(b"/").unwrap_or(name))
}

/// What stands behind the last dot of a name, if something stands before it.
fn extension(name: &[u8]) -> Option<&[u8]> {
    let at = name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0)?;
    let extension = name.get(at.saturating_add(1)..)?;
    (1..=EXTENSION_MAX).contains(&extension.len()).then_some(extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Paths = Vec<(String, Kind)>;

    /// Folders with documents: `count` in each.
    fn documents(folders: usize, count: usize) -> Paths {
        let mut paths = vec![("/".to_owned(), Kind::Folder)];
        for folder in 0..folders {
            paths.push((format!("/home/{folder}"), Kind::Folder));
            for file in 0..count {
                paths.push((format!("/home/{folder}/letter {file}.docx"), Kind::File));
            }
        }
        paths
    }

    fn renamed(paths: &Paths, name: impl Fn(&str) -> String) -> Paths {
        let name = |(path, kind): &(String, Kind)| match kind {
            Kind::File => (name(path), *kind),
            _ => (path.clone(), *kind),
        };
        paths.iter().map(name).collect()
    }

    fn compare(before: &Paths, after: &Paths) -> Signs {
        fn of(paths: &Paths) -> BTreeMap<&[u8], Kind> {
            paths.iter().map(|(path, kind)| (path.as_bytes(), *kind)).collect()
        }
        signs(&of(before), &of(after))
    }

    #[test]
    fn one_new_extension_in_place_of_many_files_is_a_sign() {
        let before = documents(10, 20);
        let ways: [&dyn Fn(&str) -> String; 3] =
            [&|path| format!("{path}.lockbit"), &|path| path.replace("docx", "lockbit"), &|path| {
                let scrambled: String = path.chars().rev().filter(|c| *c != '/').collect();
                format!("{}/{scrambled}.lockbit", &path[..7])
            }];
        for way in ways {
            let found = compare(&before, &renamed(&before, way));
            let [sign] = &found.replaced[..] else { panic!("{found:?}") };
            assert_eq!(
                (sign.extension.as_slice(), sign.files, sign.folders),
                (&b"lockbit"[..], 200, 10)
            );
            assert!(found.notes.is_empty());
        }
    }

    #[test]
    fn a_note_in_many_folders_is_a_sign() {
        let before = documents(12, 3);
        let mut after = before.clone();
        after.extend((0..12).map(|n| (format!("/home/{n}/HOW_TO_DECRYPT.txt"), Kind::File)));
        let found = compare(&before, &after);
        let [sign] = &found.notes[..] else { panic!("{found:?}") };
        assert_eq!((sign.name.as_slice(), sign.folders), (&b"HOW_TO_DECRYPT.txt"[..], 12));
        assert_eq!(sign.example, b"/home/0/HOW_TO_DECRYPT.txt");
        assert!(found.replaced.is_empty());
        // The next one of a name that is everywhere.
        let more = (0..12).map(|n| (format!("/home/{n}/letter 3.docx"), Kind::File));
        let after = before.iter().cloned().chain(more).collect();
        let known = (0..12).map(|n| (format!("/old/{n}/letter 3.docx"), Kind::File));
        let before = before.iter().cloned().chain(known).collect();
        assert!(compare(&before, &after).is_empty());
    }

    #[test]
    fn what_people_and_programs_do_is_no_sign() {
        let before = documents(10, 20);
        // Everything deleted, everything new, nothing changed.
        assert!(compare(&before, &Vec::new()).is_empty());
        assert!(compare(&Vec::new(), &before).is_empty());
        assert!(compare(&before, &before).is_empty());
        // One folder's files get another extension.
        let one = renamed(&before, |path| {
            if path.starts_with("/home/3/") { path.replace("docx", "odt") } else { path.to_owned() }
        });
        assert!(compare(&before, &one).is_empty());
        // New folders with a file of one name in each: an installed program.
        let mut installed = before.clone();
        for n in 0..30 {
            installed.push((format!("/opt/app/{n}"), Kind::Folder));
            installed.push((format!("/opt/app/{n}/__init__.py"), Kind::File));
        }
        assert!(compare(&before, &installed).is_empty());
        // Logs are compressed, as every week.
        let logs = |from: u32| -> Paths {
            let names = (0..8).flat_map(|n| {
                (from..from + 20).map(move |log| (format!("/var/log/{n}/{log}.gz"), Kind::File))
            });
            names.collect()
        };
        assert!(compare(&logs(0), &logs(20)).is_empty());
    }

    #[test]
    fn names_are_whatever_bytes_they_are() {
        assert_eq!(extension(b".bashrc"), None);
        assert_eq!(extension(b"a."), None);
        assert_eq!(extension(b"a.\xff\n"), Some(&b"\xff\n"[..]));
        assert_eq!(split(b"/a"), (&b""[..], &b"a"[..]));
        assert_eq!(split(b""), (&b""[..], &b""[..]));
        assert_eq!(split(b"/a/b"), (&b"/a"[..], &b"b"[..]));
    }
}
