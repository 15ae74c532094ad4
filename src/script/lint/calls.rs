//! Checks calls: unknown functions, wrong numbers or types of arguments, unknown options, and
//! functions that hide primitives.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, Position, Stmt};

use crate::error::suggest::suggestion;
use crate::script::api::{options_of, wrong_option};
use crate::script::error::foreign;
use crate::script::error::message::Advice;
use crate::script::error::symbols::{Symbols, call_forms};
use crate::script::functions::{Function, Overloads};
use crate::script::lint::scopes::FileScopes;
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{Findings, Modules};
use crate::script::tokens::Token;
use crate::script::type_names::script_type;

/// Functions that the engine handles without registration.
const BUILT_IN: [&str; 11] = [
    "Fn",
    "call",
    "curry",
    "type_of",
    "print",
    "debug",
    "is_def_var",
    "is_def_fn",
    "is_shared",
    "to_string",
    "to_debug",
];

/// Checks the calls of one file.
pub struct Calls<'a> {
    symbols: &'a Symbols,
    functions: Overloads,
    modules: &'a Modules,
}

/// Returns the names of the map entries that a script creates: `map.name()` calls a closure there.
///
/// `None` if an imported module may create maps with unknown entries.
pub fn entries(ast: &AST) -> Option<BTreeSet<String>> {
    let mut is_complete = true;
    ast.walk(&mut |path: &[ASTNode]| {
        is_complete &= !matches!(path.last(), Some(ASTNode::Stmt(Stmt::Import(..))));
        true
    });
    is_complete.then(|| own_entries(ast))
}

/// Returns the names of the map entries that a file creates itself.
pub fn own_entries(ast: &AST) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    ast.walk(&mut |path: &[ASTNode]| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Map(map, _))) => {
                names.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
            }
            Some(ASTNode::Expr(Expr::Property(property, _))) => {
                names.insert(property.2.to_string());
            }
            // `map["name"] = …` also creates an entry.
            Some(ASTNode::Expr(Expr::StringConstant(text, _))) => {
                names.insert(text.to_string());
            }
            // The compiler folds maps of constants into one value.
            Some(ASTNode::Expr(Expr::DynamicConstant(value, _))) => {
                constant_keys(value, &mut names);
            }
            _ => {}
        }
        true
    });
    names
}

fn constant_keys(value: &Dynamic, into: &mut BTreeSet<String>) {
    if let Ok(map) = value.as_map_ref() {
        for (name, value) in map.iter() {
            into.insert(name.to_string());
            constant_keys(value, into);
        }
    } else if let Ok(values) = value.as_array_ref() {
        values.iter().for_each(|value| constant_keys(value, into));
    }
}

impl<'a> Calls<'a> {
    /// Creates the checks of a file with these functions and imports.
    pub fn of(functions: Overloads, symbols: &'a Symbols, modules: &'a Modules) -> Self {
        Self {
            symbols,
            functions,
            modules,
        }
    }

    /// Returns true if the script defines the function.
    fn defines(&self, name: &str, params: usize) -> bool {
        let own = self.functions.get(name);
        own.is_some_and(|own| takes(own, params))
    }

    /// Explains a call of a function that does not exist, or not with this number of arguments.
    pub fn unknown_call(&self, call: &FnCallExpr, is_method: bool) -> Option<Advice> {
        let name = call.name.as_str();
        if call.is_operator_call() || BUILT_IN.contains(&name) {
            return None;
        }
        if is_method && self.modules.may_be_entry(name) {
            return None;
        }
        self.unknown_function(call, is_method)
    }

