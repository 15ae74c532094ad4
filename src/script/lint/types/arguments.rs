//! Infers the types of the arguments of functions and closures.

use rhai::{Expr, FnCallExpr};

use crate::script::lint::ast::{Link, closure_literal, links};
use crate::script::lint::types::VariableKinds;

impl<'a> VariableKinds<'a> {
    /// Returns the types of the arguments of each function, if they are certain.
    pub(super) fn arguments(&self) -> Vec<Vec<Option<&'a str>>> {
        let functions = &self.scopes.tree.functions;
        let unknown = functions.iter().map(|one| vec![None; one.params.len()]);
        let mut arguments: Vec<Vec<Option<&str>>> = unknown.collect();
        let mut is_called = vec![false; functions.len()];
        for (call, _) in &self.scopes.calls {
            self.closure_arguments(call, false, &mut arguments);
            let is_own = call.op_token.is_none() && call.namespace.is_empty();
            let mut named = self.scopes.tree.named_functions();
            let found = named.find(|(_, function)| {
                function.name == call.name.as_str() && function.params.len() == call.args.len()
            });
            let Some((index, _)) = found.filter(|_| is_own && !self.is_module) else {
                continue;
            };
            let given = self.of_all(&call.args);
            if std::mem::replace(&mut is_called[index], true) {
                for (known, given) in arguments[index].iter_mut().zip(given) {
                    if *known != given {
                        *known = None;
                    }
                }
            } else {
                arguments[index] = given;
            }
        }
        for chain in &self.scopes.chains {
            let (_, chain) = links(chain);
            for link in chain {
                if let Link::Method(call, _) = link {
                    self.closure_arguments(call, true, &mut arguments);
                }
            }
        }
        // A function may also be called through a pointer, or as a method.
        for (index, function) in self.scopes.tree.named_functions() {
            if self.may_be_called_otherwise(&function.name) {
                arguments[index].fill(None);
            }
        }
        arguments
    }

    /// Returns true if a function may be called by more than calls with its name.
    fn may_be_called_otherwise(&self, name: &str) -> bool {
        let scopes = self.scopes;
        let is_pointer = |call: &FnCallExpr| {
            call.name == "Fn"
                && !matches!(call.args.first(), Some(Expr::StringConstant(text, _)) if text != name)
        };
        let is_method = |chain: &&Expr| {
            let (_, chain) = links(chain);
            let mut chain = chain.into_iter();
            chain.any(|link| matches!(link, Link::Method(call, _) if call.name == name))
        };
        let is_variable =
            |value: &&Expr| matches!(value, Expr::Variable(variable, ..) if variable.1 == name);
        scopes.calls.iter().any(|(call, _)| is_pointer(call))
            || scopes.chains.iter().any(is_method)
            || scopes.values.iter().any(is_variable)
    }

    /// Sets the types of the arguments of closures that functions of the host call.
    fn closure_arguments(
        &self,
        call: &FnCallExpr,
        is_method: bool,
        arguments: &mut [Vec<Option<&'a str>>],
    ) {
        let receivers = usize::from(is_method);
        let count = call.args.len() + receivers;
        if self.defines(&call.name, &[count]) && call.namespace.is_empty() {
            return;
        }
        for overload in self.symbols.overloads(&call.name) {
            if overload.params.len() != count {
                continue;
            }
            let params = overload.params.iter().skip(receivers);
            for (param, arg) in params.zip(&call.args) {
                if let (Some(kind), Some((closure, captured))) =
                    (param.kind.strip_suffix("Closure"), closure_literal(arg))
                    && let Some(index) = self.scopes.tree.closure(&closure)
                {
                    let mut params = arguments[index].iter_mut().skip(captured);
                    params.by_ref().for_each(|known| *known = Some(kind));
                }
            }
        }
    }
}
