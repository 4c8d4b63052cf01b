use futures::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

/// A port that says back what it hears, and a dial that knows no other.
async fn echo() -> (u16, Arc<Dial>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let dial: Arc<Dial> = Arc::new(move |port| {
        Box::pin(async move {
            match port == at.port() {
                true => TcpStream::connect(at).await.map_err(|error| error.to_string()),
                false => Err(format!("nobody listens on {port}")),
            }
        })
    });
    (at.port(), dial)
}

#[tokio::test]
async fn channels_carry_data_and_errors_of_each_port() {
    let (port, dial) = echo().await;
    let other = if port == 1 { 2 } else { 1 };
    let (client, server) = tokio::io::duplex(1 << 20);
    let serving =
        tokio::spawn(async move { over_channels(server, Protocol::V4, &[port, other], dial).await });
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    client.send(Message::binary(b"\x00ping".to_vec())).await.unwrap();
    let mut heard: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while heard.get(&0).is_none_or(|data| data.len() < 6) || heard.get(&3).is_none_or(|error| error.len() < 3)
    {
        let Message::Binary(bytes) = client.next().await.unwrap().unwrap() else { continue };
        heard.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
    }
    assert_eq!(heard[&0], [&port.to_le_bytes()[..], b"ping"].concat());
    assert_eq!(heard[&1], port.to_le_bytes());
    let error = format!("nobody listens on {other}");
    assert_eq!(heard[&3], [&other.to_le_bytes()[..], error.as_bytes()].concat());
    drop(client);
    serving.await.unwrap();
}
