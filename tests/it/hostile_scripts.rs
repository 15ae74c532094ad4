//! Runs generated scripts that use the whole language and script API in ways that no author intends.
//!
//! None may crash the process, take more than 256 MiB, outlive its deadline or lose a token. The long form
//! runs a thousand of them.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::support::ledger::{Ledger, demo_command};

/// The limit for the peak memory of the process, in bytes.
const MAX_MEMORY: u64 = 256 * 1024 * 1024;

/// The exit codes of a run that `--help` lists; a generated `exit` uses other codes.
const EXIT_CODES: [i32; 5] = [0, 2, 3, 4, 5];
/// The codes that generated scripts set.
const CHOSEN_CODES: [i32; 2] = [20, 21];

/// Functions that take no stream: the name and the number of arguments after the receiver.
const METHODS: [(&str, usize); 58] = [
    ("push", 1),
    ("pop", 0),
    ("shift", 0),
    ("append", 1),
    ("insert", 2),
    ("remove", 1),
    ("clear", 0),
    ("truncate", 1),
    ("chop", 1),
    ("pad", 2),
    ("reverse", 0),
    ("sort", 0),
    ("order", 0),
    ("dedup", 0),
    ("extract", 2),
    ("splice", 3),
    ("split", 1),
    ("index_of", 1),
    ("contains", 1),
    ("len", 0),
    ("is_empty", 0),
    ("get", 1),
    ("set", 2),
    ("keys", 0),
    ("values", 0),
    ("mixin", 1),
    ("fill_with", 1),
    ("to_string", 0),
    ("to_debug", 0),
    ("to_json", 0),
    ("repeat", 1),
    ("replace", 2),
    ("trim", 0),
    ("to_upper", 0),
    ("to_lower", 0),
    ("sub_string", 2),
    ("crop", 2),
    ("chars", 0),
    ("to_chars", 0),
    ("starts_with", 1),
    ("to_blob", 0),
    ("type_of", 0),
    ("is_shared", 0),
    ("map", 1),
    ("filter", 1),
    ("reduce", 1),
    ("some", 1),
    ("all", 1),
    ("for_each", 1),
    ("sort_by", 1),
    ("find", 1),
    ("drain", 1),
    ("retain", 1),
    ("zip", 1),
    ("abs", 0),
    ("to_float", 0),
    ("tag", 0),
    ("call", 0),
];

/// Writes one script.
struct Generator {
    rng: Rng,
    text: String,
    /// The variables in scope.
    variables: Vec<String>,
    /// The functions so far, with their numbers of parameters.
    functions: Vec<(String, usize)>,
    in_function: bool,
    next: usize,
}

