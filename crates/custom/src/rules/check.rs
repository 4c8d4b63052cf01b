//! What can be told of an expression before it is run.

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{EntryExpr, Expr};

use super::program::Program;
use super::values::escape;
use crate::schema::{Additional, Schema, Type};

/// Deepest expression: evaluating is recursive.
const DEPTH_MAX: usize = 64;
/// Most loops in loops.
const LOOPS_MAX: usize = 8;

/// What an expression is made of.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// Variables that it does not make itself.
    pub(super) variables: Vec<String>,
    /// How often it says that texts or lists are put together.
    pub(super) additions: u64,
}

/// Looks at an expression; the error says why it cannot be run.
pub(super) fn shape(expression: &IdedExpr) -> Result<Shape, String> {
    let mut shape = Shape::default();
    walk(expression, 0, 0, &mut Vec::new(), &mut shape)?;
    Ok(shape)
}

fn walk<'a>(
    expression: &'a IdedExpr,
    depth: usize,
    loops: usize,
    own: &mut Vec<&'a str>,
    shape: &mut Shape,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("an expression may be at most {DEPTH_MAX} levels deep"));
    }
    let depth = depth + 1;
    match &expression.expr {
        Expr::Ident(name) => {
            if !own.contains(&name.as_str()) && !shape.variables.contains(name) {
                shape.variables.push(name.clone());
            }
        }
        Expr::Literal(_) => {}
        Expr::Select(select) => walk(&select.operand, depth, loops, own, shape)?,
        Expr::Call(call) => {
            if matches!(call.func_name.as_str(), "_+_" | "replace" | "join" | "format" | "split") {
                shape.additions += 1;
            }
            if let Some(target) = &call.target {
                // `optional.of()`: the first part is no variable but part of the name.
                let is_name =
                    matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str()));
                if !is_name {
                    walk(target, depth, loops, own, shape)?;
                }
            }
            for argument in &call.args {
                walk(argument, depth, loops, own, shape)?;
            }
        }
        Expr::List(list) => {
            for element in &list.elements {
                walk(element, depth, loops, own, shape)?;
            }
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    walk(&entry.key, depth, loops, own, shape)?;
                    walk(&entry.value, depth, loops, own, shape)?;
                }
            }
        }
        Expr::Comprehension(each) => {
            if loops >= LOOPS_MAX {
                return Err(format!("there may be at most {LOOPS_MAX} loops in each other"));
            }
            walk(&each.iter_range, depth, loops, own, shape)?;
            walk(&each.accu_init, depth, loops, own, shape)?;
            let known = own.len();
            own.extend([each.accu_var.as_str(), each.iter_var.as_str()]);
            own.extend(each.iter_var2.as_deref());
            for part in [&each.loop_cond, &each.loop_step, &each.result] {
                walk(part, depth, loops + 1, own, shape)?;
            }
            own.truncate(known);
        }
        Expr::Struct(_) | Expr::Unspecified => return Err("messages are not supported".to_owned()),
    }
    Ok(())
}

/// First parts of the names of functions.
const NAMESPACES: [&str; 7] = ["optional", "sets", "math", "base64", "jsonpatch", "format", "strings"];
/// Names of types, which are values too.
pub(super) const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "uint",
];

/// Whether a program names nothing that is not there: variables, and fields of what has a schema.
pub(super) fn check(program: &Program, schema: &Schema, root: bool) -> Result<(), String> {
    let shape = shape(program.expression())?;
    let known = |name: &str| matches!(name, "self" | "oldSelf") || TYPES.contains(&name);
    if let Some(name) = shape.variables.iter().find(|name| !known(name)) {
        return Err(format!("undeclared reference to '{name}' (in container '')"));
    }
    fields(program.expression(), schema, root).map(|_| ())
}

/// Checks selections of fields, and gives the schema of the expression if it is one of `self`.
fn fields<'s>(expression: &IdedExpr, schema: &'s Schema, root: bool) -> Result<Option<&'s Schema>, String> {
    let each = |part: &IdedExpr| fields(part, schema, root);
    match &expression.expr {
        Expr::Ident(name) if name == "self" => Ok(Some(schema)),
        Expr::Select(select) => {
            let Some(of) = each(&select.operand)? else { return Ok(None) };
            // Values of maps are found by keys that nobody declares.
            if let Some(Additional::Schema(of_values)) = &of.additional {
                return Ok(Some(of_values));
            }
            let is_meta = (of.embedded || (root && std::ptr::eq(of, schema)))
                && matches!(select.field.as_str(), "apiVersion" | "kind" | "metadata");
            if is_meta || of.kind != Some(Type::Object) || of.int_or_string {
                return Ok(None);
            }
            let mut found = of.properties.iter();
            match found.find(|(name, _)| escape(name).as_deref() == Some(&select.field)) {
                Some((_, property)) => Ok(Some(property)),
                None => Err(format!("undefined field '{}'", select.field)),
            }
        }
        Expr::Call(call) => {
            call.target.as_deref().map(each).transpose()?;
            for argument in &call.args {
                each(argument)?;
            }
            Ok(None)
        }
        Expr::List(list) => list.elements.iter().try_for_each(|part| each(part).map(|_| ())).map(|()| None),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    each(&entry.key)?;
                    each(&entry.value)?;
                }
            }
            Ok(None)
        }
        Expr::Comprehension(of) => {
            for part in [&of.iter_range, &of.accu_init, &of.loop_cond, &of.loop_step, &of.result] {
                each(part)?;
            }
            Ok(None)
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => Ok(None),
    }
}
