//! The functions that scripts can call, their overloads, and suggestions for unknown names.

use std::collections::{BTreeMap, BTreeSet};

use rhai::Engine;

use crate::error::suggest::nearest;
use crate::script::error::advice;
use crate::script::error::message::Advice;
use crate::script::texts::is_closure;

/// The functions that scripts can call: overloads by name.
#[derive(Clone, Default)]
pub struct Symbols {
    /// Functions without a namespace, and properties as `get$NAME`.
    pub(crate) functions: BTreeMap<String, Vec<Signature>>,
    /// Functions by namespace (`host`, `env`).
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, Vec<Signature>>>,
    /// The names of the primitives, whose overloads are shown in messages.
    pub(crate) primitives: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: usize,
    pub(crate) types: Vec<String>,
}

impl Symbols {
    /// Collects the functions of `engine`.
    pub fn of(engine: &Engine) -> Self {
        let mut symbols = Self::default();
        let functions = engine.collect_fn_metadata(
            None,
            |info| {
                let metadata = info.metadata;
                let types = metadata
                    .params_info
                    .iter()
                    .map(|name| parameter_type(name))
                    .collect();
                let form = Signature {
                    params: metadata.num_params,
                    types,
                };
                Some((info.namespace.to_string(), metadata.name.to_string(), form))
            },
            true,
        );
        for (namespace, name, form) in functions {
            if namespace == "host" {
                symbols.primitives.insert(name.clone());
            }
            let table = if namespace.is_empty() {
                &mut symbols.functions
            } else {
                symbols.namespaces.entry(namespace).or_default()
            };
            let forms = table.entry(name).or_default();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        symbols
    }

    /// Explains a call that the engine could not resolve; `signature` is ``name (types)``.
    pub fn advice(&self, signature: &str, file: &str) -> Advice {
        let (name, types) = advice::parse_signature(signature);
        let empty = Advice::default;
        if advice::is_operator(name) {
            let operands = types.join(" and ");
            return Advice {
                message: format!("`{name}` cannot be applied to {operands}"),
                ..empty()
            };
        }
        if is_closure(name) {
            return Advice {
                message: "a closure of another file cannot be called here".to_owned(),
                hint: Some(
                    "write a function in that file, and call it as `module::name(…)`".to_owned(),
                ),
                ..empty()
            };
        }
        let types = types.join(", ");
        if let Some(forms) = self.functions.get(name) {
            return Advice {
                message: format!("`{name}` cannot be called with ({types})"),
                label: call_forms(name, forms),
                ..empty()
            };
        }
        let message = format!("unknown function `{name}` ({types})");
        // The functions of a module are known only after its import.
        if name.contains("::") {
            return Advice { message, ..empty() };
        }
        let near = nearest(name, self.functions.keys().map(String::as_str));
        Advice {
            message,
            label: near.map_or(String::new(), |near| format!("did you mean `{near}`?")),
            hint: Some(format!(
                "`token_service check {file}` finds such mistakes before a run"
            )),
        }
    }

    /// Returns true if values of the type have the property.
    pub fn has_property(&self, property: &str, kind: &str) -> bool {
        let forms = self.functions.get(&format!("get${property}"));
        forms.is_some_and(|forms| {
            let of_kind = |form: &Signature| form.types.first().is_some_and(|first| first == kind);
            forms.iter().any(of_kind)
        })
    }

    /// Explains a property that values of the type do not have.
    pub fn property_advice(&self, property: &str, kind: &str) -> Advice {
        let has: Vec<&str> = self
            .functions
            .iter()
            .filter_map(|(name, forms)| Some((name.strip_prefix("get$")?, forms)))
            .filter(|(_, forms)| {
                let of_kind =
                    |form: &Signature| form.types.first().is_some_and(|first| first == kind);
                forms.iter().any(of_kind)
            })
            .map(|(name, _)| name)
            .collect();
        let label = match nearest(property, has.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if has.is_empty() => String::new(),
            None => format!("it has {}", has.join(", ")),
        };
        let kind = if kind == "()" { "nothing" } else { kind };
        Advice {
            message: format!("{kind} has no property `{property}`"),
            label,
            hint: None,
        }
    }
}

/// Lists how a function can be called: ``it is called as `store(Tokens)`, `store(array)` ``.
pub(crate) fn call_forms(name: &str, forms: &[Signature]) -> String {
    // The engine keeps overloads in random order.
    let mut forms: Vec<&Vec<String>> = forms.iter().map(|form| &form.types).collect();
    forms.sort_by_key(|types| (types.len(), types.join(", ").to_lowercase()));
    let more = if forms.len() > 4 { ", …" } else { "" };
    let shown: Vec<String> = forms
        .iter()
        .take(4)
        .map(|types| format!("`{name}({})`", types.join(", ")))
        .collect();
    format!("it is called as {}{more}", shown.join(", "))
}

/// Returns the script's name of the type in ``name: type``.
fn parameter_type(param: &str) -> String {
    let kind = param.split_once(": ").map_or(param, |(_, kind)| kind);
    crate::script::type_names::script_type(kind).to_owned()
}
