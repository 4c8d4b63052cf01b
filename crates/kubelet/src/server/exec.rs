//! `/exec` and `/attach`: a command in a container, and a container itself, with its streams at the client's.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dyad_stream::channels::Protocol;
use dyad_stream::remote::{Outcome, Remote, Sink, VERSIONS, Wanted};
use dyad_stream::spdy::Session;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::watch;
use tracing::debug;

use super::fd::Fd;
use super::route::{Place, Query};
use super::upgrade::{Agreed, Refused, agree, refused};
use super::{Body, text};
use crate::pod;
use crate::sandbox::{Running, Sandbox, SandboxError, terminal};
use crate::seen;
use crate::worker::Shared;

/// How long what a command has started may say nothing before it is no longer listened to.
const SILENCE: Duration = Duration::from_millis(500);

pub(super) fn exec(
    shared: &Arc<Shared>,
    place: &Place<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let argv: Vec<String> = query.all("command").map(str::to_owned).collect();
    let missing = format!("container not found ({:?})", place.container);
    let (wanted, pod) = match prepare(shared, place, query, missing) {
        Ok(prepared) => prepared,
        Err(refusal) => return *refusal,
    };
    if argv.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container");
    }
    let dir = shared.state_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let container = place.container.to_owned();
    converse_over(request, wanted, move |remote| Box::pin(run(dir, container, argv, wanted, remote)))
}

pub(super) fn attach(
    shared: &Arc<Shared>,
    place: &Place<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let missing = format!("container {} not found in pod {}_{}", place.container, place.pod, place.namespace);
    let (wanted, pod) = match prepare(shared, place, query, missing) {
        Ok(prepared) => prepared,
        Err(refusal) => return *refusal,
    };
    let known = pod.spec.as_ref().and_then(|spec| pod::find(spec, place.container)).unwrap_or_default();
    // Whether there is a terminal was decided when the container was started.
    let tty = known.tty == Some(true);
    let wanted = Wanted { tty, stderr: wanted.stderr && !tty, ..wanted };
    let once = known.stdin_once == Some(true);
    let dir = shared.state_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let container = place.container.to_owned();
    converse_over(request, wanted, move |remote| Box::pin(listen(dir, container, once, tty, remote)))
}

/// What is wanted of which pod, if that is possible; `missing` is said of a container that does not run.
fn prepare(
    shared: &Shared,
    place: &Place<'_>,
    query: &Query,
    missing: String,
) -> Result<(Wanted, Arc<Pod>), Refused> {
    let flag = |name| query.get(name) == "1";
    let tty = flag("tty");
    let wanted = Wanted { stdin: flag("input"), stdout: flag("output"), stderr: flag("error") && !tty, tty };
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(refused(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"));
    }
    let Some(pod) = place.find(shared) else {
        return Err(refused(StatusCode::NOT_FOUND, "pod does not exist"));
    };
    if !seen::is_running(&pod, place.container) {
        return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, missing));
    }
    Ok((wanted, pod))
}

/// Agrees on a protocol, and converses once the answer has been sent.
fn converse_over(
    mut request: Request<Incoming>,
    wanted: Wanted,
    work: impl FnOnce(Remote) -> BoxFuture<'static, ()> + Send + 'static,
) -> Response<Body> {
    let subprotocols = Protocol::ALL.map(Protocol::name);
    let (agreed, response) = match agree(request.headers(), &subprotocols, &VERSIONS) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return debug!(%error, "a client did not go on with its streams"),
        };
        let remote = match agreed {
            Agreed::WebSocket(name) => {
                let protocol = Protocol::ALL.into_iter().find(|one| one.name() == name);
                Remote::over_channels(io, protocol.unwrap_or(Protocol::V4), wanted).await
            }
            Agreed::Spdy(version) => match Remote::over_spdy(Session::new(io), version, wanted).await {
                Ok(remote) => remote,
                Err(error) => return debug!(%error, "a client's streams"),
            },
        };
        work(remote).await;
    });
    response
}

