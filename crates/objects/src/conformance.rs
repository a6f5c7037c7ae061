//! What every [`ObjectStore`] must do, as a suite that each implementation runs.
//!
//! A test tool: it writes below a prefix of its own and removes what it wrote.

use std::{collections::BTreeMap, fmt::Debug, ops::ControlFlow};

use strongroom_base::{AlignedBuf, ByteRange};

use crate::{
    probe::race,
    store::{Heal, Key, ObjectStore, Put, StoreError},
};

/// What a store did wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

type Checked = Result<(), Failure>;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(format!("unexpected error: {error}: {error:?}"))
    }
}

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Bytes of the largest object.
    pub large: usize,
    /// Objects in the list that must come out whole.
    pub listed: usize,
    /// Rounds of sixteen writers racing for one key.
    pub races: usize,
}

impl Default for Extent {
    fn default() -> Self {
        Self { large: 33 * 1024 * 1024, listed: 40, races: 3 }
    }
}

/// Runs the whole suite below `prefix` (segments ending in `/`), which must be unused.
pub fn check(store: &dyn ObjectStore, prefix: &str, extent: Extent) -> Checked {
    let suite = Suite { store, prefix, extent };
    suite.create_only()?;
    suite.lengths()?;
    suite.large_objects()?;
    suite.missing_objects()?;
    suite.races()?;
    suite.lists()?;
    suite.many_deletes()?;
    suite.heals_and_replaces()?;
    suite.same(&suite.keys("")?.len(), &0, "objects in a store that was cleaned up")
}

struct Suite<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'a str,
    extent: Extent,
}

