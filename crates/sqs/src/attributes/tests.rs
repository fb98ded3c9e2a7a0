//! Digests that AWS itself made, and the packing forth and back.

use proptest::prelude::*;

use super::*;

fn map(json: &serde_json::Value) -> String {
    json.to_string()
}

fn packed(json: serde_json::Value) -> Result<Packed> {
    let text = map(&json);
    let map: MessageAttributeMap = serde_json::from_str(&text).unwrap();
    Packed::new(Some(&map))
}

fn text(value: &str) -> serde_json::Value {
    serde_json::json!({ "DataType": "String", "StringValue": value })
}

#[test]
fn digests_are_those_of_aws() {
    // Recorded from sqs.eu-central-1.amazonaws.com, as public tests of an emulator hold them.
    for (attributes, md5) in [
        (serde_json::json!({ "Foo": text("Bar") }), "ae7155c6026991b6d54b11589678bf9c"),
        (serde_json::json!({ "Hello": text("There") }), "a311262e065454b75da111d535b8dacd"),
        (serde_json::json!({ "Hello": text("There"), "General": text("Kenobi") }), "fca026605781cb4126a1e9044df24232"),
        (
            serde_json::json!({ "Help.Me": text("Me"), "Hello": text("There"), "General": text("Kenobi") }),
            "4c360f3fdafd970e05fae2f149d997f5",
        ),
        (
            serde_json::json!({ "attr1": { "DataType": "Binary", "BinaryValue":
                "dHJhY2VwYXJlbnQeMDAtNzc0MDYyZDZjMzcwODFhNWEwYjliNWI4OGUzMDYyN2MtMmQyNDgyMjExZjY0ODlkYS0wMQ==" } }),
            "8cbe4db156db8a94db8b801b7addb984",
        ),
    ] {
        let packed = packed(attributes).unwrap();
        assert_eq!(packed.md5.unwrap().as_str(), md5);
        assert_eq!(md5_of_attributes(&unpack(&packed.bytes).unwrap()), packed.md5);
    }
}

#[test]
fn a_choice_has_the_digest_of_the_choice() {
    let packed =
        packed(serde_json::json!({ "Help.Me": text("Me"), "Hello": text("There"), "General": text("K") })).unwrap();
    let mut attributes = unpack(&packed.bytes).unwrap();
    attributes.retain(|a| a.name == "Hello");
    assert_eq!(md5_of_attributes(&attributes).unwrap().as_str(), "a311262e065454b75da111d535b8dacd");
    assert_eq!(md5_of_attributes(&[]), None);
}

#[test]
fn what_sqs_refuses() {
    let typed =
        |data_type: &str, value: &str| serde_json::json!({ "a": { "DataType": data_type, "StringValue": value } });
    for (attributes, says) in [
        (serde_json::json!({ "": text("x") }), "1 to 256"),
        (serde_json::json!({ "a".repeat(257): text("x") }), "1 to 256"),
        (serde_json::json!({ "a b": text("x") }), "other characters"),
        (serde_json::json!({ ".a": text("x") }), "period"),
        (serde_json::json!({ "a..b": text("x") }), "period"),
        (serde_json::json!({ "AWS.x": text("x") }), "reserved"),
        (serde_json::json!({ "aMaZon.x": text("x") }), "reserved"),
        (serde_json::json!({ "a": { "StringValue": "x" } }), "non-empty type"),
        (serde_json::json!({ "a": text("") }), "non-empty value of type 'String'"),
        (serde_json::json!({ "a": { "DataType": "Binary", "StringValue": "x" } }), "value of type 'Binary'"),
        (serde_json::json!({ "a": { "DataType": "String", "StringValue": "x", "BinaryValue": "AA==" } }), "not two"),
        (typed("Text", "x"), "does not begin with"),
        (typed("Stringent", "x"), "does not begin with"),
        (typed("String.\u{1}", "x"), "too long or has characters"),
        (typed("Number", "12a"), "not a number"),
        (typed("String", "\u{1}"), "outside of XML"),
    ] {
        let fault = packed(attributes).unwrap_err();
        assert!(fault.message.contains(says), "{}", fault.message);
    }
    let eleven: serde_json::Map<_, _> = (0..11).map(|n| (format!("a{n}"), text("x"))).collect();
    assert!(packed(eleven.into()).unwrap_err().message.contains("not 11"));
    let twice: MessageAttributeMap = serde_json::from_str(
        r#"{"a": {"DataType": "String", "StringValue": "x"}, "a": {"DataType": "String", "StringValue": "y"}}"#,
    )
    .unwrap();
    assert!(Packed::new(Some(&twice)).unwrap_err().message.contains("more than once"));
    for good in [typed("String.custom", "ä"), typed("Number.int", "-12.5e+3")] {
        packed(good).unwrap();
    }
}

