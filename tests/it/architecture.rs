//! The structure of the sources: imports of `src` point down the layers, and no files import each other in a
//! circle, neither in `src` nor in `benches`.
//!
//! Reads `use` items and `crate::…` paths as text, follows re-exports, and leaves out test code. A folder's
//! `mod.rs` and its children count as one: imports between them are no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::root;

/// The layers, from the top. A folder imports from the layers below its own only.
const LAYERS: [&[&str]; 6] = [
    &["command", "fuzz"],
    &["script", "config"],
    &["store", "fetch", "report", "cli"],
    &["observe", "journal"],
    &["error", "runtime"],
    &["pipeline"],
];

/// Imports within a layer that are allowed: the command line parses values of reports, fuzz targets call
/// commands, and `runtime` returns errors.
const WITHIN_A_LAYER: [(&str, &str); 3] =
    [("cli", "report"), ("fuzz", "command"), ("runtime", "error")];

/// One module: a file of `src`.
#[derive(Default)]
struct Module {
    /// The file, from the root of the repository.
    file: String,
    /// What it imports: line and path, resolved to the crate's root.
    imports: Vec<(usize, Vec<String>)>,
    /// What it re-exports: the name, and the path behind it.
    exports: BTreeMap<String, Vec<String>>,
}

/// The modules of a crate by their paths.
type Modules = BTreeMap<Vec<String>, Module>;

/// An import between two modules, with the line where it is.
type Imports = BTreeMap<(Vec<String>, Vec<String>), usize>;

fn words(path: &str) -> Vec<String> {
    let segments = path.split("::").map(str::trim);
    segments
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Blanks out comments, strings and modules of tests; lines keep their numbers.
fn without_tests_and_text(source: &str) -> String {
    let mut code = String::new();
    let mut in_tests = false;
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let begins = line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| {
                next.starts_with("mod ")
                    || next.starts_with("#[allow")
                    || next.starts_with("pub mod ")
            });
        in_tests |= begins;
        let text = line.split("//").next().unwrap_or_default();
        let text: String = text.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
        if !in_tests {
            code.push_str(&text);
        }
        code.push('\n');
        if in_tests && (line == "}" || line.starts_with("mod ") && line.ends_with(';')) {
            in_tests = false;
        }
    }
    code
}

/// Splits the tree of a `use` item into its paths.
fn flatten(prefix: &str, tree: &str, paths: &mut Vec<(String, Option<String>)>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias.trim().to_owned())),
            None => (tree, None),
        };
        paths.push((format!("{prefix}{}", path.trim()), alias));
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = tree[open + 1..]
        .rsplit_once('}')
        .map_or("", |(inner, _)| inner);
    let mut depth = 0;
    let mut part = String::new();
    for char in inner.chars().chain([',']) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if char == ',' && depth == 0 {
            if !part.trim().is_empty() {
                flatten(&prefix, &part, paths);
            }
            part.clear();
        } else {
            part.push(char);
        }
    }
}

/// Resolves a path that `module` writes; `None` if it leads out of the crate.
fn resolve(path: &str, module: &[String], children: &BTreeSet<String>) -> Option<Vec<String>> {
    let mut segments = words(path);
    if segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    let first = segments.first()?.clone();
    let mut base = module.to_vec();
    match first.as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while segments.get(1).is_some_and(|next| next == "super") {
                segments.remove(0);
                base.pop();
            }
            base.pop();
        }
        child if children.contains(child) => {
            base.extend(segments);
            return Some(base);
        }
        _ => return None,
    }
    base.extend(segments.into_iter().skip(1));
    Some(base)
}

fn read_modules(folder: &Path, path: &[String], modules: &mut Modules) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        let name = entry.file_stem().unwrap().to_string_lossy().into_owned();
        let inner = |name: &str| {
            path.iter()
                .cloned()
                .chain([name.to_owned()])
                .collect::<Vec<_>>()
        };
        if entry.is_dir() {
            read_modules(&entry, &inner(&name), modules);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let module = match name.as_str() {
                "lib" | "mod" => path.to_vec(),
                "main" | "tests" => continue,
                name => inner(name),
            };
            let file = entry.strip_prefix(root()).unwrap();
            let module = modules.entry(module).or_default();
            module.file = file.to_string_lossy().into_owned();
        }
    }
}

