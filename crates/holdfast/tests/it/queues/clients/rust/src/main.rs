//! Calls every action of SQS through the Rust SDK, which reads all answers into types of its own. Usage: client URL

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use aws_sdk_sqs::{Client, Config};

const ACTIONS: usize = 23;
const ACCOUNT: &str = "000000000000";
static CALLED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// The answer of a call that must succeed.
macro_rules! call {
    ($client:ident.$action:ident() $($rest:tt)*) => {{
        CALLED.lock().expect("no panic").insert(stringify!($action));
        let answer = $client.$action() $($rest)* .send().await;
        answer.unwrap_or_else(|error| panic!("{}: {}", stringify!($action), DisplayErrorContext(error)))
    }};
}

/// The error, of its own type, of a call that must be refused.
macro_rules! refused {
    ($client:ident.$action:ident() $($rest:tt)*) => {{
        let error = $client.$action() $($rest)* .send().await.expect_err(stringify!($action));
        assert!(error.as_service_error().is_some(), "{}", DisplayErrorContext(error));
        error.into_service_error()
    }};
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:eu-west-1:{ACCOUNT}:{name}")
}

async fn create(client: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
    let attributes = attributes.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
    let made = call!(client.create_queue().queue_name(name).set_attributes(Some(attributes)));
    made.queue_url.expect("a URL")
}

async fn receive(client: &Client, url: &str, hidden_s: i32) -> Vec<Message> {
    let all = MessageSystemAttributeName::All;
    let got = call!(
        client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .visibility_timeout(hidden_s)
            .message_attribute_names("All")
            .message_system_attribute_names(all)
    );
    got.messages.unwrap_or_default()
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().filter_map(Message::body).collect()
}

fn receipt(message: &Message) -> &str {
    message.receipt_handle().expect("a receipt")
}

async fn queues(client: &Client, plane: &str) {
    use QueueAttributeName::{All, DelaySeconds, QueueArn, VisibilityTimeout};
    let url = create(client, "plain", &[(VisibilityTimeout, "40")]).await;
    assert_eq!(url, format!("{plane}/{ACCOUNT}/plain"));
    assert_eq!(call!(client.get_queue_url().queue_name("plain")).queue_url(), Some(&*url));
    call!(client.set_queue_attributes().queue_url(&url).attributes(VisibilityTimeout, "7"));
    let got = call!(client.get_queue_attributes().queue_url(&url).attribute_names(All));
    let attributes = got.attributes().expect("attributes");
    assert_eq!((&*attributes[&VisibilityTimeout], &*attributes[&QueueArn]), ("7", &*arn("plain")));
    call!(client.tag_queue().queue_url(&url).tags("team", "ä & ö").tags("kind", "b"));
    call!(client.untag_queue().queue_url(&url).tag_keys("kind"));
    let tags = call!(client.list_queue_tags().queue_url(&url));
    assert_eq!(tags.tags(), Some(&HashMap::from([("team".to_owned(), "ä & ö".to_owned())])));
    let who = "111111111111";
    call!(client.add_permission().queue_url(&url).label("l").aws_account_ids(who).actions("SendMessage"));
    call!(client.remove_permission().queue_url(&url).label("l"));
    for n in 0..3 {
        create(client, &format!("page-{n}"), &[]).await;
    }
    let first = call!(client.list_queues().queue_name_prefix("page-").max_results(2));
    let next = first.next_token().expect("there is a second page");
    let second = call!(client.list_queues().queue_name_prefix("page-").max_results(2).next_token(next));
    let found = [first.queue_urls(), second.queue_urls()].concat();
    assert_eq!(found, [0, 1, 2].map(|n| format!("{plane}/{ACCOUNT}/page-{n}")));
    call!(client.purge_queue().queue_url(&url));
    assert!(refused!(client.purge_queue().queue_url(&url)).is_purge_queue_in_progress());
    call!(client.delete_queue().queue_url(&found[0]));
    assert!(refused!(client.get_queue_url().queue_name("page-0")).is_queue_does_not_exist());
    assert!(refused!(client.create_queue().queue_name("plain").attributes(DelaySeconds, "9")).is_queue_name_exists());
}

