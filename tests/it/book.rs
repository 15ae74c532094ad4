//! The book in `docs/`: its pages are in the summary, its links and anchors resolve, and it names what
//! the program accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::support::command::Command;
use crate::support::doc_blocks::read;
use crate::support::root;

/// The most lines of README.md.
const README_LINES: usize = 230;

/// The pages of the book, without the summary.
pub fn pages() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| {
            let extension = Path::new(name).extension();
            extension.is_some_and(|extension| extension == "md") && name != "SUMMARY.md"
        })
        .map(|name| format!("docs/{name}"))
        .collect()
}

/// The documents whose links are followed.
fn documents() -> Vec<String> {
    let others = [
        "README.md",
        "CHANGELOG.md",
        "examples/README.md",
        "docs/SUMMARY.md",
    ];
    let others = others.map(String::from);
    others.into_iter().chain(pages()).collect()
}

fn text(document: &str) -> String {
    fs::read_to_string(root().join(document)).expect(document)
}

/// The lines of a Markdown text outside of fenced blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        (!is_fence && !is_fenced).then_some((index + 1, line))
    })
}

/// A line without its code spans, whose brackets are no links.
fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    let outside = parts.filter(|(index, _)| index % 2 == 0);
    outside.map(|(_, part)| part).collect()
}

/// The targets of the links and images of a line: what follows `](`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let parts = line.split("](").skip(1);
    parts
        .filter_map(|part| Some(part.split_once(')')?.0.to_owned()))
        .collect()
}

/// The anchor of a heading, as GitHub and mdBook make it: lower case, without punctuation, with `-` for
/// each space.
fn slug(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

/// The text of a heading: links are replaced by their words.
fn words(heading: &str) -> String {
    let mut words = String::new();
    let mut rest = heading;
    while let Some((before, link)) = rest.split_once("](") {
        words.push_str(before);
        rest = link.split_once(')').map_or("", |(_, after)| after);
    }
    words + rest
}

/// The anchors of a Markdown text; a repeated heading has a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len() && heading.starts_with(' ')).then_some(heading)
    });
    headings
        .map(|heading| {
            let slug = slug(&words(heading));
            let count = seen.entry(slug.clone()).or_default();
            *count += 1;
            match *count {
                1 => slug,
                repeated => format!("{slug}-{}", repeated - 1),
            }
        })
        .collect()
}

/// A path without `.` and `..`; `None` if it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop().then_some(())?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// What is wrong with a link of `document`, if anything is.
fn fault(document: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(document).parent().unwrap();
    let path = if path.is_empty() {
        PathBuf::from(document)
    } else {
        match normal(&folder.join(path)) {
            Some(path) => path,
            None => return Some(String::from("the path leaves the repository")),
        }
    };
    if !root().join(&path).exists() {
        return Some(format!("{} does not exist", path.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let is_known = anchors(&text(path.to_str().unwrap())).contains(anchor);
    (!is_known).then(|| format!("{} has no heading #{anchor}", path.display()))
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = text("docs/SUMMARY.md");
    let listed: Vec<String> = prose(&summary)
        .flat_map(|(_, line)| targets(line))
        .map(|target| format!("docs/{target}"))
        .collect();
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a page is listed twice");
    assert_eq!(unique, pages());
}

#[test]
fn every_link_resolves() {
    let mut faults = Vec::new();
    let mut count = 0;
    for document in documents() {
        for (line, content) in prose(&text(&document)) {
            for target in targets(content) {
                count += 1;
                let fault = fault(&document, &target);
                faults.extend(fault.map(|fault| format!("{document}:{line}: {target}: {fault}")));
            }
        }
    }
    assert!(count > 100, "{count} links are too few: none is found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_reference_to_a_page_in_the_sources_resolves() {
    let mut folders = vec![
        root().join("src"),
        root().join("tests"),
        root().join("benches"),
    ];
    let mut faults = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(content) = fs::read_to_string(&path) else {
                continue;
            };
            for rest in content.split("docs/").skip(1) {
                let end = rest.find(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
                let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
                let is_page = Path::new(name).extension().is_some_and(|end| end == "md");
                if is_page && !root().join("docs").join(name).exists() {
                    faults.push(format!("{}: docs/{name} does not exist", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn readme_is_short() {
    let lines = text("README.md").lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
}

#[test]
fn every_key_of_the_configuration_file_is_described() {
    let page = text("docs/configuration.md");
    for section in ["source", "database", "run", "script"] {
        let config = format!("{section}: {{xyzzy: 1}}");
        let run = Command::new().arg("check").config(&config).run();
        let run = run.expect_code(2);
        let (_, keys) = run.stderr.split_once("known keys: ").unwrap();
        let (_, table) = page.split_once(&format!("### `{section}`")).expect(section);
        let table = table.split("\n### ").next().unwrap();
        for key in keys.trim().split(", ") {
            assert!(table.contains(&format!("`{key}`")), "{section}.{key}");
        }
    }
}

/// The sources of the program as one text, in which a string that continues on the next line is whole.
fn sources() -> String {
    let mut folders = vec![root().join("src")];
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = fs::read_to_string(path) {
                let mut lines = content.split("\\\n");
                sources.extend(lines.next());
                sources.extend(lines.map(str::trim_start));
            }
        }
    }
    sources
}

/// The longest run of plain words of a message: what is between names, numbers and quoted text.
fn longest_run(message: &str) -> Vec<&str> {
    let is_plain = |word: &&str| {
        let word = word.trim_end_matches([',', ';', ':']);
        let mut letters = word.chars();
        letters
            .next()
            .is_some_and(|c| c.is_lowercase() || word.len() == 1)
            && letters.all(|c| c.is_lowercase() || "-'".contains(c))
    };
    let clauses = message
        .split("; ")
        .map(|clause| clause.split_whitespace().collect());
    let clauses: Vec<Vec<&str>> = clauses.collect();
    let runs = clauses
        .iter()
        .flat_map(|words| words.split(|word| !is_plain(word)));
    runs.max_by_key(|run| run.len()).unwrap_or(&[]).to_vec()
}

/// True if the sources have most of `words` in a row; the rest may be filled in by the program.
fn has_most_of(sources: &str, words: &[&str]) -> bool {
    let least = words.len().div_ceil(2).max(2).min(words.len());
    (least..=words.len()).rev().any(|size| {
        let mut windows = words.windows(size);
        windows.any(|window| sources.contains(&window.join(" ")))
    })
}

#[test]
fn every_message_in_troubleshooting_is_one_of_the_program() {
    let sources = sources();
    let blocks = read("docs/troubleshooting.md").into_iter();
    let mut faults = Vec::new();
    let mut count = 0;
    for block in blocks.filter(|block| block.kind == "text") {
        for line in block.text.lines() {
            let message = ["error: ", "hint: ", " WARN "]
                .iter()
                .find_map(|start| line.strip_prefix(start));
            let Some(message) = message else { continue };
            count += 1;
            if !has_most_of(&sources, &longest_run(message)) {
                faults.push(format!("near line {}: {line}", block.line));
            }
        }
    }
    assert!(count > 80, "{count} messages are too few");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn slugs_are_those_of_github() {
    let text = "# One\n```sh\n# two\n```\n## `database.log`, and [more](x.md#y)!\n## One\n## 1. The demo\n";
    let expected = ["1-the-demo", "databaselog-and-more", "one", "one-1"];
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(
        targets("a [b](c.md#d) `[e](f)` ![g](h.png) [![i](j)](k)"),
        ["c.md#d", "h.png", "j", "k"]
    );
}
