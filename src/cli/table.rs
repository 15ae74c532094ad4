//! The types of the option table in `options`: a row per option, and its view by clap.

use std::ffi::OsStr;

use clap::{Arg, ArgAction, ValueHint};

use crate::cli::value::ParseResult;

/// The commands that take an option as a flag, as bits.
pub mod on {
    /// `token_service [SIZE]`.
    pub const RUN: u16 = 1;
    /// `token_service demo`.
    pub const DEMO: u16 = 1 << 1;
    /// `token_service replay`.
    pub const REPLAY: u16 = 1 << 2;
    /// `token_service merge`.
    pub const MERGE: u16 = 1 << 3;
    /// `token_service check`.
    pub const CHECK: u16 = 1 << 4;
    /// `token_service demo-source`.
    pub const DEMO_SOURCE: u16 = 1 << 5;
    /// Not a command: the `options` of a case of a pipeline test.
    pub const CASE: u16 = 1 << 6;
    /// `token_service schema`.
    pub const SCHEMA: u16 = 1 << 7;
    /// `token_service audit`.
    pub const AUDIT: u16 = 1 << 8;
    /// `token_service receipts prune`.
    pub const PRUNE: u16 = 1 << 9;
    /// `token_service serve`.
    pub const SERVE: u16 = 1 << 10;

    /// Both kinds of a run.
    pub const RUNS: u16 = RUN | DEMO;
    /// Commands that settle tokens of one run.
    pub const SETTLES: u16 = RUNS | REPLAY;
    /// Commands that start runs on the configured source.
    pub const STARTS: u16 = RUNS | SERVE;
    /// Commands that write reports.
    pub const REPORTS: u16 = SETTLES | MERGE;
    /// Commands about receipts that a run has written.
    pub const RECEIPTS: u16 = AUDIT | PRUNE;
    /// Commands that read the configuration.
    pub const CONFIGURED: u16 = REPORTS | CHECK | SCHEMA | RECEIPTS | SERVE;
}

/// Returns the name of a command among [`on`], as typed.
pub(crate) fn command_name(command: u16) -> Option<&'static str> {
    Some(match command {
        on::DEMO => "demo",
        on::REPLAY => "replay",
        on::MERGE => "merge",
        on::CHECK => "check",
        on::DEMO_SOURCE => "demo-source",
        on::SCHEMA => "schema",
        on::AUDIT => "audit",
        on::PRUNE => "receipts prune",
        on::SERVE => "serve",
        _ => return None,
    })
}

/// The forms of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value, such as a number or a duration.
    Value,
    /// One text or path; the file must quote it if YAML takes it for another type.
    Text,
    /// True or false; the flag has no value.
    Switch,
    /// Several values: the flag is repeated, the variable separates them by commas.
    List,
    /// A mapping of texts.
    Texts,
    /// A mapping of arbitrary values.
    Tree,
}

/// The variable of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `TOKEN_SERVICE_` and the name of the flag.
    Derived,
    /// This one.
    Named(&'static str),
    /// None.
    None,
}

/// The value of an option that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// No value, which needs no explanation.
    Nothing,
    /// This value, which the option's parser accepts.
    Value(&'static str),
    /// These words describe what happens.
    Described(&'static str),
}

/// A row of the table: everything about an option except its type.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The identifier in the table.
    pub id: &'static str,
    /// The flag without dashes, or `SIZE`; empty for a setting without a flag.
    pub flag: &'static str,
    /// The path of the key in the configuration file; empty for an option without a key.
    pub key: &'static str,
    /// The name of the value in the help, such as `N`; empty for a switch.
    pub metavar: &'static str,
    /// The variable.
    pub variable: Variable,
    /// The form of the value.
    pub shape: Shape,
    /// The heading in the help; empty for the general one.
    pub group: &'static str,
    /// The value if it is not set.
    pub unset: Unset,
    /// All possible values, if they are words.
    pub values: &'static [&'static str],
    /// True if `-h` leaves the option to `--help`.
    pub is_rare: bool,
    /// True if messages must not show the value.
    pub is_secret: bool,
    /// Where it is a flag, as bits of [`on`].
    pub on: u16,
    /// The help.
    pub help: &'static str,
    /// Checks a value as the option's parser does.
    pub check: fn(&OsStr) -> ParseResult<()>,
}

