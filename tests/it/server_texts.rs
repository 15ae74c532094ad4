//! Tests of texts that a server, a source or a script chooses: secrets that they repeat are redacted, long
//! texts are cut, and characters that hide or reorder text are escaped.

use std::io::{Read as _, Write as _};

use crate::server_messages::{fake_server, message};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Response, Source};

/// Returns the standard error of a run and of `check --connect` against a server that refuses each
/// connection with this message.
fn refusals(text: &str, password: &str) -> [String; 2] {
    let refusal = message(b'E', format!("SFATAL\0C28P01\0M{text}\0\0").as_bytes());
    let port = fake_server(move |mut stream| {
        let _ = stream.write_all(&refusal);
        // Closed by the client.
        let _ = stream.read(&mut [0]);
    });
    let source = Source::responding([]);
    let command = || {
        let url = format!("postgres://me:{password}@127.0.0.1:{port}/db?sslmode=disable");
        Command::new().source(&source).env("DATABASE_URL", url)
    };
    let run = command()
        .args(["5", "--log-level", "trace", "--wait", "1s"])
        .run();
    let check = command().args(["check", "--connect"]).run();
    [run, check].map(|run| {
        let run = run.expect_code(5);
        format!("{}{}", run.stdout, run.stderr)
    })
}

#[test]
fn echoed_password_is_redacted() {
    for text in refusals(
        "no entry for me with hunter2hunter2, go away",
        "hunter2hunter2",
    ) {
        assert!(
            text.contains("no entry for me with …, go away (28P01)"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    // A name that happens to be the password is no secret.
    for text in refusals("no entry for me", "me") {
        assert!(text.contains("no entry for me (28P01)"), "{text}");
    }
}

/// The server knows the password, so a trigger's message may repeat it too.
#[test]
fn echoed_password_is_redacted_in_reports() {
    let database = Database::standard();
    let password = &database.password;
    let trigger = format!(
        "CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'said {password}-x and % too', NEW.data; END $$;
        CREATE TRIGGER talk BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION talk()"
    );
    let database = database.with_sql(&trigger);
    let source = Source::responding([Response::tokens(["CanaryOne"])]);
    let command = Command::new().source(&source).database(&database);
    let run = command
        .args(["1", "--report", "ndjson"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.token("CanaryOne")["message"], "said …-x and … too");
}

#[test]
fn echoed_authorization_is_redacted() {
    let database = Database::standard();
    let echo = Response::raw("text/s3cretkey-html", "");
    let encoded = Response::raw("text/plain", "").header("content-encoding", "s3cretkey");
    for response in [echo, encoded] {
        let source = Source::responding([response]);
        let command = Command::new().source(&source).database(&database);
        let run = command
            .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer s3cretkey")
            .args(["1", "--log-level", "trace"])
            .run()
            .expect_code(4);
        assert!(run.error().contains('…'), "{}", run.stderr);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    }
}

#[test]
fn long_message_is_cut_everywhere() {
    for text in refusals(&"€".repeat(1 << 20), "pw") {
        assert!(text.contains("€€€…"), "{text}");
        assert!(text.len() < 20_000, "{} bytes", text.len());
    }
}

/// Every format escapes what hides or reorders text.
#[test]
fn hidden_characters_are_escaped_in_every_format_and_message() {
    const HIDDEN: [char; 12] = [
        '\u{61c}',
        '\u{180e}',
        '\u{ad}',
        '\u{e0041}',
        '\u{200b}',
        '\u{2066}',
        '\u{fe0f}',
        '\u{e0100}',
        '\u{34f}',
        '\u{3164}',
        '\u{202e}',
        '\u{feff}',
    ];
    let token: String = HIDDEN.iter().flat_map(|hidden| ['x', *hidden]).collect();
    let is_hidden = |text: &str| text.contains(HIDDEN);
    let refused = refusals(&token, "pw");
    assert!(!refused.iter().any(|text| is_hidden(text)), "{refused:?}");
    for format in ["text", "ndjson", "json", "csv", "yaml", "html"] {
        let database = Database::standard();
        let source = Source::responding([Response::tokens([&token])]);
        let command = Command::new().source(&source).database(&database);
        let script = format!("log_info({token:?}); report(reject(fetch(SIZE), {token:?}));");
        let run = command
            .file("mine.rhai", rhai_escapes(&script))
            .args(["1", "--script", "mine.rhai", "--report", format])
            .run()
            .expect_code(0);
        assert!(!is_hidden(&run.stdout), "{format}: {}", run.stdout);
        assert!(!is_hidden(&run.stderr), "{format}: {}", run.stderr);
        let parsed: Option<serde_json::Value> = match format {
            "ndjson" => serde_json::from_str(run.stdout.lines().next().unwrap()).ok(),
            "json" => serde_json::from_str(&run.stdout).ok(),
            "yaml" => serde_yaml::from_str(&run.stdout).ok(),
            _ => continue,
        };
        let parsed = parsed.unwrap();
        let first = parsed.get("tokens").map_or(&parsed, |tokens| &tokens[0]);
        assert_eq!(first["token"], *token, "{format}");
    }
    // The name of a script, in a line of `check` and in an error.
    let name = format!("{token}.rhai");
    for script in ["report(store(fetch(SIZE)));", "let x = ;"] {
        let check = Command::new()
            .file(&name, script)
            .arg("check")
            .arg(&name)
            .run();
        let text = format!("{}{}", check.stdout, check.stderr);
        assert!(text.contains("x\\u{61c}x\\u{180e}"), "{text}");
        assert!(!is_hidden(&text), "{text}");
    }
}

/// Writes Rust's escapes of a string as those of Rhai.
fn rhai_escapes(text: &str) -> String {
    let mut parts = text.split("\\u{");
    let mut escaped = parts.next().unwrap().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('}').unwrap();
        escaped += "\\U";
        escaped += &"0".repeat(8 - code.len());
        escaped += code;
        escaped += rest;
    }
    escaped
}
