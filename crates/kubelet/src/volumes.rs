//! Volumes: what the pod mounts, made ready on the node.

mod files;
mod token;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dyad_model::quantity::Quantity;
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
    let mut files = Files::of_group(group(input.spec));
    if let Some(empty) = &volume.empty_dir {
        let limit =
            empty.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0)).map(Quantity::whole);
        let in_memory = empty.medium.as_deref() == Some("Memory");
        files::empty_dir(&path, in_memory, limit.filter(|bytes| *bytes > 0), group(input.spec))?;
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

/// The group that owns volumes.
fn group(spec: &PodSpec) -> Option<u32> {
    u32::try_from(spec.security_context.as_ref()?.fs_group?).ok()
}

/// The user that all containers run as, if they do.
fn user(spec: &PodSpec) -> Option<u32> {
    let pod = spec.security_context.as_ref().and_then(|pod| pod.run_as_user);
    let mut users = crate::pod::containers(spec)
        .map(|(container, _)| container.security_context.as_ref().and_then(|own| own.run_as_user).or(pod));
    let first = users.next()??;
    users.all(|one| one == Some(first)).then(|| u32::try_from(first).ok())?
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
        let (user, group) = (user(input.spec), group(input.spec));
        // Who it is for can read it, and nobody else.
        let own =
            if user.is_some() || group.is_some() { 0o600 } else { mode.map_or(DEFAULT_MODE, files::mode) };
        files.add(&source.path, token.into_bytes(), own)?;
        if let Some(user) = user {
            files.give(&source.path, user);
        }
        Ok(())
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
    use std::os::unix::fs::FileTypeExt;
    let make = || Error::file(format!("making {}", path.display()));
    let found = std::fs::metadata(path);
    let is =
        |fits: fn(&std::fs::FileType) -> bool| found.as_ref().is_ok_and(|found| fits(&found.file_type()));
    let fits = match kind {
        // Without a type nothing is checked, and runtimes make what is missing.
        "" | "DirectoryOrCreate" if found.is_err() => {
            std::fs::create_dir_all(path).map_err(make())?;
            true
        }
        "" => true,
        "FileOrCreate" if found.is_err() => {
            drop(std::fs::File::options().append(true).create(true).open(path).map_err(make())?);
            true
        }
        "Directory" | "DirectoryOrCreate" => is(std::fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(std::fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        _ => false,
    };
    let what = match kind {
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        "File" | "FileOrCreate" => "a file",
        _ => "a directory",
    };
    if fits {
        Ok(path.to_owned())
    } else {
        Err(Error::Pod(format!("hostPath type check failed: {} is not {what}", path.display())))
    }
}

/// Memory that the containers of a pod share, as runtimes give it.
const SHARED_BYTES: u64 = 64 << 20;

/// The directory that containers from images find as `/dev/shm`: memory that is the pod's own, or the node's.
pub(crate) fn shared_memory(spec: &PodSpec, dir: &Path) -> Result<PathBuf, Error> {
    if spec.host_ipc == Some(true) {
        return Ok(PathBuf::from("/dev/shm"));
    }
    let path = dir.join("shm");
    files::empty_dir(&path, true, Some(SHARED_BYTES), None)?;
    let sticky = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(&path, sticky).map_err(Error::file(format!("opening {}", path.display())))?;
    Ok(path)
}

/// Bytes that a directory takes on disk.
pub(crate) fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut sum, mut open) = (0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // Gone meanwhile, or not to be seen: then it is not counted.
            let Ok(found) = entry.metadata() else { continue };
            sum += found.blocks() * 512;
            if found.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

/// Lets go of what was mounted in the directory of a pod; the files go with it.
pub(crate) fn release(dir: &Path) {
    let volumes = std::fs::read_dir(dir.join("volumes")).into_iter().flatten().flatten();
    for path in volumes.map(|entry| entry.path()).chain([dir.join("shm")]) {
        // Not mounted, or busy: a lazy unmount is never refused for that.
        let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
    }
}
