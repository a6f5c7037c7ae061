//! The catalog of error codes: what users and scripts may rely on.
//!
//! Every error of every crate names one [`Code`]. A code's name never changes its meaning and is
//! never used again for another. `docs/errors.md` is generated from this list.

use std::error::Error;

/// What the caller can do about an error; also decides the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The request is wrong; change it.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// Something else holds or already is what was asked for.
    Conflict,
    /// A store, disk or tool does not answer or has no room; try again later or make room.
    Unavailable,
    /// Stored bytes are not what was written.
    Corrupt,
    /// The work was done, but something was lost on the way and is listed.
    Incomplete,
    /// The key or the rights do not suffice.
    Denied,
    /// Stopped on request.
    Interrupted,
    /// A defect of this program.
    Bug,
}

impl Kind {
    /// The program's exit code for errors of this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Corrupt => 6,
            Self::Incomplete => 7,
            Self::Denied => 8,
            Self::Bug => 70,
            Self::Interrupted => 130,
        }
    }

    /// The kind's name in JSON output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Incomplete => "incomplete",
            Self::Denied => "denied",
            Self::Interrupted => "interrupted",
            Self::Bug => "bug",
        }
    }
}

/// One entry of the catalog.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable name, for scripts: `area.what`.
    pub name: &'static str,
    /// What the caller can do about it in general.
    pub kind: Kind,
    /// What has happened, in one sentence.
    pub meaning: &'static str,
    /// What to do about it, in one sentence.
    pub hint: &'static str,
}

/// An error that names its place in the catalog.
pub trait Coded: Error {
    /// The catalog entry.
    fn code(&self) -> &'static Code;
}

macro_rules! catalog {
    ($($konst:ident = $name:literal, $kind:ident, $meaning:literal, $hint:literal;)*) => {
        /// Every code by name.
        pub mod codes {
            use super::{Code, Kind};
            $(
                #[doc = $meaning]
                pub static $konst: Code = Code { name: $name, kind: Kind::$kind, meaning: $meaning, hint: $hint };
            )*
        }

        /// Every code there is, in the order of the documentation.
        pub static CATALOG: &[&Code] = &[$(&codes::$konst),*];
    };
}

