//! The hands of the service: carries out what [`strongroom_orders`] says, on this machine.
//!
//! [`LocalAgent`] works on the machines and disks of this host, [`LocalKeeper`] on vaults that it reaches,
//! with the same libraries as the command line; they share the [`Vaults`] that they have open. [`LocalPointFiles`]
//! reads files of recovery points, each time by a process that has nothing else.
//! [`LocalAgents`] gives a service the agents of hosts whose libvirt is on this machine. [`Allowed`] is what
//! the operator lets others name. Nothing here knows why an order is given or when.

mod accounts;
mod agents;
mod allowed;
mod error;
mod facts;
mod local;
mod local_keeper;
mod point_files;
mod vaults;
mod verify;

pub use accounts::ServedAccounts;
pub use agents::{Folders, LocalAgents, ThisHost};
pub use allowed::Allowed;
pub use local::{LocalAgent, LocalHost, boot::damaged as boot_damage};
pub use local_keeper::LocalKeeper;
pub use point_files::LocalPointFiles;
pub use strongroom_disk::Within;
pub use strongroom_files::ReaderCommand;
pub use strongroom_keys::ModuleCommand;
pub use strongroom_vault::place::covers;
pub use vaults::{Tokens, Vaults};
