//! SQL statements of the comparison.

/// Inserts a token that the server generates: 22 characters of URL-safe base64 without a `-`.
macro_rules! insert_generated_token {
    () => {
        "INSERT INTO secret_tokens (data) VALUES \
         (left(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/', '__'), 22));"
    };
}

/// Inserts one generated token.
pub const INSERT_GENERATED_TOKEN: &str = insert_generated_token!();

/// Creates the procedure that inserts generated tokens and commits each of them.
pub const CREATE_STORE_PROCEDURE: &str = concat!(
    "CREATE PROCEDURE store_in_a_loop(count bigint) LANGUAGE plpgsql AS $$
     BEGIN FOR i IN 1..count LOOP ",
    insert_generated_token!(),
    " COMMIT; END LOOP; END $$"
);

/// Returns the call of the procedure for `count` tokens.
pub fn call_store_procedure(count: u64) -> String {
    format!("CALL store_in_a_loop({count})")
}

/// Creates the table of an SQLite file.
pub const CREATE_SQLITE_TABLE: &str = "CREATE TABLE secret_tokens (
    id INTEGER PRIMARY KEY, data TEXT NOT NULL CHECK (data NOT LIKE '%-%'))";

/// Counts the stored tokens.
pub const COUNT_TOKENS: &str = "SELECT count(*) FROM secret_tokens";
