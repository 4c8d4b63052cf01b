use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

#[test]
fn outcomes_are_statuses() {
    let exit = Outcome::Exit { code: 7, command: vec!["sh".into(), "-c".into()] };
    let status = exit.status();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "7"}]));
    assert_eq!(
        status["message"],
        "command terminated with non-zero exit code: error executing command [sh -c], exit code 7"
    );
    assert_eq!(Outcome::Success.text(), None);
    assert_eq!(Outcome::Failed("no".into()).status()["message"], "Internal error occurred: no");
}

#[test]
fn sizes_are_read_wherever_they_are_cut() {
    let mut text = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
    assert_eq!(first_size(&mut text), Some(Size { width: 80, height: 24 }));
    assert_eq!(first_size(&mut text), None);
    text.extend_from_slice(br#"00,"Height":70000}"#);
    assert_eq!(first_size(&mut text), Some(Size { width: 100, height: 0 }));
    assert!(text.is_empty());
}

#[tokio::test]
async fn v5_channels_carry_streams_their_end_and_the_outcome() {
    let (client, server) = tokio::io::duplex(1 << 20);
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
    let serving = tokio::spawn(async move {
        let mut remote = Remote::over_channels(server, Protocol::V5, wanted).await;
        let mut heard = Vec::new();
        let mut stdin = remote.stdin.take().unwrap();
        while let Some(bytes) = stdin.recv().await {
            heard.extend_from_slice(&bytes);
        }
        remote.stdout.take().unwrap().send(Bytes::from_static(b"out")).await.unwrap();
        remote.end.finish(&Outcome::Exit { code: 3, command: vec!["x".into()] }).await;
        heard
    });
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    for message in [&b"\x00hello"[..], &b"\x07ignored"[..], &b"\xff\x00"[..]] {
        client.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut messages = Vec::new();
    let mut code = None;
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(bytes) => messages.push(bytes),
            Message::Close(frame) => code = frame.map(|frame| u16::from(frame.code)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages[..2], [Bytes::from_static(b"\x01"), Bytes::from_static(b"\x01out")]);
    let status: Value = serde_json::from_slice(&messages[2][1..]).unwrap();
    assert_eq!((messages[2][0], &status["reason"]), (3, &json!("NonZeroExitCode")));
    // Without this code, clients take the end for a failure.
    assert_eq!(code, Some(1000));
    assert_eq!(serving.await.unwrap(), b"hello");
}

#[tokio::test(start_paused = true)]
async fn spdy_streams_that_do_not_come_are_missed_in_time() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let missing = Remote::over_spdy(Session::new(server), VERSIONS[0], wanted).await.unwrap_err();
    assert_eq!(missing.to_string(), "the client did not open the error stream in time");
    drop(client);
}

#[tokio::test]
async fn input_over_spdy_is_wanted_until_the_command_has_ended() {
    use crate::spdy::testing::Client;
    let (client, server) = tokio::io::duplex(1 << 20);
    let mut client = Client::new(client);
    let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        client.open(id, &[("streamtype", kind)]).await;
    }
    let mut remote = Remote::over_spdy(Session::new(server), VERSIONS[0], wanted).await.unwrap();
    client.send(3, b"in", true).await;
    let mut stdin = remote.stdin.take().unwrap();
    assert_eq!((stdin.recv().await.unwrap(), stdin.recv().await), (Bytes::from_static(b"in"), None));
    remote.stdout.as_ref().unwrap().send(Bytes::from_static(b"out")).await.unwrap();
    // Nothing but this has been said: clients take the end of their input's stream for a refusal.
    assert_eq!(client.data().await, (5, Bytes::from_static(b"out"), false));
    remote.stdout.take().unwrap().end().await.unwrap();
    let finishing = tokio::spawn(async move { remote.end.finish(&Outcome::Success).await });
    assert_eq!(client.data().await, (5, Bytes::new(), true));
    let (id, status, _) = client.data().await;
    assert_eq!((id, serde_json::from_slice::<Value>(&status).unwrap()), (1, Outcome::Success.status()));
    assert_eq!(client.data().await, (1, Bytes::new(), true));
    assert_eq!(client.data().await, (3, Bytes::new(), true));
    drop(client);
    finishing.await.unwrap();
}
