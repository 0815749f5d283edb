//! Rights that an operator keeps in this region.

use sqlx::PgConnection;

use super::{PgRights, signed, unsigned};
use crate::store::within;
use crate::types::Sku;

pub(super) const PINNED: &str = "SELECT units FROM pins WHERE sku = $1";

pub(super) const PIN: &str = "
INSERT INTO pins (sku, units) VALUES ($1, $2) ON CONFLICT (sku) DO UPDATE SET units = excluded.units";

pub(super) const UNPIN: &str = "DELETE FROM pins WHERE sku = $1";

/// How many units of a SKU stay here.
pub(super) async fn pinned(connection: &mut PgConnection, sku: &Sku) -> Result<u64, sqlx::Error> {
    let row = sqlx::query(PINNED).bind(sku.as_str()).fetch_optional(connection).await?;
    row.map_or(Ok(0), |row| unsigned(&row, "units"))
}

impl PgRights {
    pub(super) async fn pin_units(&self, sku: &Sku, units: u64) -> Result<(), sqlx::Error> {
        let query = if units == 0 {
            sqlx::query(UNPIN).bind(sku.as_str())
        } else {
            sqlx::query(PIN).bind(sku.as_str()).bind(signed(units))
        };
        self.store.rows(query).await.map(drop)
    }

    pub(super) async fn read_pinned(&self, sku: &Sku) -> Result<u64, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let units = within(self.store.deadline, pinned(&mut lease, sku)).await?;
        lease.keep();
        Ok(units)
    }
}
