//! The functions that scripts can call, from the engine's metadata.
//!
//! The API reference, the linter and the hints of errors take names, types and comments from here.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, Engine, FnAccess, FuncInfo, ScriptFnMetadata};

use crate::pipeline::numbers::NUMBERS;
use crate::script::api::streams;
use crate::script::texts::is_closure;
use crate::script::type_names::script_type;

/// Overloads of functions, by name.
pub type Overloads = BTreeMap<String, Vec<Function>>;

/// A function or a property that scripts can use.
#[derive(Clone, Debug)]
pub struct Function {
    /// The module; empty for a global function.
    pub namespace: String,
    /// The name; the engine calls the property `len` `get$len`.
    pub name: String,
    /// The parameters. The first one of a method is its receiver.
    pub params: Vec<Param>,
    /// The name of the returned type in Rust; empty in a function that is written in Rhai.
    pub returns: String,
    /// The doc comments, with their comment marks.
    pub comments: Vec<String>,
}

/// A parameter of a function.
#[derive(Clone, Debug)]
pub struct Param {
    /// The name.
    pub name: String,
    /// The name of the type in Rust; empty in a function that is written in Rhai.
    pub kind: String,
}

/// Returns a doc comment with the names of the summary's numbers for `{numbers}`.
fn with_numbers(comment: &str) -> String {
    let named = NUMBERS.iter().filter(|row| row.is_named);
    let named: Vec<_> = named.map(|row| format!("`{}`", row.name)).collect();
    comment.replace("{numbers}", &named.join(", "))
}

impl Function {
    /// Returns every function of `engine`, in random order and without comments.
    ///
    /// Each run calls this.
    pub fn all(engine: &Engine) -> Vec<Self> {
        engine.collect_fn_metadata(None, |info| Some(Self::of(&info)), true)
    }

    /// Returns the functions of the script API with their comments, in random order.
    pub fn documented(engine: &Engine) -> Vec<Self> {
        let with_comments = |info: FuncInfo| {
            let comments = info.metadata.comments.iter().map(|text| with_numbers(text));
            Some(Self {
                comments: comments.collect(),
                ..Self::of(&info)
            })
        };
        engine.collect_fn_metadata(None, with_comments, false)
    }

    /// Returns the types that the script API adds properties or methods to, as scripts name them.
    pub fn documented_types(engine: &Engine) -> BTreeSet<String> {
        let receiver = |info: FuncInfo| {
            // Overrides of engine functions have no comments.
            let is_documented = !info.metadata.comments.is_empty();
            let kind = Self::of(&info).receiver().map(script_type)?.to_owned();
            is_documented.then_some(kind)
        };
        let types: Vec<String> = engine.collect_fn_metadata(None, receiver, false);
        types.into_iter().collect()
    }

    fn of(info: &FuncInfo) -> Self {
        let metadata = info.metadata;
        let param = |at| {
            let text = metadata.params_info.get(at).map_or("?", AsRef::as_ref);
            let (name, kind) = text.split_once(':').unwrap_or(("_", text));
            let kind = kind.trim_start();
            let (name, kind) = (name.to_owned(), kind.to_owned());
            Param { name, kind }
        };
        let returns = metadata.return_type.replace([' ', '\n'], "");
        let result = returns.strip_prefix("RhaiResultOf<");
        let value = result.and_then(|kind| kind.strip_suffix('>'));
        Self {
            namespace: info.namespace.to_string(),
            name: metadata.name.to_string(),
            params: (0..metadata.num_params).map(param).collect(),
            returns: value.unwrap_or(&returns).to_owned(),
            comments: Vec::new(),
        }
    }

    /// Returns the functions that a script defines; at will only those that others can call.
    pub fn of_script(ast: &AST, only_public: bool) -> Overloads {
        let is_public = |function: &ScriptFnMetadata| {
            function.access == FnAccess::Public && !is_closure(function.name)
        };
        let mut functions = Overloads::new();
        let wanted = ast.iter_functions();
        for function in wanted.filter(|function| !only_public || is_public(function)) {
            let param = |name: &&str| Param {
                name: (*name).to_owned(),
                kind: String::new(),
            };
            let overloads = functions.entry(function.name.to_owned()).or_default();
            overloads.push(Self {
                namespace: String::new(),
                name: function.name.to_owned(),
                params: function.params.iter().map(param).collect(),
                returns: String::new(),
                comments: function.comments.iter().map(ToString::to_string).collect(),
            });
        }
        functions
    }

    /// Returns the type of the receiver if the function is a method or a property.
    pub fn receiver(&self) -> Option<&str> {
        self.params.first()?.kind.strip_prefix("&mut ")
    }

    /// Returns the script's names of the parameter types.
    pub fn types(&self) -> Vec<&str> {
        let types = self.params.iter().map(|param| script_type(&param.kind));
        types.collect()
    }

    /// Returns true if arguments of these types fit; an unknown type always fits.
    pub fn accepts(&self, given: &[Option<&str>]) -> bool {
        let mut pairs = self.types().into_iter().zip(given);
        let fits = pairs.all(|(kind, given)| {
            kind == "?" || given.is_none_or(|given| kind == script_type(given))
        });
        fits && given.len() == self.params.len()
    }

    /// Orders by name and number of parameters. Overloads that take a stream come first.
    pub fn order(&self, other: &Self) -> Ordering {
        let key = |function: &Self| {
            let types = function.params.iter().map(|param| param.kind.clone());
            let types: Vec<String> = types.collect();
            let is_stream = |kind: &String| streams().iter().any(|stream| stream.name == *kind);
            let takes_stream = types.first().is_some_and(is_stream);
            (function.name.clone(), types.len(), !takes_stream, types)
        };
        key(self).cmp(&key(other))
    }
}
