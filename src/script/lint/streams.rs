//! Finds streams that are read twice: the second time they are empty and throw.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{ASTFlags, Expr, FnCallExpr, Position, Stmt};

use crate::script::error::message::Advice;
use crate::script::lint::Findings;
use crate::script::lint::ast::{Link, any_statement, closure_literal, links};
use crate::script::lint::scopes::{Declared, VariableId};
use crate::script::lint::types::{VariableKinds, closure_of};

/// The streams that were certainly read.
type Read = BTreeMap<VariableId, Position>;

/// The parameters that functions certainly read as streams, by the names of the functions and the
/// numbers of their parameters.
pub type ReadParams = BTreeMap<(String, usize), Vec<usize>>;

/// Finds streams that a file certainly reads twice.
pub fn check(kinds: &VariableKinds, findings: &mut Findings) {
    let read_params = read_params(kinds);
    let mut reader = StreamReader::new(kinds, &read_params, findings);
    let tree = kinds.scopes.tree;
    reader.block(&tree.statements, &mut Read::new());
    for function in &tree.functions {
        reader.block(&function.body, &mut Read::new());
    }
}

/// Returns the parameters that the functions of a file certainly read, if they are streams.
pub fn read_params(kinds: &VariableKinds) -> ReadParams {
    let mut known = ReadParams::new();
    // A function may pass a stream on to another one.
    for _ in 0..3 {
        let mut found = ReadParams::new();
        for (index, function) in kinds.scopes.tree.named_functions() {
            let (mut read, mut unwanted) = (Read::new(), Vec::new());
            let mut reader = StreamReader::new(kinds, &known, &mut unwanted);
            reader.are_params_streams = true;
            reader.block(&function.body, &mut read);
            if has_return(&function.body) {
                continue;
            }
            let params = read
                .keys()
                .filter_map(|id| match kinds.scopes.variables[*id].declared {
                    Declared::Param(of, at) if of == index => Some(at),
                    _ => None,
                });
            let key = (function.name.clone(), function.params.len());
            found.insert(key, params.collect());
        }
        known = found;
    }
    known
}

struct StreamReader<'a, 'k> {
    kinds: &'a VariableKinds<'k>,
    read_params: &'a ReadParams,
    /// True to count every parameter of unknown type as a stream.
    are_params_streams: bool,
    /// The variables that were declared so far.
    declared: BTreeSet<VariableId>,
    /// True in the second round of a loop, in which inner loops run once.
    is_second_round: bool,
    findings: &'a mut Findings,
}

impl<'a, 'k> StreamReader<'a, 'k> {
    fn new(
        kinds: &'a VariableKinds<'k>,
        read_params: &'a ReadParams,
        findings: &'a mut Findings,
    ) -> Self {
        let params = kinds.scopes.variables.iter().enumerate();
        let params = params.filter(|(_, one)| matches!(one.declared, Declared::Param(..)));
        Self {
            kinds,
            read_params,
            are_params_streams: false,
            declared: params.map(|(id, _)| id).collect(),
            is_second_round: false,
            findings,
        }
    }
}

impl StreamReader<'_, '_> {
    /// Reads statements in order; returns true if they end the code around them.
    fn block(&mut self, statements: &[Stmt], read: &mut Read) -> bool {
        for statement in statements {
            if self.statement(statement, read) {
                return true;
            }
        }
        false
    }

    fn statement(&mut self, statement: &Stmt, read: &mut Read) -> bool {
        match statement {
            Stmt::Expr(expr) => self.expr(expr, read),
            Stmt::FnCall(call, position) => self.call(call, *position, read),
            Stmt::Var(var, ..) => {
                self.expr(&var.1, read);
                self.declared
                    .extend(self.kinds.scopes.declared_at(var.0.pos));
            }
            Stmt::Assignment(assignment) => {
                self.expr(&assignment.1.rhs, read);
                if let Some(id) = self.kinds.scopes.variable_of(&assignment.1.lhs) {
                    read.remove(&id);
                }
            }
            Stmt::Block(block) => return self.block(block.statements(), read),
            Stmt::If(flow, _) => {
                self.expr(&flow.expr, read);
                let bodies = [flow.body.statements(), flow.branch.statements()];
                return self.branches(bodies, read);
            }
            Stmt::Switch(switch, _) => {
                self.expr(&switch.0, read);
                for case in &switch.1.expressions {
                    self.expr(&case.rhs, &mut read.clone());
                }
            }
            Stmt::While(flow, _) | Stmt::Do(flow, ..) => {
                self.repeated(None, flow.body.statements(), read);
            }
            Stmt::For(each, position) => {
                self.expr(&each.2.expr, read);
                self.consume(&each.2.expr, *position, read);
                let item = self.kinds.scopes.declared_at(each.0.pos);
                self.repeated(item, each.2.body.statements(), read);
            }
            Stmt::TryCatch(flow, _) => {
                // Both may run in part.
                let bodies = [flow.body.statements(), flow.branch.statements()];
                let before = read.clone();
                self.branches(bodies, read);
                read.retain(|id, _| before.contains_key(id));
            }
            Stmt::Return(value, ..) => {
                if let Some(value) = value {
                    self.expr(value, read);
                }
                return true;
            }
            Stmt::BreakLoop(..) => return true,
            _ => {}
        }
        false
    }

