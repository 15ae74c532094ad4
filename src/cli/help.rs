//! The text below the options in the help, which the man page shows as sections: examples, the
//! environment, the exit codes.

use std::fmt::Write as _;

/// A line: a command, variable or code, and its meaning.
pub(crate) type HelpLine = (&'static str, &'static str);

/// A title and its lines.
pub(crate) struct HelpSection {
    /// The title in the help.
    pub title: &'static str,
    /// The heading in the man page.
    pub heading: &'static str,
    /// The lines.
    pub lines: &'static [HelpLine],
}

/// The sections of the program.
pub(crate) const RUN: [HelpSection; 3] = [
    HelpSection {
        title: "Examples",
        heading: "EXAMPLES",
        lines: &[
            ("token_service demo 10", "try it with nothing to set up"),
            ("token_service 1000", "fetch, store and report 1,000 tokens"),
            (
                "token_service 1000 --report ndjson=run.ndjson",
                "report to a file",
            ),
            (
                "token_service --script mine.rhai 1000",
                "run another script",
            ),
            (
                "token_service --input tokens.txt",
                "read the tokens from a file",
            ),
            (
                "token_service check mine.rhai",
                "check a script without running it",
            ),
            (
                "token_service check --connect",
                "check whether source and database can be used",
            ),
            (
                "token_service test",
                "run the pipeline tests of this folder",
            ),
            ("token_service serve", "run the pipeline as an HTTP service"),
        ],
    },
    HelpSection {
        title: "Source and database, set by the environment or by the file of --config",
        heading: "ENVIRONMENT",
        lines: &[
            (
                "TOKEN_HOST",
                "the token source's URL; https:// if it names no scheme",
            ),
            (
                "DATABASE_URL",
                "postgres://user@host/name or sqlite:PATH; or instead",
            ),
            (
                "DB_HOST DB_PORT DB_USER DB_NAME",
                "the parts of a PostgreSQL address, with DB_SSLMODE",
            ),
            (
                "DB_PASS, DB_PASS_FILE",
                "the password, or the file that holds it",
            ),
            ("MAX_TOKENS", "the largest SIZE that is accepted"),
            (
                "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY",
                "the proxy to the source, as for curl",
            ),
            (
                "SSL_CERT_FILE",
                "the authorities to trust instead of the system's",
            ),
            (
                "TOKEN_SERVICE_<NAME>",
                "an option, such as TOKEN_SERVICE_PAGE_SIZE",
            ),
        ],
    },
    HelpSection {
        title: "Exit codes",
        heading: "EXIT STATUS",
        lines: &[
            (
                "0",
                "the run completed: SIZE tokens received, each stored or rejected",
            ),
            ("1", "it completed, but a --fail-on condition holds"),
            ("2", "usage or configuration"),
            (
                "3",
                "the script does not compile, threw an error, or exceeded a limit",
            ),
            (
                "4",
                "the source is unreachable, refused, or did not deliver SIZE tokens",
            ),
            (
                "5",
                "the database is unreachable, or a token is failed, unknown or not_attempted",
            ),
            (
                "129-131, 143",
                "stopped by SIGHUP, SIGINT, SIGQUIT, SIGTERM, after the report",
            ),
            (
                "with --deadline",
                "5 if a token is unsettled, else 4 if SIZE was not reached, else 3",
            ),
            ("others", "set by the script with exit(N)"),
        ],
    },
];

const CODES: &str = "The exit codes are those of a run; `token_service --help` lists them.";

/// The examples of a command, and the text below them.
type CommandHelp = (&'static [HelpLine], &'static str);

/// Returns the help of a command about receipts.
fn of_receipts(name: &str) -> Option<CommandHelp> {
    Some(match name {
        "schema" => (
            &[
                (
                    "token_service schema | psql \"$DATABASE_URL\"",
                    "create the table, as its owner",
                ),
                (
                    "token_service schema --role tokens",
                    "also grant a role what a run needs",
                ),
                (
                    "token_service schema --sqlite | sqlite3 tokens.db",
                    "create the table in an SQLite file",
                ),
            ],
            "",
        ),
        "audit" => (
            &[
                ("token_service audit", "list the runs, the newest first"),
                (
                    "token_service audit --report run.ndjson",
                    "compare a report with the receipts of its run",
                ),
                (
                    "token_service audit --journal run.journal --format json",
                    "compare a journal, for programs",
                ),
            ],
            "Exit codes: 0 all agree, 1 something is missing, 2 usage or a file that cannot be read, 5 the database.",
        ),
        "receipts" => (
            &[(
                "token_service receipts prune --older-than 30d",
                "delete the receipts of old runs",
            )],
            "",
        ),
        "receipts prune" => (
            &[
                (
                    "token_service receipts prune --older-than 30d",
                    "delete the receipts of old runs",
                ),
                (
                    "token_service receipts prune --older-than 1h --run nightly-7",
                    "delete those of one run",
                ),
            ],
            "Exit codes: 0 all old runs are deleted, 2 usage, 5 the database, 130 stopped by Ctrl-C after a batch.",
        ),
        _ => return None,
    })
}

