//! Leases: they decide which of several servers does a task.
//!
//! A lease has one holder until it expires by the database's time, and an epoch that grows with
//! every holder. A holder passes its epoch on with its work, or checks the lease in the transaction
//! that records the work ([`Tx::check_lease`]): a holder that was asleep while its lease expired
//! then changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Catalog, Error, ReadTx, Result, Tx,
    kind::Dialect,
    sql::{Begin, Statement},
    value::text_fault,
};

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it: a name that no other process has, nor an earlier one of the same server.
    pub owner: String,
    /// Greater than that of every earlier holder.
    pub epoch: u64,
    /// When it ends, in milliseconds since 1970 by the database's time.
    pub expires: i64,
}

impl ReadTx {
    /// Milliseconds since 1970: PostgreSQL's time, which several servers share, or the clock's.
    async fn database_time(&mut self) -> Result<i64> {
        if self.session.dialect() == Dialect::Sqlite {
            return Ok(self.clock.now().as_millisecond());
        }
        let sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        let row = self.session.first(Statement::new(sql)).await?;
        row.map_or_else(|| Err(Error::corrupt("there is no time", None)), |row| row.integer(0))
    }

    /// Who has held a lease last, and whether it has not expired.
    pub async fn lease(&mut self, name: &str) -> Result<Option<(Lease, bool)>> {
        let now = self.database_time().await?;
        let sql = "SELECT owner, epoch, expires FROM catalog_leases WHERE name = $1";
        let row = self.session.first(Statement::with(sql, vec![name.into()])).await?;
        let Some(row) = row else { return Ok(None) };
        let lease = Lease {
            name: name.to_owned(),
            owner: row.text(0)?.to_owned(),
            epoch: row.count(1)?,
            expires: row.integer(2)?,
        };
        let held = lease.expires > now;
        Ok(Some((lease, held)))
    }
}

impl Tx {
    /// Takes a lease for some time, unless anybody holds it, even the same owner.
    pub async fn acquire_lease(
        &mut self,
        name: &str,
        owner: &str,
        time: Duration,
    ) -> Result<Option<Lease>> {
        for (what, text) in [("the name", name), ("the owner", owner)] {
            if let Some(reason) = text_fault(text) {
                return Err(Error::Value { kind: "a lease", what: what.to_owned(), reason });
            }
        }
        let epoch = match self.lease(name).await? {
            Some((_, true)) => return Ok(None),
            Some((earlier, false)) => earlier.epoch.saturating_add(1),
            None => 1,
        };
        let expires = self.after(time).await?;
        let lease = Lease { name: name.to_owned(), owner: owner.to_owned(), epoch, expires };
        let mut sql =
            Statement::new("INSERT INTO catalog_leases (name, owner, epoch, expires) VALUES (");
        sql.bind(name)
            .push(", ")
            .bind(owner)
            .push(", ")
            .bind(signed(epoch))
            .push(", ")
            .bind(expires);
        sql.push(
            ") ON CONFLICT (name) DO UPDATE SET \
             owner = excluded.owner, epoch = excluded.epoch, expires = excluded.expires",
        );
        self.session.execute(sql).await?;
        Ok(Some(lease))
    }

    /// Holds a lease for some more time from now. [`Error::LeaseLost`] if it has another holder;
    /// one that has merely expired is held again.
    pub async fn renew_lease(&mut self, lease: &Lease, time: Duration) -> Result<Lease> {
        let expires = self.after(time).await?;
        self.set_expiry(lease, expires).await?;
        Ok(Lease { expires, ..lease.clone() })
    }

    /// Ends a lease. [`Error::LeaseLost`] if it has another holder.
    pub async fn release_lease(&mut self, lease: &Lease) -> Result<()> {
        self.set_expiry(lease, 0).await
    }

    /// [`Error::LeaseLost`] unless the lease is held and has not expired. What the transaction
    /// changes is then changed under the lease.
    pub async fn check_lease(&mut self, lease: &Lease) -> Result<()> {
        match self.lease(&lease.name).await? {
            Some((found, true)) if found.owner == lease.owner && found.epoch == lease.epoch => {
                Ok(())
            }
            _ => Err(Error::LeaseLost { name: lease.name.clone() }),
        }
    }

    async fn after(&mut self, time: Duration) -> Result<i64> {
        let now = self.database_time().await?;
        Ok(now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }

    async fn set_expiry(&mut self, lease: &Lease, expires: i64) -> Result<()> {
        let mut sql = Statement::new("UPDATE catalog_leases SET expires = ");
        sql.bind(expires).push(" WHERE name = ").bind(lease.name.as_str());
        sql.push(" AND owner = ").bind(lease.owner.as_str());
        sql.push(" AND epoch = ").bind(signed(lease.epoch));
        match self.session.execute(sql).await? {
            1 => Ok(()),
            _ => Err(Error::LeaseLost { name: lease.name.clone() }),
        }
    }
}

impl Catalog {
    /// Takes a lease; see [`Tx::acquire_lease`].
    pub async fn acquire_lease(
        &self,
        name: &str,
        owner: &str,
        time: Duration,
    ) -> Result<Option<Lease>> {
        let mut tx = self.write().await?;
        let lease = tx.acquire_lease(name, owner, time).await?;
        tx.commit().await?;
        Ok(lease)
    }

    /// Holds a lease longer; see [`Tx::renew_lease`].
    pub async fn renew_lease(&self, lease: &Lease, time: Duration) -> Result<Lease> {
        let mut tx = self.write().await?;
        let lease = tx.renew_lease(lease, time).await?;
        tx.commit().await?;
        Ok(lease)
    }

    /// Ends a lease; see [`Tx::release_lease`].
    pub async fn release_lease(&self, lease: &Lease) -> Result<()> {
        let mut tx = self.write().await?;
        tx.release_lease(lease).await?;
        tx.commit().await
    }

    /// Ends all leases; their epochs continue.
    pub(crate) async fn end_leases(&self) -> Result<()> {
        let mut session = self.begin(Begin::Write).await?;
        session.run("UPDATE catalog_leases SET expires = 0 WHERE expires <> 0").await?;
        session.commit().await
    }
}

/// An epoch as it is kept; one that cannot be is none that exists.
fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(-1)
}
