//! What went wrong in a call like `size(self.a)` whose argument could not be had: the engine says no more than that.

use kube_cel::cel::common::ast::operators::CONDITIONAL;
use kube_cel::cel::common::ast::{Expr, IdedExpr};
use kube_cel::cel::{Context, ExecutionError, Value};

/// The error of the argument at fault, or that of an argument of its own; only in what was evaluated at all. `None` if it
/// is inside of a loop, whose variables nobody knows any more.
pub(super) fn find(context: &Context<'_>, expression: &IdedExpr) -> Option<ExecutionError> {
    match &expression.expr {
        Expr::Select(select) => first(context, [&*select.operand]),
        Expr::List(list) => first(context, &list.elements),
        Expr::Comprehension(each) => first(context, [&each.iter_range]),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (CONDITIONAL, [condition, then, otherwise]) => match context.resolve(condition) {
                Ok(Value::Bool(true)) => first(context, [then]),
                Ok(_) => first(context, [otherwise]),
                Err(_) => first(context, [condition]),
            },
            // One that decides what an operator says has let nothing fail.
            (_, args) => first(context, call.target.as_deref().into_iter().chain(args)),
        },
        Expr::Map(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

/// That of the first of them that fails.
fn first<'a>(
    context: &Context<'_>,
    expressions: impl IntoIterator<Item = &'a IdedExpr>,
) -> Option<ExecutionError> {
    expressions.into_iter().find_map(|expression| match context.resolve(expression) {
        Ok(_) => None,
        Err(ExecutionError::MissingArgumentOrTarget) => find(context, expression),
        Err(error) => Some(error),
    })
}