/// Returns the text below the options of a command.
pub(crate) fn of_command(name: &str) -> Option<String> {
    let (lines, more): CommandHelp = match name {
        "replay" => (
            &[
                (
                    "token_service replay run.journal",
                    "settle the tokens of a killed run",
                ),
                (
                    "token_service replay run.ndjson --report ndjson=now.ndjson",
                    "store failed tokens, look up unknown ones",
                ),
            ],
            "Exit code 0 means that every token in FILE is stored or rejected, not that its run received SIZE tokens: \
             with --fail-on 'received<requested' an incomplete run ends with 1. The other exit codes are those of \
             a run; `token_service --help` lists them.",
        ),
        "merge" => (
            &[
                (
                    "token_service merge 0.ndjson 1.ndjson --report json=all.json",
                    "write one report of two shards",
                ),
                (
                    "token_service merge run.ndjson --report html=run.html",
                    "write a report in another format",
                ),
            ],
            "The exit code is the worst of the runs, 4 if a replayed run did not receive its SIZE, and 2 if the reports \
             do not add up.",
        ),
        "check" => (
            &[
                (
                    "token_service check",
                    "check the configuration and its script",
                ),
                (
                    "token_service check scripts",
                    "check the scripts of a folder",
                ),
                (
                    "token_service check --connect",
                    "check whether source and database can be used",
                ),
            ],
            "Exit codes: 0 no errors, 2 the configuration, 3 a script, 4 the source, 5 the database.",
        ),
        "test" => (
            &[
                ("token_service test examples", "run all tests of a folder"),
                (
                    "token_service test --junit junit.xml",
                    "for continuous integration",
                ),
            ],
            "Exit codes: 0 every case passed, 1 a case failed, 2 a test file is invalid.",
        ),
        "demo" => (
            &[(
                "token_service demo 1000 --report html=run.html",
                "write an HTML report",
            )],
            CODES,
        ),
        "serve" => (
            &[
                ("token_service serve", "listen on 127.0.0.1:8080"),
                (
                    "curl -N -X POST 'localhost:8080/v1/runs?size=5'",
                    "start a run; its outcomes arrive line by line",
                ),
                (
                    "token_service serve --listen 0.0.0.0:8080 --data runs",
                    "for other hosts, with TOKEN_SERVICE_SERVE_TOKEN set; keep reports",
                ),
            ],
            "SIGTERM and Ctrl-C refuse new runs, let running ones go on for half of --grace, and then stop them. \
             Exit codes: 0 after a signal, 2 usage or configuration, 3 the script does not compile.",
        ),
        "completions" => (
            &[(
                "source <(token_service completions bash)",
                "for example in ~/.bashrc",
            )],
            "",
        ),
        "man" => (&[("token_service man | man -l -", "show the page")], ""),
        name => of_receipts(name)?,
    };
    let mut text = String::from("Examples:\n");
    listed(&mut text, lines);
    if !more.is_empty() {
        text.push('\n');
        text.push_str(more);
    }
    Some(text.trim_end().to_owned())
}

/// The text below the options in `-h`.
pub(crate) fn short() -> &'static str {
    "Try it: `token_service demo 10`. Configure it: TOKEN_HOST and DATABASE_URL, or --config FILE.\n\
     `token_service --help` has every option, its variable, examples and exit codes."
}

/// The text below the options in `--help`.
pub(crate) fn of_run() -> String {
    let mut text = String::new();
    for section in &RUN {
        let _ = writeln!(text, "{}:", section.title);
        listed(&mut text, section.lines);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// The lines in two columns.
fn listed(text: &mut String, lines: &[HelpLine]) {
    let width = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    for (left, right) in lines {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {left:width$}  {right}");
    }
}
