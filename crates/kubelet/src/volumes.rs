//! Volumes: what the pod mounts, made ready on the node.

mod files;
mod token;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodSpec, Secret, Volume, VolumeProjection,
};
use kube::{Api, Client};

use crate::env::{self, Sources};
use crate::error::Error;
pub(crate) use files::Files;

/// Keys and values of an object.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Mode of files that say nothing else.
const DEFAULT_MODE: u32 = 0o644;

/// What volumes are made from.
pub(crate) struct Input<'a> {
    /// To read objects with.
    pub(crate) client: &'a Client,
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// Its spec.
    pub(crate) spec: &'a PodSpec,
    /// Where its volumes are.
    pub(crate) dir: &'a Path,
    /// The pod's addresses.
    pub(crate) pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub(crate) host_ips: &'a [IpAddr],
    /// What the node can give.
    pub(crate) allocatable: &'a BTreeMap<String, String>,
}

/// Makes all volumes of a pod ready, or brings them up to date; their paths by name.
pub(crate) async fn prepare(input: &Input<'_>) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut paths = BTreeMap::new();
    for volume in input.spec.volumes.iter().flatten() {
        let path = prepare_one(input, volume).await.map_err(|error| {
            Error::Pod(format!("MountVolume.SetUp failed for volume {:?}: {}", volume.name, error.full()))
        })?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

/// Whether some volume has content of the API, which may change.
pub(crate) fn can_change(spec: &PodSpec) -> bool {
    spec.volumes.iter().flatten().any(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
    })
}

async fn prepare_one(input: &Input<'_>, volume: &Volume) -> Result<PathBuf, Error> {
    let path = input.dir.join(&volume.name);
    if let Some(host) = &volume.host_path {
        return host_path(Path::new(&host.path), host.type_.as_deref().unwrap_or_default());
    }
    let mut files = Files::default();
    if let Some(empty) = &volume.empty_dir {
        files::empty_dir(&path, empty.medium.as_deref() == Some("Memory"))?;
        return Ok(path);
    } else if let Some(source) = &volume.config_map {
        let mode = source.default_mode;
        add_config_map(input, &mut files, &source.name, source.items.as_deref(), source.optional, mode)
            .await?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        add_secret(input, &mut files, name, source.items.as_deref(), source.optional, source.default_mode)
            .await?;
    } else if let Some(source) = &volume.downward_api {
        add_downward(input, &mut files, source.items.as_deref().unwrap_or_default(), source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        for projection in source.sources.iter().flatten() {
            add_projection(input, &path, &mut files, projection, source.default_mode).await?;
        }
    } else {
        return Err(Error::Pod(
            "this kind of volume is not supported: there are emptyDir, configMap, secret, downwardAPI, projected \
             and hostPath"
                .into(),
        ));
    }
    files.write(&path)?;
    Ok(path)
}

async fn add_projection(
    input: &Input<'_>,
    path: &Path,
    files: &mut Files,
    projection: &VolumeProjection,
    mode: Option<i32>,
) -> Result<(), Error> {
    if let Some(source) = &projection.config_map {
        add_config_map(input, files, &source.name, source.items.as_deref(), source.optional, mode).await
    } else if let Some(source) = &projection.secret {
        add_secret(input, files, &source.name, source.items.as_deref(), source.optional, mode).await
    } else if let Some(source) = &projection.downward_api {
        add_downward(input, files, source.items.as_deref().unwrap_or_default(), mode)
    } else if let Some(source) = &projection.service_account_token {
        let kept = token::kept(&path.join(&source.path), jiff::Timestamp::now());
        let token = match kept {
            Some(token) => token,
            None => token::request(input, source.audience.as_deref(), source.expiration_seconds).await?,
        };
        files.add(&source.path, token.into_bytes(), mode.map_or(DEFAULT_MODE, files::mode))
    } else {
        Err(Error::Pod("this kind of projection is not supported".into()))
    }
}

async fn add_config_map(
    input: &Input<'_>,
    files: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: Option<i32>,
) -> Result<(), Error> {
    let data = config_map(input.client, input.pod, name).await?;
    add_items(files, "configmap", name, data, items, optional, mode)
}

async fn add_secret(
    input: &Input<'_>,
    files: &mut Files,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: Option<i32>,
) -> Result<(), Error> {
    let data = secret(input.client, input.pod, name).await?;
    add_items(files, "secret", name, data, items, optional, mode)
}

fn add_items(
    files: &mut Files,
    kind: &str,
    name: &str,
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    default_mode: Option<i32>,
) -> Result<(), Error> {
    let default_mode = default_mode.map_or(DEFAULT_MODE, files::mode);
    let optional = optional == Some(true);
    let mut data = match data {
        Some(data) => data,
        None if optional => return Ok(()),
        None => return Err(Error::Pod(format!("{kind} {name:?} not found"))),
    };
    match items {
        None | Some([]) => data.into_iter().try_for_each(|(key, value)| files.add(&key, value, default_mode)),
        Some(items) => items.iter().try_for_each(|item| match data.remove(&item.key) {
            Some(value) => files.add(&item.path, value, item.mode.map_or(default_mode, files::mode)),
            None if optional => Ok(()),
            None => Err(Error::Pod(format!("{kind} {name:?} has no key {:?}", item.key))),
        }),
    }
}

fn add_downward(
    input: &Input<'_>,
    files: &mut Files,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
) -> Result<(), Error> {
    let none = BTreeMap::new();
    let sources = Sources {
        pod: input.pod,
        pod_ips: input.pod_ips,
        host_ips: input.host_ips,
        config_maps: &none,
        secrets: &none,
        allocatable: input.allocatable,
        services: &[],
    };
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            env::field_value(field, &sources)
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let container = input.spec.containers.iter().find(|container| container.name == name);
            let container = container.ok_or_else(|| Error::Pod(format!("there is no container {name:?}")))?;
            let divisor = field.divisor.as_ref().map(|quantity| quantity.0.as_str());
            env::resource_value(container, &field.resource, divisor, &sources)
        } else {
            continue;
        };
        let mode = item.mode.or(default_mode).map_or(DEFAULT_MODE, files::mode);
        files.add(&item.path, text.map_err(Error::Pod)?.into_bytes(), mode)?;
    }
    Ok(())
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The content of a ConfigMap in the pod's namespace, if it exists.
pub(crate) async fn config_map(client: &Client, pod: &Pod, name: &str) -> Result<Option<Data>, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace(pod));
    let found = api.get_opt(name).await.map_err(Error::api("reading a ConfigMap"))?;
    Ok(found.map(|map| {
        let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
        let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
        text.chain(binary).collect()
    }))
}