/// Returns a flag with a value, to which a row adds what else applies.
pub(crate) const fn flag(flag: &'static str, metavar: &'static str) -> Row {
    Row {
        flag,
        variable: Variable::Derived,
        ..setting("", metavar)
    }
}

/// Returns a flag without a value.
pub(crate) const fn switch(name: &'static str) -> Row {
    Row {
        shape: Shape::Switch,
        ..flag(name, "")
    }
}

/// Returns a key of the file that is no flag.
pub(crate) const fn setting(key: &'static str, metavar: &'static str) -> Row {
    Row {
        id: "",
        flag: "",
        key,
        metavar,
        variable: Variable::None,
        shape: Shape::Value,
        group: "",
        unset: Unset::Nothing,
        values: &[],
        is_rare: false,
        is_secret: false,
        on: 0,
        help: "",
        check: |_| Ok(()),
    }
}

impl Row {
    /// Returns the variable, such as `TOKEN_SERVICE_PAGE_SIZE`.
    pub fn variable_name(&self) -> Option<String> {
        match self.variable {
            Variable::Derived => {
                let name = self.flag.replace('-', "_").to_uppercase();
                Some(format!("TOKEN_SERVICE_{name}"))
            }
            Variable::Named(name) => Some(name.to_owned()),
            Variable::None => None,
        }
    }

    /// Returns the section of the key, which is empty for a key at the top, and its last part.
    pub fn section_and_key(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }

    /// Returns the key in the `options` of a test's case, and true if it negates a switch: `top_up` for
    /// `--no-top-up`.
    pub fn case_key(&self) -> (String, bool) {
        match self.section_and_key() {
            (_, "") => {
                let positive = self.flag.strip_prefix("no-");
                let name = positive.unwrap_or(self.flag).replace('-', "_");
                (name, positive.is_some())
            }
            (_, key) => (key.to_owned(), false),
        }
    }

    /// Returns the flag with its value, such as `--page-size N`.
    pub fn usage(&self) -> String {
        match (self.flag, self.metavar) {
            ("SIZE", _) => String::from("SIZE"),
            (flag, "") => format!("--{flag}"),
            (flag, metavar) => format!("--{flag} {metavar}"),
        }
    }

    /// Returns the name of the flag in messages.
    pub fn flag_name(&self) -> String {
        match self.flag {
            "SIZE" => String::from("SIZE"),
            flag => format!("--{flag}"),
        }
    }

    /// Returns true if the value is a path.
    pub fn takes_path(&self) -> bool {
        matches!(self.metavar, "FILE" | "DIR")
    }

