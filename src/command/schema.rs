//! `token_service schema`: prints the SQL that creates the table of receipts, for psql or sqlite3.

use crate::config::SchemaSettings;

/// Returns the SQL.
pub fn schema(settings: &SchemaSettings) -> String {
    settings.ddl.to_sql()
}