/// Reads every module below `folder`, such as `src`, with its imports.
fn modules(folder: &str) -> Modules {
    let mut modules = Modules::new();
    read_modules(&root().join(folder), &[], &mut modules);
    let paths: BTreeSet<Vec<String>> = modules.keys().cloned().collect();
    for (path, module) in &mut modules {
        let depth = path.len();
        let children: BTreeSet<String> = paths
            .iter()
            .filter(|other| other.len() == depth + 1 && other.starts_with(path))
            .map(|other| other[depth].clone())
            .collect();
        let source = fs::read_to_string(root().join(&module.file)).unwrap();
        read_imports(&without_tests_and_text(&source), path, &children, module);
    }
    modules
}

fn read_imports(code: &str, path: &[String], children: &BTreeSet<String>, module: &mut Module) {
    let mut rest = String::new();
    let mut lines = code.lines().enumerate();
    // Functions of scripts are in inline modules, from which `super` leads to the file.
    let mut inline: Option<Vec<String>> = None;
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim_start();
        let (visibility, item) = match trimmed.split_once("use ") {
            Some((before, item))
                if before.is_empty() || before.starts_with("pub") && before.ends_with(' ') =>
            {
                (before, item)
            }
            _ => {
                if line.ends_with(" mod functions {") || line == "mod functions {" {
                    inline = Some([path, &["functions".to_owned()]].concat());
                } else if line == "}" {
                    inline = None;
                }
                rest.push_str(line);
                rest.push('\n');
                continue;
            }
        };
        rest.push('\n');
        let mut tree = item.to_owned();
        while !tree.contains(';') {
            let Some((_, more)) = lines.next() else { break };
            tree.push_str(more.trim());
            rest.push('\n');
        }
        let tree = tree.split(';').next().unwrap_or_default();
        let mut paths = Vec::new();
        flatten("", tree, &mut paths);
        for (used, alias) in paths {
            let from = inline.as_deref().unwrap_or(path);
            let Some(target) = resolve(&used, from, children) else {
                continue;
            };
            if !visibility.is_empty() {
                let name = alias.or_else(|| target.last().cloned()).unwrap_or_default();
                module.exports.insert(name, target.clone());
            }
            module.imports.push((index + 1, target));
        }
    }
    for (index, line) in rest.lines().enumerate() {
        for start in ["crate::", "super::"] {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == ':') {
                    continue;
                }
                let end = line[at..]
                    .find(|char: char| !(char.is_alphanumeric() || char == '_' || char == ':'));
                let used = &line[at..end.map_or(line.len(), |end| at + end)];
                let used = used.trim_end_matches(':');
                // What `super` means in an inline module is seen in its `use` items.
                if start == "crate::" {
                    let target = resolve(used, path, children);
                    module
                        .imports
                        .extend(target.map(|target| (index + 1, target)));
                }
            }
        }
    }
}

/// The module that defines what `path` names, re-exports followed.
fn definition(modules: &Modules, path: &[String], hops: usize) -> Option<Vec<String>> {
    let length = (0..=path.len())
        .rev()
        .find(|&length| modules.contains_key(&path[..length]))?;
    let module = path[..length].to_vec();
    if let Some(name) = path.get(length)
        && hops < 8
        && let Some(target) = modules[&module].exports.get(name)
    {
        return definition(modules, target, hops + 1);
    }
    Some(module)
}

/// Every import between two different modules.
fn imports(modules: &Modules) -> Imports {
    let mut imports = Imports::new();
    for (path, module) in modules {
        for (line, target) in &module.imports {
            match definition(modules, target, 0) {
                Some(target) if target != *path && !target.is_empty() && !path.is_empty() => {
                    imports.entry((path.clone(), target)).or_insert(*line);
                }
                _ => {}
            }
        }
    }
    imports
}

fn is_family(one: &[String], other: &[String]) -> bool {
    one.len() + 1 == other.len() && other.starts_with(one)
        || other.len() + 1 == one.len() && one.starts_with(other)
}

