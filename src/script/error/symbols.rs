//! Looks up the functions that scripts can call, and suggests names.

use std::collections::{BTreeMap, BTreeSet};

use rhai::Engine;

use crate::error::suggest::suggestion;
use crate::script::api::{Stream, keys_of, streams};
use crate::script::error::message::Advice;
use crate::script::error::{advice, foreign};
use crate::script::functions::{Function, Overloads};
use crate::script::texts::is_closure;
use crate::script::type_names::script_type;

/// The functions and types of scripts.
#[derive(Clone)]
pub struct Symbols {
    /// Functions by namespace. Global functions, methods and properties have none.
    namespaces: BTreeMap<String, Overloads>,
    streams: Vec<Stream>,
    /// The types that the script API adds properties or methods to, as scripts name them.
    documented: BTreeSet<String>,
}

impl Symbols {
    /// Collects the functions of `engine`.
    pub fn of(engine: &Engine) -> Self {
        let mut namespaces = BTreeMap::<String, Overloads>::new();
        for function in Function::all(engine) {
            let table = namespaces.entry(function.namespace.clone()).or_default();
            let overloads = table.entry(function.name.clone()).or_default();
            // An override has the types of the function that it overrides.
            let is_known = overloads.iter().any(|other| {
                other.params.len() == function.params.len() && other.types() == function.types()
            });
            if !is_known {
                overloads.push(function);
            }
        }
        Self {
            namespaces,
            streams: streams().into(),
            documented: Function::documented_types(engine),
        }
    }

    /// Returns the functions of a namespace; `None` if it does not exist.
    pub fn namespace(&self, name: &str) -> Option<&Overloads> {
        self.namespaces.get(name)
    }

    /// Returns the names and overloads of the global functions.
    pub fn global(&self) -> impl Iterator<Item = (&str, &[Function])> {
        let all = self.namespace("").into_iter().flatten();
        all.map(|(name, overloads)| (name.as_str(), overloads.as_slice()))
    }

    /// Returns the overloads of a global function.
    pub fn overloads(&self, name: &str) -> &[Function] {
        let overloads = self.namespace("").and_then(|table| table.get(name));
        overloads.map_or(&[], Vec::as_slice)
    }

    /// Returns true for a primitive, which also exists below `host::`.
    pub fn is_primitive(&self, name: &str) -> bool {
        self.primitive(name).is_some()
    }

    /// Returns the overloads of a primitive, without those of the language.
    pub fn primitive(&self, name: &str) -> Option<&[Function]> {
        let overloads = self.namespace("host")?.get(name)?;
        Some(overloads.as_slice())
    }

    /// Returns the type of the items if `kind` is a stream.
    pub fn item(&self, kind: &str) -> Option<&'static str> {
        let stream = self.streams.iter().find(|stream| stream.name == kind)?;
        Some(stream.item)
    }

    /// Returns true if the properties of the type are known.
    pub fn is_closed(&self, kind: &str) -> bool {
        self.item(kind).is_some() || self.documented.contains(kind)
    }

    /// Returns the type that a call returns, if it is the same for all overloads that fit.
    ///
    /// A map with known keys has the name of its alias.
    pub fn returned(&self, name: &str, args: &[Option<&str>]) -> Option<&str> {
        returned_in(self.namespace("")?, name, args)
    }

    /// Explains a call that the engine could not resolve; `signature` is ``name (types)``.
    pub fn advice(&self, signature: &str, file: &str) -> Advice {
        let (name, types) = advice::parse_signature(signature);
        if advice::is_operator(name) {
            let operands = types.join(" and ");
            return Advice::new(format!("`{name}` cannot be applied to {operands}"));
        }
        if is_closure(name) {
            return Advice::new("a closure of another file cannot be called here")
                .hint("write a function in that file, and call it as `module::name(…)`");
        }
        let types = types.join(", ");
        let overloads = self.overloads(name);
        if !overloads.is_empty() {
            return Advice::new(format!("`{name}` cannot be called with ({types})"))
                .label(call_forms(name, overloads));
        }
        let unknown = Advice::new(format!("unknown function `{name}` ({types})"));
        // The functions of a module are known only after its import.
        if name.contains("::") {
            return unknown;
        }
        let known = self.global().map(|(known, _)| known);
        foreign::function(name, unknown, known).hint(format!(
            "`token_service check {file}` finds many mistakes before a run"
        ))
    }

    /// Returns the properties of a type.
    pub fn properties(&self, kind: &str) -> Vec<&str> {
        let properties = self.global().filter_map(|(name, overloads)| {
            let is_of_kind = overloads.iter().any(|form| form.types() == [kind]);
            name.strip_prefix("get$").filter(|_| is_of_kind)
        });
        properties.collect()
    }

    /// Explains a property that values of the type do not have.
    pub fn property_advice(&self, property: &str, kind: &str) -> Advice {
        let label = suggestion(property, self.properties(kind), "it has");
        Advice::new(format!("{kind} has no property `{property}`")).label(label)
    }
}

/// Returns the type that a call of a function of `table` returns.
pub fn returned_in<'t>(table: &'t Overloads, name: &str, args: &[Option<&str>]) -> Option<&'t str> {
    let overloads = table.get(name)?.iter();
    let fitting = overloads.filter(|function| function.accepts(args));
    let mut types = fitting.map(|function| match function.returns.as_str() {
        alias if keys_of(alias).is_some() => alias,
        name => script_type(name),
    });
    let first = types.next().filter(|name| *name != "?")?;
    types.all(|other| other == first).then_some(first)
}

/// Lists how a function can be called: ``it is called as `store(Tokens)`, `store(array)` ``.
pub(crate) fn call_forms(name: &str, overloads: &[Function]) -> String {
    // The engine keeps overloads in random order.
    let mut forms: Vec<Vec<&str>> = overloads.iter().map(Function::types).collect();
    forms.sort_by_key(|types| (types.len(), types.join(", ").to_lowercase()));
    let more = if forms.len() > 4 { ", …" } else { "" };
    let shown = forms
        .iter()
        .take(4)
        .map(|types| format!("`{name}({})`", types.join(", ")));
    format!(
        "it is called as {}{more}",
        shown.collect::<Vec<_>>().join(", ")
    )
}