impl Suite<'_> {
    fn key(&self, name: &str) -> Result<Key, Failure> {
        Key::new(format!("{}{name}", self.prefix)).map_err(|error| Failure(error.to_string()))
    }

    fn same<T: PartialEq<U> + Debug + ?Sized, U: Debug + ?Sized>(
        &self,
        have: &T,
        want: &U,
        what: &str,
    ) -> Checked {
        if have == want {
            return Ok(());
        }
        let (have, want) = (format!("{have:.300?}"), format!("{want:.300?}"));
        let cut = |text: &str| text.chars().take(300).collect::<String>();
        Err(Failure(format!("{}: {what}: {} is not {}", self.store.name(), cut(&have), cut(&want))))
    }

    fn holds(&self, condition: bool, what: &str) -> Checked {
        self.same(&condition, &true, what)
    }

    fn keys(&self, below: &str) -> Result<Vec<String>, Failure> {
        let mut keys = Vec::new();
        self.store.list(&format!("{}{below}", self.prefix), &mut |entry| {
            keys.push(entry.key.as_str().to_owned());
            ControlFlow::Continue(())
        })?;
        keys.sort_unstable();
        Ok(keys)
    }

    fn create_only(&self) -> Checked {
        let key = self.key("one/two/three.json")?;
        self.same(&self.store.put_new(&key, b"first")?, &Put::Created, "the first put")?;
        self.same(&self.store.get(&key, 5)?, b"first".as_slice(), "read after write")?;
        self.same(&self.store.put_new(&key, b"other")?, &Put::Exists, "the second put")?;
        self.same(&self.store.put_new(&key, b"")?, &Put::Exists, "a put of nothing over it")?;
        self.same(&self.store.get(&key, 100)?, b"first".as_slice(), "the object is untouched")?;
        self.store.delete(&key)?;
        self.store.delete(&key)?;
        self.same(&self.store.put_new(&key, b"again")?, &Put::Created, "a put after a delete")?;
        self.same(&self.store.get(&key, 100)?, b"again".as_slice(), "read after the third put")?;
        self.store.delete(&key)?;

        let void = self.key("void")?;
        self.same(&self.store.put_new(&void, b"")?, &Put::Created, "a put of nothing")?;
        self.same(&self.store.get(&void, 0)?, b"".as_slice(), "an object of nothing")?;
        self.same(&self.store.put_new(&void, b"late")?, &Put::Exists, "a put over nothing")?;
        self.same(&self.store.get(&void, 0)?, b"".as_slice(), "nothing is untouched")?;
        Ok(self.store.delete(&void)?)
    }

    fn lengths(&self) -> Checked {
        let key = self.key("ten")?;
        self.store.put_new(&key, b"0123456789")?;
        let part = |offset, len| self.store.get_range(&key, range(offset, len));
        self.same(&part(0, 10)?, b"0123456789".as_slice(), "all of it as a range")?;
        self.same(&part(3, 4)?, b"3456".as_slice(), "a range")?;
        self.same(&part(9, 1)?, b"9".as_slice(), "the last byte")?;
        self.same(&part(4, 0)?, b"".as_slice(), "an empty range")?;
        for (offset, len, need) in [(0, 11, 11), (10, 1, 11), (9, 2, 11), (50, 5, 55)] {
            match part(offset, len) {
                Err(StoreError::Length { have: 10, need: said, .. }) if said == need => {}
                other => {
                    self.same(&format!("{other:?}"), "a length error", "a range beyond the end")?;
                }
            }
        }
        match self.store.get(&key, 9) {
            Err(StoreError::Length { have: 10, need: 9, .. }) => {}
            other => self.same(&format!("{other:?}"), "a length error", "more than was allowed")?,
        }
        Ok(self.store.delete(&key)?)
    }

    /// Around the sizes where stores change their ways; from aligned and unaligned memory.
    fn large_objects(&self) -> Checked {
        let edge = 256 * 1024;
        let lens = [edge - 1, edge, edge + 1, 5 * 1024 * 1024 + 4096, self.extent.large];
        for (nth, len) in lens.into_iter().filter(|len| *len <= self.extent.large).enumerate() {
            let key = self.key(&format!("large/{nth}"))?;
            let body = noise(len);
            let put = if nth % 2 == 0 {
                self.store.put_new(&key, &body)?
            } else {
                let mut aligned = AlignedBuf::with_capacity(len);
                self.holds(aligned.append(&body), "room for the body")?;
                self.store.put_new(&key, &aligned)?
            };
            self.same(&put, &Put::Created, "a large put")?;
            let max_len = u64::try_from(len).unwrap_or(0);
            self.holds(self.store.get(&key, max_len)? == body, "a large object comes back")?;
            let quarter = len / 4;
            for (start, end) in
                [(0, len), (1, len), (quarter, 3 * quarter), (len - 10, len), (4095, 8193)]
            {
                let asked = ByteRange::between(to_u64(start), to_u64(end));
                let part = self.store.get_range(&key, asked)?;
                let equal = Some(part.as_slice()) == body.get(start..end);
                self.holds(equal, &format!("{asked} of {len}"))?;
            }
            self.store.delete(&key)?;
        }
        Ok(())
    }

    fn missing_objects(&self) -> Checked {
        let present = self.key("dir/file")?;
        self.store.put_new(&present, b"x")?;
        // A name above an object, a name below an object, and one of nothing.
        for name in ["dir", "dir/other", "nothing/at/all"] {
            let key = self.key(name)?;
            for got in [self.store.get(&key, 10), self.store.get_range(&key, range(0, 1))] {
                let missing =
                    matches!(&got, Err(StoreError::Missing { key: said, .. }) if *said == key);
                // A file system cannot hold both `dir` and `dir/file`, and no vault asks it to.
                let directory = name == "dir" && got.is_err();
                self.holds(missing || directory, &format!("{name} is missing, not {got:?}"))?;
            }
        }
        Ok(self.store.delete(&present)?)
    }

    fn races(&self) -> Checked {
        for round in 0..self.extent.races {
            let key = self.key(&format!("race/{round}"))?;
            let results = race(self.store, &key, 16)?;
            let winners: Vec<_> = results
                .iter()
                .filter(|(_, put)| *put == Put::Created)
                .map(|(body, _)| body)
                .collect();
            self.same(&winners.len(), &1, "of sixteen writers one wins")?;
            let stored = self.store.get(&key, 1 << 20)?;
            self.holds(winners.first() == Some(&&stored), "the winner's bytes are stored")?;
            self.store.delete(&key)?;
        }
        Ok(())
    }

    fn lists(&self) -> Checked {
        let mut want = BTreeMap::new();
        let directories = ["list/a/x", "list/b", "list/c/d/e"];
        for (nth, name) in (0..self.extent.listed).zip(directories.iter().cycle()) {
            let key = self.key(&format!("{name}/{nth}"))?;
            self.store.put_new(&key, &vec![1; nth])?;
            want.insert(key.as_str().to_owned(), to_u64(nth));
        }
        // Keys that only share the first letters.
        let near = [self.key("list-more")?, self.key("listing/x")?];
        for key in &near {
            self.store.put_new(key, b"near")?;
        }
        let mut have = BTreeMap::new();
        let mut twice = false;
        self.store.list(&format!("{}list/", self.prefix), &mut |entry| {
            twice |= have.insert(entry.key.as_str().to_owned(), entry.size).is_some();
            ControlFlow::Continue(())
        })?;
        self.holds(!twice, "each object is listed once")?;
        self.same(&have, &want, "the list")?;
        self.same(
            &self.keys("list/b/")?.len(),
            &want.keys().filter(|k| k.contains("/b/")).count(),
            "a part",
        )?;
        self.same(&self.keys("list/nothing/")?.len(), &0, "a prefix of nothing")?;
        self.parts(&want)?;
        let mut seen = 0;
        self.store.list(self.prefix, &mut |_| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        self.same(&seen, &3, "a list that was broken off")?;
        let refused = self.store.list("no/slash", &mut |_| ControlFlow::Continue(()));
        self.holds(refused.is_err(), "a prefix without its slash is refused")?;
        for key in want.keys() {
            let key = Key::new(key.clone()).map_err(|error| Failure(error.to_string()))?;
            self.store.delete(&key)?;
        }
        for key in &near {
            self.store.delete(key)?;
        }
        self.same(&self.keys("list/")?.len(), &0, "a list after deletes")
    }

    /// Lists in parts: what one does not show the next one does.
    fn parts(&self, all: &BTreeMap<String, u64>) -> Checked {
        let cut = |name: &str| self.key(name);
        let (first, second, third) =
            (cut("list/a/x/3")?, cut("list/b/1-not-there")?, cut("list/c/d/e/2")?);
        let bounds = [
            (None, Some(&first)),
            (Some(&first), Some(&second)),
            (Some(&second), Some(&third)),
            (Some(&third), None),
        ];
        let mut have = Vec::new();
        for (after, until) in bounds {
            let mut part = Vec::new();
            self.store.list_between(
                &format!("{}list/", self.prefix),
                after,
                until,
                &mut |entry| {
                    part.push(entry.key);
                    ControlFlow::Continue(())
                },
            )?;
            let within = |key: &Key| {
                after.is_none_or(|after| key > after) && until.is_none_or(|until| key <= until)
            };
            self.holds(part.iter().all(within), "a part has its own objects only")?;
            have.extend(part.into_iter().map(|key| key.as_str().to_owned()));
        }
        have.sort_unstable();
        self.same(&have, &all.keys().cloned().collect::<Vec<_>>(), "all parts together")
    }

    fn many_deletes(&self) -> Checked {
        let name = |nth: usize| self.key(&format!("many/{nth}"));
        let keys = (0..self.extent.listed).map(name).collect::<Result<Vec<_>, _>>()?;
        for key in keys.iter().skip(1) {
            self.store.put_new(key, b"x")?;
        }
        let stays = self.key("many/stays")?;
        self.store.put_new(&stays, b"x")?;
        // The first is not there, which is no failure.
        self.store.delete_all(&keys)?;
        self.same(&self.keys("many/")?, &vec![stays.as_str().to_owned()], "what was not named")?;
        self.store.delete_all(&[])?;
        self.store.delete_all(std::slice::from_ref(&stays))?;
        self.same(&self.keys("many/")?.len(), &0, "a list after all deletes")
    }

    fn heals_and_replaces(&self) -> Checked {
        let key = self.key("heal/it")?;
        let good = |body: &[u8]| body == b"good";
        self.same(&self.store.heal(&key, &good)?, &Heal::Lost, "healing what is missing")?;
        self.store.put_new(&key, b"evil")?;
        self.same(&self.store.heal(&key, &good)?, &Heal::Lost, "healing what is bad")?;
        self.store.replace(&key, b"good")?;
        self.same(&self.store.heal(&key, &good)?, &Heal::Healthy, "healing what is good")?;
        self.same(&self.store.get(&key, 9)?, b"good".as_slice(), "the replaced object")?;
        self.store.delete(&key)?;
        self.store.replace(&key, b"new")?;
        self.same(&self.store.get(&key, 9)?, b"new".as_slice(), "a replacement of nothing")?;
        Ok(self.store.delete(&key)?)
    }
}

/// Bytes without a pattern, the same for the same length.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&to_u64(len).to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::between(offset, offset.saturating_add(len))
}
