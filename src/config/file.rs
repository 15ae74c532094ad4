//! The configuration file: its keys, and how each value is read. The only place, with `place`, that
//! knows the YAML crate; whatever leaves it is checked and of the program's own types.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use url::Url;

use super::values::{self, Parsed};
use super::{place, usage};
use crate::escape::escape;
use crate::problem::Problem;
use crate::report::Spec;
use crate::store::postgres::SslMode;

/// The whole file; a key that is absent or empty is `None`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    source: Option<SourceKeys>,
    database: Option<DatabaseKeys>,
    run: Option<RunKeys>,
    reports: Option<Vec<SpecKey>>,
    script: Option<ScriptKeys>,
}

/// The file after reading.
#[derive(Default)]
pub(super) struct File {
    pub source: SourceKeys,
    pub database: DatabaseKeys,
    pub run: RunKeys,
    pub reports: Vec<Spec>,
    pub script: ScriptKeys,
    /// The file's path as it was given, and its text; for places in messages.
    pub path: String,
    pub text: String,
}

/// `source:`, see the contract for each key.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SourceKeys {
    #[serde(deserialize_with = "source_url")]
    pub url: Option<Url>,
    pub headers: Option<BTreeMap<HeaderName, HeaderValue>>,
    #[serde(deserialize_with = "limit")]
    pub timeout: Option<Duration>,
    #[serde(deserialize_with = "limit")]
    pub connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "positive")]
    pub page_size: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub retries: Option<u32>,
    #[serde(deserialize_with = "bytes")]
    pub max_body: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    pub max_token: Option<u64>,
}

/// `database:`, see the contract for each key.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DatabaseKeys {
    pub url: Option<String>,
    pub host: Option<String>,
    #[serde(deserialize_with = "ports")]
    pub port: Option<Vec<u16>>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub name: Option<String>,
    #[serde(deserialize_with = "sslmode")]
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    #[serde(deserialize_with = "identifier")]
    pub table: Option<String>,
    #[serde(deserialize_with = "identifier")]
    pub column: Option<String>,
    #[serde(deserialize_with = "count")]
    pub connections: Option<usize>,
    #[serde(deserialize_with = "count")]
    pub pipeline: Option<usize>,
    #[serde(deserialize_with = "limit")]
    pub statement_timeout: Option<Duration>,
    #[serde(deserialize_with = "limit")]
    pub connect_timeout: Option<Duration>,
}

/// `run:`, see the contract for each key.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunKeys {
    pub script: Option<PathBuf>,
    #[serde(deserialize_with = "size")]
    pub size: Option<u64>,
    #[serde(deserialize_with = "limit")]
    pub deadline: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub patience: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub wait: Option<Duration>,
    pub journal: Option<PathBuf>,
}

/// `script:`, see the contract for each key.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ScriptKeys {
    #[serde(deserialize_with = "vars")]
    pub vars: Option<Map<String, Value>>,
    #[serde(deserialize_with = "number")]
    pub max_operations: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    pub max_memory: Option<u64>,
    #[serde(deserialize_with = "prefix")]
    pub env_prefix: Option<String>,
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<File, Problem> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        usage(format!(
            "cannot read the configuration file `{}`",
            escape(&shown)
        ))
        .cause(error.to_string())
        .hint("--config and TOKEN_SERVICE_CONFIG name a YAML file that this user can read")
    })?;
    parse(shown, text)
}

/// Reads `text`, which messages call `path`.
pub(super) fn parse(path: String, text: String) -> Result<File, Problem> {
    let keys: Option<Keys> =
        serde_yaml::from_str(&text).map_err(|error| place::explain(&path, &text, &error))?;
    let keys = keys.unwrap_or_default();
    let reports = keys.reports.unwrap_or_default();
    Ok(File {
        source: keys.source.unwrap_or_default(),
        database: keys.database.unwrap_or_default(),
        run: keys.run.unwrap_or_default(),
        reports: reports.into_iter().map(|SpecKey(spec)| spec).collect(),
        script: keys.script.unwrap_or_default(),
        path,
        text,
    })
}