impl Generator {
    fn script(seed: u64) -> String {
        let mut generator = Self {
            rng: Rng::with_seed(seed),
            text: String::new(),
            variables: Vec::new(),
            functions: Vec::new(),
            in_function: false,
            next: 0,
        };
        if generator.rng.bool() {
            generator
                .text
                .push_str("import \"lib/batches\" as batches;\nimport \"lib/stats\" as stats;\n");
        } else {
            generator
                .text
                .push_str("import \"own\" as batches;\nimport \"lib/stats\" as stats;\n");
        }
        for _ in 0..generator.rng.usize(0..4) {
            generator.function();
        }
        for _ in 0..generator.rng.usize(3..14) {
            generator.statement(3);
        }
        if generator.rng.u8(0..4) > 0 {
            generator.text.push_str("report(store(fetch(SIZE)));\n");
        }
        generator.text
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    fn function(&mut self) {
        let name = self.name("f");
        let params: Vec<String> = (0..self.rng.usize(0..3)).map(|_| self.name("p")).collect();
        let outer = std::mem::replace(&mut self.variables, params.clone());
        self.in_function = true;
        let _ = writeln!(self.text, "fn {name}({}) {{", params.join(", "));
        // It may call itself.
        self.functions.push((name, params.len()));
        for _ in 0..self.rng.usize(1..5) {
            self.statement(2);
        }
        let value = self.value(2);
        let _ = writeln!(self.text, "{value}\n}}");
        self.in_function = false;
        self.variables = outer;
    }

    fn block(&mut self, depth: usize) {
        let known = self.variables.len();
        for _ in 0..self.rng.usize(1..4) {
            self.statement(depth);
        }
        self.variables.truncate(known);
    }

    fn statement(&mut self, depth: usize) {
        let kind = if depth == 0 {
            self.rng.u8(0..7)
        } else {
            self.rng.u8(0..16)
        };
        match kind {
            0 | 1 => {
                let value = self.value(3);
                let name = self.name("v");
                let _ = writeln!(self.text, "let {name} = {value};");
                self.variables.push(name);
            }
            2 | 3 => {
                let (target, value) = (self.target(), self.value(3));
                let operator = ["=", "=", "+=", "-=", "*=", "??="][self.rng.usize(0..5)];
                let _ = writeln!(self.text, "{target} {operator} {value};");
            }
            4 | 5 => {
                let call = self.call(2);
                let _ = writeln!(self.text, "{call};");
            }
            6 => {
                let value = self.stream(2);
                let _ = writeln!(self.text, "report(store({value}));");
            }
            7 | 8 => {
                let (name, value) = (self.name("i"), self.iterable());
                let _ = writeln!(self.text, "for {name} in {value} {{");
                self.variables.push(name);
                self.block(depth - 1);
                self.variables.pop();
                self.text.push_str("}\n");
            }
            9 => {
                let count = self.rng.usize(1..2000);
                let name = self.name("n");
                let _ = writeln!(
                    self.text,
                    "let {name} = 0; while {name} < {count} {{ {name} += 1;"
                );
                self.block(depth - 1);
                self.text.push_str("}\n");
            }
            10 => {
                self.text.push_str("loop {\n");
                self.block(depth - 1);
                let value = self.value(1);
                let _ = writeln!(self.text, "if ({value}) == ({value}) {{ break; }}\n}}");
            }
            11 => {
                let (one, other) = (self.value(2), self.value(2));
                let _ = writeln!(self.text, "if ({one}) == ({other}) {{");
                self.block(depth - 1);
                self.text.push_str("} else {\n");
                self.block(depth - 1);
                self.text.push_str("}\n");
            }
            12 | 13 => {
                self.text.push_str("try {\n");
                self.block(depth - 1);
                let name = self.name("e");
                let _ = writeln!(self.text, "}} catch ({name}) {{ log_debug(`${{{name}}}`);");
                self.block(depth - 1);
                self.text.push_str("}\n");
            }
            14 => {
                let value = self.value(2);
                let _ = writeln!(
                    self.text,
                    "if ({value}) != () && ({value}) != ({value}) {{ throw {value}; }}"
                );
            }
            _ => {
                let value = self.value(2);
                let code = CHOSEN_CODES[self.rng.usize(0..2)];
                let _ = writeln!(self.text, "if ({value}) == 7 {{ exit({code}); }}");
            }
        }
    }

    fn variable(&mut self) -> Option<String> {
        let count = self.variables.len();
        (count > 0).then(|| self.variables[self.rng.usize(0..count)].clone())
    }

    fn target(&mut self) -> String {
        let Some(name) = self.variable() else {
            self.text.push_str("let a = [1, #{k: 2}];\n");
            self.variables.push("a".to_owned());
            return "a".to_owned();
        };
        match self.rng.u8(0..6) {
            0 => format!("{name}[{}]", self.rng.i64(-3..4)),
            1 => format!("{name}.k"),
            2 => format!("{name}[\"k\"]"),
            3 if self.in_function => "this".to_owned(),
            _ => name,
        }
    }

    fn iterable(&mut self) -> String {
        match self.rng.u8(0..8) {
            0 => format!("0..{}", self.rng.u32(1..3000)),
            1 => "fetch(SIZE)".to_owned(),
            2 => "fetch(SIZE).pages()".to_owned(),
            3 => "store(fetch_once(4))".to_owned(),
            4 => "#{a: 1, b: [2]}.keys()".to_owned(),
            5 => "\"text\"".to_owned(),
            _ => self.variable().unwrap_or_else(|| "[1, 2]".to_owned()),
        }
    }

    fn stream(&mut self, depth: usize) -> String {
        match self.rng.u8(0..7) {
            0 => "fetch(SIZE)".to_owned(),
            1 => "fetch_once(5)".to_owned(),
            2 => "tokens([\"aa\", \"b-b\"])".to_owned(),
            3 => "[\"cc\", \"dd\"]".to_owned(),
            4 => "fetch(3, #{page_size: 2, top_up: false})".to_owned(),
            5 => "store(fetch(4)).failures()".to_owned(),
            _ => self.value(depth.saturating_sub(1)),
        }
    }

    fn value(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.rng.u8(0..10) {
                0 => self.rng.i64(-9..99).to_string(),
                1 => "9_223_372_036_854_775_807".to_owned(),
                2 => "1.5e300".to_owned(),
                3 => "\"aü\\u200e\"".to_owned(),
                4 => "'c'".to_owned(),
                5 => "SIZE".to_owned(),
                6 => "()".to_owned(),
                7 => "\"x\".repeat(100_000)".to_owned(),
                8 if self.in_function => "this".to_owned(),
                _ => self.variable().unwrap_or_else(|| "true".to_owned()),
            };
        }
        let below = depth - 1;
        match self.rng.u8(0..14) {
            0 => format!("[{}, {}]", self.value(below), self.value(below)),
            1 => format!("#{{k: {}, l: {}}}", self.value(below), self.value(below)),
            2 => format!("({} + {})", self.value(below), self.value(below)),
            3 => format!("({} * {})", self.value(below), self.value(below)),
            4 => format!("`${{{}}}-${{{}}}`", self.value(below), self.value(below)),
            5 | 6 => self.call(below),
            7 => {
                let name = self.name("c");
                self.variables.push(name.clone());
                let body = self.value(below);
                self.variables.pop();
                format!("|{name}| {body}")
            }
            8 => format!(
                "if {} == 1 {{ {} }} else {{ {} }}",
                self.value(0),
                self.value(below),
                self.value(below)
            ),
            9 => format!(
                "switch {} {{ 1 => {}, _ => {} }}",
                self.value(0),
                self.value(below),
                self.value(below)
            ),
            10 => format!("({} ?? {})", self.value(below), self.value(below)),
            11 => format!("blob({}, 7)", self.rng.u32(0..200_000)),
            _ => self.value(0),
        }
    }

