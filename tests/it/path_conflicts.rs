//! A run is refused if one of its outputs would overwrite its inputs, its journal or another output. No
//! token is requested, and no file changes.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;

const REPORT_LINE: &str = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";

/// A command with every kind of file in its folder.
fn command() -> Command {
    let command = Command::new()
        .env("DATABASE_URL", "sqlite:tokens.db")
        .env("TOKEN_HOST", "http://127.0.0.1:9")
        .file("c.yaml", "run: {grace: 8s}\n")
        .file("s.rhai", "report(store(fetch(SIZE)));\n")
        .file("in.txt", "aa\n")
        .file("old.ndjson", REPORT_LINE)
        .file("run.ndjson.partial", REPORT_LINE)
        .file("tokens.db", "")
        .file("j", "");
    symlink("c.yaml", command.dir().join("link")).unwrap();
    command
}

/// The contents of the files, by name.
fn contents(command: &Command) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(command.dir()).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The error of a refused command line; asserts that no file has changed.
#[track_caller]
fn refused(line: &str) -> String {
    let command = command();
    let before = contents(&command);
    let folder = command.dir().to_owned();
    let running = command.args(line.split(' ')).spawn();
    let run = running.wait().expect_code(2);
    let after = fs::read_dir(&folder).unwrap().count();
    assert_eq!(after, before.len(), "{line}: no file is created");
    for (name, content) in before {
        assert_eq!(fs::read(folder.join(&name)).unwrap(), content, "{line}");
    }
    assert!(run.stdout.is_empty(), "{line}");
    run.stderr
}

