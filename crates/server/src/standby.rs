//! One server at a time works with a catalog.
//!
//! A SQLite file has a lock. In PostgreSQL it is the lease `server`: who holds it serves, and all that
//! control changes is changed under it ([`Control::fence`]). A further server stands by until the
//! lease is free; one that has lost it stops.

use std::{fs, path::Path, sync::Arc, time::Duration};

use strongroom_base::{Cancel, Entropy, EntropyExt as _};
use strongroom_catalog::{Catalog, Error, Lease};
use strongroom_control::Control;

use crate::error::ServerError;

/// The lease.
const NAME: &str = "server";

/// How long it is held without being renewed.
const TIME: Duration = Duration::from_secs(30);

/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);

/// How long after it was renewed last its holder counts on it.
const SURE: Duration = Duration::from_secs(25);

/// How often a server that stands by looks whether it is free.
const LOOK: Duration = Duration::from_secs(1);

/// Who the server of a folder is: its host's name, and what is drawn once for the folder.
pub(crate) fn identity(
    data_dir: &Path,
    host: &str,
    entropy: &dyn Entropy,
) -> Result<String, ServerError> {
    let path = data_dir.join("server-id");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let known = known.trim();
    let is_one = known.len() == 16 && known.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = if is_one { known.to_owned() } else { random(entropy) };
    if !is_one {
        fs::write(&path, format!("{id}\n")).map_err(ServerError::local("write", &path))?;
    }
    let host: String = host.chars().filter(|c| !c.is_control() && *c != '/').take(200).collect();
    Ok(format!("{host}/{id}"))
}

fn random(entropy: &dyn Entropy) -> String {
    format!("{:016x}", u64::from_be_bytes(entropy.array()))
}

/// Takes the lease if it is free, or was that of an earlier process of the same server: its folder's
/// lock is ours, so it is gone. Else, who holds it.
pub(crate) async fn try_take(
    catalog: &Catalog,
    id: &str,
    entropy: &dyn Entropy,
) -> Result<Result<Lease, String>, Error> {
    let is_ours = |lease: &Lease| lease.owner.rsplit_once('/').is_some_and(|(of, _)| of == id);
    let held = catalog.read().await?.lease(NAME).await?;
    if let Some((lease, true)) = held
        && !is_ours(&lease)
    {
        return Ok(Err(lease.owner));
    }
    let mut tx = catalog.write().await?;
    if let Some((lease, true)) = tx.lease(NAME).await?
        && is_ours(&lease)
    {
        tx.release_lease(&lease).await?;
    }
    let owner = format!("{id}/{}", random(entropy));
    let taken = tx.acquire_lease(NAME, &owner, TIME).await?;
    tx.commit().await?;
    Ok(taken.ok_or_else(|| "another server".to_owned()))
}

/// Stands by until the lease is free; none if the server is to stop meanwhile. `waits` gets the
/// first holder.
pub(crate) async fn take(
    catalog: &Catalog,
    (id, entropy): (&str, &dyn Entropy),
    stop: &Cancel,
    waits: impl Fn(&str),
) -> Result<Option<Lease>, ServerError> {
    let mut announced = false;
    loop {
        match try_take(catalog, id, entropy).await? {
            Ok(lease) => return Ok(Some(lease)),
            Err(holder) if !announced => {
                announced = true;
                waits(holder.rsplit_once('/').map_or(&*holder, |(server, _)| server));
            }
            Err(_) => {}
        }
        if tokio::time::timeout(LOOK, stop.cancelled()).await.is_ok() {
            return Ok(None);
        }
    }
}

/// Holds the lease until it is lost, and says so.
pub(crate) async fn keep(control: Arc<Control>, lease: Lease) -> Error {
    let (catalog, clock) = (control.catalog(), control.clock());
    let mut renewed = clock.monotonic();
    loop {
        tokio::time::sleep(RENEW).await;
        let before = clock.monotonic();
        match catalog.renew_lease(&lease, TIME).await {
            Ok(_) => renewed = before,
            Err(error @ Error::LeaseLost { .. }) => return error,
            Err(error) => tracing::error!(%error, "the lease of the catalog cannot be renewed"),
        }
        if clock.monotonic().saturating_sub(renewed) > SURE {
            return Error::LeaseLost { name: NAME.to_owned() };
        }
    }
}
