//! Checks calls: unknown functions, wrong numbers or types of arguments, unknown options, and
//! functions that hide primitives.

use std::collections::BTreeSet;

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, Position, Stmt};

use crate::error::suggest::suggestion;
use crate::script::api::options_of;
use crate::script::error::message::Advice;
use crate::script::error::symbols::{Symbols, call_forms};
use crate::script::functions::{Function, Overloads};
use crate::script::lint::ast::call_of;
use crate::script::lint::types::VariableKinds;
use crate::script::lint::{Findings, Modules};
use crate::script::tokens::Token;
use crate::script::type_names::script_type;

/// Functions that the engine handles without registration.
const BUILT_IN: [&str; 12] = [
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
    "exit",
];

/// Checks the calls of one file.
pub struct Calls<'a> {
    symbols: &'a Symbols,
    functions: Overloads,
    modules: &'a Modules,
    /// Names of map entries, which may be closures: `map.name()` calls them.
    ///
    /// `None` if an imported module may create maps with unknown entries.
    map_keys: Option<BTreeSet<String>>,
}

/// Returns the names of the map entries that a script creates.
fn map_keys(ast: &AST) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut is_complete = true;
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
            Some(ASTNode::Stmt(Stmt::Import(..))) => is_complete = false,
            _ => {}
        }
        true
    });
    is_complete.then_some(names)
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
    /// Collects what `ast` defines.
    pub fn of(ast: &AST, symbols: &'a Symbols, modules: &'a Modules) -> Self {
        Self {
            symbols,
            functions: Function::of_script(ast, false),
            modules,
            map_keys: map_keys(ast),
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
        let is_map_key = |keys: &BTreeSet<String>| keys.contains(name);
        if is_method && self.map_keys.as_ref().is_none_or(is_map_key) {
            return None;
        }
        let count = call.args.len() + usize::from(is_method);
        let namespace = call.namespace.to_string();
        let no_overloads = Overloads::new();
        let (own, known, unknown) = if let Some(module) = self.modules.get(&namespace) {
            let unknown = format!("`{namespace}` has no function `{name}`");
            (module, &no_overloads, unknown)
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
        let overloads = |table: &'_ Overloads| table.get(name).cloned().unwrap_or_default();
        let (own_overloads, overloads) = (overloads(own), overloads(known));
        if own_overloads.is_empty() && overloads.is_empty() {
            let names = known.keys().chain(own.keys()).map(String::as_str);
            return Some(Advice::new(unknown).label(suggestion(name, names, "")));
        }
        // A script's function may also be called on a value, its `this`.
        let fits = takes(&own_overloads, count)
            || takes(&overloads, count)
            || is_method && takes(&own_overloads, count - 1);
        if fits {
            return None;
        }
        let label = if own_overloads.is_empty() {
            call_forms(name, &overloads)
        } else {
            String::new()
        };
        let all = own_overloads.iter().chain(&overloads);
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

    /// Explains arguments whose known types fit no overload of a primitive.
    pub fn wrong_arguments(&self, call: &FnCallExpr, kinds: &VariableKinds) -> Option<Advice> {
        let name = call.name.as_str();
        let given = kinds.of_all(&call.args);
        let overloads = self.overloads(call, false)?;
        if overloads.iter().any(|function| function.accepts(&given)) {
            return None;
        }
        let given = given.iter().map(|kind| script_type(kind.unwrap_or("?")));
        let given: Vec<&str> = given.collect();
        let message = format!("`{name}` cannot be called with ({})", given.join(", "));
        let label = call_forms(name, self.symbols.overloads(name));
        Some(Advice::new(message).label(label))
    }

    /// Returns the overloads of a primitive with the number of arguments of this call.
    fn overloads(&self, call: &FnCallExpr, is_method: bool) -> Option<Vec<&Function>> {
        let name = call.name.as_str();
        let count = call.args.len() + usize::from(is_method);
        let is_redefined = call.namespace.is_empty() && self.defines(name, count);
        let is_builtin = call.namespace.is_empty() || call.namespace.to_string() == "host";
        if is_redefined || !is_builtin || !self.symbols.is_primitive(name) {
            return None;
        }
        let overloads = self.symbols.overloads(name).iter();
        let overloads: Vec<&Function> = overloads
            .filter(|function| function.params.len() == count)
            .collect();
        (!overloads.is_empty()).then_some(overloads)
    }

    /// Returns true if a call is `emit(text, "file")`, which writes a file.
    pub fn writes_file(&self, call: &FnCallExpr, is_method: bool) -> bool {
        let overloads = self.overloads(call, is_method).unwrap_or_default();
        let mut params = overloads.iter().flat_map(|function| &function.params);
        params.any(|param| param.name == "file")
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
            for (key, _) in &map.0 {
                if known.contains(&key.name.as_str()) {
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
        ast: &AST,
        tokens: &[(Token, Position)],
        findings: &mut Findings,
    ) {
        let mut wrapped = BTreeSet::new();
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some((call, ..)) = call_of(path.last())
                && call.namespace.to_string() == "host"
            {
                wrapped.insert(call.name.to_string());
            }
            true
        });
        for (name, own) in &self.functions {
            let known = self.symbols.overloads(name);
            let hides = known
                .iter()
                .any(|function| takes(own, function.params.len()));
            if !hides || wrapped.contains(name) || !self.symbols.is_primitive(name) {
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
