//! Walks the code of a file, with the variables that are in scope at each place.

use std::collections::{BTreeSet, HashMap};

use rhai::{ASTFlags, Expr, FnCallExpr, OpAssignment, Position, Stmt};

use crate::script::error::message::Advice;
use crate::script::lint::ast::{Link, captures, closure_literal, links};
use crate::script::lint::scopes::{
    Declared, Dropped, FileScopes, QualifiedName, Variable, VariableId, changed_constant,
};
use crate::script::lint::{Finding, Findings};

/// The walk over a file.
pub(super) struct Resolver<'a> {
    pub(super) file: FileScopes<'a>,
    /// The variables in scope, innermost last.
    pub(super) visible: Vec<VariableId>,
    /// The parameters by the indexes of function and parameter.
    pub(super) params: HashMap<(usize, usize), VariableId>,
    pub(super) unknown: BTreeSet<(Position, String)>,
    pub(super) findings: Findings,
}

impl<'a> Resolver<'a> {
    pub(super) fn add(
        &mut self,
        name: &'a str,
        declared: Declared,
        value: Option<&'a Expr>,
    ) -> VariableId {
        self.file.variables.push(Variable {
            name,
            declared,
            value,
            assigned: Vec::new(),
        });
        self.file.variables.len() - 1
    }

    fn declare(
        &mut self,
        name: &'a str,
        position: Position,
        declared: Declared,
        value: Option<&'a Expr>,
    ) {
        if matches!(
            declared,
            Declared::For | Declared::Counter | Declared::Catch
        ) && let Some(hidden) = self.find(name)
            && matches!(
                self.file.variables[hidden].declared,
                Declared::Const | Declared::Host
            )
        {
            self.findings.push(hidden_constant(name, position));
        }
        let known = self.file.declarations.get(&position).copied();
        let id = known.unwrap_or_else(|| self.add(name, declared, value));
        self.file.declarations.insert(position, id);
        self.visible.push(id);
    }

    fn find(&self, name: &str) -> Option<VariableId> {
        let mut visible = self.visible.iter().rev();
        visible
            .find(|id| self.file.variables[**id].name == name)
            .copied()
    }

    fn read(&mut self, name: &'a str, position: Position) {
        let found = self.find(name);
        if found.is_none() && !self.file.has_function(name) {
            self.unknown.insert((position, name.to_owned()));
        }
        self.file
            .uses
            .entry(position)
            .and_modify(|known| {
                if *known != found {
                    *known = None;
                }
            })
            .or_insert(found);
    }

    /// Walks a function or closure, whose first parameters are `captured` variables.
    pub(super) fn function(&mut self, index: usize, captured: usize) {
        let tree = self.file.tree;
        let function = &tree.functions[index];
        let outer = self.visible.len();
        for (at, name) in function.params.iter().enumerate().skip(captured) {
            let known = self.params.get(&(index, at)).copied();
            let id = known.unwrap_or_else(|| self.add(name, Declared::Param(index, at), None));
            self.params.insert((index, at), id);
            self.visible.push(id);
        }
        self.block(&function.body, true);
        self.visible.truncate(outer);
    }

    fn closure(&mut self, name: &str, captured: usize) {
        if let Some(index) = self.file.tree.closure(name) {
            self.function(index, captured);
        }
    }

    /// Walks statements; the value of the last one is that of the block.
    pub(super) fn block(&mut self, statements: &'a [Stmt], is_used: bool) {
        let outer = self.visible.len();
        for (at, statement) in statements.iter().enumerate() {
            let is_last = at + 1 == statements.len();
            self.statement(statement, is_used && is_last);
        }
        self.visible.truncate(outer);
    }

