//! Attributes forth and back, and the values that are refused.

use super::*;

fn home() -> Home {
    Home { region: "r".into(), account: "1".into() }
}

fn create(queue: &str, json: serde_json::Value) -> Result<Attributes> {
    let text = json.to_string();
    created(&home(), queue, &serde_json::from_str(&text).unwrap())
}

fn set(queue: &str, name: &str, value: &str) -> Result<Change> {
    let text = json!({ name: value }).to_string();
    changed(&home(), queue, &serde_json::from_str(&text).unwrap())
}

#[test]
fn what_is_created_is_shown_again() {
    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:r:1:dead.fifo","maxReceiveCount":3}"#;
    let allow = r#"{"redrivePermission":"byQueue","sourceQueueArns":["arn:aws:sqs:r:1:a.fifo"]}"#;
    let given = json!({
        "VisibilityTimeout": "0", "MaximumMessageSize": "1024", "MessageRetentionPeriod": "60", "DelaySeconds": "900",
        "ReceiveMessageWaitTimeSeconds": "20", "Policy": "{}", "RedrivePolicy": policy, "RedriveAllowPolicy": allow,
        "FifoQueue": "true", "ContentBasedDeduplication": "true", "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId", "KmsMasterKeyId": "k", "KmsDataKeyReusePeriodSeconds": "60",
        "SqsManagedSseEnabled": "false",
    });
    let attributes = create("q.fifo", given.clone()).unwrap();
    let queue =
        Queue { name: "q.fifo".into(), attributes, created_s: 1, modified_s: 2, visible: 3, in_flight: 4, delayed: 5 };
    let text = "[\"All\"]";
    let names: Vec<Text> = serde_json::from_str(text).unwrap();
    let shown = serde_json::to_value(shown(&home(), &queue, &names).unwrap()).unwrap();
    let shown = shown.as_object().unwrap();
    assert_eq!(shown.len(), NAMES.len());
    for (name, value) in given.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name}");
    }
    assert_eq!(shown["QueueArn"], "arn:aws:sqs:r:1:q.fifo");
    assert_eq!(shown["ApproximateNumberOfMessagesNotVisible"], "4");
}