#[test]
fn numbers() {
    for good in ["0", "-1", "+1.5", ".5", "5.", "1e10", "1E-9", "00012", &"9".repeat(38)] {
        assert!(is_number(good), "{good}");
    }
    for bad in ["", "-", ".", "1.2.3", "e5", "1e", "1e1.5", "0x1", " 1", "NaN", "1e1234", &"9".repeat(39)] {
        assert!(!is_number(bad), "{bad}");
    }
}

#[test]
fn the_trace_header_is_the_only_system_attribute() {
    let read = |json: serde_json::Value| {
        let text = map(&json);
        let map: MessageAttributeMap = serde_json::from_str(&text).unwrap();
        trace_header(Some(&map))
    };
    let (header, md5) = read(serde_json::json!({ "AWSTraceHeader": text("Root=1-5759e988-bd862e3fe1be46a994272793") }))
        .unwrap()
        .unwrap();
    assert!(header.starts_with("Root="));
    assert_eq!(md5.as_str().len(), 32);
    assert!(read(serde_json::json!({ "Other": text("x") })).is_err());
    assert!(read(serde_json::json!({ "AWSTraceHeader": { "DataType": "Binary", "BinaryValue": "AA==" } })).is_err());
    assert!(read(serde_json::json!({ "AWSTraceHeader": text(&"x".repeat(1025)) })).is_err());
}

#[test]
fn xml_has_fewer_characters_than_rust() {
    for good in ["", "a\t\n\rb", "\u{20}\u{7f}\u{d7ff}\u{e000}\u{fffd}\u{10000}\u{10ffff}", "\u{ff01}"] {
        assert!(is_xml_text(good), "{good:?}");
    }
    for bad in ["\0", "a\u{b}", "\u{1f}", "x\u{fffe}", "\u{ffff}"] {
        assert!(!is_xml_text(bad), "{bad:?}");
    }
}

fn any_attribute() -> impl Strategy<Value = (String, String, bool, Vec<u8>)> {
    ("[A-Za-z0-9_-]{1,20}", "(\\.[a-zé]{0,9})?", any::<bool>(), prop::collection::vec(any::<u8>(), 1..200))
}

proptest! {
    #[test]
    fn packing_comes_back(parts in prop::collection::btree_map("[A-Za-z0-9_-]{1,20}", any_attribute(), 0..10)) {
        let text: Vec<String> = parts.values().map(|p| String::from_utf8_lossy(&p.3).into_owned()).collect();
        let attributes: Vec<Attribute> = parts
            .iter()
            .zip(&text)
            .map(|((name, part), text)| Attribute {
                name,
                data_type: &part.1,
                value: if part.2 { Value::Text(text) } else { Value::Bytes(&part.3) },
            })
            .collect();
        let bytes = pack(&attributes);
        prop_assert_eq!(unpack(&bytes), Some(attributes.clone()));
        let size: usize = attributes.iter().map(|a| a.name.len() + a.data_type.len() + a.value.bytes().len()).sum();
        let message = Outgoing { body: "12345".into(), attributes: bytes, ..Outgoing::default() };
        prop_assert_eq!(message.size_bytes(), 5 + size);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = unpack(&bytes);
        let _ = size_bytes(&bytes);
        let mut ours = vec![VERSION];
        ours.extend(&bytes);
        if let Some(attributes) = unpack(&ours) {
            prop_assert_eq!(pack(&attributes), ours);
        }
    }
}