/// The ends of a process' streams that are here.
#[derive(Default)]
struct Ends {
    input: Option<Fd>,
    terminal: Option<Fd>,
    stdout: Option<Fd>,
    stderr: Option<Fd>,
}

type Pipe = (OwnedFd, OwnedFd);

fn pipe() -> std::io::Result<Pipe> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Runs a command until it ends, or until the client is gone.
async fn run(dir: PathBuf, container: String, argv: Vec<String>, wanted: Wanted, remote: Remote) {
    let command = argv.clone();
    let started = tokio::task::spawn_blocking(move || start(&dir, &container, argv, wanted)).await;
    let started = started.map_err(|error| error.to_string()).and_then(|started| started);
    let started = started.and_then(|(running, ends)| {
        let read = |error: std::io::Error| error.to_string();
        Ok((running.into_async().map_err(read)?, ends.into_async().map_err(read)?))
    });
    match started {
        Ok((socket, ends)) => {
            let ended = async move {
                let mut message = vec![0; 4096];
                loop {
                    let read = match socket.readable().await {
                        Ok(()) => socket.try_read(&mut message),
                        Err(error) => Err(error),
                    };
                    return match read.map(|length| Running::decode(&message[..length])) {
                        Ok(Ok(exit)) if exit.code == 0 => Outcome::Success,
                        Ok(Ok(exit)) => Outcome::Exit { code: exit.code, command },
                        Ok(Err(SandboxError::Gone)) => Outcome::Exit { code: 137, command },
                        Ok(Err(error)) => failed(&error.to_string()),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(error) => failed(&error.to_string()),
                    };
                }
            };
            converse(remote, ends, Some(Box::pin(ended)), || ()).await;
        }
        Err(problem) => remote.end.finish(&failed(&problem)).await,
    }
}

fn failed(problem: &str) -> Outcome {
    Outcome::Failed(format!("error executing command in container: {problem}"))
}