#[test]
fn report_is_refused_when_it_would_overwrite_a_file_of_the_run() {
    let all = [
        "1 --journal j --report ndjson=j",
        "1 --journal ./j --report ndjson=j",
        "1 --journal new.partial --report ndjson=new",
        "1 --config c.yaml --report json=c.yaml",
        "1 --config c.yaml --report json=link",
        "1 --config link --report json=c.yaml",
        "1 --input in.txt --report ndjson=in.txt",
        "1 --script s.rhai --report csv=s.rhai",
        "1 --report json=tokens.db",
        "demo 1 --input in.txt --report ndjson=in.txt",
    ];
    shows!(all.map(refused).concat(), @"
    error: the report `j` would overwrite the journal
    hint: give the report a path of its own
    error: the report `j` would overwrite the journal
      caused by: both `j` and `./j` resolve to `[dir]/j`
    hint: give the report a path of its own
    error: the report `new` would overwrite the journal
      caused by: both `new` and `new.partial` resolve to `[dir]/new.partial`
    hint: give the report a path of its own
    error: the report `c.yaml` would overwrite the configuration
    hint: give the report a path of its own
    error: the report `link` would overwrite the configuration
      caused by: both `link` and `c.yaml` resolve to `[dir]/c.yaml`
    hint: give the report a path of its own
    error: the report `c.yaml` would overwrite the configuration
      caused by: both `c.yaml` and `link` resolve to `[dir]/c.yaml`
    hint: give the report a path of its own
    error: the report `in.txt` would overwrite the input
    hint: give the report a path of its own
    error: the report `s.rhai` would overwrite the script
    hint: give the report a path of its own
    error: the report `tokens.db` would overwrite the database
    hint: give the report a path of its own
    error: the report `in.txt` would overwrite the input
    hint: give the report a path of its own
    ");
}

#[test]
fn output_is_refused_when_it_would_overwrite_the_replayed_or_merged_file() {
    let all = [
        "replay old.ndjson --report ndjson=old.ndjson",
        "replay run.ndjson.partial --report ndjson=run.ndjson",
        "replay old.ndjson --metrics old.ndjson",
        "merge run.ndjson.partial old.ndjson --report json=old.ndjson",
    ];
    shows!(all.map(refused).concat(), @"
    error: the report `old.ndjson` would overwrite the file that is read
    hint: give the report a path of its own
    error: the report `run.ndjson` would overwrite the file that is read
      caused by: both `run.ndjson` and `run.ndjson.partial` resolve to `[dir]/run.ndjson.partial`
    hint: give the report a path of its own
    error: the metrics file `old.ndjson` would overwrite the file that is read
    hint: give the metrics file a path of its own
    error: the report `old.ndjson` would overwrite the file that is read
    hint: give the report a path of its own
    ");
}

#[test]
fn report_is_refused_when_it_would_overwrite_a_key_or_secret() {
    let command = || {
        let command = Command::new()
            .env("TOKEN_HOST", "http://127.0.0.1:9")
            .env("DB_PASS_FILE", "pass");
        command.file("pass", "hunter2").file("key.pem", "a key")
    };
    let config = "database: {host: 127.0.0.1, user: u, name: n, sslmode: require, sslcert: key.pem, sslkey: key.pem}";
    let refused = |report: &str| {
        let run = command().config(config).args(["1", "--report", report]);
        let run = run.run().expect_code(2);
        assert_eq!(fs::read(run.path("pass")).unwrap(), b"hunter2");
        assert_eq!(fs::read(run.path("key.pem")).unwrap(), b"a key");
        run.stderr
    };
    shows!(["text=./pass", "text=key.pem"].map(refused).concat(), @"
    error: the report `./pass` would overwrite the file of a secret
      caused by: both `./pass` and `pass` resolve to `[dir]/pass`
    hint: give the report a path of its own
    error: the report `key.pem` would overwrite the certificate or key
    hint: give the report a path of its own
    ");
}

#[test]
fn outputs_are_refused_when_two_share_a_path() {
    let all = [
        "1 --report json=a --report ndjson=./a",
        "1 --report json=a.partial --report ndjson=a",
        "1 --report json=mm --metrics mm",
        "1 --journal mm --metrics mm",
        "1 --config c.yaml --journal c.yaml",
        "1 --input in.txt --metrics in.txt",
    ];
    shows!(all.map(refused).concat(), @"
    error: two reports would be written to `./a`
      caused by: both `./a` and `a` resolve to `[dir]/a`
    hint: give each report a path of its own
    error: two reports would be written to `a`
      caused by: both `a` and `a.partial` resolve to `[dir]/a.partial`
    hint: give each report a path of its own
    error: the metrics file `mm` would overwrite the report
    hint: give the metrics file a path of its own
    error: the metrics file `mm` would overwrite the journal
    hint: give the metrics file a path of its own
    error: the journal `c.yaml` would overwrite the configuration
    hint: give the journal a path of its own
    error: the metrics file `in.txt` would overwrite the input
    hint: give the metrics file a path of its own
    ");
}

#[test]
fn report_is_refused_when_it_is_the_redirected_standard_input() {
    let command = command();
    let file = fs::File::open(command.dir().join("in.txt")).unwrap();
    let args = ["demo", "1", "--input", "-", "--report", "text=in.txt"];
    let command = command.args(args);
    let output = command.std_command().stdin(file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(command.dir().join("in.txt")).unwrap(), b"aa\n");
}

/// A replay writes no journal, so it may read the configured one. A report must still not overwrite it.
#[test]
fn configured_journal_is_replayed_but_not_overwritten() {
    let database = Database::standard();
    let run = |args: [&str; 4]| {
        let command = command().database(&database);
        let command = command.file("j.yaml", "run: {journal: old.ndjson}\n");
        command.args(args).args(["--config", "j.yaml"]).run()
    };
    run(["replay", "old.ndjson", "--report", "json=new.json"]).expect_code(0);
    let other = [
        "replay",
        "run.ndjson.partial",
        "--report",
        "json=old.ndjson",
    ];
    let refused = run(other).expect_code(2);
    assert!(refused.stderr.contains("overwrite the journal"));
}

#[test]
fn check_finds_a_report_that_would_overwrite_the_journal() {
    let command = Command::new().arg("check");
    let command = command.config("run: {journal: j}\nreports: [ndjson=j]\n");
    let run = command.run().expect_code(2);
    assert!(
        run.stderr.contains("overwrite the journal"),
        "{}",
        run.stderr
    );
}