/// Makes each function that reads an optional key with one of `values`' parsers.
macro_rules! readers {
    ($($name:ident: $type:ty = $parse:expr;)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<$type>, D::Error> {
            from.deserialize_any(Scalar { parse: $parse, is_optional: true })
        }
    )*};
}

readers! {
    source_url: Url = values::source_url;
    limit: Duration = values::limit;
    duration: Duration = values::duration;
    size: u64 = values::size;
    positive: u64 = values::positive;
    bytes: u64 = values::bytes;
    ports: Vec<u16> = values::ports;
    count: usize = values::count;
    sslmode: SslMode = str::parse;
    identifier: String = not_empty;
    prefix: String = not_empty;
}

fn number<'de, D: Deserializer<'de>, T: std::str::FromStr>(from: D) -> Result<Option<T>, D::Error> {
    from.deserialize_any(Scalar {
        parse: values::number,
        is_optional: true,
    })
}

fn not_empty(text: &str) -> Parsed<String> {
    if text.is_empty() || text.contains('\0') {
        Err(String::from("must not be empty"))
    } else {
        Ok(text.to_string())
    }
}

/// Makes each type that stands in a list or map and is read with one of `values`' parsers.
macro_rules! elements {
    ($($(#[$meta:meta])* $name:ident($type:ty) = $parse:expr;)*) => {$(
        $(#[$meta])*
        pub(super) struct $name(pub $type);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read = from.deserialize_any(Scalar { parse: $parse, is_optional: false })?;
                read.map(Self).ok_or_else(|| D::Error::custom("no value"))
            }
        }
    )*};
}

elements! {
    /// A report.
    SpecKey(Spec) = values::report;
    /// A header's name in lower case.
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    HeaderName(String) = values::header_name;
    /// A header's value, which may be a secret.
    HeaderValue(String) = |text| if values::is_header_value(text) {
        Ok(text.to_string())
    } else {
        Err(String::from("must not hold control characters"))
    };
}

/// Reads one value, a number as it was written, by a parser. Its rule travels in serde's "expected",
/// and the value itself is left out: it may be a secret.
struct Scalar<T> {
    parse: fn(&str) -> Parsed<T>,
    is_optional: bool,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a single value")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<T>, E> {
        (self.parse)(text)
            .map(Some)
            .map_err(|rule| E::invalid_value(Unexpected::Other("value"), &rule.as_str()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Option<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Option<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Option<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<Option<T>, E> {
        self.visit_str(&truth.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Option<T>, E> {
        if self.is_optional {
            Ok(None)
        } else {
            Err(E::invalid_type(Unexpected::Unit, &self))
        }
    }
}

/// `script.vars`: any tree of values that JSON can hold, so that other rooms need no YAML.
fn vars<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Map<String, Value>>, D::Error> {
    let tree = Option::<Tree<MapOnly>>::deserialize(from)?;
    Ok(tree.and_then(|tree| match tree.value {
        Value::Object(map) => Some(map),
        _ => None,
    }))
}

/// Only a mapping is taken.
struct MapOnly;
/// Every value is taken.
struct Anything;

/// A tree of values; `K` says what may stand at its root.
struct Tree<K> {
    value: Value,
    kind: PhantomData<K>,
}

impl<'de> Deserialize<'de> for Tree<MapOnly> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Branch).map(Tree::of)
    }
}

impl<'de> Deserialize<'de> for Tree<Anything> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Branch).map(Tree::of)
    }
}

impl<K> Tree<K> {
    fn of(value: Value) -> Self {
        Self {
            value,
            kind: PhantomData,
        }
    }
}

struct Branch;

impl<'de> Visitor<'de> for Branch {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a mapping of plain values, lists and mappings")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        // A script's integers are signed; a silent change to a float would lose digits.
        i64::try_from(number).map(Value::from).map_err(|_| {
            let rule = "must be at most 9223372036854775807; quote it to keep it as text";
            E::invalid_value(Unexpected::Other("value"), &rule)
        })
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::invalid_value(Unexpected::Other("value"), &"must be a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = from.next_element::<Tree<Anything>>()? {
            list.push(element.value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, tree)) = from.next_entry::<String, Tree<Anything>>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            map.insert(key, tree.value);
        }
        Ok(Value::Object(map))
    }
}
