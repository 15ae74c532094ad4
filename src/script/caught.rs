//! Adds `kind` and `retryable` to errors of the language that a script catches.
//!
//! The engine makes their maps itself, so they are completed when the script first reads them.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rhai::{AST, ASTNode, Dynamic, Expr, Map, Scope, Stmt};

use crate::script::native::lock;

/// The `kind` of an error of the language, such as an index out of bounds.
pub const KIND: &str = "language";

/// The names of the variables of every `catch` in the compiled scripts.
#[derive(Default)]
pub struct CatchNames {
    names: Mutex<BTreeSet<String>>,
    /// The bits of the names, so that other variables cost almost nothing.
    bits: AtomicU64,
}

impl CatchNames {
    /// Adds the names of a script.
    pub fn add(&self, ast: &AST) {
        let mut names = lock(&self.names);
        ast.walk(&mut |path: &[ASTNode]| {
            if let Some(ASTNode::Stmt(Stmt::TryCatch(flow, _))) = path.last()
                && let Expr::Variable(variable, ..) = &flow.expr
            {
                names.insert(variable.1.to_string());
            }
            true
        });
        let bits = names.iter().fold(0, |bits, name| bits | bit(name));
        self.bits.store(bits, Ordering::Relaxed);
    }

    /// Completes the error in the variable `name`, if it is one of the language.
    pub fn complete(&self, name: &str, scope: &mut Scope) {
        if self.bits.load(Ordering::Relaxed) & bit(name) == 0 || !lock(&self.names).contains(name) {
            return;
        }
        if let Some(mut value) = scope.get_mut(name).and_then(Dynamic::write_lock::<Map>) {
            let is_of_engine = value.contains_key("error")
                && value.contains_key("message")
                && !value.contains_key("kind");
            if is_of_engine {
                value.insert("kind".into(), KIND.into());
                value.insert("retryable".into(), false.into());
            }
        }
    }
}

/// Returns one of 64 bits for a name, which few other names share.
fn bit(name: &str) -> u64 {
    let first = name.bytes().next().unwrap_or_default();
    1 << ((usize::from(first) + 7 * name.len()) % 64)
}
