//! Deserializes single values and trees of values, with the parsers of the command line. So a number,
//! a duration or an address has one form everywhere.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::cli::value::{self, ParseResult};

/// Defines functions that deserialize an optional key with a parser.
macro_rules! readers {
    ($($name:ident: $type:ty = $parse:expr;)*) => {$(
        fn $name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<$type>, D::Error> {
            from.deserialize_any($crate::config::yaml_values::Scalar { parse: $parse, is_optional: true })
        }
    )*};
}
pub(crate) use readers;

/// Defines types of list or map elements that are deserialized with a parser.
macro_rules! elements {
    ($($(#[$meta:meta])* $name:ident($type:ty) = $parse:expr;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name(pub $type);

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read = from.deserialize_any($crate::config::yaml_values::Scalar { parse: $parse, is_optional: false })?;
                read.map(Self).ok_or_else(|| serde::de::Error::custom("no value"))
            }
        }
    )*};
}
pub(crate) use elements;

/// Deserializes a whole number of at least 0.
pub(crate) fn number<'de, D: Deserializer<'de>, T: std::str::FromStr>(
    from: D,
) -> Result<Option<T>, D::Error> {
    from.deserialize_any(Scalar {
        parse: value::number,
        is_optional: true,
    })
}

/// Deserializes one value with a parser; numbers keep their notation.
///
/// The parser's rule becomes serde's "expected". The value is left out, since it may be a secret.
pub(crate) struct Scalar<T> {
    pub parse: fn(&str) -> ParseResult<T>,
    pub is_optional: bool,
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

/// Deserializes `script.vars` as JSON values, so that other modules need no YAML.
pub(crate) fn vars<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    let tree = Option::<ValueTree<MapOnly>>::deserialize(from)?;
    Ok(tree.and_then(|tree| match tree.value {
        Value::Object(map) => Some(map),
        _ => None,
    }))
}

/// Marks a tree whose root must be a mapping.
struct MapOnly;
/// Marks a tree whose root may be any value.
struct AnyValue;

/// A tree of values; `K` restricts its root.
struct ValueTree<K> {
    value: Value,
    kind: PhantomData<K>,
}

impl<'de> Deserialize<'de> for ValueTree<MapOnly> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TreeBranch).map(ValueTree::of)
    }
}

impl<'de> Deserialize<'de> for ValueTree<AnyValue> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeBranch).map(ValueTree::of)
    }
}

impl<K> ValueTree<K> {
    fn of(value: Value) -> Self {
        Self {
            value,
            kind: PhantomData,
        }
    }
}

struct TreeBranch;

impl<'de> Visitor<'de> for TreeBranch {
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
        // A script's integers are signed; a conversion to a float would lose digits.
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
        while let Some(element) = from.next_element::<ValueTree<AnyValue>>()? {
            list.push(element.value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, tree)) = from.next_entry::<String, ValueTree<AnyValue>>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            map.insert(key, tree.value);
        }
        Ok(Value::Object(map))
    }
}
