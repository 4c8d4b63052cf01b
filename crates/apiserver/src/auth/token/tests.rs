use proptest::prelude::*;

use super::*;

fn key() -> TokenKey {
    TokenKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
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
    let header = encode(json!({"alg": "none", "kid": key.known[0].id}).to_string());
    let claims = said.split_once('.').unwrap().1;
    for forged in [format!("{said}."), format!("{header}.{claims}."), format!("{said}.{}", encode([0; 64]))] {
        assert!(key.read(&forged).is_err(), "{forged}");
    }
}

/// A key as other tools make them; of no cluster.
const RSA: &str = "-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEA3RhkQPl/fZnxX5JYfZhBSj4xv1ljHMoVTdDIPRwXeWWMuUbG
j1WpwEQfbyYV2nRHNbDqHMhg1frCr1sBDbMOysGFWE0LKwPoExomfijMQWapuEM+
M9rUzQoaKjaHc4WTbgaL5HFrEb5+etqZofIWMN5huiTx4BzEDgwPLFFrvWdc7gNw
BZCuhLX2m4Z8+ruWOYVkW699GS03wN+SwDo0BImo/NeuyuyWM7rqxKuUAKTmRpx1
86fUlGXiMbyR6yNQU3aOfVkEZ7o/951PGCQI2W/xTwzOuRZKLHTnbfd77BrVGusI
4oxNfrelQU+lJfxbNQETjlPWVM8FzRigOhJ5TwIDAQABAoIBAF8os2WfvPajPlcj
FsEfueIpeKHh6B2pAJhYZwaeQ6A1S+cmhimE9iXRbDIbk0ZNy6RZO7odqEgQwKBW
q9JoodI0jp7dshPWf5lRJQYhqx/u/tdW4bvR0MtbML3AcHYRJM4zNRyikDG36poX
4g3osxJfdHJ4mj4aQ2vEVvd9J8EBoeux3GV6JwwfqqsJCrBrVg48XWEWrsHtKZUy
oI+W3e3bhwHFE7DiA36f4tGVOorKA62cNFJFp5gYC9SzL0+7qUO+6uwOjEt/nLa9
qi/x/AFHAhqmdnCc+JgLJa6J8aXTTy0QHHY4G7sh/Z4vrg6o5HECxRHw8PvL0i0r
z924+EECgYEA+Emi9u7ytF/NZr3Itu/l/4RXvH0ZX5yTmoyYwFgJTcwOKir09aOe
wRSEoEaepyEHKIH4eWLWmV2i0MIpq035AUp7caH5mzf3p0m12SmZvIES0BF4yw8r
X7bO4HQ/dp45dxeQE/wzOGtHZhlH4CAOP5RUf6JL7yx9LKMLLRJcISECgYEA4/aG
BxWrEZWYf1wtqX6vqnXhUrB4zUdYHmdKIwHCEgp5JWAja5Cxx8r8TUrj1pL+WTie
7EU3aE340xQeA5Wh9Fr/NXrNZZeWczF2g3L7M35M48z8+9b5neDO880dZ4PfV+SF
t4R18ZZne1YNA2Ev9fIp2Y3JvmaQJQKulvHwnG8CgYBqV+/K4BFoHFh3lvXvFNVo
GaEShGpnv0KhQXLzf0GM5sdyXC/LPidy/3zGwTiW0NimCvUH2MOdsLNZwq/iRWVP
nj09MGkeiFw0dKfEucK1MHuETtdz8a1cM4psLJ46Cg8G6Tq2tKCjm59bJZzZbCFu
LfP7LuJjMKT0h2j0BxcawQKBgC09aU/SnwZ4V7E+y9kNSTNc/YB5gR/L/tLZ0L6t
xKPr7Crcr2rTZlSuFfAI4rpcpZlzQSbGfb53auAI6APyGBf0Tx1/52837CWkNU7U
7MFFWWED91jLSvJoAOolVKaMZzB8K4VGBloRbSvu4do/2VLH4kJIfzcIB6cwpxFR
plyFAoGBALiIQBZOZ3jZ788x2gn3ORKKZmQ9+UDgc//a7AxNygTwaoTuqMBtUt7q
ZcYlM/NafV2QbPpRySMxIcK1JzI4AojIRF4AzF4b1akOckMmN5uc85fcT46thxIr
j2DQ5g7nwd97Os8+E9/DfZUjSjLTwBnXebaVQuBnvc9uR0pF7RHu
-----END RSA PRIVATE KEY-----";

#[test]
fn j60_rsa_keys_sign_too_and_old_keys_are_still_known() {
    let (rsa, ec) = (TokenKey::from_pem(RSA).unwrap(), key());
    let token = rsa.sign(&claims()).unwrap();
    assert_eq!(rsa.read(&token), Ok(Some(claims())));
    assert_eq!(rsa.algorithms(), ["RS256"].into());
    let shown = &rsa.key_set()["keys"][0];
    assert_eq!((&shown["kty"], &shown["alg"], &shown["e"]), (&json!("RSA"), &json!("RS256"), &json!("AQAB")));
    assert!(ec.read(&token).is_err());
    let public = |key: &TokenKey, info: fn(&[u8]) -> Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(info(&key.known[0].public));
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    };
    let old = ec.sign(&claims()).unwrap();
    let both = rsa.and_known(&public(&ec, der::p256_info)).unwrap();
    assert_eq!([both.read(&token), both.read(&old)], [Ok(Some(claims())), Ok(Some(claims()))]);
    assert_eq!(both.algorithms(), ["ES256", "RS256"].into());
    let other = ec.and_known(&public(&both, der::rsa_info)).unwrap();
    assert_eq!(other.read(&token), Ok(Some(claims())));
    assert_eq!(other.known[0].id, both.known[1].id, "one key has one name");
    assert!(
        TokenKey::from_pem("x").is_err()
            && other.and_known("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err()
    );
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