    /// Reads code of which one part runs; a stream counts if every part that goes on reads it.
    fn branches<'s>(
        &mut self,
        bodies: impl IntoIterator<Item = &'s [Stmt]>,
        read: &mut Read,
    ) -> bool {
        let mut after: Option<Read> = None;
        for body in bodies {
            let mut own = read.clone();
            if self.block(body, &mut own) {
                continue;
            }
            after = Some(match after {
                None => own,
                Some(mut other) => {
                    other.retain(|id, _| own.contains_key(id));
                    other
                }
            });
        }
        match after {
            Some(after) => {
                *read = after;
                false
            }
            None => true,
        }
    }

    /// Reads the body of a loop, which may run several times or never.
    fn repeated(&mut self, item: Option<VariableId>, body: &[Stmt], read: &Read) {
        let outside = self.declared.clone();
        self.declared.extend(item);
        let mut first = read.clone();
        if self.block(body, &mut first) || self.is_second_round || has_exit(body) {
            return;
        }
        first.retain(|id, _| outside.contains(id));
        if first.len() > read.len() {
            // The second round meets what the first one read.
            self.is_second_round = true;
            self.block(body, &mut first);
            self.is_second_round = false;
        }
    }

    fn expr(&mut self, expr: &Expr, read: &mut Read) {
        match expr {
            // A closure runs later, or never.
            Expr::Stmt(_) if closure_literal(expr).is_some() => {}
            Expr::Stmt(block) => {
                self.block(block.statements(), read);
            }
            Expr::FnCall(call, position) => self.call(call, *position, read),
            Expr::Dot(..) | Expr::Index(..) => self.chain(expr, read),
            Expr::Array(items, _) | Expr::InterpolatedString(items, _) => {
                for item in &**items {
                    self.expr(item, read);
                }
            }
            Expr::Map(map, _) => {
                for (_, value) in &map.0 {
                    self.expr(value, read);
                }
            }
            Expr::And(parts, _) | Expr::Or(parts, _) | Expr::Coalesce(parts, _) => {
                // Only the first part certainly runs.
                for (at, part) in parts.iter().enumerate() {
                    if at == 0 {
                        self.expr(part, read);
                    } else {
                        self.expr(part, &mut read.clone());
                    }
                }
            }
            _ => {}
        }
    }

    fn chain(&mut self, expr: &Expr, read: &mut Read) {
        let (root, chain) = links(expr);
        self.expr(root, read);
        for (at, link) in chain.into_iter().enumerate() {
            match link {
                Link::Property(..) => {}
                Link::Index(index, _) => self.expr(index, read),
                Link::Method(call, position) => {
                    for arg in &call.args {
                        self.expr(arg, read);
                    }
                    let takes = ["pages", "store", "reject", "report"];
                    let count = call.args.len();
                    let is_own = self.kinds.defines(&call.name, &[count, count + 1]);
                    if at == 0 && takes.contains(&call.name.as_str()) && !is_own {
                        self.consume(root, position, read);
                    }
                }
            }
        }
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, read: &mut Read) {
        for arg in &call.args {
            self.expr(arg, read);
        }
        let is_host = call.namespace.to_string() == "host";
        let is_own = self.kinds.defines(&call.name, &[call.args.len()]);
        let takes = ["store", "reject", "report"];
        if takes.contains(&call.name.as_str())
            && (is_host || call.namespace.is_empty() && !is_own)
            && let Some(stream) = call.args.first()
        {
            self.consume(stream, position, read);
        }
        if call.name == "retry" && (is_host || !is_own) {
            self.check_retry(call, position, read);
        }
        let key = (call.name.to_string(), call.args.len());
        let namespace = call.namespace.to_string();
        let params = match self.kinds.modules.get(&namespace) {
            Some(module) => module.read_params.get(&key),
            None if is_own && namespace.is_empty() => self.read_params.get(&key),
            None => None,
        };
        for at in params.cloned().unwrap_or_default() {
            self.consume(&call.args[at], position, read);
        }
    }

    /// Finds a closure of `retry` that reads a stream from outside: its second call would fail.
    fn check_retry(&mut self, call: &FnCallExpr, position: Position, read: &Read) {
        let closure = call.args.last();
        let Some((index, _)) = closure.and_then(|one| closure_of(one, self.kinds.scopes)) else {
            return;
        };
        let before = self.findings.len();
        let outside = self.declared.clone();
        let mut own = Read::new();
        self.block(&self.kinds.scopes.tree.functions[index].body, &mut own);
        // The body is checked by itself.
        self.findings.truncate(before);
        let is_outside = |id: &&VariableId| outside.contains(id) && !read.contains_key(id);
        if let Some(id) = own.keys().find(is_outside) {
            let name = self.kinds.scopes.variables[*id].name;
            let message = format!("a second attempt of `retry` finds `{name}` already read");
            let advice = Advice::new(message)
                .hint("make the stream in the closure: `retry(3, || store(fetch_once(10)))`");
            self.findings.push((position, advice.warning()));
        }
    }

    /// Records that a stream is read at a position.
    fn consume(&mut self, stream: &Expr, position: Position, read: &mut Read) {
        let kind = self.kinds.of(stream);
        let Some(id) = self.original(stream) else {
            return;
        };
        let declared = self.kinds.scopes.variables[id].declared;
        let is_stream = match kind {
            Some(kind) => self.kinds.symbols.item(kind).is_some(),
            None => self.are_params_streams && matches!(declared, Declared::Param(..)),
        };
        if !is_stream {
            return;
        }
        let name = self.kinds.scopes.variables[id].name;
        if let Some(first) = read.get(&id) {
            let (what, hint) = match kind {
                Some("Outcomes") => (
                    "outcomes",
                    "`outcomes.counts` and `outcomes.failures()` stay usable; keep what else you need on the first pass",
                ),
                _ => ("tokens", "keep what you need in an array on the first pass"),
            };
            let line = first.line().unwrap_or_default();
            let message = if *first == position {
                format!("the {what} `{name}` are read again in the next round of the loop")
            } else {
                format!("the {what} `{name}` were already read in line {line}")
            };
            let hint = format!("a stream can be read once: {hint}");
            self.findings
                .push((position, Advice::new(message).hint(hint)));
        } else {
            read.insert(id, position);
        }
    }

    /// Returns the variable of a stream; of a copy, the variable that was copied.
    fn original(&self, stream: &Expr) -> Option<VariableId> {
        let scopes = self.kinds.scopes;
        let mut id = scopes.variable_of(stream)?;
        loop {
            let variable = &scopes.variables[id];
            let is_copy = matches!(variable.declared, Declared::Let | Declared::Const)
                && variable.assigned.is_empty();
            let copied = variable.value.filter(|_| is_copy);
            match copied.and_then(|value| scopes.variable_of(value)) {
                Some(other) if scopes.variables[other].assigned.is_empty() => id = other,
                _ => return Some(id),
            }
        }
    }
}

/// Returns true if a function may end before its last statement.
fn has_return(body: &[Stmt]) -> bool {
    let is_return = |one: &Stmt| matches!(one, Stmt::Return(..)) || ends_script(one);
    any_statement(body, &is_return)
}

/// Returns true if a loop's body may leave the loop.
fn has_exit(body: &[Stmt]) -> bool {
    let is_exit = |one: &Stmt| match one {
        Stmt::Return(..) => true,
        Stmt::BreakLoop(_, flags, _) => flags.contains(ASTFlags::BREAK),
        other => ends_script(other),
    };
    any_statement(body, &is_exit)
}

/// Returns true for a call of `exit`.
fn ends_script(statement: &Stmt) -> bool {
    let call = match statement {
        Stmt::FnCall(call, _) => Some(call),
        Stmt::Expr(expr) => match &**expr {
            Expr::FnCall(call, _) => Some(call),
            _ => None,
        },
        _ => None,
    };
    call.is_some_and(|call| call.name == "exit")
}
