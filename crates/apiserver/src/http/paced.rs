//! The body of an answer in pieces, so that what a slow reader has not taken yet is counted as its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::flow::{Held, Place};
use super::respond::Body;
use crate::status::ApiError;

/// Handed out at once: a piece that is on its way is not counted any more.
const PIECE: usize = 64 << 10;

struct Paced {
    rest: Bytes,
    _held: Held,
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.rest.len().min(PIECE);
        Poll::Ready((next > 0).then(|| Ok(Frame::data(self.rest.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Counts an answer against its user until it is sent. Small ones and streams are as they are: they hold no more than
/// any connection does.
pub(crate) async fn pace(response: Response<Body>, place: &Place) -> Result<Response<Body>, ApiError> {
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size > PIECE) else { return Ok(response) };
    let held = place.answer(size)?;
    let (parts, body) = response.into_parts();
    let rest = match body.collect().await {
        Ok(body) => body.to_bytes(),
        // Only of answers that others gave, whose length nobody knows.
        Err(error) => return Err(ApiError::internal(error)),
    };
    Ok(Response::from_parts(parts, Paced { rest, _held: held }.boxed_unsync()))
}