async fn messages(client: &Client) {
    let url = create(client, "messages", &[]).await;
    let body = "<b>& \"quoted\"\\ ä \u{1f600}\r\n\t]]>";
    let attribute = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let text = attribute("String.label").string_value("ä & ö").build().expect("whole");
    let bytes = attribute("Binary").binary_value(Blob::new([0, 255])).build().expect("whole");
    let sent = call!(
        client
            .send_message()
            .queue_url(&url)
            .message_body(body)
            .message_attributes("kind", text.clone())
            .message_attributes("bytes", bytes.clone())
    );
    let [message] = &receive(client, &url, 30).await[..] else { panic!("one message") };
    assert_eq!((message.body(), message.message_id()), (Some(body), sent.message_id()));
    let wanted = HashMap::from([("kind".to_owned(), text), ("bytes".to_owned(), bytes)]);
    assert_eq!(message.message_attributes(), Some(&wanted));
    assert_eq!(message.md5_of_body(), sent.md5_of_message_body());
    assert_eq!(message.md5_of_message_attributes(), sent.md5_of_message_attributes());
    let count = MessageSystemAttributeName::ApproximateReceiveCount;
    assert_eq!(message.attributes().expect("attributes")[&count], "1");
    let handle = receipt(message);
    call!(client.change_message_visibility().queue_url(&url).receipt_handle(handle).visibility_timeout(0));
    let again = receive(client, &url, 30).await;
    let handle = receipt(&again[0]);
    call!(client.delete_message().queue_url(&url).receipt_handle(handle));
    let late =
        refused!(client.change_message_visibility().queue_url(&url).receipt_handle(handle).visibility_timeout(1));
    assert!(late.is_message_not_inflight());
    assert!(refused!(client.delete_message().queue_url(&url).receipt_handle("x")).is_receipt_handle_is_invalid());
    batches(client, &url).await;
}

async fn batches(client: &Client, url: &str) {
    let entry = |(n, body): (usize, &str)| {
        SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().expect("whole")
    };
    let entries = ["one", "two", "\u{1}"].into_iter().enumerate().map(entry).collect();
    let sent = call!(client.send_message_batch().queue_url(url).set_entries(Some(entries)));
    assert_eq!(sent.successful().iter().map(|e| e.id()).collect::<Vec<_>>(), ["0", "1"]);
    assert_eq!(sent.failed().iter().map(|e| (e.id(), e.sender_fault())).collect::<Vec<_>>(), [("2", true)]);
    let got = receive(client, url, 30).await;
    assert_eq!(bodies(&got), ["one", "two"]);
    let hide = |(n, message): (usize, &Message)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string());
        entry.receipt_handle(receipt(message)).visibility_timeout(60).build().expect("whole")
    };
    let entries = got.iter().enumerate().map(hide).collect();
    let hidden = call!(client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries)));
    assert_eq!(hidden.successful().len(), 2);
    let delete = |(n, message): (usize, &Message)| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string());
        entry.receipt_handle(receipt(message)).build().expect("whole")
    };
    let entries = got.iter().enumerate().map(delete).collect();
    let deleted = call!(client.delete_message_batch().queue_url(url).set_entries(Some(entries)));
    assert_eq!(deleted.successful().len(), 2);
    assert!(refused!(client.send_message_batch().queue_url(url).set_entries(Some(vec![]))).is_empty_batch_request());
}

async fn order(client: &Client) {
    use QueueAttributeName::{ContentBasedDeduplication, FifoQueue};
    let url = create(client, "orders.fifo", &[(FifoQueue, "true"), (ContentBasedDeduplication, "true")]).await;
    let mut ids = vec![];
    for body in ["a", "a", "b"] {
        let sent = call!(client.send_message().queue_url(&url).message_body(body).message_group_id("g"));
        assert!(sent.sequence_number().is_some());
        ids.push(sent.message_id);
    }
    assert_eq!(ids[0], ids[1], "the same content is the same message");
    assert_eq!(bodies(&receive(client, &url, 30).await), ["a", "b"]);
}

async fn dead_letters(client: &Client) {
    let dead = create(client, "dead", &[]).await;
    let policy = format!(r#"{{"deadLetterTargetArn": "{}", "maxReceiveCount": 1}}"#, arn("dead"));
    let source = create(client, "source", &[(QueueAttributeName::RedrivePolicy, &policy)]).await;
    let sources = call!(client.list_dead_letter_source_queues().queue_url(&dead));
    assert_eq!(sources.queue_urls(), std::slice::from_ref(&source));
    for _ in 0..3 {
        call!(client.send_message().queue_url(&source).message_body("poison"));
    }
    assert_eq!(receive(client, &source, 0).await.len(), 3);
    assert!(receive(client, &source, 0).await.is_empty());
    let begun = call!(client.start_message_move_task().source_arn(arn("dead")).max_number_of_messages_per_second(1));
    let handle = begun.task_handle().expect("a handle");
    let status = |moves: &[aws_sdk_sqs::types::ListMessageMoveTasksResultEntry]| moves[0].status().map(str::to_owned);
    let moves = call!(client.list_message_move_tasks().source_arn(arn("dead")));
    assert_eq!(status(moves.results()).as_deref(), Some("RUNNING"));
    call!(client.cancel_message_move_task().task_handle(handle));
    let moves = call!(client.list_message_move_tasks().source_arn(arn("dead")));
    assert_eq!(status(moves.results()).as_deref(), Some("CANCELLED"));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let plane = std::env::args().nth(1).expect("the address of a plane");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(&plane)
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    let client = Client::from_conf(config);
    queues(&client, &plane).await;
    messages(&client).await;
    order(&client).await;
    dead_letters(&client).await;
    let called = CALLED.lock().expect("no panic").len();
    assert_eq!(called, ACTIONS);
    println!("all {called} actions");
}
