//! Names of mainboards: finds the host's nearest one to a mainboard that it lacks.

use super::GuestArch;

/// A mainboard's family and version: `pc-q35-` and 7.2 for `pc-q35-7.2`.
fn split(name: &str) -> (&str, Vec<u32>) {
    let is_version = |character: char| character.is_ascii_digit() || character == '.';
    let family = name.trim_end_matches(is_version);
    let version = name.get(family.len()..).unwrap_or_default().split('.');
    // What ends in a letter, a distribution's name for example, has no version.
    (family, version.filter_map(|part| part.parse().ok()).collect())
}

/// The family as QEMU itself has it: distributions make `pc-q35-rhel9.2.0` and `pc-q35-jammy`.
fn root(name: &str) -> &str {
    let roots = ["pc-q35-", "pc-i440fx-", "virt-", "pseries-", "s390-ccw-virtio-"];
    roots.into_iter().find(|root| name.starts_with(root)).unwrap_or(name)
}

impl GuestArch {
    /// Whether the host has a mainboard of this name.
    pub fn has_machine(&self, name: &str) -> bool {
        self.machines.iter().any(|one| one.name == name || one.canonical.as_deref() == Some(name))
    }

    /// The mainboard that is most like `wanted`: the newest of its family that is not newer, else
    /// the oldest that is, else the newest of the same layout.
    pub fn nearest_machine(&self, wanted: &str) -> Option<&str> {
        let (family, version) = split(wanted);
        let same = |family_of: &str| {
            let names = self.machines.iter().map(|one| one.name.as_str());
            let mut found: Vec<(Vec<u32>, &str)> = names
                .filter(|name| split(name).0 == family_of)
                .map(|name| (split(name).1, name))
                .filter(|(version, _)| !version.is_empty())
                .collect();
            found.sort();
            found
        };
        let family_names = if version.is_empty() { Vec::new() } else { same(family) };
        let older = family_names.iter().rfind(|(other, _)| *other <= version);
        let found = older.or_else(|| family_names.first()).map(|(_, name)| *name);
        found.or_else(|| same(root(wanted)).last().map(|(_, name)| *name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirements::MachineType;

    #[test]
    fn the_nearest() {
        let names = [
            "pc-q35-2.12",
            "pc-q35-7.2",
            "pc-q35-6.2",
            "pc-q35-10.0",
            "pc-i440fx-7.2",
            "q35",
            "microvm",
        ];
        let machine = |name: &str| MachineType { name: name.to_owned(), canonical: None };
        let guest = GuestArch { machines: names.map(machine).to_vec(), ..GuestArch::default() };
        for (wanted, nearest) in [
            ("pc-q35-8.2", Some("pc-q35-7.2")),
            ("pc-q35-11.0", Some("pc-q35-10.0")),
            ("pc-q35-2.4", Some("pc-q35-2.12")),
            ("pc-i440fx-2.11", Some("pc-i440fx-7.2")),
            ("pc-q35-rhel9.2.0", Some("pc-q35-10.0")),
            ("pc-i440fx-jammy", Some("pc-i440fx-7.2")),
            ("virt-8.0", None),
            ("", None),
        ] {
            assert_eq!(guest.nearest_machine(wanted), nearest, "{wanted}");
        }
    }
}