    /// Explains a call of a function that does not exist; if it is a method, its value is no map.
    pub fn unknown_function(&self, call: &FnCallExpr, is_method: bool) -> Option<Advice> {
        let name = call.name.as_str();
        if call.is_operator_call() || BUILT_IN.contains(&name) {
            return None;
        }
        let count = call.args.len() + usize::from(is_method);
        let namespace = call.namespace.to_string();
        let no_overloads = Overloads::new();
        let (own, known, unknown) = if let Some(module) = self.modules.get(&namespace) {
            let unknown = format!("`{namespace}` has no function `{name}`");
            (&module.functions, &no_overloads, unknown)
        } else {
            let is_global = call.namespace.is_empty();
            let own = if is_global {
                &self.functions
            } else {
                &no_overloads
            };
            let unknown = format!("unknown function `{name}`");
            (own, self.symbols.namespace(&namespace)?, unknown)
        };
        let own_overloads = own.get(name).map_or(&[][..], Vec::as_slice);
        let overloads = match self.symbols.primitive(name) {
            Some(primitive) if !is_method && call.namespace.is_empty() => primitive,
            _ => known.get(name).map_or(&[][..], Vec::as_slice),
        };
        if own_overloads.is_empty() && overloads.is_empty() {
            let names = known.keys().chain(own.keys()).map(String::as_str);
            return Some(foreign::function(name, Advice::new(unknown), names));
        }
        // A script's function may also be called on a value, its `this`.
        let fits = takes(own_overloads, count)
            || takes(overloads, count)
            || is_method && takes(own_overloads, count - 1);
        if fits {
            return None;
        }
        let label = if own_overloads.is_empty() {
            call_forms(name, overloads)
        } else {
            String::new()
        };
        let all = own_overloads.iter().chain(overloads);
        let counts: BTreeSet<usize> = all.map(|function| function.params.len()).collect();
        let plural = if counts == BTreeSet::from([1]) {
            ""
        } else {
            "s"
        };
        let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
        let counts = counts.join(" or ");
        let message = format!("`{name}` takes {counts} argument{plural}, not {count}");
        Some(Advice::new(message).label(label))
    }

    /// Explains arguments whose known types fit no overload of a function of the host.
    pub fn wrong_arguments(&self, call: &FnCallExpr, kinds: &VariableKinds) -> Option<Advice> {
        let name = call.name.as_str();
        if call.is_operator_call() || BUILT_IN.contains(&name) {
            return None;
        }
        let given = kinds.of_all(&call.args);
        let overloads = self.overloads(call, false)?;
        if overloads.iter().any(|function| function.accepts(&given)) {
            return None;
        }
        let shown = given.iter().map(|kind| script_type(kind.unwrap_or("?")));
        let shown: Vec<&str> = shown.collect();
        let message = format!("`{name}` cannot be called with ({})", shown.join(", "));
        let all: Vec<Function> = self.all_overloads(call)?.to_vec();
        Some(Advice::new(message).label(call_forms(name, &all)))
    }

    /// Explains a method that values of this type do not have.
    pub fn wrong_receiver(
        &self,
        call: &FnCallExpr,
        receiver: &str,
        kinds: &VariableKinds,
    ) -> Option<Advice> {
        let (name, count) = (call.name.as_str(), call.args.len());
        let kind = script_type(receiver);
        if BUILT_IN.contains(&name) || kinds.defines(name, &[count, count + 1]) {
            return None;
        }
        if let Some(unknown) = self.unknown_function(call, true) {
            return Some(unknown);
        }
        let mut given = vec![Some(receiver)];
        given.extend(kinds.of_all(&call.args));
        let overloads = self.symbols.overloads(name);
        if overloads.iter().any(|function| function.accepts(&given)) {
            return None;
        }
        let takes_kind = |function: &&Function| function.types().first() == Some(&kind);
        let of_kind: Vec<Function> = overloads.iter().filter(takes_kind).cloned().collect();
        if of_kind.is_empty() {
            let advice = Advice::new(format!("{kind} has no function `{name}`"));
            return Some(match self.symbols.item(kind) {
                Some(_) => advice.hint(stream_hint(kind)),
                None => advice,
            });
        }
        let shown = given.iter().map(|kind| script_type(kind.unwrap_or("?")));
        let shown: Vec<&str> = shown.collect();
        let message = format!("`{name}` cannot be called with ({})", shown.join(", "));
        Some(Advice::new(message).label(call_forms(name, &of_kind)))
    }

