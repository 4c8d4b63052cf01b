use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{self, Frame, FrameReader};
use super::headers::{Packer, Unpacker, dictionary};
use super::*;

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn spdy3_2_6_10_1_the_dictionary_is_that_of_the_protocol() {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in dictionary() {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    // What zlib calls a dictionary: its Adler-32 sum.
    assert_eq!((dictionary().len(), b << 16 | a), (1423, 0xe3c6_a7c2));
}

#[test]
fn header_blocks_build_on_those_before() {
    let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
    let long = "x".repeat(9000);
    for pairs in [
        &[("streamtype", "stdin")][..],
        &[],
        &[("port", "80"), ("requestid", "1"), ("streamtype", "data")],
        &[("long", long.as_str())],
        &[("streamtype", "stdin")],
    ] {
        let packed = packer.pack(&headers(pairs)).unwrap();
        assert_eq!(unpacker.unpack(&packed).unwrap(), headers(pairs));
    }
}

#[test]
fn header_blocks_that_unpack_to_too_much_are_refused() {
    let huge = "x".repeat(200_000);
    let packed = Packer::new().pack(&headers(&[("a", &huge)])).unwrap();
    assert!(packed.len() < 2000);
    assert!(matches!(Unpacker::new().unpack(&packed), Err(SpdyError::Headers(_))));
}

/// Reads frames until the end or an error.
async fn read(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
    let mut reader = FrameReader::new(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    Ok(frames)
}

fn conversation() -> Vec<u8> {
    let mut packer = Packer::new();
    let mut bytes = frame::open(&mut packer, 1, &headers(&[("streamtype", "error")]), true);
    bytes.extend(frame::open(&mut packer, 3, &headers(&[("streamtype", "stdin")]), false));
    bytes.extend(frame::ping(1));
    bytes.extend(frame::data(3, 5, false));
    bytes.extend(b"hello");
    bytes.extend(frame::data(3, 0, true));
    bytes.extend(frame::reset(1, 5));
    bytes.extend(frame::go_away(0));
    bytes
}

#[tokio::test]
async fn frames_are_read() {
    let frames = read(&conversation()).await.unwrap();
    assert_eq!(
        frames,
        [
            Frame::Open { id: 1, headers: headers(&[("streamtype", "error")]), fin: true },
            Frame::Open { id: 3, headers: headers(&[("streamtype", "stdin")]), fin: false },
            Frame::Ping { id: 1 },
            Frame::Data { id: 3, bytes: Bytes::from_static(b"hello"), fin: false },
            Frame::Data { id: 3, bytes: Bytes::new(), fin: true },
            Frame::Reset { id: 1 },
            Frame::GoAway,
        ]
    );
    assert!(matches!(read(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await, Err(SpdyError::Version(2))));
    assert!(matches!(
        read(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]).await,
        Err(SpdyError::Length { kind: 1, length: 2 })
    ));
    assert!(matches!(read(&[0x80, 3, 0, 1, 0, 1, 0, 1]).await, Err(SpdyError::Length { .. })));
}

#[tokio::test]
async fn long_frames_come_in_pieces() {
    let length = 100_000;
    let mut bytes = frame::data(5, length, true).to_vec();
    bytes.resize(8 + length, b'x');
    let frames = read(&bytes).await.unwrap();
    let sizes: Vec<_> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Data { bytes, fin, .. } => (bytes.len(), *fin),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [(32768, false), (32768, false), (32768, false), (1696, true)]);
}

/// Whatever comes from outside is understood or refused.
#[tokio::test]
async fn any_bytes_are_read_or_refused() {
    let mut random = StdRng::seed_from_u64(31);
    let valid = conversation();
    for round in 0..3000 {
        let mut bytes = valid.clone();
        if round % 3 == 0 {
            bytes = (0..random.random_range(0..200)).map(|_| random.random()).collect();
        } else {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
        }
        let _ = read(&bytes).await;
        let packed: Vec<u8> = (0..random.random_range(0..80)).map(|_| random.random()).collect();
        let _ = Unpacker::new().unpack(&packed);
    }
}

#[tokio::test]
async fn a_session_carries_streams_both_ways() {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut session = Session::new(server);
    let mut packer = Packer::new();
    let mut bytes = frame::open(&mut packer, 1, &headers(&[("streamtype", "data")]), false);
    bytes.extend(frame::ping(7));
    bytes.extend(frame::data(1, 2, true));
    bytes.extend(b"hi");
    client.write_all(&bytes).await.unwrap();
    let mut stream = session.accept().await.unwrap();
    assert_eq!(stream.headers.get("streamtype"), "data");
    assert_eq!(stream.reader.next().await.unwrap(), "hi");
    assert_eq!(stream.reader.next().await, None);
    stream.writer.send(Bytes::from_static(b"there")).await.unwrap();
    stream.writer.end().await.unwrap();
    let finishing = tokio::spawn(session.finish());
    let mut reader = FrameReader::new(client);
    let mut data = Vec::new();
    loop {
        match reader.next().await.unwrap().unwrap() {
            Frame::Data { id: 1, bytes, fin } => {
                data.extend_from_slice(&bytes);
                if fin {
                    break;
                }
            }
            Frame::Ping { id } => assert_eq!(id, 7),
            Frame::Other => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(data, b"there");
    assert_eq!(reader.next().await.unwrap(), Some(Frame::GoAway));
    drop(reader);
    finishing.await.unwrap();
}

#[tokio::test]
async fn streams_that_are_numbered_wrong_end_the_connection() {
    let (mut client, server) = tokio::io::duplex(1 << 22);
    let mut session = Session::new(server);
    let mut packer = Packer::new();
    for id in [3, 1] {
        client.write_all(&frame::open(&mut packer, id, &Headers::default(), false)).await.unwrap();
    }
    assert!(session.accept().await.is_some());
    assert!(session.accept().await.is_none());
    session.closed().await;
    drop(session);
    let mut rest = Vec::new();
    let ended = client.read_to_end(&mut rest);
    tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.unwrap().unwrap();
}
