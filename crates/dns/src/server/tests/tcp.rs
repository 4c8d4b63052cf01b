use std::io::{ErrorKind, Read as _, Write as _};

use super::*;

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_bytes();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

fn receive(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).unwrap();
    Message::parse(&bytes).unwrap()
}

/// Whether the server has closed a connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// RFC 7766 sections 6.2.1.1 and 7: many queries at once, in pieces, answers as they come.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines() {
    let lab = lab(|_| {});
    for to in lab.server.addresses().to_vec() {
        let gate = lab.gate.clone();
        blocking(move || {
            let mut stream = connect(to);
            let mut bytes = framed(&query(0, "stuck.example", Rtype::TXT));
            for id in 1..40 {
                bytes.extend(framed(&query(id, "web.default.svc.cluster.local", Rtype::A)));
            }
            for piece in bytes.chunks(7) {
                stream.write_all(piece).unwrap();
            }
            for id in 1..40 {
                assert_eq!(receive(&mut stream).header.id, id);
            }
            gate.add_permits(1);
            assert_eq!(receive(&mut stream).header.id, 0);
            stream.write_all(&framed(&query(7, "wide.example", Rtype::TXT))).unwrap();
            assert_eq!(receive(&mut stream).answers.len(), 100);
        })
        .await;
    }
    lab.server.stop(PATIENCE).await;
}

/// What a client sent before it closed its side is answered.
#[tokio::test(flavor = "multi_thread")]
async fn half_closed() {
    let lab = lab(|_| {});
    let (to, gate) = (lab.server.addresses()[0], lab.gate.clone());
    blocking(move || {
        let mut stream = connect(to);
        stream.write_all(&framed(&query(1, "stuck.example", Rtype::TXT))).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        gate.add_permits(1);
        assert_eq!(receive(&mut stream).header.id, 1);
        assert!(is_closed(&mut stream));
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// A client has so many connections, and so many queries in each that wait.
#[tokio::test(flavor = "multi_thread")]
async fn limits() {
    let lab = lab(|config| (config.connections_per_client, config.pipelined) = (2, 3));
    let (to, gate, seen) = (lab.server.addresses()[1], lab.gate.clone(), lab.seen.clone());
    blocking(move || {
        let mut streams: Vec<_> = (0..2).map(|_| connect(to)).collect();
        for stream in &mut streams {
            stream.write_all(&framed(&query(1, "web.default.svc.cluster.local", Rtype::A))).unwrap();
            receive(stream);
        }
        assert!(is_closed(&mut connect(to)));
        for id in 0..9 {
            streams[0].write_all(&framed(&query(id, "stuck.example", Rtype::TXT))).unwrap();
        }
        streams[0].write_all(&framed(&query(9, "web.default.svc.cluster.local", Rtype::A))).unwrap();
        // The last one is answered after at least one that was stuck.
        let mut answered = 0;
        while answered < 10 {
            gate.add_permits(1);
            let id = receive(&mut streams[0]).header.id;
            assert!(id < 9 || answered > 0);
            answered += 1;
            assert!(seen.load(Ordering::SeqCst) <= answered + 3);
        }
        // Whoever leaves makes room.
        drop(streams);
        let served = (0..1000).any(|_| {
            let mut stream = connect(to);
            let sent = stream.write_all(&framed(&query(1, "web.default.svc.cluster.local", Rtype::A)));
            sent.is_ok() && stream.read(&mut [0; 1]).is_ok_and(|length| length > 0)
        });
        assert!(served);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// Who says nothing, or never ends a query, or sends what is too long, is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn idle_and_hostile() {
    let lab = lab(|config| config.idle = Duration::from_millis(100));
    let to = lab.server.addresses()[0];
    blocking(move || {
        assert!(is_closed(&mut connect(to)));
        let mut half = connect(to);
        half.write_all(&[0, 40, 1]).unwrap();
        assert!(is_closed(&mut half));
        // Byte by byte is not busy.
        let mut trickle = connect(to);
        let cut = (0..PATIENCE.as_millis() / 20).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            trickle.write_all(&[1]).is_err()
        });
        assert!(cut);
        let mut long = connect(to);
        long.write_all(&[0xff; 100]).unwrap();
        assert!(is_closed(&mut long));
        // A response is no query, and nothing is said to it.
        let mut response = query(1, "web.default.svc.cluster.local", Rtype::A);
        response.header.response = true;
        let mut stream = connect(to);
        stream.write_all(&framed(&response)).unwrap();
        stream.write_all(&framed(&query(2, "web.default.svc.cluster.local", Rtype::A))).unwrap();
        assert_eq!(receive(&mut stream).header.id, 2);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// A client that asks and does not read is cut off, and holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers() {
    let lab = lab(|config| config.write = Duration::from_millis(100));
    let to = lab.server.addresses()[1];
    blocking(move || {
        let mut stream = connect(to);
        let many: Vec<u8> = (0..1000).flat_map(|id| framed(&query(id, "wide.example", Rtype::TXT))).collect();
        let mut cut = false;
        for _ in 0..200 {
            cut = cut || stream.write_all(&many).is_err();
        }
        assert!(cut);
        let mut other = connect(to);
        other.write_all(&framed(&query(2, "web.default.svc.cluster.local", Rtype::A))).unwrap();
        assert_eq!(receive(&mut other).header.id, 2);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// A handler that fails leaves its query without answer, and the connection in order.
#[tokio::test(flavor = "multi_thread")]
async fn failed_handlers() {
    let lab = lab(|config| config.pipelined = 1);
    let to = lab.server.addresses()[0];
    blocking(move || {
        let mut stream = connect(to);
        stream.write_all(&framed(&query(1, "boom.example", Rtype::TXT))).unwrap();
        stream.write_all(&framed(&query(2, "example.com", Rtype::TXT))).unwrap();
        assert_eq!(receive(&mut stream).header.id, 2);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// Queries that arrived before the end are answered before the connection closes.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_pending() {
    let lab = lab(|_| {});
    let (to, gate, seen) = (lab.server.addresses()[0], lab.gate.clone(), lab.seen.clone());
    let mut stream = connect(to);
    stream.write_all(&framed(&query(1, "stuck.example", Rtype::TXT))).unwrap();
    while seen.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stopping = tokio::spawn(lab.server.stop(PATIENCE));
    gate.add_permits(1);
    stopping.await.unwrap();
    blocking(move || {
        assert_eq!(receive(&mut stream).header.id, 1);
        assert!(is_closed(&mut stream));
    })
    .await;
}
