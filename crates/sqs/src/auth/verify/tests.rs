//! Published and recorded signatures, and everything that must make them fail.

use super::*;
use crate::fault::INCOMPLETE_SIGNATURE;

/// Of AWS's test suite for Signature Version 4.
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30 12:36:00, the date of the test suite.
const MADE_S: u64 = 1_440_938_160;
const BODY: &[u8] = br#"{"QueueUrl": "http://127.0.0.1:9324/000000000000/q", "MessageBody": "hi"}"#;
/// Made by botocore 1.43 for `head` and `BODY`.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/sqs/aws4_request, \
    SignedHeaders=content-type;host;x-amz-date;x-amz-target;x-odd, \
    Signature=aee6ce9f61b0219967ef71e588fd5c1466d364508beb4e2e64100c66395b3ea3";
/// Made by botocore 1.43's `SigV4QueryAuth`.
const PRESIGNED: &str = "http://127.0.0.1:9324/000000000000/q?Action=ReceiveMessage&Version=2012-11-05\
    &AttributeName.1=All&MessageAttributeName.1=a%2Ab%20c&X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Feu-west-1%2Fsqs%2Faws4_request&X-Amz-Date=20150830T123600Z\
    &X-Amz-Expires=600&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=fa5ecfa1aa5645d7d2a58f5e09299b9afdededd3f65aefb0556450af0e3763cc";

fn keyring() -> Keyring {
    Keyring::new(Keys::Known(vec![Key {
        id: "AKIDEXAMPLE".into(),
        secret: Secret::new(SECRET),
        queues: vec!["q*".into()],
        send: true,
        receive: false,
        manage: false,
    }]))
}

