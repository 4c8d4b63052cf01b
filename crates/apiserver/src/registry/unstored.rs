//! Objects that are answered and not kept: reviews, and what is asked for below an object.

use serde_json::Value;

use super::body::Body;
use super::create::check_namespace;
use super::options::WriteOptions;
use super::write::Scope;
use super::{Registry, ownership, values};
use crate::status::ApiError;

impl Registry {
    /// Reads an object that is not going to be stored.
    pub(crate) fn decode_unstored(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let mut object = body.decode(scope.served, options.field_validation, warnings)?;
        check_namespace(scope, &mut object)?;
        ownership::update(scope, None, &mut object, &options.manager, &values::now());
        Ok(object)
    }
}
