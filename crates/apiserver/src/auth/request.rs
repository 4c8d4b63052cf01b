//! From credentials to a user.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::UserInfo;
use crate::status::ApiError;

/// Who makes the request: the user of its client certificate ([`crate::tls::peer_user`]), else that of its bearer
/// token, else anonymous. No token is known yet, so any that is shown is refused.
///
/// # Errors
///
/// 401 for a token that nobody knows.
pub fn authenticate(certificate: Option<&UserInfo>, headers: &HeaderMap) -> Result<UserInfo, ApiError> {
    match (certificate, bearer_token(headers)) {
        (Some(user), _) => Ok(user.clone()),
        (None, Some(_)) => Err(ApiError::unauthorized()),
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
