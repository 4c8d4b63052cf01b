//! Requests for objects: the answer to each verb, once it is known who asks and that they may.

use std::sync::Arc;

use dyad_schema::apply;
use dyad_schema::columns::IncludeObject;
use dyad_schema::kinds::Deleted;
use dyad_schema::patch::PatchType;
use http::{Response, StatusCode};

use super::{Api, Call};
use crate::http::negotiate::{self, Form, Format, Offer};
use crate::http::respond::{self, Body as ResponseBody};
use crate::http::show::{self, Show};
use crate::registry::{
    Body, DeleteOptions, ListOptions, Listed, Media, Scope, Served, Watch, Write, Written, binding_deleted,
    binding_success, scale_of,
};
use crate::status::ApiError;

/// Objects that are read one after the other without a thought for other requests.
const LIST_LARGE: usize = 200;

impl Api {
    pub(super) async fn resource(
        &self,
        call: &Call<'_>,
        served: &Arc<Served>,
        scope: Scope<'_>,
        body: &Body,
        warnings: &mut Vec<String>,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let row = served.row;
        if let Some(custom) = served.defined() {
            if let Some(why) = &custom.unreadable {
                return Err(ApiError::unknown(why.as_str()));
            }
            warnings.extend(custom.version.warning().map(str::to_owned));
        }
        let allowed = match scope.subresource {
            // Discovery says less of what is going than is done.
            "" => row.allows(scope.verb) || served.defined().is_some(),
            name => match row.subresource(name) {
                Some(part) => part.verbs.contains(&scope.verb),
                None => return Err(ApiError::no_such_path()),
            },
        };
        if !allowed {
            return Err(ApiError::method_not_routed());
        }
        match scope.subresource {
            "" | "approval" | "status" | "finalize" | "ephemeralcontainers" => {
                self.object(call, served, scope, body, warnings).await
            }
            "scale" => self.scale(call, scope, body, warnings).await,
            "token" => {
                let options = call.options(Write::Create)?;
                self.registry.until_as_new_as(None).await?;
                let token = self.registry.request_token(scope, body, &options, warnings)?;
                let format = negotiate::plain(call.accept)?;
                Ok(respond::value(StatusCode::CREATED, format, &token))
            }
            "binding" => {
                let options = call.options(Write::Create)?;
                self.registry.bind(scope, body, &options, warnings).await?;
                let format = negotiate::plain(call.accept)?;
                Ok(respond::value(StatusCode::CREATED, format, &binding_success(201)))
            }
            "eviction" => {
                let options = call.options(Write::Create)?;
                self.registry.evict(scope, body, &options, warnings).await?;
                let format = negotiate::plain(call.accept)?;
                Ok(respond::value(StatusCode::CREATED, format, &binding_success(201)))
            }
            _ => Err(ApiError::method_not_routed()),
        }
    }

    async fn object(
        &self,
        call: &Call<'_>,
        served: &Arc<Served>,
        scope: Scope<'_>,
        body: &Body,
        warnings: &mut Vec<String>,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let list = match scope.verb {
            "list" | "deletecollection" => Some(true),
            "watch" => None,
            _ => Some(false),
        };
        let offer = Offer {
            protobuf: served.schema().is_some_and(|schema| schema.has_protobuf()),
            list,
            kind: served.row,
        };
        let (format, form) = negotiate::object(call.accept, offer)?;
        let include = IncludeObject::parse(call.query.get("includeObject")).map_err(ApiError::bad_request)?;
        let show = Show { format, form, include };
        if served.row.is_review() {
            // What was written before is asked about.
            self.registry.until_as_new_as(None).await?;
            return self.review(call, scope, format, body, warnings);
        }
        let registry = &self.registry;
        let written = |written: &Written| {
            let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
            let stored = &written.stored;
            respond::shown(code, format, show::object(served, show, stored, stored.rev))
        };
        match scope.verb {
            "get" => {
                let stored = registry.get(scope, call.query.version()?).await?;
                let object = show::object(served, show, &stored, stored.rev);
                Ok(respond::shown(StatusCode::OK, format, object))
            }
            "list" => {
                let options = ListOptions::parse(served, &call.query, (scope.namespace, scope.name), false)?;
                let listed = registry.list(scope.resource(), &options).await?;
                Ok(respond::shown(StatusCode::OK, format, list_body(served, show, listed).await?))
            }
            "watch" => self.watch(call, served, scope, show).await,
            "create" => {
                let options = call.options(Write::Create)?;
                let created = registry.create(scope, body, &options, warnings).await?;
                Ok(written(&created))
            }
            "update" => {
                let options = call.options(Write::Update)?;
                let updated = registry.replace(scope, body, &options, warnings).await?;
                Ok(written(&updated))
            }
            "patch" => {
                let patched = match patch_type(body)? {
                    Some(kind) => {
                        let options = call.options(Write::Patch)?;
                        registry.patch(scope, kind, body, &options, warnings).await?
                    }
                    None => {
                        let options = call.options(Write::Apply)?;
                        let create = Scope { verb: "create", ..scope };
                        let may_create = || self.authorize(scope.user, &create.attributes());
                        registry.apply_configuration(scope, body, &may_create, &options, warnings).await?
                    }
                };
                Ok(written(&patched))
            }
            "delete" => {
                let options = DeleteOptions::parse(&call.query, &body.delete_options()?)?;
                let deletion = registry.delete(scope, &options).await?;
                let stored = &deletion.stored;
                if deletion.gone && served.row.deleted == Deleted::Status {
                    let status = binding_deleted(scope.about(), stored);
                    return Ok(respond::value(StatusCode::OK, format, &status));
                }
                let code = if !deletion.gone && options.accepted_while_pending {
                    StatusCode::ACCEPTED
                } else {
                    StatusCode::OK
                };
                Ok(respond::shown(code, format, show::object(served, show, stored, stored.rev)))
            }
            "deletecollection" => {
                let list = ListOptions::parse(served, &call.query, (scope.namespace, ""), false)?;
                let options = DeleteOptions::parse(&call.query, &body.delete_options()?)?;
                let listed = registry.delete_collection(scope, &list, &options).await?;
                Ok(respond::shown(StatusCode::OK, format, list_body(served, show, listed).await?))
            }
            _ => Err(ApiError::method_not_routed()),
        }
    }

