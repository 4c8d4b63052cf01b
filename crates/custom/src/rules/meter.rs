//! Counts the turns of loops, for the engine counts nothing.
//!
//! The condition of each loop is wrapped in a function of ours. Once too much is spent, every loop ends with an error at its next
//! turn, so that whatever makes something of errors comes to its end too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kube_cel::cel::common::ast::{CallExpr, EntryExpr, Expr};
use kube_cel::cel::{Context, ExecutionError, IdedExpr};

/// Counts a turn of a loop.
const TURN: &str = "@turn";
/// Counts a turn of a loop that makes a list, which the engine copies with every turn.
const COPY: &str = "@copy";

/// What an evaluation has spent.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) steps: AtomicU64,
    pub(super) limit: u64,
    /// What a turn costs.
    pub(super) weight: u64,
    /// What a turn costs besides if it copies.
    pub(super) copying: u64,
}

impl Meter {
    fn spend(&self, steps: u64, go_on: bool) -> Result<bool, ExecutionError> {
        if self.steps.fetch_add(steps, Ordering::Relaxed) > self.limit {
            return Err(ExecutionError::function_error(TURN, "too many steps"));
        }
        Ok(go_on)
    }

    /// Lets expressions count.
    pub(super) fn add_to(self: &Arc<Self>, context: &mut Context<'_>) {
        let meter = Arc::clone(self);
        context.add_function(TURN, move |go_on: bool| meter.spend(meter.weight, go_on));
        let meter = Arc::clone(self);
        context.add_function(COPY, move |go_on: bool| meter.spend(meter.weight + meter.copying, go_on));
    }
}

/// Makes every loop of an expression count its turns.
pub(super) fn count_loops(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Select(select) => count_loops(&mut select.operand),
        Expr::Call(call) => {
            call.target.as_deref_mut().into_iter().chain(&mut call.args).for_each(count_loops);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(count_loops),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    count_loops(&mut entry.key);
                    count_loops(&mut entry.value);
                }
            }
        }
        Expr::Comprehension(each) => {
            let copies = matches!(each.accu_init.expr, Expr::List(_) | Expr::Map(_));
            for part in [
                &mut each.iter_range,
                &mut each.accu_init,
                &mut each.loop_cond,
                &mut each.loop_step,
                &mut each.result,
            ] {
                count_loops(part);
            }
            let condition = std::mem::take(&mut each.loop_cond);
            let func_name = if copies { COPY } else { TURN }.to_owned();
            let call = CallExpr { func_name, target: None, args: vec![condition] };
            each.loop_cond = IdedExpr { id: expression.id, expr: Expr::Call(call) };
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}
