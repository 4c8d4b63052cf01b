//! Paths and operations.

use serde_json::{Map, Value, json};

use super::{GroupVersionKind, Resource, Writer, path_of};

const DRY_RUN: (&str, &str) = ("dryRun", "string");
const FIELD_MANAGER: (&str, &str) = ("fieldManager", "string");
const FIELD_VALIDATION: (&str, &str) = ("fieldValidation", "string");

const WRITE: &[(&str, &str)] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[(&str, &str)] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const SELECT: &[(&str, &str)] = &[
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];
const WATCH: &[(&str, &str)] = &[("allowWatchBookmarks", "boolean"), ("watch", "boolean")];

/// All paths of the document.
pub(super) fn all(writer: &mut Writer<'_>, resources: &[Resource<'_>]) -> Value {
    let base = format!("/{}", path_of(writer.group, writer.version));
    let mut paths = Map::new();
    let tag = tag(writer);
    let list = writer.meta("APIResourceList");
    let discovery = json!({"get": {
        "operationId": format!("get{}APIResources", camel(writer)),
        "tags": [tag],
        "responses": responses(&list, &["200"]),
    }});
    paths.insert(format!("{base}/"), discovery);
    for resource in resources {
        let namespaced = if resource.namespaced { "Namespaced" } else { "" };
        let collection = if resource.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("{base}/{}", resource.plural)
        };
        let kind = GroupVersionKind { group: writer.group, version: writer.version, kind: resource.kind };
        let name = format!("{namespaced}{}", resource.kind);
        let gives_object = resource.delete_returns_object;
        let mut verbs = Verbs { writer, kind, name: &name, kept: &resource.verbs, gives_object };
        let in_collection = verbs.collection();
        let in_item = verbs.item();
        let everywhere = if resource.namespaced { verbs.everywhere() } else { Map::new() };
        let scope: &[&str] = if resource.namespaced { &["namespace"] } else { &[] };
        let item_scope: Vec<&str> = std::iter::once("name").chain(scope.iter().copied()).collect();
        insert(&mut paths, collection.clone(), in_collection, scope);
        insert(&mut paths, format!("{base}/{}", resource.plural), everywhere, &[]);
        insert(&mut paths, format!("{collection}/{{name}}"), in_item, &item_scope);
        for subresource in &resource.subresources {
            let name = format!("{name}{}", capitalized(subresource.name));
            let mut verbs = Verbs {
                writer,
                kind: subresource.kind,
                name: &name,
                kept: &subresource.verbs,
                gives_object: false,
            };
            let operations = if subresource.is_connection() {
                verbs.connections()
            } else {
                let mut operations = verbs.item();
                if subresource.verbs.contains(&"create") {
                    operations.insert("post".to_owned(), verbs.create());
                }
                operations
            };
            insert(
                &mut paths,
                format!("{collection}/{{name}}/{}", subresource.name),
                operations,
                &item_scope,
            );
        }
    }
    Value::Object(paths)
}

/// A path with its operations and the parameters they share; nothing if there are no operations.
fn insert(paths: &mut Map<String, Value>, path: String, operations: Map<String, Value>, scope: &[&str]) {
    if operations.is_empty() {
        return;
    }
    let in_path = scope.iter().map(|name| {
        json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}})
    });
    let parameters: Vec<Value> = in_path.chain(query(&[&[("pretty", "string")]])).collect();
    let mut operations = operations;
    operations.insert("parameters".to_owned(), json!(parameters));
    match paths.get_mut(&path) {
        Some(Value::Object(existing)) => existing.append(&mut operations),
        _ => _ = paths.insert(path, Value::Object(operations)),
    }
}

fn query(lists: &[&[(&str, &str)]]) -> Vec<Value> {
    let mut all: Vec<(&str, &str)> = lists.iter().flat_map(|list| list.iter().copied()).collect();
    all.sort_unstable();
    all.into_iter()
        .map(|(name, kind)| json!({"in": "query", "name": name, "schema": {"type": kind, "uniqueItems": true}}))
        .collect()
}

/// Writes the operations of one kind.
struct Verbs<'a, 'w> {
    writer: &'a mut Writer<'w>,
    kind: GroupVersionKind<'a>,
    /// `NamespacedService`, `NamespacedDeploymentScale`, `Node`.
    name: &'a str,
    kept: &'a [&'a str],
    /// Whether DELETE answers with the object.
    gives_object: bool,
}

impl Verbs<'_, '_> {
    fn has(&self, verb: &str) -> bool {
        self.kept.contains(&verb)
    }

    fn collection(&mut self) -> Map<String, Value> {
        let mut operations = Map::new();
        if self.has("list") {
            operations
                .insert("get".to_owned(), self.list(format!("list{}{}", camel(self.writer), self.name)));
        }
        if self.has("create") {
            operations.insert("post".to_owned(), self.create());
        }
        if self.has("deletecollection") {
            let status = self.writer.meta("Status");
            let options = self.writer.meta("DeleteOptions");
            let id = format!("delete{}Collection{}", camel(self.writer), self.name);
            let mut operation = self.operation(
                id,
                "deletecollection",
                query(&[DELETE, SELECT]),
                responses(&status, &["200"]),
            );
            operation["requestBody"] = json!({"content": {"*/*": {"schema": options}}});
            operations.insert("delete".to_owned(), operation);
        }
        operations
    }