    /// Returns the default in the help and the documentation.
    pub fn default_text(&self) -> Option<&'static str> {
        match self.unset {
            Unset::Nothing => None,
            Unset::Value(text) | Unset::Described(text) => Some(text),
        }
    }

    /// Returns clap's view of the option.
    pub(super) fn to_arg(self) -> Arg {
        let arg = Arg::new(self.id)
            .help(self.full_help())
            .help_heading(Some(self.group).filter(|group| !group.is_empty()))
            .allow_negative_numbers(self.flag == "SIZE")
            // So that `--deadline -1s` is an error about the value. A path may be forgotten before the
            // next flag, which would then be taken for it.
            .allow_hyphen_values(
                self.flag != "SIZE" && self.shape != Shape::Switch && !self.takes_path(),
            );
        let arg = match self.flag {
            "SIZE" => arg.value_name("SIZE"),
            flag => arg.long(flag).value_name(self.metavar),
        };
        let arg = match self.shape {
            Shape::Switch => return arg.action(ArgAction::SetTrue).value_name(""),
            Shape::List => arg.action(ArgAction::Append),
            _ => arg.action(ArgAction::Set),
        };
        let arg = if self.takes_path() {
            arg.value_hint(ValueHint::AnyPath)
        } else {
            arg
        };
        // The value is parsed with those of the environment and the file, so that all mistakes show.
        arg.value_parser(clap::value_parser!(std::ffi::OsString))
    }

    /// Returns the help, with the possible values for `{values}`.
    pub fn help_text(&self) -> String {
        let values = self.values.join(", ");
        let (others, last) = values.rsplit_once(", ").unwrap_or(("", &values));
        self.help
            .replace("{values}", &format!("{others} or {last}"))
    }

    /// Returns the help with the default and the variable. clap's `env` is not used: it takes an empty
    /// variable for a value, and blames the option for an invalid variable.
    fn full_help(&self) -> String {
        let default = self.default_text();
        let default = default.map(|text| format!(" [default: {text}]"));
        let variable = self.variable_name();
        let variable = variable.map(|name| format!(" [env: {name}]"));
        let (default, variable) = (default.unwrap_or_default(), variable.unwrap_or_default());
        format!("{}{default}{variable}", self.help_text())
    }
}

/// An option: its row, and the parser of its values.
pub struct Opt<T: 'static> {
    /// The row.
    pub row: Row,
    /// The parser of one value.
    pub parse: fn(&OsStr) -> ParseResult<T>,
}

impl<T> Opt<T> {
    /// Returns the default; false for a switch.
    ///
    /// # Panics
    /// If the row has no default, or one that the parser refuses. A test parses all of them.
    pub fn default(&self) -> T {
        let text = match self.row.unset {
            Unset::Value(text) => text,
            _ => "false",
        };
        match (self.parse)(OsStr::new(text)) {
            Ok(value) => value,
            Err(rule) => panic!("the default of {} {rule}", self.row.id),
        }
    }
}

/// What a parser takes: text, or a path that need not be UTF-8.
pub(crate) trait RawValue {
    /// Returns the value as this type.
    fn of(raw: &OsStr) -> ParseResult<&Self>;
}

impl RawValue for str {
    fn of(raw: &OsStr) -> ParseResult<&Self> {
        raw.to_str().ok_or_else(|| String::from("must be UTF-8"))
    }
}

impl RawValue for OsStr {
    fn of(raw: &OsStr) -> ParseResult<&Self> {
        Ok(raw)
    }
}

/// Calls a parser of text or of a path.
pub(crate) fn parse_raw<R: RawValue + ?Sized, T>(
    raw: &OsStr,
    parse: impl Fn(&R) -> ParseResult<T>,
) -> ParseResult<T> {
    parse(R::of(raw)?)
}

/// Declares the options: for each a constant of type [`Opt`], and all rows as `ROWS`. The help of an
/// option is its doc comment.
macro_rules! options {
    ($($(#[doc = $help:literal])+ $id:ident: $type:ty = $parse:expr, $row:expr;)*) => {
        $(
            $(#[doc = $help])+
            pub const $id: $crate::cli::table::Opt<$type> = $crate::cli::table::Opt {
                row: $crate::cli::table::Row {
                    id: stringify!($id),
                    help: concat!($($help),+).trim_ascii(),
                    check: |raw| $crate::cli::table::parse_raw::<_, $type>(raw, $parse).map(drop),
                    ..$row
                },
                parse: |raw| $crate::cli::table::parse_raw::<_, $type>(raw, $parse),
            };
        )*

        /// All rows of this table, in the order of the help.
        pub static ROWS: &[$crate::cli::table::Row] = &[$($id.row),*];
    };
}
pub(crate) use options;
