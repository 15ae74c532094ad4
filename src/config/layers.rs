//! The layers of the configuration: flags override the environment, which overrides the file, which
//! overrides the default. Invalid values are collected, so that one pass reports all of them.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::PathBuf;

use crate::cli::Given;
use crate::cli::env::Env;
use crate::cli::error::invalid_flag;
use crate::cli::options::{CONFIG, ROWS};
use crate::cli::table::{Opt, Row, Shape};
use crate::cli::value::{ParseResult, invalid_value};
use crate::config::file::{self, ConfigFile};
use crate::error::escape::escape;
use crate::error::{Error, usage};

/// Flags, environment and file, from which settings are resolved, and the errors found so far.
pub(super) struct Layers<'a> {
    given: &'a Given,
    pub env: &'a Env,
    /// The path of the configuration file.
    pub config: Option<PathBuf>,
    pub file: ConfigFile,
    /// Behind a cell, because every look-up may find one.
    errors: RefCell<Vec<Error>>,
}

impl<'a> Layers<'a> {
    /// Reads the configuration file that a flag or the environment names.
    ///
    /// There is no default path: a file found in the working folder could send the tokens elsewhere.
    pub(super) fn of(given: &'a Given, env: &'a Env) -> Self {
        let mut layers = Self::new(given, env, ConfigFile::default(), Vec::new());
        layers.config = layers.get(&CONFIG);
        if let Some(path) = &layers.config {
            let (file, errors) = file::read(path);
            layers.file = file;
            layers.errors.get_mut().extend(errors);
        }
        layers
    }

    pub(super) fn new(
        given: &'a Given,
        env: &'a Env,
        file: ConfigFile,
        errors: Vec<Error>,
    ) -> Self {
        Self {
            given,
            env,
            config: None,
            file,
            errors: RefCell::new(errors),
        }
    }

    /// Returns the value of an option, if it is set.
    pub(super) fn get<T>(&self, option: &Opt<T>) -> Option<T> {
        self.list(option)?.pop()
    }

    /// Returns the value of an option that has a default.
    pub(super) fn value<T>(&self, option: &Opt<T>) -> T {
        self.get(option).unwrap_or_else(|| option.default())
    }

    /// Returns the values of an option, if it is set; reports invalid ones.
    pub(super) fn list<T>(&self, option: &Opt<T>) -> Option<Vec<T>> {
        self.parse(&option.row, option.parse)
    }

    /// Reports invalid values of the options that these commands take.
    pub(super) fn check_options(&self, commands: u16) {
        for row in ROWS.iter().filter(|row| row.on & commands != 0) {
            self.parse(row, row.check);
        }
    }

    fn parse<T>(&self, row: &Row, parse: fn(&OsStr) -> ParseResult<T>) -> Option<Vec<T>> {
        let flags = self.given.values(row);
        if !flags.is_empty() {
            return self.parse_all(flags, parse, |rule, text| {
                invalid_flag(self.given, row, rule, text)
            });
        }
        if let Some((name, text)) = self.variable(row) {
            let parts = match row.shape {
                Shape::List => text.split(',').map(str::trim).collect(),
                _ => vec![text],
            };
            return self.parse_all(&parts, parse, |rule, part| {
                usage(if row.is_secret {
                    format!("{name} {rule}")
                } else {
                    invalid_value(&name, rule, &escape(part))
                })
            });
        }
        // The file's values were checked when it was read.
        let values = self.parse_all(self.file.values(row), parse, |rule, _| usage(rule));
        values.filter(|values| !values.is_empty())
    }

    /// Returns the variable of an option and its value, if it is set.
    fn variable(&self, row: &Row) -> Option<(String, &str)> {
        let name = row.variable_name()?;
        let text = self.collect(self.env.get(&name))?;
        Some((name, text))
    }

    /// Parses all values; reports invalid ones, and then returns `None`.
    fn parse_all<T, S: AsRef<OsStr>>(
        &self,
        texts: &[S],
        parse: fn(&OsStr) -> ParseResult<T>,
        invalid: impl Fn(&str, &str) -> Error,
    ) -> Option<Vec<T>> {
        let (mut values, mut is_valid) = (Vec::new(), true);
        for text in texts.iter().map(AsRef::as_ref) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(rule) => {
                    self.fail(invalid(&rule, &text.to_string_lossy()));
                    is_valid = false;
                }
            }
        }
        is_valid.then_some(values)
    }

    /// Reports an error, unless it is known: settings that depend on each other are looked up twice.
    pub(super) fn fail(&self, error: Error) {
        let mut errors = self.errors.borrow_mut();
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Returns the value, or reports the error and returns the default.
    pub(super) fn collect<T: Default>(&self, result: Result<T, Error>) -> T {
        result.unwrap_or_else(|error| {
            self.fail(error);
            T::default()
        })
    }

    /// Returns the number of errors found so far.
    pub(super) fn count_errors(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Returns the value, or all errors if there are any.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Error>> {
        match self.errors.into_inner() {
            errors if errors.is_empty() => Ok(value),
            errors => Err(errors),
        }
    }
}