    fn statement(&mut self, statement: &'a Stmt, is_used: bool) {
        self.file.statements.push(statement);
        match statement {
            Stmt::Expr(expr) => {
                if !is_used {
                    self.file.dropped.push(Dropped::Expr(expr));
                }
                self.expr(expr, is_used);
            }
            Stmt::FnCall(call, position) => {
                if !is_used {
                    self.file.dropped.push(Dropped::Call(call, *position));
                }
                self.call(call, *position);
            }
            Stmt::Block(block) => self.block(block.statements(), is_used),
            Stmt::If(flow, _) => {
                self.condition(&flow.expr);
                self.block(flow.body.statements(), is_used);
                self.block(flow.branch.statements(), is_used);
            }
            Stmt::Switch(switch, _) => {
                self.value(&switch.0);
                for case in &switch.1.expressions {
                    self.expr(&case.lhs, true);
                    self.expr(&case.rhs, is_used);
                }
            }
            Stmt::While(flow, _) => {
                self.condition(&flow.expr);
                self.block(flow.body.statements(), false);
            }
            Stmt::Do(flow, ..) => {
                self.block(flow.body.statements(), false);
                self.condition(&flow.expr);
            }
            Stmt::For(each, _) => {
                let (item, counter, flow) = &**each;
                self.value(&flow.expr);
                let outer = self.visible.len();
                if let Some(counter) = counter {
                    self.declare(&counter.name, counter.pos, Declared::Counter, None);
                }
                self.declare(&item.name, item.pos, Declared::For, Some(&flow.expr));
                self.block(flow.body.statements(), false);
                self.visible.truncate(outer);
            }
            Stmt::Var(var, flags, _) => {
                self.value(&var.1);
                let declared = if flags.contains(ASTFlags::CONSTANT) {
                    Declared::Const
                } else {
                    Declared::Let
                };
                self.declare(&var.0.name, var.0.pos, declared, Some(&var.1));
            }
            Stmt::Assignment(assignment) => {
                let (operator, pair) = &**assignment;
                self.expr(&pair.lhs, true);
                self.value(&pair.rhs);
                self.assign(operator, &pair.lhs, &pair.rhs);
            }
            Stmt::TryCatch(flow, _) => {
                self.block(flow.body.statements(), is_used);
                let outer = self.visible.len();
                if let Expr::Variable(variable, _, position) = &flow.expr {
                    self.declare(&variable.1, *position, Declared::Catch, None);
                }
                self.block(flow.branch.statements(), false);
                self.visible.truncate(outer);
            }
            Stmt::Return(Some(expr), ..) | Stmt::BreakLoop(Some(expr), ..) => {
                self.expr(expr, true);
            }
            Stmt::Import(import, _) => {
                let known = self.unknown.len();
                self.expr(&import.0, true);
                // A path without quotation marks is one mistake.
                while self.unknown.len() > known + 1 {
                    self.unknown.pop_last();
                }
                if !import.1.name.is_empty() {
                    self.file.imports.insert(&import.1.name);
                }
            }
            Stmt::Export(export, _) => self.read(&export.0.name, export.0.pos),
            _ => {}
        }
    }

    fn assign(&mut self, operator: &OpAssignment, target: &'a Expr, value: &'a Expr) {
        let (root, chain) = links(target);
        let Expr::Variable(name, _, position) = root else {
            return;
        };
        if !name.2.is_empty() {
            let name = format!("{}::{}", name.2.path[0].name, name.1);
            self.findings.push(changed_constant(&name, *position));
            return;
        }
        let Some(id) = self.file.variable_at(*position) else {
            return;
        };
        let variable = &mut self.file.variables[id];
        if matches!(variable.declared, Declared::Const | Declared::Host) {
            self.findings.push(changed_constant(&name.1, *position));
        } else if chain.is_empty() {
            let operator = operator.get_op_assignment_info();
            let operator = operator.map(|(.., operator, _)| operator.clone());
            variable.assigned.push((operator, value));
        }
    }

    /// Walks an expression whose value is used.
    fn value(&mut self, expr: &'a Expr) {
        self.file.values.push(expr);
        self.expr(expr, true);
    }

    fn condition(&mut self, expr: &'a Expr) {
        self.file.conditions.push(expr);
        self.value(expr);
    }

    fn expr(&mut self, expr: &'a Expr, is_used: bool) {
        match expr {
            Expr::Stmt(block) => match closure_literal(expr) {
                Some((name, captured)) => {
                    for arg in captures(expr) {
                        self.expr(arg, true);
                    }
                    self.closure(&name, captured);
                }
                None => self.block(block.statements(), is_used),
            },
            Expr::DynamicConstant(..) => {
                if let Some((name, captured)) = closure_literal(expr) {
                    self.closure(&name, captured);
                }
            }
            Expr::FnCall(call, position) => self.call(call, *position),
            Expr::Dot(..) | Expr::Index(..) => {
                self.file.chains.push(expr);
                let (root, chain) = links(expr);
                self.expr(root, true);
                for link in chain {
                    match link {
                        Link::Property(..) => {}
                        Link::Method(call, _) => call.args.iter().for_each(|arg| self.value(arg)),
                        Link::Index(index, _) => self.value(index),
                    }
                }
            }
            Expr::StringConstant(text, position) => self.file.texts.push((text, *position)),
            Expr::Array(items, _) => items.iter().for_each(|item| self.value(item)),
            Expr::InterpolatedString(parts, _) => parts.iter().for_each(|part| self.value(part)),
            Expr::Map(map, _) => map.0.iter().for_each(|(_, value)| self.value(value)),
            Expr::And(parts, _) | Expr::Or(parts, _) => {
                parts.iter().for_each(|part| self.condition(part));
            }
            Expr::Coalesce(parts, _) => parts.iter().for_each(|part| self.expr(part, true)),
            Expr::Variable(variable, _, position) => {
                if let Some(module) = variable.2.path.first() {
                    self.file.qualified.push(QualifiedName {
                        module: variable.2.to_string(),
                        module_position: module.pos,
                        constant: Some((&variable.1, *position)),
                    });
                } else {
                    self.read(&variable.1, *position);
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, call: &'a FnCallExpr, position: Position) {
        self.file.calls.push((call, position));
        if let Some(module) = call.namespace.path.first() {
            self.file.qualified.push(QualifiedName {
                module: call.namespace.to_string(),
                module_position: module.pos,
                constant: None,
            });
        }
        call.args.iter().for_each(|arg| self.value(arg));
    }
}

fn hidden_constant(name: &str, position: Position) -> Finding {
    let advice = Advice::new(format!("this variable hides the constant `{name}`"))
        .hint("give it another name, so that each name means one value");
    (position, advice.warning())
}
