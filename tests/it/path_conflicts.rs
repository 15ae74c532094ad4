//! What a run writes never takes the place of what it reads or keeps: it is refused before a token is
//! asked for, and every file is left as it was.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;

const TOKEN: &str = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";

/// Everything that a run may have to do with, in one folder.
fn command() -> Command {
    let command = Command::new()
        .env("DATABASE_URL", "sqlite:tokens.db")
        .env("TOKEN_HOST", "http://127.0.0.1:9")
        .file("c.yaml", "run: {grace: 8s}\n")
        .file("s.rhai", "report(store(fetch(SIZE)));\n")
        .file("in.txt", "aa\n")
        .file("old.ndjson", TOKEN)
        .file("run.ndjson.partial", TOKEN)
        .file("tokens.db", "")
        .file("j", "");
    symlink("c.yaml", command.dir().join("link")).unwrap();
    command
}

/// What the files hold, by name.
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

/// The error of a command line, which leaves every file as it was.
#[track_caller]
fn refused(line: &str) -> String {
    let command = command();
    let before = contents(&command);
    let folder = command.dir().to_owned();
    let running = command.args(line.split(' ')).spawn();
    let run = running.wait().expect_code(2);
    let after = fs::read_dir(&folder).unwrap().count();
    assert_eq!(after, before.len(), "{line}: nothing is left behind");
    for (name, content) in before {
        assert_eq!(fs::read(folder.join(&name)).unwrap(), content, "{line}");
    }
    assert!(run.stdout.is_empty(), "{line}");
    run.stderr
}

#[test]
fn a_report_never_takes_the_place_of_what_its_run_reads_or_keeps() {
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
    error: the report `j` would be written over the journal
    hint: give the report a path of its own
    error: the report `j` would be written over the journal
      caused by: that and `./j` come to `[dir]/j`
    hint: give the report a path of its own
    error: the report `new` would be written over the journal
      caused by: that and `new.partial` come to `[dir]/new.partial`
    hint: give the report a path of its own
    error: the report `c.yaml` would be written over the configuration
    hint: give the report a path of its own
    error: the report `link` would be written over the configuration
      caused by: that and `c.yaml` come to `[dir]/c.yaml`
    hint: give the report a path of its own
    error: the report `c.yaml` would be written over the configuration
      caused by: that and `link` come to `[dir]/c.yaml`
    hint: give the report a path of its own
    error: the report `in.txt` would be written over the input
    hint: give the report a path of its own
    error: the report `s.rhai` would be written over the script
    hint: give the report a path of its own
    error: the report `tokens.db` would be written over the database
    hint: give the report a path of its own
    error: the report `in.txt` would be written over the input
    hint: give the report a path of its own
    ");
}

#[test]
fn nor_of_the_file_that_is_replayed_or_merged() {
    let all = [
        "replay old.ndjson --report ndjson=old.ndjson",
        "replay run.ndjson.partial --report ndjson=run.ndjson",
        "replay old.ndjson --metrics old.ndjson",
        "merge run.ndjson.partial old.ndjson --report json=old.ndjson",
    ];
    shows!(all.map(refused).concat(), @"
    error: the report `old.ndjson` would be written over the file that is read
    hint: give the report a path of its own
    error: the report `run.ndjson` would be written over the file that is read
      caused by: that and `run.ndjson.partial` come to `[dir]/run.ndjson.partial`
    hint: give the report a path of its own
    error: the metrics file `old.ndjson` would be written over the file that is read
    hint: give the metrics file a path of its own
    error: the report `old.ndjson` would be written over the file that is read
    hint: give the report a path of its own
    ");
}

#[test]
fn nor_of_keys_and_secrets() {
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
    error: the report `./pass` would be written over the file of a secret
      caused by: that and `pass` come to `[dir]/pass`
    hint: give the report a path of its own
    error: the report `key.pem` would be written over the certificate or key
    hint: give the report a path of its own
    ");
}

#[test]
fn nor_do_two_of_what_is_written_share_a_path() {
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
      caused by: that and `a` come to `[dir]/a`
    hint: give each report a path of its own
    error: two reports would be written to `a`
      caused by: that and `a.partial` come to `[dir]/a.partial`
    hint: give each report a path of its own
    error: the metrics file `mm` would be written over the report
    hint: give the metrics file a path of its own
    error: the metrics file `mm` would be written over the journal
    hint: give the metrics file a path of its own
    error: the journal `c.yaml` would be written over the configuration
    hint: give the journal a path of its own
    error: the metrics file `in.txt` would be written over the input
    hint: give the metrics file a path of its own
    ");
}

/// The standard input may be a file too.
#[test]
fn a_redirected_input_is_no_report_either() {
    let command = command();
    let file = fs::File::open(command.dir().join("in.txt")).unwrap();
    let args = ["demo", "1", "--input", "-", "--report", "text=in.txt"];
    let command = command.args(args);
    let done = command.std_command().stdin(file).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert_eq!(fs::read(command.dir().join("in.txt")).unwrap(), b"aa\n");
}

/// A replay keeps no journal: that a file is configured as the journal of runs does not keep it from
/// being replayed, and protects it from reports all the same.
#[test]
fn the_journal_that_is_configured_is_replayed_and_not_reported_over() {
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
    assert!(refused.stderr.contains("written over the journal"));
}

#[test]
fn check_finds_such_a_path_too() {
    let command = Command::new().arg("check");
    let command = command.config("run: {journal: j}\nreports: [ndjson=j]\n");
    let run = command.run().expect_code(2);
    assert!(
        run.stderr.contains("written over the journal"),
        "{}",
        run.stderr
    );
}
