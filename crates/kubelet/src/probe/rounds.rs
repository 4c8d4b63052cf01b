//! Asking on and on.
//!
//! Readiness is asked at every address of the pod, in the same rounds and by the same thresholds. The first one is the
//! container's readiness, as with Kubernetes; what the other one says is told beside it, for Services that want to
//! know (`dyad_model::readiness`). No event tells of it: a pod that was only ever meant to listen in one family is
//! not unhealthy.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use dyad_net::IpFamily;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Probe;
use tokio::sync::mpsc;

use super::{Beside, Kind, Outcome, Target, Verdict, ask, asks_the_pod};

/// How long an answer of the first address waits for that of the other, so that a pod that is ready at both is never
/// seen ready at one.
const TOGETHER: Duration = Duration::from_millis(20);

/// How soon a container that has just been started is asked again while it has never said yes: programs take
/// milliseconds to open their ports, and a first answer of no that nobody waited for would cost a whole period.
const EAGER: [u64; 6] = [2, 5, 15, 50, 150, 400];

/// An address that is not the first.
struct Side {
    ip: IpAddr,
    verdict: Verdict,
    told: Option<bool>,
}

impl Side {
    /// Takes an answer, if there is one; what is to be told.
    fn take(&mut self, answer: Option<Result<(), String>>) -> Option<(IpFamily, Beside)> {
        let problem = match answer {
            Some(answer) => {
                self.verdict.take(answer.is_ok());
                answer.err().unwrap_or_default()
            }
            None => "no answer yet".into(),
        };
        let ready = self.verdict.is_yes();
        (self.told.replace(ready) != Some(ready)).then(|| (self.ip.into(), Beside { ready, problem }))
    }
}

/// Asks on and on and reports what changes; ends when nobody listens, or with the success of a startup probe.
pub(crate) async fn run(kind: Kind, probe: Probe, target: Target, outcomes: mpsc::Sender<Outcome>) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
    };
    let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
    let mut verdict = Verdict::new(&probe);
    let first = match kind == Kind::Liveness && target.alive_everywhere && asks_the_pod(&probe) {
        true => &target.ips[..],
        false => target.ips.get(..1).unwrap_or_default(),
    };
    let others: &[IpAddr] = if kind == Kind::Readiness && asks_the_pod(&probe) {
        target.ips.get(1..).unwrap_or_default()
    } else {
        &[]
    };
    let mut sides: Vec<Side> =
        others.iter().map(|&ip| Side { ip, verdict: Verdict::new(&probe), told: None }).collect();
    let tell = async |verdict: Option<bool>, failure: Option<String>, beside: Vec<_>| {
        if verdict.is_none() && failure.is_none() && beside.is_empty() {
            return true;
        }
        let (container, attempt) = (target.container.clone(), target.attempt);
        outcomes.send(Outcome { container, attempt, kind, verdict, failure, beside }).await.is_ok()
    };
    // The first one at once, or after the delay: a pod is ready as soon as it can be.
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let soon = verdict.run == 0 && kind != Kind::Liveness;
        let mut main = pin!(ask_each(&probe, &target, first, limit, soon));
        // The first address is not to wait for the other one longer than its period is.
        let aside = others.iter().map(async |&ip| {
            let asked = ask_soon(&probe, &target, Some(ip), limit, soon);
            let answer = tokio::time::timeout(period, asked).await;
            answer.unwrap_or_else(|_| Err(format!("no answer within {period:?}")))
        });
        let mut aside = pin!(join_all(aside));
        let mut heard = None;
        let answer = loop {
            tokio::select! {
                biased;
                answers = &mut aside, if heard.is_none() => heard = Some(answers),
                answer = &mut main => break answer,
            }
        };
        if heard.is_none() {
            heard = tokio::time::timeout(TOGETHER, &mut aside).await.ok();
        }
        let late = heard.is_none();
        let changed = verdict.take(answer.is_ok());
        let beside = match heard {
            Some(answers) => take(&mut sides, answers.into_iter().map(Some)),
            // Only those of whom nothing is known yet have something to say.
            None => take(&mut sides, others.iter().map(|_| None)),
        };
        if !tell(changed, answer.err(), beside).await {
            return;
        }
        if late {
            let answers = aside.await;
            if !tell(None, None, take(&mut sides, answers.into_iter().map(Some))).await {
                return;
            }
        }
        if kind == Kind::Startup && changed == Some(true) {
            return;
        }
    }
}

fn take(
    sides: &mut [Side],
    answers: impl Iterator<Item = Option<Result<(), String>>>,
) -> Vec<(IpFamily, Beside)> {
    sides.iter_mut().zip(answers).filter_map(|(side, answer)| side.take(answer)).collect()
}

/// What all of these addresses answer together; a pod without any says so itself.
async fn ask_each(
    probe: &Probe,
    target: &Target,
    ips: &[IpAddr],
    limit: Duration,
    soon: bool,
) -> Result<(), String> {
    if ips.is_empty() {
        return ask_soon(probe, target, None, limit, soon).await;
    }
    let answers = ips.iter().map(|&ip| ask_soon(probe, target, Some(ip), limit, soon));
    join_all(answers).await.into_iter().collect()
}

