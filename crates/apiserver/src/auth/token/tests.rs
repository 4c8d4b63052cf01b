use proptest::prelude::*;

use super::*;

fn key() -> TokenKey {
    TokenKey::from_pem(&KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

fn claims() -> Claims {
    Claims {
        aud: vec![ISSUER.into()],
        exp: 2,
        iss: ISSUER.into(),
        kubernetes: Private { namespace: "n".into(), ..Private::default() },
        ..Claims::default()
    }
}

#[test]
fn j60_a_token_says_what_was_signed_and_only_to_its_key() {
    let (ours, other) = (key(), key());
    let token = ours.sign(&claims()).unwrap();
    assert_eq!(ours.read(&token), Ok(Some(claims())));
    assert_eq!(other.read(&token), Err("invalid signature, no keys found".into()));
    let stranger = ours.sign(&Claims { iss: "https://example.com".into(), ..claims() }).unwrap();
    assert_eq!(ours.read(&stranger), Ok(None));
    for junk in ["", "a", "..", "a.b.c", "{}", &token.replace('.', "")] {
        assert_eq!(ours.read(junk), Ok(None), "{junk}");
    }
}

#[test]
fn j60_a_signature_of_nothing_is_none() {
    let key = key();
    let token = key.sign(&claims()).unwrap();
    let (said, _) = token.rsplit_once('.').unwrap();
    let header = encode(json!({"alg": "none", "kid": key.id}).to_string());
    let claims = said.split_once('.').unwrap().1;
    for forged in [format!("{said}."), format!("{header}.{claims}."), format!("{said}.{}", encode([0; 64]))] {
        assert!(key.read(&forged).is_err(), "{forged}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A token in which any byte is another one is none.
    #[test]
    fn j60_no_byte_can_be_changed(at in any::<proptest::sample::Index>(), byte in 33u8..127) {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(!matches!(key.read(&changed), Ok(Some(_))), "{}", changed);
    }

    #[test]
    fn j60_any_text_is_answered(text in "\\PC{0,64}(\\.\\PC{0,64}){0,4}") {
        prop_assert!(!matches!(key().read(&text), Ok(Some(_))));
    }
}