/// Finds the edges of the first circle in a graph.
fn circle<Node: Ord + Clone>(edges: &BTreeMap<Node, BTreeSet<Node>>) -> Vec<(Node, Node)> {
    fn visit<Node: Ord + Clone>(
        node: &Node,
        edges: &BTreeMap<Node, BTreeSet<Node>>,
        path: &mut Vec<Node>,
        done: &mut BTreeSet<Node>,
    ) -> Vec<(Node, Node)> {
        if let Some(start) = path.iter().position(|passed| passed == node) {
            let mut circle = path[start..].to_vec();
            circle.push(node.clone());
            return circle
                .windows(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect();
        }
        if !done.insert(node.clone()) {
            return Vec::new();
        }
        path.push(node.clone());
        for next in edges.get(node).into_iter().flatten() {
            let found = visit(next, edges, path, done);
            if !found.is_empty() {
                return found;
            }
        }
        path.pop();
        Vec::new()
    }
    let mut done = BTreeSet::new();
    let circles = edges
        .keys()
        .map(|node| visit(node, edges, &mut Vec::new(), &mut done));
    circles
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

fn shown(modules: &Modules, from: &[String], to: &[String], line: usize) -> String {
    format!("{}:{line} imports {}", modules[from].file, modules[to].file)
}

#[test]
fn imports_point_down_the_layers() {
    let modules = modules("src");
    let layer = |folder: &str| LAYERS.iter().position(|layer| layer.contains(&folder));
    let mut wrong = String::new();
    let imports = imports(&modules);
    for ((from, to), line) in &imports {
        let (above, below) = (from[0].as_str(), to[0].as_str());
        let (Some(upper), Some(lower)) = (layer(above), layer(below)) else {
            panic!("no layer holds {above} or {below}");
        };
        let is_allowed =
            above == below || upper < lower || WITHIN_A_LAYER.contains(&(above, below));
        if !is_allowed {
            let _ = writeln!(wrong, "{}", shown(&modules, from, to, *line));
        }
    }
    assert!(wrong.is_empty(), "imports that point up:\n{wrong}");
    assert!(
        imports.len() > 300,
        "only {} imports were read",
        imports.len()
    );
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    for folder in ["src", "benches/compare"] {
        assert_no_circle_of_files(&modules(folder));
    }
}

fn assert_no_circle_of_files(modules: &Modules) {
    let imports = imports(modules);
    assert!(
        imports.len() > 30,
        "only {} imports were read",
        imports.len()
    );
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (from, to) in imports.keys().filter(|(from, to)| !is_family(from, to)) {
        edges.entry(from.clone()).or_default().insert(to.clone());
    }
    let circle = circle(&edges);
    let lines = circle.into_iter().map(|(from, to)| {
        let line = imports[&(from.clone(), to.clone())];
        shown(modules, &from, &to, line)
    });
    let lines: Vec<String> = lines.collect();
    assert!(
        lines.is_empty(),
        "a circle of imports:\n{}",
        lines.join("\n")
    );
}

#[test]
fn folders_do_not_import_each_other_in_a_circle() {
    let modules = modules("src");
    let imports = imports(&modules);
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut examples = BTreeMap::new();
    let folder = |path: &[String]| {
        let file = &modules[path].file;
        Path::new(file)
            .parent()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    for ((from, to), line) in &imports {
        let (above, below) = (folder(from), folder(to));
        let (one, other): (Vec<&str>, Vec<&str>) =
            (above.split('/').collect(), below.split('/').collect());
        let common = one
            .iter()
            .zip(&other)
            .take_while(|(one, other)| one == other)
            .count();
        // A folder that contains the other one is no neighbour of it.
        if common == one.len() || common == other.len() || above.is_empty() || below.is_empty() {
            continue;
        }
        let (one, other) = (one[..=common].join("/"), other[..=common].join("/"));
        examples
            .entry((one.clone(), other.clone()))
            .or_insert_with(|| shown(&modules, from, to, *line));
        edges.entry(one).or_default().insert(other);
    }
    let circle = circle(&edges);
    let lines: Vec<String> = circle
        .into_iter()
        .map(|edge| examples[&edge].clone())
        .collect();
    assert!(
        lines.is_empty(),
        "a circle of folders:\n{}",
        lines.join("\n")
    );
}