/// One answer. Soon: one of yes is sought eagerly; failures before are no answers yet.
async fn ask_soon(
    probe: &Probe,
    target: &Target,
    ip: Option<IpAddr>,
    limit: Duration,
    soon: bool,
) -> Result<(), String> {
    for pause in EAGER.into_iter().filter(|_| soon) {
        if ask(probe, target, ip, limit).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    ask(probe, target, ip, limit).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A port that is free at both loopback addresses, with what listens there.
    async fn listeners(at: [bool; 2]) -> (u16, Vec<TcpListener>) {
        loop {
            let v4 = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = v4.local_addr().unwrap().port();
            let Ok(v6) = TcpListener::bind(("::1", port)).await else { continue };
            let list = [v4, v6].into_iter().zip(at).filter(|(_, wanted)| *wanted);
            return (port, list.map(|(listener, _)| listener).collect());
        }
    }

    const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

    fn target(ips: [&str; 2], alive_everywhere: bool) -> Target {
        Target {
            container: "c".into(),
            attempt: 0,
            ips: ips.map(|ip| ip.parse().unwrap()).to_vec(),
            sandbox: "/does/not/exist".into(),
            ports: Vec::new(),
            alive_everywhere,
        }
    }

    /// The probe's answers so far: of the container, and beside it.
    async fn answers(ips: [&str; 2], at: [bool; 2]) -> (Option<bool>, Vec<(IpFamily, bool)>) {
        let (port, _listeners) = listeners(at).await;
        let probe = json!({"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 1});
        let target = target(ips, false);
        let (tell, mut told) = mpsc::channel(16);
        let asking = tokio::spawn(run(Kind::Readiness, serde_json::from_value(probe).unwrap(), target, tell));
        let (mut verdict, mut beside) = (None, Vec::new());
        while verdict.is_none() || beside.is_empty() {
            let outcome = told.recv().await.unwrap();
            verdict = outcome.verdict.or(verdict);
            beside.extend(outcome.beside.into_iter().map(|(family, said)| (family, said.ready)));
            if verdict == Some(true) {
                assert!(!beside.is_empty(), "what the other says is known as soon as the first says yes");
            }
        }
        asking.abort();
        (verdict, beside)
    }

    #[tokio::test]
    async fn each_address_answers_for_itself_and_the_first_for_the_container() {
        for ips in [["127.0.0.1", "::1"], ["::1", "127.0.0.1"]] {
            for v4 in [true, false] {
                for v6 in [true, false] {
                    let families: Vec<IpFamily> =
                        ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap().into()).collect();
                    let of = |family| if family == IpFamily::V4 { v4 } else { v6 };
                    let (verdict, beside) = answers(ips, [v4, v6]).await;
                    assert_eq!(verdict, Some(of(families[0])), "{ips:?} v4={v4} v6={v6}");
                    let last = beside.last().copied();
                    assert_eq!(last, Some((families[1], of(families[1]))), "{ips:?} v4={v4} v6={v6}");
                }
            }
        }
    }

    #[tokio::test]
    async fn liveness_is_that_of_all_addresses_for_pods_that_ask_for_it() {
        for (alive_everywhere, at, want) in [
            (false, [true, false], true),
            (false, [false, true], false),
            (true, [true, true], true),
            (true, [true, false], false),
            (true, [false, true], false),
        ] {
            let (port, _listeners) = listeners(at).await;
            let probe = json!({"tcpSocket": {"port": port}, "periodSeconds": 60, "failureThreshold": 1});
            let target = target(LOOPBACKS, alive_everywhere);
            let (tell, mut told) = mpsc::channel(16);
            let asking =
                tokio::spawn(run(Kind::Liveness, serde_json::from_value(probe).unwrap(), target, tell));
            let first = told.recv().await.unwrap();
            assert_eq!(first.verdict, Some(want), "{alive_everywhere} {at:?}");
            assert!(first.beside.is_empty(), "{alive_everywhere} {at:?}");
            asking.abort();
        }
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_up_the_first_one() {
        let (port, listeners) = listeners([true, true]).await;
        let probe = json!({"httpGet": {"port": port}, "timeoutSeconds": 60, "periodSeconds": 60});
        let target = target(LOOPBACKS, false);
        let (tell, mut told) = mpsc::channel(16);
        let asking = tokio::spawn(run(Kind::Readiness, serde_json::from_value(probe).unwrap(), target, tell));
        // The other one accepts, and says nothing.
        let (mut stream, _) = listeners[0].accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        drop(stream);
        let first = told.recv().await.unwrap();
        assert_eq!((first.verdict, first.failure), (Some(true), None));
        let silent = Beside { ready: false, problem: "no answer yet".into() };
        assert_eq!(first.beside, [(IpFamily::V6, silent)]);
        asking.abort();
    }
}
