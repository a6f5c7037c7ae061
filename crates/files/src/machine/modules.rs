//! The modules of a kernel: which there are, and which others each needs.

use std::collections::{BTreeMap, BTreeSet};

/// What `modules.dep` says: paths in the folder of modules.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// By name: the path, and the paths of those that it needs.
    known: BTreeMap<String, (String, Vec<String>)>,
}

/// The name of a module: that of its file, in which `-` and `_` are the same.
pub(super) fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    (!name.is_empty()).then(|| name.replace('-', "_"))
}

impl Modules {
    /// Reads `modules.dep`: a line for each module, with those that it needs after a colon.
    pub(super) fn parse(text: &str) -> Self {
        let mut known = BTreeMap::new();
        for line in text.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let Some(name) = name_of(path.trim()) else { continue };
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            known.insert(name, (path.trim().to_owned(), needs));
        }
        Self { known }
    }

    /// The paths of a module and all that it needs, in the order in which they are loaded; none if there is no such
    /// module, as it is a part of the kernel or of none.
    pub(super) fn order(&self, name: &str) -> Vec<String> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        self.visit(name, &mut seen, &mut order);
        order
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        let name = name.replace('-', "_");
        let Some((path, needs)) = self.known.get(&name) else { return };
        if !seen.insert(name) {
            return;
        }
        for need in needs.iter().filter_map(|need| name_of(need)) {
            self.visit(&need, seen, order);
        }
        order.push(path.clone());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEP: &str = "\
kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/drivers/md/raid456.ko.xz: kernel/crypto/async-tx.ko.xz kernel/drivers/md/md-mod.ko.xz kernel/lib/libcrc32c.ko
kernel/crypto/async-tx.ko.xz: kernel/drivers/md/md-mod.ko.xz
kernel/drivers/md/md-mod.ko.xz:
";

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let modules = Modules::parse(DEP);
        assert_eq!(modules.order("xfs"), ["kernel/lib/libcrc32c.ko", "kernel/fs/xfs/xfs.ko"]);
        let all = [
            "kernel/drivers/md/md-mod.ko.xz",
            "kernel/crypto/async-tx.ko.xz",
            "kernel/lib/libcrc32c.ko",
            "kernel/drivers/md/raid456.ko.xz",
        ];
        assert_eq!(modules.order("raid456"), all);
        // Both spellings, and one that is a part of the kernel.
        assert_eq!(modules.order("md_mod"), modules.order("md-mod"));
        assert!(modules.order("ext4").is_empty());
    }

    proptest! {
        /// Whatever the file has: each path comes once, and reading it ends, also with modules that need each other.
        #[test]
        fn any_text_has_an_order(lines in prop::collection::vec(("[a-d]", "[a-d ]{0,6}"), 0..12), other in ".{0,40}") {
            let ko = |word: &str| format!("k/{word}.ko");
            let line = |(name, needs): &(String, String)| {
                let needs: Vec<String> =
                    needs.split(' ').filter(|it| !it.is_empty()).map(ko).collect();
                format!("{}: {}\n", ko(name), needs.join(" "))
            };
            let text: String = lines.iter().map(line).chain([other]).collect();
            let modules = Modules::parse(&text);
            for name in ["a", "b", "c", "d"] {
                let order = modules.order(name);
                let once: BTreeSet<&String> = order.iter().collect();
                prop_assert_eq!(once.len(), order.len());
                let is_known = lines.iter().any(|(known, _)| known == name);
                prop_assert_eq!(order.last().cloned(), is_known.then(|| ko(name)));
            }
        }
    }
}
