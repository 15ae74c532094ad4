//! What there is to call: every function that the engine knows, the forms in which each can be
//! called, and which name was probably meant by one that is not among them.

use crate::error::suggest::nearest_name;
use std::collections::{BTreeMap, BTreeSet};

use rhai::Engine;

use crate::script::error::advice;
use crate::script::error::text::Advice;
use crate::script::sources::is_closure;

/// The functions that scripts can call: by name, the forms in which each can be called.
#[derive(Clone, Default)]
pub struct Symbols {
    pub(crate) plain: BTreeMap<String, Vec<Signature>>,
    /// By namespace (`host`, `env`).
    pub(crate) spaces: BTreeMap<String, BTreeMap<String, Vec<Signature>>>,
    /// The product's own functions, whose forms are worth showing.
    pub(crate) own: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: usize,
    pub(crate) types: Vec<String>,
}

impl Symbols {
    /// What `engine` knows; `spaces` are its static modules.
    pub fn of(engine: &Engine) -> Self {
        let mut names = Self::default();
        let functions = engine.collect_fn_metadata(
            None,
            |info| {
                let metadata = info.metadata;
                let types = metadata
                    .params_info
                    .iter()
                    .map(|name| short(name))
                    .collect();
                let form = Signature {
                    params: metadata.num_params,
                    types,
                };
                Some((info.namespace.to_string(), metadata.name.to_string(), form))
            },
            true,
        );
        for (space, name, form) in functions {
            if space == "host" {
                names.own.insert(name.clone());
            }
            let table = if space.is_empty() {
                &mut names.plain
            } else {
                names.spaces.entry(space).or_default()
            };
            let forms = table.entry(name).or_default();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        names
    }

    /// What to say of a call that the engine could not resolve: `signature` is ``name (types)``.
    pub fn advice(&self, signature: &str, file: &str) -> Advice {
        let (name, types) = advice::call(signature);
        let plain = Advice::default;
        if advice::is_operator(name) {
            let operands = types.join(" and ");
            return Advice {
                message: format!("`{name}` cannot be applied to {operands}"),
                ..plain()
            };
        }
        if is_closure(name) {
            return Advice {
                message: "a closure of another file cannot be called here".to_owned(),
                hint: Some(
                    "make it a function of that file, and call it as `module::name(…)`".to_owned(),
                ),
                ..plain()
            };
        }
        let types = types.join(", ");
        if let Some(forms) = self.plain.get(name) {
            return Advice {
                message: format!("`{name}` cannot be called with ({types})"),
                label: takes(name, forms),
                ..plain()
            };
        }
        let message = format!("unknown function `{name}` ({types})");
        // What a module holds is seen only when it is imported.
        if name.contains("::") {
            return Advice { message, ..plain() };
        }
        let near = nearest_name(name, self.plain.keys().map(String::as_str));
        Advice {
            message,
            label: near.map_or(String::new(), |near| format!("did you mean `{near}`?")),
            hint: Some(format!(
                "`token_service check {file}` finds such mistakes before a run"
            )),
        }
    }

    /// True where values of this type have such a property.
    pub fn has_property(&self, property: &str, kind: &str) -> bool {
        let forms = self.plain.get(&format!("get${property}"));
        forms.is_some_and(|forms| {
            let of_kind = |form: &Signature| form.types.first().is_some_and(|first| first == kind);
            forms.iter().any(of_kind)
        })
    }

    /// What to say of a property that values of this type do not have.
    pub fn property_advice(&self, property: &str, kind: &str) -> Advice {
        let has: Vec<&str> = self
            .plain
            .iter()
            .filter_map(|(name, forms)| Some((name.strip_prefix("get$")?, forms)))
            .filter(|(_, forms)| {
                let of_kind =
                    |form: &Signature| form.types.first().is_some_and(|first| first == kind);
                forms.iter().any(of_kind)
            })
            .map(|(name, _)| name)
            .collect();
        let label = match nearest_name(property, has.iter().copied()) {
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

/// ``it is called as `store(Tokens)`, `store(array)` ``: how a function can be called.
pub(crate) fn takes(name: &str, forms: &[Signature]) -> String {
    // The engine keeps them in no order.
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

/// The type in ``name: type``, as scripts know it.
fn short(param: &str) -> String {
    let kind = param.split_once(": ").map_or(param, |(_, kind)| kind);
    crate::script::type_names::script_type(kind).to_owned()
}
