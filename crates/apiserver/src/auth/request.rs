//! From credentials to a user.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::UserInfo;
use crate::status::ApiError;

/// Who makes the request: the user of its client certificate ([`crate::tls::peer_user`]), else that of its bearer
/// token, whom `known` knows, else anonymous.
///
/// # Errors
///
/// 401 for a token that nobody knows.
pub fn authenticate(
    certificate: Option<&UserInfo>,
    headers: &HeaderMap,
    known: impl FnOnce(&str) -> Option<UserInfo>,
) -> Result<UserInfo, ApiError> {
    match (certificate, bearer_token(headers)) {
        (Some(user), _) => Ok(user.clone()),
        (None, Some(token)) => {
            std::str::from_utf8(token).ok().and_then(known).ok_or_else(ApiError::unauthorized)
        }
        (None, None) => Ok(UserInfo::anonymous()),
    }
}

/// The token of an `Authorization` header. Other schemes, and what is not quite the form, count as nothing shown.
fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes().trim_ascii();
    let mut words = value.split(|byte| *byte == b' ');
    let scheme = words.next()?;
    let token = words.next()?;
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}
