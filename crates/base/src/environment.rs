//! What a program was started with: the variables of its environment.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::OnceLock,
};

static GIVEN: OnceLock<Environment> = OnceLock::new();

/// The variables that a program was started with.
///
/// Only a program reads them, once, at its start, and gives them to the crates that it uses. Without
/// that there are none: nothing else in the process decides what is opened or started.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

/// Shows no values: some are secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// These variables.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// Gives it to all crates of this process. The first that is given stays.
    pub fn give(self) {
        // A process is started once.
        let _given = GIVEN.set(self).is_ok();
    }

    /// What the program has given; empty if it has given nothing.
    pub fn given() -> &'static Self {
        GIVEN.get_or_init(Self::default)
    }

    /// Where programs that are started are looked for, as a variable of theirs.
    pub fn path(&self) -> Option<(&'static str, &OsStr)> {
        self.0.get(OsStr::new("PATH")).map(|path| ("PATH", path.as_os_str()))
    }

    /// The folder for temporary files: `TMPDIR`, and `/tmp` without it.
    pub fn temporary_folder(&self) -> PathBuf {
        let named = self.0.get(OsStr::new("TMPDIR")).filter(|folder| !folder.is_empty());
        named.map_or_else(|| Path::new("/tmp").to_owned(), PathBuf::from)
    }

    /// What configures access to clouds, by the usual names: `AWS_...`, `AZURE_...`, `GOOGLE_...`.
    pub fn clouds(&self) -> Vec<(String, String)> {
        let is_cloud = |name: &str| {
            ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|cloud| name.starts_with(cloud))
                || name == "IDENTITY_ENDPOINT"
        };
        let text = |(name, value): (&OsString, &OsString)| {
            Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
        };
        self.0.iter().filter_map(text).filter(|(name, _)| is_cloud(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_have_their_own_variables() {
        let variables = [
            ("PATH", "/bin"),
            ("TMPDIR", "/scratch"),
            ("AWS_REGION", "eu"),
            ("IDENTITY_ENDPOINT", "http://x"),
            ("MY_AWS_KEY", "no"),
        ];
        let given = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::new(given);
        let clouds = environment.clouds();
        let names: Vec<_> = clouds.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["AWS_REGION", "IDENTITY_ENDPOINT"]);
        assert_eq!(environment.path(), Some(("PATH", OsStr::new("/bin"))));
        assert_eq!(environment.temporary_folder(), Path::new("/scratch"));
        assert_eq!(Environment::default().path(), None);
        assert_eq!(Environment::default().temporary_folder(), Path::new("/tmp"));
        assert!(!format!("{environment:?}").contains("eu"));
    }
}