    fn everywhere(&mut self) -> Map<String, Value> {
        let mut operations = Map::new();
        if self.has("list") {
            let kind = self.kind.kind;
            let id = format!("list{}{kind}ForAllNamespaces", camel(self.writer));
            operations.insert("get".to_owned(), self.list(id));
        }
        operations
    }

    fn item(&mut self) -> Map<String, Value> {
        let mut operations = Map::new();
        let object = self.writer.kind(&self.kind);
        let id = |verb: &str, verbs: &Self| format!("{verb}{}{}", camel(verbs.writer), verbs.name);
        if self.has("get") {
            let operation = self.operation(id("read", self), "get", Vec::new(), responses(&object, &["200"]));
            operations.insert("get".to_owned(), operation);
        }
        if self.has("update") {
            let mut operation = self.operation(
                id("replace", self),
                "put",
                query(&[WRITE]),
                responses(&object, &["200", "201"]),
            );
            operation["requestBody"] = json!({"content": {"*/*": {"schema": object}}, "required": true});
            operations.insert("put".to_owned(), operation);
        }
        if self.has("patch") {
            let patch = self.writer.meta("Patch");
            let content: Map<String, Value> = self
                .writer
                .options
                .patch_types
                .iter()
                .map(|kind| kind.content_type())
                .chain([crate::apply::CONTENT_TYPE])
                .map(|content_type| (content_type.to_owned(), json!({ "schema": patch })))
                .collect();
            let mut operation = self.operation(
                id("patch", self),
                "patch",
                query(&[PATCH]),
                responses(&object, &["200", "201"]),
            );
            operation["requestBody"] = json!({"content": content, "required": true});
            operations.insert("patch".to_owned(), operation);
        }
        if self.has("delete") {
            let answer = if self.gives_object { object } else { self.writer.meta("Status") };
            let options = self.writer.meta("DeleteOptions");
            let mut operation = self.operation(
                id("delete", self),
                "delete",
                query(&[DELETE]),
                responses(&answer, &["200", "202"]),
            );
            operation["requestBody"] = json!({"content": {"*/*": {"schema": options}}});
            operations.insert("delete".to_owned(), operation);
        }
        operations
    }

    /// Operations whose bodies are a stream or somebody else's.
    fn connections(&self) -> Map<String, Value> {
        const METHODS: [(&str, &str, &str); 5] = [
            ("create", "post", "Post"),
            ("delete", "delete", "Delete"),
            ("get", "get", "Get"),
            ("patch", "patch", "Patch"),
            ("update", "put", "Put"),
        ];
        let responses = json!({
            "200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}},
            "401": {"description": "Unauthorized"},
        });
        METHODS
            .into_iter()
            .filter(|(verb, ..)| self.has(verb))
            .map(|(_, method, in_id)| {
                let id = format!("connect{}{in_id}{}", camel(self.writer), self.name);
                (method.to_owned(), self.operation(id, "connect", Vec::new(), responses.clone()))
            })
            .collect()
    }

    fn list(&mut self, id: String) -> Value {
        let GroupVersionKind { group, version, kind } = self.kind;
        let list = self.writer.kind(&GroupVersionKind { group, version, kind: &format!("{kind}List") });
        let parameters: &[&[(&str, &str)]] = if self.has("watch") { &[SELECT, WATCH] } else { &[SELECT] };
        let mut responses = responses(&list, &["200"]);
        if self.has("watch") {
            responses["200"]["content"]["application/json;stream=watch"] = json!({ "schema": list });
        }
        self.operation(id, "list", query(parameters), responses)
    }

    fn create(&mut self) -> Value {
        let object = self.writer.kind(&self.kind);
        let id = format!("create{}{}", camel(self.writer), self.name);
        let mut operation =
            self.operation(id, "post", query(&[WRITE]), responses(&object, &["200", "201", "202"]));
        operation["requestBody"] = json!({"content": {"*/*": {"schema": object}}, "required": true});
        operation
    }

    fn operation(&self, id: String, action: &str, parameters: Vec<Value>, responses: Value) -> Value {
        let mut operation = json!({
            "operationId": id,
            "tags": [tag(self.writer)],
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.kind.extension(),
        });
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        operation
    }
}

fn responses(schema: &Value, codes: &[&str]) -> Value {
    let describe = |code: &str| match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    };
    let mut responses: Map<String, Value> = codes
        .iter()
        .map(|code| {
            let content = json!({"application/json": {"schema": schema}});
            ((*code).to_owned(), json!({"description": describe(code), "content": content}))
        })
        .collect();
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

/// `CoreV1`, `RbacAuthorizationV1`: the group without `.k8s.io` and the version.
fn camel(writer: &Writer<'_>) -> String {
    let group = if writer.group.is_empty() { "core" } else { writer.group.trim_end_matches(".k8s.io") };
    let group: String = group.split('.').map(capitalized).collect();
    format!("{group}{}", capitalized(writer.version))
}

/// `core_v1`, `rbacAuthorization_v1`.
fn tag(writer: &Writer<'_>) -> String {
    let group = if writer.group.is_empty() { "core" } else { writer.group.trim_end_matches(".k8s.io") };
    let mut labels = group.split('.');
    let first = labels.next().unwrap_or_default().to_owned();
    format!("{first}{}_{}", labels.map(capitalized).collect::<String>(), writer.version)
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
