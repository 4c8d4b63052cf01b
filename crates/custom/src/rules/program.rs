//! One expression: compiled within bounds, and run within a budget.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kube_cel::KubeCelExt;
use kube_cel::cel::{self, Context, ExecutionError, IdedExpr, Value};

use super::check::{self, Shape};
use super::culprit;
use super::meter::{self, Meter};
use super::values::{self, Answer, Scope};

/// Longest expression, in bytes.
const LENGTH_MAX: usize = 16 << 10;
/// Stack of the thread that reads an expression: the grammar is recursive, and its depth is known only afterwards.
const READER_STACK: usize = 64 << 20;
/// Steps of one expression, as Kubernetes bounds its costs.
const STEPS_PER_CALL: u64 = 1_000_000;
/// Steps of all expressions of a request.
const STEPS_PER_REQUEST: u64 = 10 * STEPS_PER_CALL;

/// Bytes that all additions of an expression may make together, if each makes as many as the longest text has.
const ADDED_MAX: u64 = 256 << 20;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Program {
    expression: IdedExpr,
    shape: Shape,
}

/// What is left of the steps of a request.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    pub(crate) fn of_request() -> Self {
        Self { left: STEPS_PER_REQUEST }
    }
}

/// Why an expression says nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It took too long.
    Budget,
    /// In the words of its engine.
    Other(String),
}

impl Program {
    /// Compiles an expression, or says why it is none.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > LENGTH_MAX {
            return Err(format!(
                "an expression may have at most {LENGTH_MAX} bytes, this one has {}",
                source.len()
            ));
        }
        let source = source.to_owned();
        let reader = std::thread::Builder::new().stack_size(READER_STACK).spawn(move || Self::read(&source));
        let read = reader.map_err(|error| format!("no thread to read it in: {error}"))?.join();
        read.unwrap_or_else(|_| Err("it cannot be read".to_owned()))
    }

    fn read(source: &str) -> Result<Self, String> {
        let program = cel::Program::compile(source).map_err(|errors| errors.to_string())?;
        // What is too deep is let go of here, where there is room for that.
        let shape = check::shape(program.expression())?;
        let mut expression = program.expression().clone();
        meter::count_loops(&mut expression);
        Ok(Self { expression, shape })
    }

    pub(super) fn expression(&self) -> &IdedExpr {
        &self.expression
    }

    /// Whether the expression names a variable.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.shape.variables.iter().any(|name| name == variable)
    }

    /// Evaluates it.
    pub(super) fn run(&self, scope: &Scope, optional: bool, budget: &mut Budget) -> Result<Answer, Failure> {
        if self.shape.additions.saturating_mul(scope.text_bytes()) > ADDED_MAX {
            return Err(Failure::Budget);
        }
        let meter = Arc::new(Meter {
            steps: AtomicU64::new(0),
            limit: STEPS_PER_CALL.min(budget.left),
            weight: 1 + scope.text_bytes() / 64,
            copying: scope.longest().max(LENGTH_MAX as u64 / 2) / 16,
        });
        let run = || {
            let mut context = Context::default();
            context.register_all();
            meter.add_to(&mut context);
            values::add_types(&mut context);
            context.add_variable_from_value("self", scope.value());
            if let Some(old) = scope.old(optional) {
                context.add_variable_from_value("oldSelf", old);
            }
            context.resolve(&self.expression).map_err(|error| match error {
                ExecutionError::MissingArgumentOrTarget => {
                    let steps = meter.steps.load(Ordering::Relaxed);
                    let culprit = culprit::find(&context, &self.expression);
                    // Looking for it is nothing that the rule spends.
                    meter.steps.store(steps, Ordering::Relaxed);
                    culprit.unwrap_or(error)
                }
                error => error,
            })
        };
        // The engine panics where it is unfinished; nothing of it outlives this.
        let result = panic::catch_unwind(AssertUnwindSafe(run));
        let steps = meter.steps.load(Ordering::Relaxed);
        budget.left = budget.left.saturating_sub(steps);
        match result {
            _ if steps > meter.limit => Err(Failure::Budget),
            Ok(Ok(value)) => Ok(Answer::of(value)),
            Ok(Err(error)) => Err(Failure::Other(say(&error))),
            Err(_) => Err(Failure::Other("an operation is not supported".to_owned())),
        }
    }
}

/// An error as Kubernetes words it, where it has words for it.
fn say(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(index) => match index {
            Value::Int(index) => format!("index out of bounds: {index}"),
            _ => "index out of bounds".to_owned(),
        },
        other => {
            // Some of these show whole objects.
            let mut text = other.to_string();
            text.truncate(text.floor_char_boundary(200));
            text
        }
    }
}

/// The names that a `fieldPath` is made of: `.a.b`, `['a']`.
pub(super) fn steps(path: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = path.trim();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("['") {
            let (name, after) = inside.split_once("']")?;
            steps.push(name.replace("\\'", "'").replace("\\\\", "\\"));
            rest = after;
        } else {
            let after = rest.strip_prefix('.')?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            if name.is_empty() {
                return None;
            }
            steps.push(name.to_owned());
            rest = after;
        }
    }
    (!steps.is_empty()).then_some(steps)
}

/// The field of an error at `path` that a `fieldPath` leads on from.
pub(super) fn child(path: &str, field_path: &str) -> String {
    let below = steps(field_path).unwrap_or_default().join(".");
    match (path, below.as_str()) {
        ("", "") => "<nil>".to_owned(),
        ("", below) => below.to_owned(),
        (path, "") => path.to_owned(),
        (path, below) => format!("{path}.{below}"),
    }
}
