//! The throwaway PostgreSQL server and databases of the tests.

#[path = "../../tests/support/database.rs"]
pub mod database;
#[path = "../../tests/support/postgres.rs"]
pub mod postgres;
