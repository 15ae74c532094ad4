//! Finds the declaration of each variable, and variables and modules that do not exist.
//!
//! It also collects the calls, chains and values of a file for the other checks.

mod resolver;

use std::collections::{BTreeSet, HashMap, HashSet};

use rhai::{ASTFlags, Expr, FnCallExpr, Position, Stmt, Token};

use crate::script::error::advice;
use crate::script::error::message::Advice;
use crate::script::lint::ast::{SourceTree, closure_literal};
use crate::script::lint::scopes::resolver::Resolver;
use crate::script::lint::{Finding, Findings, MAX_FINDINGS};

/// The number of a variable in its file.
pub type VariableId = usize;

/// How a variable is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// A constant of the host, such as `SIZE`.
    Host,
    /// `let`
    Let,
    /// `const`
    Const,
    /// `for`
    For,
    /// The counter of `for (item, counter) in …`.
    Counter,
    /// `catch`
    Catch,
    /// A parameter of a function or a closure: the indexes of both.
    Param(usize, usize),
}

/// A variable of a file.
pub struct Variable<'a> {
    /// The name.
    pub name: &'a str,
    /// How it is declared.
    pub declared: Declared,
    /// The first value; of a `for` variable the value that the loop reads.
    pub value: Option<&'a Expr>,
    /// Every later value, with the operator of an assignment such as `+=`.
    pub assigned: Vec<(Option<Token>, &'a Expr)>,
}

/// A name in a module, such as `config::SIZE`.
pub struct QualifiedName<'a> {
    /// The module.
    pub module: String,
    /// The position of the module's name.
    pub module_position: Position,
    /// The name of a constant; `None` for a call.
    pub constant: Option<(&'a str, Position)>,
}