    /// Returns the overloads of a function of the host with the number of arguments of this call.
    pub fn overloads(&self, call: &FnCallExpr, is_method: bool) -> Option<Vec<&'a Function>> {
        let count = call.args.len() + usize::from(is_method);
        if call.namespace.is_empty() && self.defines(&call.name, count) {
            return None;
        }
        let overloads = self.all_overloads(call)?.iter();
        let overloads: Vec<&Function> = overloads
            .filter(|function| function.params.len() == count)
            .collect();
        (!overloads.is_empty()).then_some(overloads)
    }

    fn all_overloads(&self, call: &FnCallExpr) -> Option<&'a [Function]> {
        let name = call.name.as_str();
        let namespace = call.namespace.to_string();
        if self.modules.get(&namespace).is_some() {
            return None;
        }
        match self.symbols.primitive(name) {
            Some(primitive) if namespace.is_empty() => Some(primitive),
            _ => Some(self.symbols.namespace(&namespace)?.get(name)?.as_slice()),
        }
    }

    /// Returns true if a call is `emit(text, "file")`, which writes a file.
    pub fn writes_file(&self, call: &FnCallExpr, is_method: bool) -> bool {
        let is_primitive = self.symbols.is_primitive(&call.name);
        let overloads = self.overloads(call, is_method).unwrap_or_default();
        let mut params = overloads.iter().flat_map(|function| &function.params);
        is_primitive && params.any(|param| param.name == "file")
    }

    /// Finds options that do not exist in a map literal that is an argument of a primitive.
    pub fn unknown_options(&self, call: &FnCallExpr, findings: &mut Findings) {
        let known = options_of(&call.name);
        let overloads = self.overloads(call, false).unwrap_or_default();
        let params = overloads
            .iter()
            .flat_map(|function| function.params.iter().enumerate());
        let options = params.filter(|(_, param)| param.name == "options");
        for (at, _) in options {
            let Some(Expr::Map(map, _)) = call.args.get(at) else {
                continue;
            };
            for (key, value) in &map.0 {
                if known.contains(&key.name.as_str()) {
                    let value_position = value.position();
                    let wrong = value
                        .get_literal_value(None)
                        .and_then(|value| wrong_option(&call.name, &key.name, &value));
                    findings.extend(wrong.map(|why| (value_position, Advice::new(why))));
                    continue;
                }
                let label = suggestion(&key.name, known.iter().copied(), "it takes");
                let message = format!("`{}` has no option `{}`", call.name, key.name);
                findings.push((key.pos, Advice::new(message).label(label)));
            }
        }
    }

    /// Finds functions that hide a primitive and do not call it.
    pub fn hidden_primitives(
        &self,
        scopes: &FileScopes,
        tokens: &[(Token, Position)],
        findings: &mut Findings,
    ) {
        let calls = scopes.calls.iter().map(|(call, _)| call);
        let wrapped = calls.filter(|call| call.namespace.to_string() == "host");
        let wrapped: BTreeSet<&str> = wrapped.map(|call| call.name.as_str()).collect();
        for (name, own) in &self.functions {
            let known = self.symbols.overloads(name);
            let hides = known
                .iter()
                .any(|function| takes(own, function.params.len()));
            if !hides || wrapped.contains(name.as_str()) || !self.symbols.is_primitive(name) {
                continue;
            }
            let message = format!("this function hides the primitive `{name}`");
            let advice = Advice::new(message).hint(format!(
                "give it another name, or call the primitive in it as `host::{name}(…)`"
            ));
            findings.push((definition_position(tokens, name), advice.warning()));
        }
    }
}

/// Says what to do instead of using a stream as an array.
pub fn stream_hint(kind: &str) -> &'static str {
    match kind {
        "Outcomes" => {
            "loop over it: `for outcome in outcomes { … }`; `outcomes.counts` has the numbers"
        }
        _ => {
            "it is a stream, which is read once: loop over it, `for token in tokens { … }`, and collect what you need in an array"
        }
    }
}

/// Returns true if one of the functions takes this number of arguments.
fn takes(functions: &[Function], count: usize) -> bool {
    functions
        .iter()
        .any(|function| function.params.len() == count)
}

/// Returns the position of a function's definition, which the engine does not record.
fn definition_position(tokens: &[(Token, Position)], name: &str) -> Position {
    let is_name = |token: &Token| matches!(token, Token::Identifier(text) if **text == name);
    let mut pairs = tokens.windows(2);
    let found = pairs.find(|pair| pair[0].0 == Token::Fn && is_name(&pair[1].0));
    found.map_or(Position::NONE, |pair| pair[1].1)
}