/// The ends before the runtime knows them.
#[derive(Default)]
struct RawEnds {
    input: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl RawEnds {
    fn into_async(self) -> std::io::Result<Ends> {
        let known = |fd: Option<OwnedFd>| fd.map(Fd::new).transpose();
        let terminal = known(self.terminal)?;
        Ok(Ends {
            input: known(self.input)?.or_else(|| terminal.clone()),
            stdout: known(self.stdout)?.or_else(|| terminal.clone()),
            stderr: known(self.stderr)?,
            terminal,
        })
    }
}

/// Starts a command; blocks until it has begun if it has a terminal.
fn start(
    dir: &std::path::Path,
    container: &str,
    argv: Vec<String>,
    wanted: Wanted,
) -> Result<(Running, RawEnds), String> {
    let text = |error: SandboxError| error.to_string();
    let sandbox = Sandbox::adopt(dir).map_err(text)?.ok_or_else(|| SandboxError::Gone.to_string())?;
    if wanted.tty {
        let (running, handed) = sandbox.run_in_terminal(container, argv).map_err(text)?;
        // If it does not come, the command says why.
        return Ok((running, RawEnds { terminal: handed.receive().ok(), ..RawEnds::default() }));
    }
    let said = |error: std::io::Error| error.to_string();
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let mut ends = RawEnds::default();
    let stdin = match wanted.stdin {
        true => pipe().map(|(inside, outside)| (inside, ends.input = Some(outside)).0),
        false => null(),
    };
    let output = |wanted: bool, end: &mut Option<OwnedFd>| match wanted {
        true => pipe().map(|(outside, inside)| (inside, *end = Some(outside)).0),
        false => null(),
    };
    let stdin = stdin.map_err(said)?;
    let stdout = output(wanted.stdout, &mut ends.stdout).map_err(said)?;
    let stderr = output(wanted.stderr, &mut ends.stderr).map_err(said)?;
    let running =
        sandbox.run(container, argv, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).map_err(text)?;
    Ok((running, ends))
}

/// Listens to a container and talks to it, until it ends or the client is gone.
async fn listen(dir: PathBuf, container: String, once: bool, tty: bool, remote: Remote) {
    let (to, name) = (dir.clone(), container.clone());
    let attached = tokio::task::spawn_blocking(move || -> Result<RawEnds, String> {
        let text = |error: SandboxError| error.to_string();
        let said = |error: std::io::Error| error.to_string();
        let sandbox = Sandbox::adopt(&to).map_err(text)?.ok_or_else(|| SandboxError::Gone.to_string())?;
        let ((stdout, out), (stderr, err)) = (pipe().map_err(said)?, pipe().map_err(said)?);
        let input = sandbox.attach(&name, [out.as_fd(), err.as_fd()]).map_err(text)?;
        Ok(RawEnds { input, terminal: None, stdout: Some(stdout), stderr: Some(stderr) })
    });
    let attached = attached.await.map_err(|error| error.to_string()).and_then(|attached| attached);
    let ends = attached.and_then(|ends| ends.into_async().map_err(|error| error.to_string()));
    match ends {
        Ok(mut ends) => {
            // Of a pipe there must be no second hold: whoever reads it waits for its end.
            ends.terminal = ends.input.clone().filter(|_| tty);
            let stdin = remote.stdin.is_some();
            let end_input = move || {
                if once && stdin {
                    // Gone: there is no input to end.
                    tokio::task::spawn_blocking(move || {
                        Sandbox::adopt(&dir).ok().flatten().map(|sandbox| sandbox.end_input(&container))
                    });
                }
            };
            converse(remote, ends, None, end_input).await;
        }
        Err(problem) => {
            remote.end.finish(&Outcome::Failed(format!("error attaching to container: {problem}"))).await;
        }
    }
}

/// Copies everything everywhere, until `ended` says how it went (or, without it, until the outputs end) or the client is
/// gone. `end_input` is called when the client has no more input.
async fn converse(
    remote: Remote,
    ends: Ends,
    ended: Option<BoxFuture<'static, Outcome>>,
    end_input: impl FnOnce(),
) {
    let Remote { stdin, sizes, stdout, stderr, mut end } = remote;
    let Ends { input, terminal, stdout: from_stdout, stderr: from_stderr } = ends;
    let over = watch::Sender::new(false);
    let outputs = async {
        let out = copy_out(from_stdout, stdout, over.subscribe());
        tokio::join!(out, copy_out(from_stderr, stderr, over.subscribe()));
    };
    let work = async {
        let outcome = async {
            let Some(ended) = ended else { return Outcome::Success };
            let outcome = ended.await;
            over.send_replace(true);
            outcome
        };
        tokio::join!(outcome, outputs).0
    };
    let inputs = async {
        if let (Some(mut queue), Some(input)) = (stdin, input) {
            while let Some(bytes) = queue.recv().await {
                if input.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // The last hold on a pipe: whoever reads it finds its end.
            drop(input);
            end_input();
        }
        std::future::pending::<()>().await
    };
    let resizes = async {
        if let (Some(mut sizes), Some(terminal)) = (sizes, &terminal) {
            while let Some(size) = sizes.next().await {
                // Not a terminal after all: then it has no size.
                let _ = terminal::resize(terminal.inner(), size.width, size.height);
            }
        }
        std::future::pending::<()>().await
    };
    let outcome = tokio::select! {
        outcome = work => Some(outcome),
        () = inputs => None,
        () = resizes => None,
        () = end.closed() => None,
    };
    drop(terminal);
    if let Some(outcome) = outcome {
        end.finish(&outcome).await;
    }
}

/// Copies output to the client if it wants it, and past it if not.
async fn copy_out(from: Option<Fd>, to: Option<Sink>, mut over: watch::Receiver<bool>) {
    if let Some(from) = from {
        loop {
            // The command has ended, but what it has left behind may hold its output.
            let read = if *over.borrow() {
                tokio::time::timeout(SILENCE, from.read()).await.unwrap_or_default()
            } else {
                tokio::select! {
                    read = from.read() => read,
                    Ok(()) = over.changed() => continue,
                }
            };
            let Some(bytes) = read else { break };
            if let Some(to) = &to
                && to.send(bytes).await.is_err()
            {
                return;
            }
        }
    }
    if let Some(to) = to {
        // The client is gone.
        let _ = to.end().await;
    }
}