    fn call(&mut self, depth: usize) -> String {
        let below = depth.saturating_sub(1);
        match self.rng.u8(0..10) {
            0 if !self.functions.is_empty() => {
                let (name, count) = self.functions[self.rng.usize(0..self.functions.len())].clone();
                let args: Vec<String> = (0..count).map(|_| self.value(below)).collect();
                match self.variable().filter(|_| self.rng.bool()) {
                    Some(receiver) => format!("{receiver}.{name}({})", args.join(", ")),
                    None => format!("{name}({})", args.join(", ")),
                }
            }
            1 => format!("emit(`${{{}}}`)", self.value(below)),
            2 => format!("log_debug(\"m\", #{{v: {}}})", self.value(below)),
            3 => format!("retry(2, || {})", self.value(below)),
            4 => format!(
                "join([{}, {}], \",\")",
                self.value(below),
                self.value(below)
            ),
            5 => format!("batches::of([1, 2, 3], {})", self.value(0)),
            6 => format!("stats::percent({}, {})", self.value(0), self.value(0)),
            7 => format!("parse_json(`{{\"a\": ${{{}}}}}`)", self.rng.u32(0..99)),
            _ => {
                let (name, count) = METHODS[self.rng.usize(0..METHODS.len())];
                let receiver = self.variable().unwrap_or_else(|| "[1, 2]".to_owned());
                let args: Vec<String> = (0..count).map(|_| self.value(below)).collect();
                format!("{receiver}.{name}({})", args.join(", "))
            }
        }
    }
}

/// What the runs of many scripts took.
#[derive(Default)]
pub struct Totals {
    /// Runs in which the script started.
    pub started: u64,
    /// Runs that a mistake in the text prevented.
    pub refused: u64,
    /// Tokens in the reports.
    pub tokens: u64,
    /// The highest peak memory, in bytes.
    pub peak: u64,
}

/// Runs `count` scripts from `seed` on.
///
/// # Panics
/// If one crashes, takes too much memory or loses a token.
pub fn run_scripts(count: u64, seed: u64) -> Totals {
    let mut totals = Totals::default();
    for seed in seed..seed + count {
        let script = Generator::script(seed);
        let command = demo_command(20, &script)
            .file("own.rhai", "fn of(list, size) { list.extract(0, size) }")
            .args(["--deadline", "3s", "--grace", "4s"]);
        let (run, peak) = command.spawn().wait_with_last_peak();
        let shown = || format!("seed {seed}\n{script}\n{}", run.stderr);
        assert_eq!(run.signal, None, "{}", shown());
        let code = run.code.expect("an exit code");
        assert!(
            EXIT_CODES.contains(&code) || CHOSEN_CODES.contains(&code),
            "{code}: {}",
            shown()
        );
        for word in ["panicked", "crashed", "this is a bug"] {
            assert!(!run.stderr.contains(word), "{word}: {}", shown());
        }
        assert!(peak < MAX_MEMORY, "{peak} bytes: {}", shown());
        totals.peak = totals.peak.max(peak);
        if run.stderr.contains("requested, ") {
            totals.started += 1;
            let ledger = Ledger::of(&run);
            totals.tokens += ledger.count("received");
        } else {
            assert_eq!(code, 3, "{}", shown());
            totals.refused += 1;
        }
    }
    totals
}

#[test]
fn generated_scripts_neither_crash_nor_lose_tokens() {
    let totals = run_scripts(25, 7);
    assert!(totals.started > 5, "{} scripts started", totals.started);
}
