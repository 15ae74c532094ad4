//! The man page and the completions of shells: what they say is what the program takes.

use std::{fs, process};

use crate::support::command::{Command, binary};
use crate::support::root;

/// What precedes the table of options in docs/configuration.md.
const OPTIONS: &str = "<!-- generated: options -->\n\n";

fn printed(args: &[&str]) -> String {
    Command::new().args(args).run().expect_code(0).stdout
}

#[test]
fn the_man_page_has_what_the_help_has() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH token_service 1"), "{page}");
    for heading in [
        "NAME",
        "SYNOPSIS",
        "OPTIONS",
        "COMMANDS",
        "EXAMPLES",
        "ENVIRONMENT",
        "\"EXIT STATUS\"",
    ] {
        assert!(
            page.contains(&format!(".SH {heading}\n")),
            "{heading}: {page}"
        );
    }
    let plain = page.replace("\\-", "-");
    let help = printed(&["--help"]);
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--") && word.len() > 2);
    let mut seen = 0;
    for option in options {
        let name = option.trim_end_matches(|c: char| !c.is_alphanumeric());
        assert!(plain.contains(name), "{name}");
        seen += 1;
    }
    assert!(seen > 20, "{help}");
    assert!(plain.contains("stopped by SIGHUP, SIGINT, SIGQUIT, SIGTERM, after the report"));
}

#[test]
fn short_help_fits_on_one_screen() {
    for command in [
        "",
        "demo",
        "replay",
        "merge",
        "check",
        "test",
        "schema",
        "audit",
        "receipts",
        "demo-source",
        "man",
    ] {
        let args: Vec<&str> = [command, "-h"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        let help = printed(&args);
        assert!(help.lines().count() <= 45, "{command}: {help}");
    }
}

#[test]
fn each_command_has_a_man_page() {
    for command in [
        "demo",
        "replay",
        "merge",
        "check",
        "test",
        "schema",
        "audit",
        "receipts",
        "receipts-prune",
        "api",
        "demo-source",
        "completions",
        "man",
    ] {
        let page = printed(&["man", command]);
        let title = format!(".TH token_service-{command} 1");
        assert!(page.contains(&title), "{page}");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    let refused = Command::new().args(["man", "chek"]).run();
    let error = &refused.expect_code(2).stderr;
    assert!(
        error.contains("did you mean `token_service man check`?"),
        "{error}"
    );
}

/// Replaces what follows `begin` in `page`, up to `end`.
fn replaced(page: &str, begin: &str, end: &str, new: &str) -> String {
    let (before, rest) = page.split_once(begin).expect(begin);
    let after = rest.find(end).expect(end);
    format!("{before}{begin}{new}{}", &rest[after..])
}

#[test]
fn the_tables_of_options_and_keys_are_those_of_the_program() {
    let path = root().join("docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, _) = page.split_once(OPTIONS).unwrap();
    let mut expected = format!("{before}{OPTIONS}{}", token_service::options_table());
    for section in ["source", "database", "serve", "run", "script"] {
        let begin = format!("<!-- generated: keys of {section} -->\n\n");
        let table = token_service::keys_table(section);
        expected = replaced(&expected, &begin, "\n#", &table);
    }
    if std::env::var_os("TOKEN_SERVICE_UPDATE").is_some() {
        fs::write(path, expected).unwrap();
    } else {
        assert!(
            page == expected,
            "TOKEN_SERVICE_UPDATE=1 cargo test --test it the_tables_of_options updates docs/configuration.md"
        );
    }
}

#[test]
fn help_is_a_word_too() {
    assert_eq!(printed(&["help"]), printed(&["--help"]));
    assert_eq!(printed(&["help", "demo"]), printed(&["demo", "--help"]));
    let prune = printed(&["receipts", "prune", "--help"]);
    assert_eq!(printed(&["help", "receipts", "prune"]), prune);
    assert!(prune.contains("token_service receipts prune --older-than 30d"));
}

/// What a bash offers for a command line whose last word is being typed.
fn offered(words: &[&str]) -> Vec<String> {
    let script = format!(
        r#"source <("$BINARY" completions bash)
        COMP_WORDS=(token_service {words}); COMP_CWORD={last}
        _token_service token_service "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        printf '%s\n' "${{COMPREPLY[@]}}""#,
        words = words.join(" "),
        last = words.len(),
    );
    let output = process::Command::new("bash")
        .args(["-c", &script])
        .env("BINARY", binary())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_bash_completes_commands_options_and_values() {
    assert_eq!(offered(&["rep"]), ["replay"]);
    assert_eq!(offered(&["--dead"]), ["--deadline"]);
    assert_eq!(offered(&["merge", "--ma"]), ["--mask"]);
    assert_eq!(offered(&["--mask", "''"]), ["none", "prefix", "sha256"]);
    assert_eq!(offered(&["demo", "--report", "c"]), ["csv"]);
    assert_eq!(offered(&["receipts", "pr"]), ["prune"]);
    assert_eq!(offered(&["audit", "--format", "n"]), ["ndjson"]);
}

#[test]
fn other_shells_have_theirs() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for word in ["token_service", "replay", "deadline"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        // The scripts of the other two complete no values.
        if shell == "zsh" || shell == "fish" {
            assert!(script.contains("sha256"), "{shell}");
        }
    }
    Command::new()
        .args(["completions", "csh"])
        .run()
        .expect_code(2);
}