catalog! {
    USAGE_INVALID = "usage.invalid", Invalid, "The command line cannot be understood or contradicts itself.", "See the command's --help.";
    CONFIG_INVALID = "config.invalid", Invalid, "The configuration file cannot be read or has an unknown or wrong entry.", "Correct the named line, or name another file with --config.";
    URL_INVALID = "url.invalid", Invalid, "A vault or disk URL is not of a form that Strongroom knows.", "Give a path, or a URL of a kind listed in the command's --help.";

    VAULT_NOT_GIVEN = "vault.not_given", Invalid, "No vault was given.", "Give --vault, or set STRONGROOM_VAULT or `vault` in the configuration file.";
    VAULT_NOT_FOUND = "vault.not_found", NotFound, "There is no vault at this place.", "Check the URL; `strongroom vault create` makes a new vault.";
    VAULT_EXISTS = "vault.exists", Conflict, "There already is a vault, or something else, at this place.", "Use the existing vault or choose an empty place.";
    VAULT_FORMAT = "vault.format", Invalid, "The vault is of a format version that this program does not know.", "Use the version of Strongroom that wrote it, or a newer one.";
    VAULT_STORE_UNSAFE = "vault.store_unsafe", Invalid, "The object store does not honour create-only puts, so two writers could overwrite each other.", "Use a store that honours If-None-Match, or create the vault with --single-writer and never write to it from two places.";
    VAULT_BUSY = "vault.busy", Conflict, "Another writer is active in a vault that allows only one.", "Wait for the other backup to finish.";

    KEY_MISSING = "key.missing", Denied, "No key was given.", "Give --key-file, --passphrase-file or --pkcs11, or set STRONGROOM_KEY_FILE.";
    KEY_WRONG = "key.wrong", Denied, "The key opens none of the vault's key slots.", "Check that it is the key of this vault; `strongroom vault key list` names the slots.";
    KEY_UNREADABLE = "key.unreadable", Invalid, "The key file or passphrase file cannot be read or is not usable.", "Check the path, its permissions and its content.";
    KEY_SLOT_NOT_FOUND = "key.slot_not_found", NotFound, "There is no such key slot.", "`strongroom vault key list` shows the slots.";
    KEY_LAST_SLOT = "key.last_slot", Conflict, "This is the only key slot; without it nobody could open the vault again.", "Add another key first.";
    KEY_LIMIT = "key.limit", Conflict, "The vault has as many key slots or master keys as it can have.", "Remove a key slot that is no longer needed first.";
    KEY_URI = "key.uri", Invalid, "The PKCS#11 URI is malformed, or has an attribute that is unknown or refused.", "Write it like `pkcs11:token=NAME;object=NAME?module-path=/PATH/MODULE.so&pin-source=/PATH/PIN`.";
    KEY_HSM = "key.hsm", Unavailable, "The PKCS#11 module or token refused or failed.", "Check the module path, token, PIN source and object named in the URI.";

    STORE_UNAVAILABLE = "store.unavailable", Unavailable, "The object store does not answer, or keeps failing.", "Check the network and the store, then run the command again: what is stored already is kept.";
    STORE_DENIED = "store.denied", Denied, "The object store refuses the access.", "Check the credentials and the rights on the bucket, container or folder.";
    STORE_FULL = "store.full", Unavailable, "The object store has no room left.", "Make room (`strongroom vault reclaim` frees what no recovery point needs), then run the command again.";
    STORE_READ_ONLY = "store.read_only", Unavailable, "The object store is read-only.", "Make it writable; reading commands work meanwhile.";
    STORE_MISSING = "store.missing", Corrupt, "An object that must exist is missing from the store.", "Run `strongroom vault verify --repair`; if a mirror has a copy it is restored from there.";
    STORE_CORRUPT = "store.corrupt", Corrupt, "An object's bytes are not what was written.", "Run `strongroom vault verify --repair`; if a mirror has a good copy it is restored from there.";
    INDEX_INCOMPLETE = "index.incomplete", Corrupt, "Something needed is in none of the packs that the index lists, and the vault has packs that it does not list.", "Run `strongroom vault rebuild-index`, then the command again: the index is made anew from the packs.";
    STORE_DEGRADED = "store.degraded", Unavailable, "A copy of the mirrored vault is missing or has failed, so nothing may be deleted.", "Bring the copy back (mount its disk), run `strongroom vault verify --repair`, then try again.";
    STORE_PROTOCOL = "store.protocol", Unavailable, "The object store answered in a way that makes no sense.", "Check that the URL points to the service it should.";

    ITEM_NOT_FOUND = "item.not_found", NotFound, "The vault has no recovery points of an item of this name.", "`strongroom recoverypoint list --vault URL` shows all items.";
    ITEM_NAME = "item.name", Invalid, "An item or disk name is empty, too long or has characters that are not allowed.", "Use 1 to 200 letters, digits, '.', '_' and '-', starting with a letter or digit.";
    POINT_NOT_FOUND = "point.not_found", NotFound, "The item has no such recovery point.", "`strongroom recoverypoint list` shows the item's recovery points.";
    POINT_NONE_BEFORE = "point.none_before", NotFound, "The item has no recovery point at or before the given time.", "`strongroom recoverypoint list` shows the oldest one.";
    POINT_DAMAGED = "point.damaged", Corrupt, "The manifest of a recovery point is damaged, so nothing is known of the point.", "Run `strongroom vault verify --repair`, which takes a good copy from a mirror; `strongroom recoverypoint list` shows the points that can be read, name one of them by its id.";
    POINT_LOCKED = "point.locked", Conflict, "The recovery point may not be deleted yet.", "Wait until the lock on the recovery point ends.";
    POINT_DISK_NOT_FOUND = "point.disk_not_found", NotFound, "The recovery point has no disk of this name.", "`strongroom recoverypoint show` lists its disks.";

    POINT_NO_MACHINE = "point.no_machine", Invalid, "The recovery point is not of a machine, or its configuration cannot be used.", "Restore its disks with `strongroom restore disks`.";

    BACKUP_EXPIRED = "backup.expired", Conflict, "The backup paused for so long that a reclaim stopped waiting for it.", "Run the backup again: what it has stored is reused where it still exists.";
    BACKUP_SOURCE_READ = "backup.source_read", Unavailable, "The source disk has a part that cannot be read.", "Repair or replace the disk; --skip-bad-blocks backs up the rest and records what was skipped.";
    BACKUP_SKIPPED = "backup.skipped", Incomplete, "The backup is complete but for parts of the source that could not be read; they are listed on the recovery point.", "Repair or replace the source disk soon.";
    BACKUP_CONFIGURATION_SIZE = "backup.configuration_size", Invalid, "The machine's configuration is larger than what a recovery point keeps of it.", "Look for what makes it so large, such as a firmware image among its variables.";
    RANGES_INVALID = "ranges.invalid", Invalid, "The changed-ranges file is malformed, overlaps itself or exceeds the disk.", "Each line is `disk offset length` in bytes, ascending and within the disk.";

    DISK_NOT_FOUND = "disk.not_found", NotFound, "The disk, file or export does not exist.", "Check the path or URL.";
    DISK_FORMAT = "disk.format", Invalid, "The disk image is damaged, hostile or of an unknown format.", "Name the format (raw:PATH, qcow2:PATH, ...) if it was guessed wrongly; check the image with `qemu-img check`.";
    DISK_UNSAFE = "disk.unsafe", Invalid, "The image refers to other files, which are only opened when asked for.", "If you trust the image, allow the folder of those files with --allow-backing DIR.";
    DISK_BUSY = "disk.busy", Conflict, "The disk is in use by another program.", "Stop what uses it (a running machine, a mount), or choose another target.";
    DISK_DENIED = "disk.denied", Denied, "The disk cannot be opened with this user's rights.", "Check the permissions of the file, device or export.";
    DISK_IO = "disk.io", Unavailable, "Reading from or writing to a disk failed.", "Check the disk and the system log, then run the command again.";
    DISK_FULL = "disk.full", Unavailable, "The target has no room left.", "Make room and run the same command again: it goes on where it stopped.";
    DISK_TOO_SMALL = "disk.too_small", Conflict, "The restore target is smaller than the disk.", "Choose a target of at least the disk's size.";
    DISK_NOT_EMPTY = "disk.not_empty", Conflict, "The restore target already holds data.", "Choose another target, or use --in-place to overwrite only what differs.";
    DISK_NBD = "disk.nbd", Unavailable, "The NBD server refused, failed or broke the protocol.", "Check the URL, the export's name and the server's log.";
    DISK_BITMAP = "disk.bitmap", Unavailable, "The disk has no dirty bitmap of this name, or the bitmap cannot be relied upon.", "Back the disk up without it: everything is read and compared.";
    DISK_TOOL = "disk.tool", Unavailable, "A program that this disk format needs is missing or failed.", "Install qemu-utils (qemu-nbd, qemu-img).";

    HOST_UNAVAILABLE = "host.unavailable", Unavailable, "libvirt does not answer.", "Check that libvirtd (or virtqemud) runs on the host and that --connect names it.";
    HOST_DENIED = "host.denied", Denied, "libvirt refuses the connection or the operation to this user.", "Run as root or as a member of the group libvirt, or name your own machines with --connect qemu:///session.";
    HOST_PROTOCOL = "host.protocol", Unavailable, "libvirt answered in a way that makes no sense.", "Check that --connect names libvirt's socket; please report the message with libvirt's version.";
    HOST_LACKS = "host.lacks", Conflict, "The host lacks something that the machine needs.", "Choose another host, or what replaces it: the message names it.";

    VM_NOT_FOUND = "vm.not_found", NotFound, "The host has no machine of this name.", "`strongroom vm list` shows the machines.";
    VM_DISK_NOT_FOUND = "vm.disk_not_found", NotFound, "The machine has no disk of this name.", "Name disks by target (vda), serial number or source; the message lists what there is.";
    VM_EXISTS = "vm.exists", Conflict, "The host already has a machine of this name or identity.", "Choose another --name, restore with --new-identity, or use --replace.";
    VM_STATE = "vm.state", Conflict, "The machine is not in a state in which this can be done.", "See the message; `strongroom vm list` shows the state.";
    VM_BUSY = "vm.busy", Conflict, "Another operation on the machine is in the way: a backup, snapshot, migration or block job.", "Wait until it has finished (`virsh domjobinfo`), then run the command again; it is never ended on its behalf.";
    VM_OPERATION = "vm.operation", Unavailable, "libvirt or QEMU failed to do what was asked.", "See the message and libvirt's log of the machine.";
    VM_UNSUPPORTED = "vm.unsupported", Invalid, "The machine has something that cannot be backed up or restored like this.", "`strongroom vm check` says what and what to do about it.";
    VM_AGENT = "vm.agent", Unavailable, "The guest agent is not there, does not answer, or refused.", "Install and start qemu-guest-agent in the guest and give the machine its channel; or accept --consistency crash.";
    VM_CONSISTENCY = "vm.consistency", Unavailable, "The consistency that was required could not be had.", "See the message for the step that failed; without --require the backup goes on with less and says so on the point.";
    VM_NOT_THAWED = "vm.not_thawed", Unavailable, "The guest's file systems may still be frozen.", "Run `virsh domfsthaw` for the machine until `virsh qemu-agent-command` with guest-fsfreeze-status says thawed.";
    VM_SCRIPT = "vm.script", Unavailable, "A pre or post script in the guest failed and the backup may not go on without it.", "See the message; set continueBackupOnFailure in the guest's configuration to go on nevertheless.";
    VM_SCRATCH = "vm.scratch", Unavailable, "The space for what the guest overwrites during the backup ran out, so the backup was ended before it could harm the guest.", "Give more with --scratch-limit, or another folder with --scratch-dir; or back up when less is written.";
    VM_CHANGED = "vm.changed", Conflict, "The machine changed during the backup (it was started, stopped, migrated or its disks were changed), and trying again did not help.", "Run the backup again.";
    VM_NOT_READY = "vm.not_ready", Conflict, "Machines cannot be backed up as they are.", "The check lists what is in the way, and what to do about it.";
    VM_OTHER_MANAGER = "vm.other_manager", Conflict, "Another manager owns the machine.", "Use that manager's own backup, or allow it with --allow-managed.";

    RESTORE_UNFINISHED = "restore.unfinished", Conflict, "An earlier restore of the machine has not come to its end.", "Run that restore again, and it goes on; or end it as the message says.";
    RESTORE_NOT_DEFINED = "restore.not_defined", Incomplete, "The disks are restored, but libvirt does not accept the machine's description.", "Correct what libvirt complains of: run the command again with other options, or change the description that the message names and give it to `virsh define`.";
    RESTORE_NOT_STARTED = "restore.not_started", Incomplete, "The machine is restored and known to libvirt, but it does not start.", "See the message and libvirt's log of the machine; start it with `virsh start` when the cause is gone.";

    RECLAIM_CONCURRENT = "reclaim.concurrent", Conflict, "Another reclaim worked on the vault at the same time; nothing was deleted by this one.", "Run it again when the other one has finished.";
    RECLAIM_WAITING = "reclaim.waiting", Incomplete, "Backups that started earlier are still running, so the condemned packs were kept for now.", "Run `strongroom vault reclaim` again when they have finished; it picks up where it stopped.";
    VERIFY_DAMAGED = "verify.damaged", Corrupt, "The vault has damaged or missing objects; they are listed.", "Run `strongroom vault verify --repair`; recovery points that need lost blocks are named.";

    CATALOG_URL = "catalog.url", Invalid, "The catalog's URL is not of a form that Strongroom knows.", "Give the path of a SQLite file, or postgres://USER@HOST/DATABASE.";
    CATALOG_UNAVAILABLE = "catalog.unavailable", Unavailable, "The catalog's database does not answer, fails, or has no room.", "Check the database server or the disk of the SQLite file, and its log; nothing is half done.";
    CATALOG_DENIED = "catalog.denied", Denied, "The catalog's database refuses the access.", "Check the user, password and rights on the database, or the permissions of the SQLite file and its folder.";
    CATALOG_IN_USE = "catalog.in_use", Conflict, "Another process serves from this catalog.", "Stop it first; several servers need a catalog in PostgreSQL.";
    CATALOG_CONFLICT = "catalog.conflict", Conflict, "Something of this name is there already, or it was changed meanwhile.", "Look at what is there now, then try again.";
    CATALOG_LEASE_LOST = "catalog.lease_lost", Conflict, "Another server has taken over this work.", "Nothing needs to be done: the other server goes on with it.";
    CATALOG_SCHEMA = "catalog.schema", Invalid, "The catalog was written by a newer version, or is not a catalog of this program.", "Use the version of Strongroom that wrote it, or a newer one.";
    CATALOG_QUERY = "catalog.query", Invalid, "A list was asked for in a way that makes no sense: a page of another list, an unknown field, a wrong limit.", "Begin again at the first page, and check the fields that are filtered and sorted by.";
    CATALOG_VALUE = "catalog.value", Invalid, "A name or value is too long for the catalog or has a character that cannot be kept.", "Shorten it, and leave out control characters.";
    CATALOG_NOT_EMPTY = "catalog.not_empty", Conflict, "The catalog that was to be filled from a copy holds something already.", "Name an empty place; a catalog is never overwritten.";
    CATALOG_CORRUPT = "catalog.corrupt", Corrupt, "The catalog holds something that was not written so.", "Keep the damaged files, and load the last good copy; see docs/catalog.md.";

    LOCAL_IO = "local.io", Unavailable, "A local file of Strongroom itself (cache, temporary or output file) cannot be read or written.", "Check the named path, its permissions and its free space.";
    INTERRUPTED = "interrupted", Interrupted, "The work was stopped on request.", "Run the command again to go on: what is stored already is reused.";
    BUG = "bug", Bug, "Strongroom has a defect.", "Please report it with the message and what you did.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<_> = CATALOG.iter().map(|code| code.name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOG.len());
        assert!(CATALOG.iter().all(|code| code.meaning.ends_with('.') && code.hint.ends_with('.')));
    }
}