#[test]
fn a_standard_queue_shows_no_fifo_attributes_and_refuses_them() {
    let queue = Queue {
        name: "q".into(),
        attributes: create("q", json!({})).unwrap(),
        created_s: 1,
        modified_s: 1,
        visible: 0,
        in_flight: 0,
        delayed: 0,
    };
    let names: Vec<Text> =
        serde_json::from_str(r#"["FifoQueue", "RedrivePolicy", "VisibilityTimeout", "Policy"]"#).unwrap();
    let Table(found) = shown(&home(), &queue, &names).unwrap();
    assert_eq!(found, [("VisibilityTimeout", "30".to_owned())]);
    let names: Vec<Text> = serde_json::from_str(r#"["Nonsense"]"#).unwrap();
    assert_eq!(shown(&home(), &queue, &names).unwrap_err().kind, INVALID_ATTRIBUTE_NAME);
    for name in
        ["ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit", "FifoQueue", "Nonsense", "All"]
    {
        assert_eq!(set("q", name, "true").unwrap_err().kind, INVALID_ATTRIBUTE_NAME, "{name}");
    }
}

#[test]
fn the_name_and_the_type_agree() {
    assert!(create("q", json!({ "FifoQueue": "true" })).unwrap_err().message.contains(".fifo"));
    assert!(create("q.fifo", json!({})).unwrap_err().message.contains(".fifo"));
    assert_eq!(set("q.fifo", "FifoQueue", "true").unwrap(), Change::default());
    assert!(set("q.fifo", "FifoQueue", "false").unwrap_err().message.contains("Modifying queue type"));
}

#[test]
fn values_out_of_range() {
    for (name, value) in [
        ("VisibilityTimeout", "43201"),
        ("VisibilityTimeout", "-1"),
        ("VisibilityTimeout", ""),
        ("DelaySeconds", "901"),
        ("MessageRetentionPeriod", "59"),
        ("MaximumMessageSize", "1048577"),
        ("ReceiveMessageWaitTimeSeconds", "21"),
        ("KmsDataKeyReusePeriodSeconds", "59"),
        ("SqsManagedSseEnabled", "yes"),
        ("Policy", "[]"),
    ] {
        let fault = set("q", name, value).unwrap_err();
        assert_eq!(
            (fault.kind, &*fault.message),
            (INVALID_ATTRIBUTE_VALUE, &*format!("Invalid value for the parameter {name}."))
        );
    }
    assert_eq!(set("q", "Policy", &"x".repeat(KEPT_BYTES_MAX + 1)).unwrap_err().kind, INVALID_ATTRIBUTE_VALUE);
    let both = create("q", json!({ "KmsMasterKeyId": "k", "SqsManagedSseEnabled": "true" }));
    assert_eq!(both.unwrap_err().kind, INVALID_ATTRIBUTE_NAME);
    let alone = create("q.fifo", json!({ "FifoQueue": "true", "FifoThroughputLimit": "perMessageGroupId" }));
    assert_eq!(alone.unwrap_err().kind, INVALID_ATTRIBUTE_VALUE);
}

#[test]
fn redrive_policies() {
    let arn = "arn:aws:sqs:r:1:dead";
    let good = |count: serde_json::Value| json!({ "deadLetterTargetArn": arn, "maxReceiveCount": count }).to_string();
    for count in [json!(1000), json!("1000")] {
        let redrive = Redrive { target: "dead".into(), receives_max: 1000 };
        assert_eq!(set("q", "RedrivePolicy", &good(count)).unwrap().redrive, Some(Some(redrive)));
    }
    assert_eq!(set("q", "RedrivePolicy", "").unwrap().redrive, Some(None));
    for (queue, value, says) in [
        ("q", "dead".to_owned(), "JSON map"),
        ("q", json!({ "maxReceiveCount": 1 }).to_string(), "mandatory attribute: deadLetterTargetArn"),
        ("q", json!({ "deadLetterTargetArn": arn }).to_string(), "mandatory attribute: maxReceiveCount"),
        (
            "q",
            json!({ "deadLetterTargetArn": "dummy", "maxReceiveCount": 42 }).to_string(),
            "value for deadLetterTargetArn",
        ),
        ("q", good(json!(0)), "from 1 to 1000"),
        ("q", good(json!("many")), "from 1 to 1000"),
        ("q.fifo", good(json!(1)), "same type"),
    ] {
        let fault = set(queue, "RedrivePolicy", &value).unwrap_err();
        assert!(fault.kind == INVALID_PARAMETER && fault.message.contains(says), "{}", fault.message);
    }
}

#[test]
fn redrive_allow_policies() {
    let allow = |json: serde_json::Value| set("q", "RedriveAllowPolicy", &json.to_string()).map(|c| c.redrive_allow);
    assert_eq!(allow(json!({ "redrivePermission": "allowAll" })).unwrap(), Some(RedriveAllow::All));
    assert_eq!(allow(json!({ "redrivePermission": "denyAll" })).unwrap(), Some(RedriveAllow::None));
    let arns = |n: usize| vec!["arn:aws:sqs:r:1:a"; n];
    let by = |arns: Vec<&str>| allow(json!({ "redrivePermission": "byQueue", "sourceQueueArns": arns }));
    assert_eq!(by(arns(1)).unwrap(), Some(RedriveAllow::Queues(vec!["a".into()])));
    assert!(by(arns(0)).is_err() && by(arns(11)).is_err() && by(vec!["x"]).is_err());
    assert!(allow(json!({ "redrivePermission": "denyAll", "sourceQueueArns": arns(1) })).is_err());
    assert!(allow(json!({ "redrivePermission": "perhaps" })).is_err() && allow(json!({})).is_err());
}