fn head(changes: &[(&'static str, &str)]) -> Parts {
    let request = http::Request::builder().method("POST").uri("/");
    let mut head = request.body(()).unwrap().into_parts().0;
    for (name, value) in [
        ("host", "127.0.0.1:9324"),
        ("x-amz-target", "AmazonSQS.SendMessage"),
        ("content-type", "application/x-amz-json-1.0"),
        ("x-odd", "  a   b "),
        ("x-amz-date", "20150830T123600Z"),
        ("authorization", SIGNED),
    ]
    .iter()
    .chain(changes)
    {
        head.headers.insert(*name, value.parse().unwrap());
    }
    head
}

fn presigned(method: &str, uri: &str) -> Parts {
    let request = http::Request::builder().method(method).uri(uri).header("host", "127.0.0.1:9324");
    request.body(()).unwrap().into_parts().0
}

fn refused(head: &Parts, body: &[u8], now_s: u64) -> (&'static str, String) {
    let fault = keyring().verify(head, body, now_s).map(|p| p.id).unwrap_err();
    assert!(!fault.message.contains(SECRET));
    (fault.kind.code, fault.message)
}

#[test]
fn the_published_signature_comes_out() {
    let head = http::Request::builder().uri("/").header("host", "example.amazonaws.com");
    let head = head.header("x-amz-date", "20150830T123600Z").body(()).unwrap().into_parts().0;
    let canonical = canonical::request(&head, "host;x-amz-date", None, &sha256(b"")).unwrap();
    let text = string_to_sign("20150830T123600Z", "20150830", "us-east-1", "service", &canonical);
    let key = derive(&Secret::new(SECRET), "20150830", "us-east-1", "service");
    assert_eq!(
        Hex::<64>::new(hmac::sign(&key, text.as_bytes()).as_ref()).as_str(),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
}

#[test]
fn a_signed_request_is_let_in_and_knows_its_rights() {
    let keyring = keyring();
    for _ in 0..2 {
        let principal = keyring.verify(&head(&[]), BODY, MADE_S + CLOCK_SKEW_MAX_S).unwrap();
        assert_eq!(principal.id, "AKIDEXAMPLE");
        assert!(principal.permits("q1", Class::Send));
        assert!(!principal.permits("q1", Class::Receive) && !principal.permits("other", Class::Send));
    }
    keyring.verify(&head(&[]), BODY, MADE_S - CLOCK_SKEW_MAX_S).unwrap();
}

#[test]
fn whatever_was_changed_is_noticed() {
    let (code, _) = refused(&head(&[]), b"{}", MADE_S);
    assert_eq!(code, "SignatureDoesNotMatch");
    for change in [
        ("x-odd", "a  c"),
        ("host", "127.0.0.1:9325"),
        ("x-amz-target", "AmazonSQS.DeleteQueue"),
        ("x-amz-date", "20150830T123601Z"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ] {
        assert_eq!(refused(&head(&[change]), BODY, MADE_S).0, "SignatureDoesNotMatch", "{change:?}");
    }
    let mut other = head(&[]);
    other.uri = "/?Action=DeleteQueue".parse().unwrap();
    assert_eq!(refused(&other, BODY, MADE_S).0, "SignatureDoesNotMatch");
    other.uri = "/".parse().unwrap();
    other.method = http::Method::PUT;
    assert_eq!(refused(&other, BODY, MADE_S).0, "SignatureDoesNotMatch");
}

#[test]
fn old_early_unknown_and_missing_signatures() {
    assert!(refused(&head(&[]), BODY, MADE_S + CLOCK_SKEW_MAX_S + 1).1.contains("15 minutes ago"));
    assert!(refused(&head(&[]), BODY, MADE_S - CLOCK_SKEW_MAX_S - 1).1.contains("15 minutes ahead"));
    let stranger = SIGNED.replace("AKIDEXAMPLE", "AKIDOTHER");
    assert_eq!(refused(&head(&[("authorization", &stranger)]), BODY, MADE_S).0, "InvalidClientTokenId");
    let mut bare = head(&[]);
    bare.headers.remove("authorization");
    assert_eq!(refused(&bare, BODY, MADE_S).0, "AccessDenied");
}

#[test]
fn headers_that_carry_the_meaning_must_be_signed() {
    for (name, left) in
        [("host", "content-type;x-amz-date;x-amz-target"), ("x-amz-target", "content-type;host;x-amz-date")]
    {
        let text = SIGNED.replace("content-type;host;x-amz-date;x-amz-target;x-odd", left);
        let (code, message) = refused(&head(&[("authorization", &text)]), BODY, MADE_S);
        assert_eq!(code, INCOMPLETE_SIGNATURE.code);
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_presigned_request_is_good_until_it_expires() {
    let keyring = keyring();
    for now_s in [MADE_S - CLOCK_SKEW_MAX_S, MADE_S, MADE_S + 600] {
        assert_eq!(keyring.verify(&presigned("GET", PRESIGNED), b"", now_s).unwrap().id, "AKIDEXAMPLE");
    }
    assert!(refused(&presigned("GET", PRESIGNED), b"", MADE_S + 601).1.contains("expired"));
    assert_eq!(refused(&presigned("GET", PRESIGNED), b"x", MADE_S).0, "SignatureDoesNotMatch");
    let longer = PRESIGNED.replace("Expires=600", "Expires=601");
    assert_eq!(refused(&presigned("GET", &longer), b"", MADE_S).0, "SignatureDoesNotMatch");
    let more = PRESIGNED.replace("Expires=600", "Expires=604801");
    assert_eq!(refused(&presigned("GET", &more), b"", MADE_S).0, "IncompleteSignature");
}

/// What a client makes that signs this request with its body left open.
fn open_signature(head: &Parts, signed: &str) -> String {
    let canonical = canonical::request(head, signed, Some("X-Amz-Signature"), UNSIGNED_PAYLOAD).unwrap();
    let text = string_to_sign("20150830T123600Z", "20150830", "eu-west-1", "sqs", &canonical);
    let key = derive(&Secret::new(SECRET), "20150830", "eu-west-1", "sqs");
    Hex::<64>::new(hmac::sign(&key, text.as_bytes()).as_ref()).as_str().to_owned()
}

#[test]
fn a_body_may_be_left_open_only_by_who_presigns() {
    let mut query = presigned("POST", PRESIGNED);
    query.headers.insert(PAYLOAD_HASH, UNSIGNED_PAYLOAD.parse().unwrap());
    let (url, _) = PRESIGNED.split_once("&X-Amz-Signature=").unwrap();
    query.uri = format!("{url}&X-Amz-Signature={}", open_signature(&query, "host")).parse().unwrap();
    assert!(keyring().verify(&query, b"any body", MADE_S).is_ok());
    query.headers.remove(PAYLOAD_HASH);
    assert_eq!(refused(&query, b"any body", MADE_S).0, "SignatureDoesNotMatch");

    let signed = "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target";
    let header = head(&[(PAYLOAD_HASH, UNSIGNED_PAYLOAD)]);
    let (start, _) = SIGNED.split_once("SignedHeaders=").unwrap();
    let text = format!("{start}SignedHeaders={signed}, Signature={}", open_signature(&header, signed));
    let header = head(&[(PAYLOAD_HASH, UNSIGNED_PAYLOAD), ("authorization", &text)]);
    assert!(refused(&header, BODY, MADE_S).1.contains("X-Amz-Content-Sha256"));
}

#[test]
fn without_keys_everybody_is_let_in_by_name() {
    let any = Keyring::new(Keys::Any);
    assert_eq!(any.verify(&head(&[]), b"", 0).unwrap().id, "AKIDEXAMPLE");
    let nobody = any.verify(&presigned("GET", "http://h/"), b"", 0).unwrap();
    assert_eq!(nobody.id, "anonymous");
    assert!(nobody.permits("x", Class::Manage));
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        assert_eq!(any.verify(&head(&[(name, value)]), b"", 0).map(|p| p.id).unwrap_err().kind, ACCESS_DENIED);
    }
    assert!(Keyring::new(Keys::Known(vec![])).verify(&head(&[]), BODY, MADE_S).is_err());
}