/// A value that nothing uses.
#[derive(Clone, Copy)]
pub enum Dropped<'a> {
    /// Of an expression.
    Expr(&'a Expr),
    /// Of a call.
    Call(&'a FnCallExpr, Position),
}

/// What a file consists of.
pub struct FileScopes<'a> {
    /// The code.
    pub tree: &'a SourceTree,
    /// The variables.
    pub variables: Vec<Variable<'a>>,
    /// The variable at each position; `None` if it is not certain.
    uses: HashMap<Position, Option<VariableId>>,
    /// Variables by the position of their declaration: equal closures share one body.
    declarations: HashMap<Position, VariableId>,
    /// Every statement.
    pub statements: Vec<&'a Stmt>,
    /// Every call that is not `value.name()`.
    pub calls: Vec<(&'a FnCallExpr, Position)>,
    /// Every whole chain, such as `a.b.c()`.
    pub chains: Vec<&'a Expr>,
    /// Texts in quotation marks.
    pub texts: Vec<(&'a str, Position)>,
    /// Expressions whose value is used.
    pub values: Vec<&'a Expr>,
    /// What `if`, `while`, `&&` and others take as true or false.
    pub conditions: Vec<&'a Expr>,
    /// Values that nothing uses.
    pub dropped: Vec<Dropped<'a>>,
    /// Names in modules.
    pub qualified: Vec<QualifiedName<'a>>,
    /// The aliases of the imports.
    pub imports: BTreeSet<&'a str>,
    /// The constants at the top level, which functions see as `global::NAME`.
    pub constants: BTreeSet<&'a str>,
}

impl<'a> FileScopes<'a> {
    /// Reads the code of a file; returns unknown variables, hidden constants and assignments to
    /// constants too.
    ///
    /// `host` names the constants that the host defines, and `text` is the source text.
    pub fn of(tree: &'a SourceTree, host: &[&'a str], text: &str) -> (Self, Findings) {
        let mut resolver = Resolver {
            file: Self {
                tree,
                variables: Vec::new(),
                uses: HashMap::new(),
                declarations: HashMap::new(),
                statements: Vec::new(),
                calls: Vec::new(),
                chains: Vec::new(),
                texts: Vec::new(),
                values: Vec::new(),
                conditions: Vec::new(),
                dropped: Vec::new(),
                qualified: Vec::new(),
                imports: BTreeSet::new(),
                constants: BTreeSet::new(),
            },
            visible: Vec::new(),
            params: HashMap::new(),
            unknown: BTreeSet::new(),
            findings: Vec::new(),
        };
        for name in host {
            let id = resolver.add(name, Declared::Host, None);
            resolver.visible.push(id);
        }
        let host = resolver.visible.clone();
        for statement in &tree.statements {
            if let Stmt::Var(var, flags, _) = statement
                && flags.contains(ASTFlags::CONSTANT)
            {
                resolver.file.constants.insert(&var.0.name);
            }
        }
        resolver.block(&tree.statements, false);
        for (index, _) in tree.named_functions() {
            resolver.visible.clone_from(&host);
            resolver.function(index, 0);
        }
        let Resolver {
            file,
            unknown,
            mut findings,
            ..
        } = resolver;
        // To explain one takes a look at the whole text.
        let unknown = unknown.into_iter().take(MAX_FINDINGS);
        findings.extend(unknown.map(|(position, name)| {
            let advice = advice::unknown_variable_at(&name, position, text);
            (position, advice)
        }));
        (file, findings)
    }

    /// Returns the variable at a position, if it is certain.
    pub fn variable_at(&self, position: Position) -> Option<VariableId> {
        self.uses.get(&position).copied().flatten()
    }

    /// Returns the variables of `let` and `const` that nothing reads, with their positions.
    pub fn unused(&self) -> impl Iterator<Item = (Position, VariableId)> {
        let used: HashSet<VariableId> = self.uses.values().copied().flatten().collect();
        // The variable of a closure that is not certain may be any.
        let is_certain = self.uses.values().all(Option::is_some) || self.uses.is_empty();
        let declared = self
            .declarations
            .iter()
            .map(|(position, id)| (*position, *id));
        declared.filter(move |(_, id)| {
            let is_own = matches!(
                self.variables[*id].declared,
                Declared::Let | Declared::Const
            );
            let value = self.variables[*id].value;
            // A copy may stand for what another variable is used for.
            let is_copy = matches!(value, Some(Expr::Variable(..)));
            is_own && is_certain && !is_copy && !used.contains(id)
        })
    }

    /// Returns the variable that is declared at a position.
    pub fn declared_at(&self, position: Position) -> Option<VariableId> {
        self.declarations.get(&position).copied()
    }

    /// Returns the variable that an expression names.
    pub fn variable_of(&self, expr: &Expr) -> Option<VariableId> {
        match expr {
            Expr::Variable(variable, _, position) if variable.2.is_empty() => {
                self.variable_at(*position)
            }
            _ => None,
        }
    }

    /// Returns the one value of an expression: of a variable that is never assigned, its first.
    pub fn value_of<'e>(&'e self, expr: &'e Expr) -> &'e Expr {
        let value = self.variable_of(expr).and_then(|id| {
            let variable = &self.variables[id];
            let has_one = matches!(variable.declared, Declared::Let | Declared::Const)
                && variable.assigned.is_empty();
            variable.value.filter(|_| has_one)
        });
        match value {
            Some(value) if value.is_constant() || closure_literal(value).is_some() => value,
            _ => expr,
        }
    }

    /// Returns true if the file defines a function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.tree
            .named_functions()
            .any(|(_, function)| function.name == name)
    }
}

/// Explains an attempt to change a constant.
pub fn changed_constant(name: &str, position: Position) -> Finding {
    let plain = name.rsplit("::").next().unwrap_or(name).to_lowercase();
    let advice = Advice::new(format!("cannot change the constant `{name}`"))
        .hint(format!("copy it first: `let {plain} = {name};`"));
    (position, advice)
}