/// The content of a Secret in the pod's namespace, if it exists.
pub(crate) async fn secret(client: &Client, pod: &Pod, name: &str) -> Result<Option<Data>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace(pod));
    let found = api.get_opt(name).await.map_err(Error::api("reading a Secret"))?;
    Ok(found.map(|secret| secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()))
}

/// A path of the host, checked or made as its type says.
fn host_path(path: &Path, kind: &str) -> Result<PathBuf, Error> {
    let wrong =
        |what: &str| Error::Pod(format!("hostPath type check failed: {} is not {what}", path.display()));
    let make = || Error::file(format!("making {}", path.display()));
    match kind {
        "DirectoryOrCreate" => std::fs::create_dir_all(path).map_err(make())?,
        "FileOrCreate" => {
            drop(std::fs::File::options().append(true).create(true).open(path).map_err(make())?)
        }
        "Directory" if !path.is_dir() => return Err(wrong("a directory")),
        "File" if !path.is_file() => return Err(wrong("a file")),
        _ if !path.exists() => return Err(wrong("there")),
        _ => {}
    }
    Ok(path.to_owned())
}

/// Lets go of what [`prepare`] mounted; the files go with the pod's directory.
pub(crate) fn release(spec: &PodSpec, dir: &Path) {
    for volume in spec.volumes.iter().flatten() {
        if volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() == Some("Memory")) {
            // Not mounted, or busy: a lazy unmount is never refused for that.
            let _ = rustix::mount::unmount(dir.join(&volume.name), rustix::mount::UnmountFlags::DETACH);
        }
    }
}
