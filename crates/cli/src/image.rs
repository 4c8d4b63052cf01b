//! `dyad image`: images for the nodes of a local cluster.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use dyad_cluster::paths::{ClusterDir, check_name};
use dyad_images::registry::{self, Credentials, Progress, Settings};
use dyad_images::{Image, Name, Store, archive};

use crate::args::{ClusterArgs, Format};
use crate::output::{Steps, print, table};

/// How many digits of an ID are shown.
const ID_DIGITS: usize = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load the images of an archive: what `docker save` writes, or an OCI layout as a tar file
    #[command(
        after_help = "Examples:\n  dyad image load app.tar\n  docker save app:dev | dyad image load -\n  dyad image load layout.tar.gz --as app:dev --name lab"
    )]
    Load(LoadArgs),
    /// Show the images that the nodes have
    #[command(visible_alias = "ls", after_help = "Examples:\n  dyad image list\n  dyad image list -o json")]
    List(ListArgs),
    /// Pull images from their registries, with Docker's credentials and the hosts files in ~/.config/dyad/certs.d
    #[command(
        after_help = "Examples:\n  dyad image pull nginx:1.27\n  dyad image pull registry.example:5000/team/app@sha256:... --name lab"
    )]
    Pull(PullArgs),
    /// Remove images; what containers run from stays until they end
    #[command(after_help = "Examples:\n  dyad image rm app:dev\n  dyad image rm 3f2a9c81d0b7 --name lab")]
    Rm(RmArgs),
    /// Remove what no image needs and no container runs from
    #[command(after_help = "Example:\n  dyad image prune")]
    Prune(ListArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// The archive; `-` is standard input
    pub(crate) file: PathBuf,
    /// The name of the image, if the archive has none or another
    #[arg(long = "as", value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) to: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) to: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Names
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) to: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) to: OutputArgs,
}

/// Which cluster, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub(crate) output: Format,
}

/// Runs `dyad image`.
pub(crate) fn run(args: ImageArgs) -> Result<ExitCode> {
    match args.command {
        ImageCommand::Load(args) => load(args),
        ImageCommand::List(args) => {
            let images = store(&args.to)?.images()?;
            show(&images, args.to.output)
        }
        ImageCommand::Pull(args) => pull(&args),
        ImageCommand::Rm(args) => remove(&args),
        ImageCommand::Prune(args) => prune(&args.to),
    }
}

fn store(args: &OutputArgs) -> Result<Store> {
    let name = &args.cluster.name;
    check_name(name)?;
    let dir = ClusterDir::of(name)?;
    if !dir.spec().exists() {
        bail!("there is no cluster {name:?}: `dyad up --name {name}` makes one");
    }
    Ok(Store::open(&dir.images())?)
}

fn name_of(text: &str) -> Result<Name> {
    text.parse().map_err(|problem| anyhow::anyhow!("{text:?} is not the name of an image: {problem}"))
}

fn load(args: LoadArgs) -> Result<ExitCode> {
    let store = store(&args.to)?;
    let name = args.image.as_deref().map(name_of).transpose()?;
    let file: Box<dyn Read> = if args.file.as_os_str() == "-" {
        if std::io::stdin().is_terminal() {
            bail!("standard input is a terminal: pipe an archive into it, or name a file");
        }
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(&args.file).with_context(|| format!("can't open {}", args.file.display()))?)
    };
    let mut steps = Steps::new();
    steps.waiting("reading the archive");
    let mut total = 0;
    let loaded = archive::load(&store, file, name.as_ref(), |_, size| {
        total += size;
        steps.waiting(&format!("reading the archive ({})", bytes(total)));
    })
    .with_context(|| format!("can't load {}", args.file.display()))?;
    // What the archive had besides its images.
    store.collect()?;
    steps.done(&format!("{} loaded", if loaded.len() == 1 { "Image" } else { "Images" }));
    show(&loaded, args.to.output)
}

fn pull(args: &PullArgs) -> Result<ExitCode> {
    let store = store(&args.to)?;
    let names = args.images.iter().map(|text| name_of(text)).collect::<Result<Vec<_>>>()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    let settings = Settings::of_user();
    let steps = Mutex::new(Steps::new());
    let mut pulled = Vec::new();
    for name in &names {
        let (all, come) = (AtomicU64::new(0), AtomicU64::new(0));
        let show = |progress: Progress| {
            let text = match progress {
                Progress::Found { bytes, .. } => {
                    all.store(bytes, Relaxed);
                    format!("{name}")
                }
                Progress::Bytes(more) => {
                    let come = come.fetch_add(more, Relaxed) + more;
                    format!("{name} ({} of {})", bytes(come), bytes(all.load(Relaxed)))
                }
                Progress::Again(problem) => format!("{name}: {problem}; trying again"),
            };
            steps.lock().unwrap_or_else(PoisonError::into_inner).waiting(&text);
        };
        pulled.push(runtime.block_on(registry::pull(
            &store,
            name,
            &settings,
            &Credentials::default(),
            &show,
        ))?);
        steps.lock().unwrap_or_else(PoisonError::into_inner).done(&name.to_string());
    }
    show(&pulled, args.to.output)
}

fn remove(args: &RmArgs) -> Result<ExitCode> {
    let store = store(&args.to)?;
    let mut gone = Vec::new();
    for text in &args.images {
        let by_name = match text.parse::<Name>() {
            Ok(name) => store.find(&name)?,
            Err(_) => None,
        };
        let found = match by_name {
            Some(image) => vec![image],
            // An ID takes all its names.
            None => match store.find_id(text)? {
                Some(image) => store.images()?.into_iter().filter(|one| one.id == image.id).collect(),
                None => Vec::new(),
            },
        };
        if found.is_empty() {
            bail!("there is no image {text:?}: `dyad image list` shows those that are there");
        }
        for image in found {
            store.forget(&image.name)?;
            gone.push(image);
        }
    }
    store.collect()?;
    show(&gone, args.to.output)
}

fn prune(args: &OutputArgs) -> Result<ExitCode> {
    let collected = store(args)?.collect()?;
    print(&match args.output {
        Format::Json => serde_json::to_string_pretty(&collected)? + "\n",
        Format::Table => {
            format!("Removed {} of content, {} unpacked images.\n", bytes(collected.bytes), collected.roots)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(images: &[Image], format: Format) -> Result<ExitCode> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(images)? + "\n",
        Format::Table if images.is_empty() => {
            "No images. `dyad image load FILE.tar` and `dyad image pull NAME` bring some.\n".to_owned()
        }
        Format::Table => {
            let mut rows = vec![["IMAGE", "ID", "LAYERS", "SIZE"].map(str::to_owned).to_vec()];
            rows.extend(images.iter().map(|image| {
                let id = image.id.hex().chars().take(ID_DIGITS).collect();
                vec![image.name.clone(), id, image.layers.len().to_string(), bytes(image.size)]
            }));
            table(&rows)
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes for people, in the units of image lists everywhere.
fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_for_people() {
        for (count, want) in
            [(0, "0.0 kB"), (1234, "1.2 kB"), (5_600_000, "5.6 MB"), (7_000_000_000_000, "7.0 TB")]
        {
            assert_eq!(super::bytes(count), want);
        }
    }
}
