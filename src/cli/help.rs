//! What stands beneath the options in the help, and in the man page in sections of its own: examples,
//! the environment, the exit codes.

use std::fmt::Write as _;

/// A line: what is typed or set, and what it does.
pub(crate) type HelpLine = (&'static str, &'static str);

/// A title and its lines.
pub(crate) struct HelpSection {
    /// In the help.
    pub title: &'static str,
    /// In the man page.
    pub heading: &'static str,
    /// What it lists.
    pub lines: &'static [HelpLine],
}

/// Of the program as a whole.
pub(crate) const RUN: [HelpSection; 3] = [
    HelpSection {
        title: "Examples",
        heading: "EXAMPLES",
        lines: &[
            ("token_service demo 10", "try it, nothing has to be set up"),
            ("token_service 1000", "fetch, store and report 1,000 tokens"),
            (
                "token_service 1000 --report ndjson=run.ndjson",
                "report to a file",
            ),
            (
                "token_service --script mine.rhai 1000",
                "run a pipeline of your own",
            ),
            (
                "token_service --input tokens.txt",
                "take the tokens from a file",
            ),
            (
                "token_service check mine.rhai",
                "look for mistakes without a run",
            ),
            (
                "token_service check --connect",
                "see whether source and database can be used",
            ),
            (
                "token_service test",
                "run the pipeline tests below this folder",
            ),
        ],
    },
    HelpSection {
        title: "Where the tokens come from and go to is set by the environment or by --config",
        heading: "ENVIRONMENT",
        lines: &[
            (
                "TOKEN_HOST",
                "the token source's URL; https:// if it names no scheme",
            ),
            (
                "DATABASE_URL",
                "postgres://user@host/name or sqlite:PATH; or else",
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
                "the script: does not compile, threw, or ran past a limit",
            ),
            (
                "4",
                "the source: unreachable, refused, or could not supply SIZE tokens",
            ),
            (
                "5",
                "the database: unreachable, or some token is failed, unknown or not_attempted",
            ),
            ("130, 143", "stopped by SIGINT, SIGTERM, after the report"),
            (
                "5, 4 or 3",
                "--deadline passed: a token is unsettled, else SIZE not reached, else neither",
            ),
            ("others", "what the script chose by exit(N)"),
        ],
    },
];

const CODES: &str = "The exit codes are those of a run; `token_service --help` lists them.";

/// What stands beneath the options of a command that has no sections.
pub(crate) fn of_command(name: &str) -> Option<String> {
    let (lines, more): (&[HelpLine], &str) = match name {
        "replay" => (
            &[
                (
                    "token_service replay run.journal",
                    "settle what a killed run left",
                ),
                (
                    "token_service replay run.ndjson --report ndjson=now.ndjson",
                    "store what failed, look up what is unknown",
                ),
            ],
            "0 says that every token in FILE is stored or rejected, not that its run had received SIZE tokens: \
             --fail-on 'received<requested' ends with 1 where it had not. The other exit codes are those of a \
             run; `token_service --help` lists them.",
        ),
        "merge" => (
            &[
                (
                    "token_service merge 0.ndjson 1.ndjson --report json=all.json",
                    "one report of two shards",
                ),
                (
                    "token_service merge run.ndjson --report html=run.html",
                    "a report in another format",
                ),
            ],
            "It ends as the worst of the runs did, and with 4 where one that is there by its replay had not received its \
             SIZE; with 2 where the reports do not add up.",
        ),
        "check" => (
            &[
                ("token_service check", "the configuration and its script"),
                ("token_service check scripts", "the scripts below a folder"),
                (
                    "token_service check --connect",
                    "can source and database be used?",
                ),
            ],
            "Exit codes: 0 nothing is wrong, 2 the configuration, 3 a script, 4 the source, 5 the database.",
        ),
        "test" => (
            &[
                ("token_service test examples", "all tests in a folder"),
                (
                    "token_service test --junit junit.xml",
                    "for continuous integration",
                ),
            ],
            "Exit codes: 0 every case passed, 1 one failed, 2 a test file cannot be understood.",
        ),
        "demo" => (
            &[(
                "token_service demo 1000 --report html=run.html",
                "a page to look at",
            )],
            CODES,
        ),
        "completions" => (
            &[(
                "source <(token_service completions bash)",
                "in ~/.bashrc, say",
            )],
            "",
        ),
        "man" => (&[("token_service man | man -l -", "read it at once")], ""),
        _ => return None,
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
