//! Fairness (J65): how much of the server one user, and one class of users, can have at once.
//!
//! What runs the cluster and everybody else do not share: a client that asks without end, writes slowly or does not read
//! its answers takes from its own share, then from that of its class, and is told to come again (429). Watches count
//! while they begin, not while they run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::{ANONYMOUS, UserInfo};
use crate::status::ApiError;

/// Longest wait for one's turn.
const WAIT: Duration = Duration::from_secs(5);
/// Users that are remembered though they ask for nothing.
const IDLE_USERS: usize = 256;
/// Memory is counted in these.
const KIB: usize = 1024;

/// What can be had at once.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Requests.
    requests: usize,
    /// Bytes of bodies that are being read or worked on.
    bodies: usize,
    /// Bytes of answers that are being sent.
    answers: usize,
}

/// Of one class: as many requests as Kubernetes has for all. A body of 3 MiB can take ten times that in memory.
const CLASS: Limits = Limits { requests: 400, bodies: 96 << 20, answers: 1 << 30 };
/// Of one user: a share that leaves something for others.
const USER: Limits = Limits { requests: 200, bodies: 32 << 20, answers: 512 << 20 };

/// What a user, or a class of them, has left.
struct Share {
    limits: Limits,
    requests: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Share {
    fn new(limits: Limits) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            limits,
            requests: semaphore(limits.requests),
            bodies: semaphore(limits.bodies / KIB),
            answers: semaphore(limits.answers / KIB),
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.available_permits() == self.limits.requests
            && self.answers.available_permits() == self.limits.answers / KIB
    }
}

/// Everything that requests share.
pub(crate) struct Flow {
    /// What runs the cluster, and everybody else.
    classes: [Arc<Share>; 2],
    users: Mutex<HashMap<String, Arc<Share>>>,
}

impl Default for Flow {
    fn default() -> Self {
        let class = || Arc::new(Share::new(CLASS));
        Self { classes: [class(), class()], users: Mutex::default() }
    }
}

/// Whether the user is part of what runs the cluster: a node, a controller, a name server.
fn runs_the_cluster(user: &UserInfo) -> bool {
    match user.name.strip_prefix("system:") {
        Some(rest) if user.name != ANONYMOUS => {
            rest.strip_prefix("serviceaccount:").is_none_or(|account| account.starts_with("kube-system:"))
        }
        _ => false,
    }
}

/// A request's place among those of its user.
pub(crate) struct Place {
    user: Arc<Share>,
    class: Arc<Share>,
    _request: OwnedSemaphorePermit,
}

/// Something that is had until it is dropped: of the user's share, and of the class'.
pub(crate) struct Held(#[expect(dead_code, reason = "had, not looked at")] [OwnedSemaphorePermit; 2]);

impl Flow {
    /// Takes a place among the requests of a user.
    pub(crate) async fn enter(&self, user: &UserInfo) -> Result<Place, ApiError> {
        let class = Arc::clone(&self.classes[usize::from(!runs_the_cluster(user))]);
        let user = self.share_of(&user.name);
        let request = in_time(&user.requests, 1).await?;
        Ok(Place { user, class, _request: request })
    }

    fn share_of(&self, name: &str) -> Arc<Share> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(name) {
            return Arc::clone(share);
        }
        if users.len() >= IDLE_USERS {
            users.retain(|_, share| Arc::strong_count(share) > 1 || !share.is_idle());
        }
        let share = Arc::new(Share::new(USER));
        users.insert(name.to_owned(), Arc::clone(&share));
        share
    }
}

impl Place {
    /// Waits for a turn among all requests of the class.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        in_time(&self.class.requests, 1).await
    }

    /// Waits for room for so many bytes of a body.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Held, ApiError> {
        let permits = in_kib(bytes, self.user.limits.bodies);
        let of_user = in_time(&self.user.bodies, permits).await?;
        Ok(Held([of_user, in_time(&self.class.bodies, permits).await?]))
    }

    /// Takes room for an answer of so many bytes, now or not at all: it is in memory already.
    pub(crate) fn answer(&self, bytes: usize) -> Result<Held, ApiError> {
        let permits = in_kib(bytes, self.user.limits.answers);
        let take = |semaphore: &Arc<Semaphore>| {
            Arc::clone(semaphore).try_acquire_many_owned(permits).map_err(|_| ApiError::too_many_requests())
        };
        Ok(Held([take(&self.user.answers)?, take(&self.class.answers)?]))
    }
}

/// What is larger than everything there is takes everything there is.
fn in_kib(bytes: usize, most: usize) -> u32 {
    u32::try_from(bytes.min(most).div_ceil(KIB)).unwrap_or(u32::MAX)
}

async fn in_time(semaphore: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, ApiError> {
    let acquired = tokio::time::timeout(WAIT, Arc::clone(semaphore).acquire_many_owned(permits)).await;
    acquired.ok().and_then(Result::ok).ok_or_else(ApiError::too_many_requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j65_who_runs_the_cluster_is_known_by_name() {
        #[rustfmt::skip]
        let rows = [
            ("system:node:n1", true), ("system:kube-scheduler", true), ("system:controller:x", true),
            ("system:serviceaccount:kube-system:coredns", true), ("system:serviceaccount:default:app", false),
            ("system:anonymous", false), ("kubernetes-admin", false), ("", false),
        ];
        for (name, want) in rows {
            assert_eq!(runs_the_cluster(&UserInfo::new(name, &[])), want, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn j65_a_greedy_user_takes_from_its_own_share() {
        let flow = Flow::default();
        let (greedy, other) = (UserInfo::new("greedy", &[]), UserInfo::new("other", &[]));
        let mut places = Vec::new();
        for _ in 0..USER.requests {
            places.push(flow.enter(&greedy).await.unwrap());
        }
        let refused = flow.enter(&greedy).await.err().unwrap();
        assert_eq!((refused.code().as_u16(), refused.retry_after()), (429, Some(1)));
        flow.enter(&other).await.unwrap();
        let mut rooms = Vec::new();
        for place in &places[..USER.bodies >> 22] {
            rooms.push(place.room(4 << 20).await.unwrap());
        }
        assert_eq!(places[0].room(1).await.err().unwrap().code(), 429);
        rooms.pop();
        places[0].room(4 << 20).await.unwrap();
        let held = places[0].answer(usize::MAX).unwrap();
        assert_eq!(places[0].answer(1).err().unwrap().code(), 429);
        flow.enter(&other).await.unwrap().answer(1 << 20).unwrap();
        drop(held);
        places[0].answer(1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn j65_a_full_class_leaves_the_other_alone() {
        let flow = Flow::default();
        let mut turns = Vec::new();
        for index in 0..CLASS.requests {
            let place = flow.enter(&UserInfo::new(format!("u{index}"), &[])).await.unwrap();
            turns.push((place.turn().await.unwrap(), place));
        }
        let late = flow.enter(&UserInfo::new("late", &[])).await.unwrap();
        assert_eq!(late.turn().await.err().unwrap().code(), 429);
        let node = flow.enter(&UserInfo::new("system:node:n1", &["system:nodes"])).await.unwrap();
        drop(node.turn().await.unwrap());
        turns.pop();
        drop(late.turn().await.unwrap());
        drop(turns);
        let users = || flow.users.lock().unwrap().len();
        assert!(users() > IDLE_USERS, "all of them were busy");
        drop((late, node));
        flow.enter(&UserInfo::new("one more", &[])).await.unwrap();
        assert_eq!(users(), 1, "who asks for nothing is forgotten");
    }
}
