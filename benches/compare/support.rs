//! The tests' own server and databases, which the comparison starts too.

#[path = "../../tests/support/database.rs"]
pub mod database;
#[path = "../../tests/support/postgres.rs"]
pub mod postgres;
