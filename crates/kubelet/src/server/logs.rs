//! `/containerLogs`: what a container has written, and what it writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::route::{Place, Query};
use super::{Body, text};
use crate::logs::{LogReader, Options};
use crate::pod;
use crate::seen;
use crate::worker::Shared;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn logs(shared: &Arc<Shared>, place: &Place<'_>, query: &Query) -> Response<Body> {
    let options = match options(query, Timestamp::now()) {
        Ok(options) => options,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let Some(pod) = place.find(shared) else {
        return text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", place.pod));
    };
    let known = pod.spec.as_ref().and_then(|spec| pod::find(spec, place.container));
    if known.is_none() {
        let problem = format!("container {:?} not found in pod {:?}", place.container, place.pod);
        return text(StatusCode::NOT_FOUND, problem);
    }
    let flag = |name| matches!(query.get(name), "true" | "1");
    let id = match run_of(&pod, place.container, flag("previous")) {
        Ok(id) => id,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let attempt = id.rsplit('/').next().unwrap_or_default();
    let path = log_dir(shared, &pod).join(place.container).join(format!("{attempt}.log"));
    let opened = tokio::task::spawn_blocking(move || LogReader::open(&path, options)).await;
    let reader = match opened.map_err(std::io::Error::other).and_then(|opened| opened) {
        Ok(reader) => reader,
        Err(error) => {
            let problem = format!("failed to try resolving symlinks in path of the log of {id}: {error}");
            return text(StatusCode::INTERNAL_SERVER_ERROR, problem);
        }
    };
    let followed = flag("follow").then(|| Followed {
        shared: Arc::clone(shared),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        container: place.container.to_owned(),
        id,
    });
    let state = (Some(reader), followed, false);
    let parts = futures::stream::unfold(state, |(reader, followed, last)| async move {
        let (reader, part) = next_part(reader?, followed.as_ref(), last).await?;
        // An error is the last thing that is said.
        let (reader, last) = if part.is_err() { (None, true) } else { (Some(reader.0), reader.1) };
        Some((part.map(Frame::data), (reader, followed, last)))
    });
    let mut response = text(StatusCode::OK, "");
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(parts));
    response
}

/// A run of a container that is followed.
struct Followed {
    shared: Arc<Shared>,
    uid: String,
    container: String,
    id: String,
}

impl Followed {
    fn is_running(&self) -> bool {
        self.shared.seen.get(&self.uid).is_some_and(|pod| {
            seen::is_running(&pod, &self.container)
                && seen::container(&pod, &self.container)
                    .is_some_and(|status| status.container_id.as_deref() == Some(&self.id))
        })
    }
}

/// The next part that is not empty; nothing when all is said. `last`: what runs had ended before the last look.
async fn next_part(
    mut reader: LogReader,
    followed: Option<&Followed>,
    mut last: bool,
) -> Option<((LogReader, bool), std::io::Result<Bytes>)> {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let part = reader.read();
            (reader, part)
        });
        let (back, part) = read.await.ok()?;
        reader = back;
        match part {
            Ok(part) if part.is_empty() => {}
            part => return Some(((reader, last), part.map(Bytes::from))),
        }
        let followed = followed.filter(|_| !last && !reader.is_over())?;
        // It is looked at once more after it has ended: all it wrote is there then.
        last = !followed.is_running();
        if !last {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Where the logs of a pod are.
fn log_dir(shared: &Shared, pod: &Pod) -> PathBuf {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let name = format!("{}_{}_{}", part(&meta.namespace), part(&meta.name), part(&meta.uid));
    shared.config.root_dir.join("pods").join(name)
}

/// The id of the run whose log is meant: the present one, or the one before.
fn run_of(pod: &Pod, container: &str, previous: bool) -> Result<String, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(status) = seen::container(pod, container) else {
        return Err(format!("container {container:?} in pod {name:?} is not available"));
    };
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last = last.and_then(|last| last.container_id.clone()).filter(|id| !id.is_empty());
    let waits =
        |why: &str| Err(format!("container {container:?} in pod {name:?} is waiting to start: {why}"));
    match (state.running, state.terminated, last, state.waiting) {
        (_, _, Some(last), _) if previous => Ok(last),
        _ if previous => {
            Err(format!("previous terminated container {container:?} in pod {name:?} not found"))
        }
        (Some(_), ..) => Ok(status.container_id.clone().unwrap_or_default()),
        (None, Some(ended), last, _) => match ended.container_id.filter(|id| !id.is_empty()).or(last) {
            Some(id) => Ok(id),
            None => Err(format!("container {container:?} in pod {name:?} is terminated")),
        },
        (None, None, Some(last), _) => Ok(last),
        (None, None, None, Some(waiting)) => match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => waits("image can't be pulled"),
            "ImagePullBackOff" => waits("trying and failing to pull image"),
            reason => waits(reason),
        },
        _ => Err(format!("container {container:?} in pod {name:?} is waiting to start - no logs yet")),
    }
}

fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let number = |name: &str| match query.get(name) {
        "" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| format!("{name}: {text:?} is no natural number")),
    };
    let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
        ("", None) => None,
        ("", Some(seconds)) => {
            let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(seconds).unwrap_or(Timestamp::MIN))
        }
        (text, _) => Some(text.parse().map_err(|_| format!("sinceTime: {text:?} is no RFC 3339 time"))?),
    };
    let stream = match query.get("stream") {
        "" | "All" => None,
        "Stdout" => Some("stdout"),
        "Stderr" => Some("stderr"),
        other => return Err(format!("invalid stream type {other:?}")),
    };
    // As older clients say it.
    let tail = if matches!(query.get("tail"), "" | "all") { number("tailLines")? } else { number("tail")? };
    let timestamps = matches!(query.get("timestamps"), "true" | "1");
    Ok(Options { since, tail, limit: number("limitBytes")?, timestamps, stream })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_run_before_is_there_only_if_there_was_one() {
        let pod = |status| -> Pod {
            let statuses = json!({"containerStatuses": [status]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": statuses})).unwrap()
        };
        let base = json!({"name": "c", "ready": true, "restartCount": 1, "image": "", "imageID": ""});
        let with = |parts: serde_json::Value| {
            let mut status = base.clone();
            status.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
            pod(status)
        };
        let running = json!({"state": {"running": {}}, "containerID": "dyad://u/c/1"});
        let again = json!({"state": {"running": {}}, "containerID": "dyad://u/c/1",
            "lastState": {"terminated": {"exitCode": 1, "containerID": "dyad://u/c/0"}}});
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        #[rustfmt::skip]
        let cases = [
            (with(running.clone()), false, Ok("dyad://u/c/1")),
            (with(running), true, Err("previous terminated container \"c\" in pod \"p\" not found")),
            (with(again), true, Ok("dyad://u/c/0")),
            (with(waiting("ErrImagePull")), false, Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled")),
            (with(waiting("ContainerCreating")), false, Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating")),
        ];
        for (pod, previous, want) in cases {
            assert_eq!(run_of(&pod, "c", previous), want.map(str::to_owned).map_err(str::to_owned));
        }
        assert!(run_of(&with(json!({})), "d", false).unwrap_err().ends_with("is not available"));
    }

    #[test]
    fn options_come_from_the_query() {
        let now = Timestamp::from_second(1000).unwrap();
        let read = |text: &str| options(&Query::parse(text), now);
        let since = |seconds| Some(Timestamp::from_second(seconds).unwrap());
        assert_eq!(read("sinceSeconds=10").unwrap().since, since(990));
        assert_eq!(read("sinceTime=1970-01-01T00:00:07Z").unwrap().since, since(7));
        assert_eq!(read("tailLines=3&stream=Stderr").unwrap().tail, Some(3));
        for bad in ["tailLines=-1", "limitBytes=x", "sinceTime=yesterday", "stream=x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