    async fn watch(
        &self,
        call: &Call<'_>,
        served: &Arc<Served>,
        scope: Scope<'_>,
        show: Show,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let options = ListOptions::parse(served, &call.query, (scope.namespace, scope.name), true)?;
        let resource = Arc::clone(&served.resource);
        let started = Watch::start(Arc::clone(&self.registry), resource, options, rand::random()).await;
        let content_type = show.format.stream_content_type();
        match started {
            Ok(watch) => {
                Ok(respond::stream(content_type, show::watch_lines(Arc::clone(served), watch, show)))
            }
            // Clients look for this one among the events.
            Err(error) if error.code() == StatusCode::GONE => {
                Ok(respond::full(StatusCode::OK, content_type, show::error_event(show.format, &error)))
            }
            Err(error) => Err(error),
        }
    }

    async fn scale(
        &self,
        call: &Call<'_>,
        scope: Scope<'_>,
        body: &Body,
        warnings: &mut Vec<String>,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let format = negotiate::plain(call.accept)?;
        let registry = &self.registry;
        let scale = match scope.verb {
            "get" => {
                let stored = registry.get(scope, call.query.version()?).await?;
                let mut object = stored.value();
                scope.served.show(&mut object);
                scale_of(scope.served, &object)?
            }
            "update" => {
                let options = call.options(Write::Update)?;
                registry.replace_scale(scope, body, &options, warnings).await?
            }
            "patch" => {
                let kind = patch_type(body)?;
                let options = call.options(if kind.is_some() { Write::Patch } else { Write::Apply })?;
                registry.patch_scale(scope, kind, body, &options, warnings).await?
            }
            _ => return Err(ApiError::method_not_routed()),
        };
        Ok(respond::value(StatusCode::OK, format, &scale))
    }
}

/// The body of a list. What has to be read for it is, where it does not hold up others.
async fn list_body(served: &Arc<Served>, show: Show, listed: Listed) -> Result<Vec<u8>, ApiError> {
    let as_it_is = show.form == Form::Whole && show.format != Format::Protobuf;
    if as_it_is || listed.items.len() < LIST_LARGE {
        return Ok(show::list(served, show, &listed));
    }
    let served = Arc::clone(served);
    let written = tokio::task::spawn_blocking(move || show::list(&served, show, &listed)).await;
    written.map_err(ApiError::internal)
}

/// J41: the kinds of patches that there are; `None` for apply.
fn patch_type(body: &Body) -> Result<Option<PatchType>, ApiError> {
    match &body.media {
        Media::Other(name) if name == apply::CONTENT_TYPE => Ok(None),
        Media::Other(name) => {
            PatchType::from_content_type(name).map(Some).ok_or_else(ApiError::patch_not_routed)
        }
        Media::Json | Media::Yaml | Media::Protobuf => Err(ApiError::patch_not_routed()),
    }
}
