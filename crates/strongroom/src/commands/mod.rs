//! The commands, one file a group. Each command's doc comment is its help, its manual page and its
//! entry in docs/use/cli.md.

pub(crate) mod backup;
mod backup_blobs;
mod backup_vm;
pub(crate) mod blob;
pub(crate) mod container;
pub(crate) mod drill;
pub(crate) mod errors;
pub(crate) mod export;
mod forget;
pub(crate) mod guard;
pub(crate) mod module;
pub(crate) mod mount;
pub(crate) mod recover;
pub(crate) mod recoverypoint;
pub(crate) mod reference;
pub(crate) mod restore;
pub(crate) mod restore_files;
mod restore_vm;
pub(crate) mod serve;
mod served;
pub(crate) mod service;
pub(crate) mod storage;
pub(crate) mod storage_account;
pub(crate) mod vault;
pub(crate) mod vault_care;
pub(crate) mod vault_key;
pub(crate) mod verify;
pub(crate) mod vm;
