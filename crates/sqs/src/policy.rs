//! `AddPermission` and `RemovePermission`: statements of a queue's policy. It is kept for tools that read it; who may
//! do what is decided by the access keys alone.

use serde_json::{Value, json};

use crate::fault::{Fault, INVALID_PARAMETER, Result};
use crate::limits::{ENTRY_ID_MAX, POLICY_ACCOUNTS_MAX, POLICY_ACTIONS_MAX};
use crate::shapes::{AddPermission, Text};

/// What an owner can let others do.
const SHARED: &[&str] = &[
    "*",
    "ChangeMessageVisibility",
    "DeleteMessage",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListDeadLetterSourceQueues",
    "PurgeQueue",
    "ReceiveMessage",
    "SendMessage",
];
const VERSION: &str = "2008-10-17";

/// The policy with one more statement.
pub(crate) fn with(policy: Option<&str>, arn: &str, request: &AddPermission) -> Result<String> {
    let label = label(request.label.as_deref())?;
    let accounts = request.accounts.as_ref().filter(|list| list.count > 0);
    let accounts = accounts.ok_or_else(|| Fault::missing("AWSAccountIds"))?;
    let actions = request.actions.as_ref().filter(|list| list.count > 0).ok_or_else(|| Fault::missing("Actions"))?;
    if accounts.count > POLICY_ACCOUNTS_MAX || actions.count > POLICY_ACTIONS_MAX {
        let message =
            format!("A statement has at most {POLICY_ACTIONS_MAX} actions and {POLICY_ACCOUNTS_MAX} accounts.");
        return Err(Fault::new(INVALID_PARAMETER, message));
    }
    let principals = accounts.items.iter().map(|id| principal(id)).collect::<Result<Vec<_>>>()?;
    let actions = actions.items.iter().map(action).collect::<Result<Vec<_>>>()?;
    let mut policy = parse(policy, arn);
    let statements = statements(&mut policy);
    if statements.iter().any(|statement| statement["Sid"] == label) {
        return Err(Fault::value("Label", label, "Already exists."));
    }
    statements.push(json!({
        "Sid": label,
        "Effect": "Allow",
        "Principal": { "AWS": one_or_many(principals) },
        "Action": one_or_many(actions),
        "Resource": arn,
    }));
    Ok(policy.to_string())
}

/// The policy without a statement; `None` when no statement is left.
pub(crate) fn without(policy: Option<&str>, arn: &str, label: &str) -> Result<Option<String>> {
    let mut policy = parse(policy, arn);
    let statements = statements(&mut policy);
    let before = statements.len();
    statements.retain(|statement| statement["Sid"] != label);
    if statements.len() == before {
        return Err(Fault::value("Label", label, "can't find label."));
    }
    Ok((!statements.is_empty()).then(|| policy.to_string()))
}

/// A label looks like the id of an entry.
pub(crate) fn label(label: Option<&str>) -> Result<&str> {
    let label = label.ok_or_else(|| Fault::missing("Label"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if label.is_empty() || label.len() > ENTRY_ID_MAX || !label.chars().all(allowed) {
        let reason = "It must be 1 to 80 letters, digits, hyphens and underscores.";
        return Err(Fault::value("Label", label, reason));
    }
    Ok(label)
}

fn principal(account: &str) -> Result<String> {
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::value("PrincipalId", account, "An account is 12 digits."));
    }
    Ok(format!("arn:aws:iam::{account}:root"))
}

fn action(action: &Text) -> Result<String> {
    if !SHARED.contains(&&**action) {
        return Err(Fault::value("ActionName", &**action, "Only the queue owner is allowed to invoke this action."));
    }
    Ok(format!("SQS:{}", &**action))
}

/// A policy that somebody set by hand in another form gets its statements as a list.
fn parse(policy: Option<&str>, arn: &str) -> Value {
    let parsed = policy.and_then(|text| serde_json::from_str(text).ok()).filter(Value::is_object);
    parsed.unwrap_or_else(|| json!({ "Version": VERSION, "Id": format!("{arn}/SQSDefaultPolicy"), "Statement": [] }))
}

fn statements(policy: &mut Value) -> &mut Vec<Value> {
    let slot = &mut policy["Statement"];
    if !slot.is_array() {
        let one = slot.take();
        *slot = Value::Array(if one.is_null() { vec![] } else { vec![one] });
    }
    slot.as_array_mut().expect("it was made a list just now")
}

fn one_or_many(mut texts: Vec<String>) -> Value {
    match texts.len() {
        1 => texts.remove(0).into(),
        _ => texts.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sqs:r:1:q";

    fn add(policy: Option<&str>, label: &str, accounts: &[&str], actions: &[&str]) -> Result<String> {
        let text = json!({ "Label": label, "AWSAccountIds": accounts, "Actions": actions }).to_string();
        with(policy, ARN, &serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn statements_come_and_go() {
        let one = add(None, "a", &["111111111111", "222222222222"], &["SendMessage"]).unwrap();
        let two = add(Some(&one), "b", &["111111111111"], &["*", "ReceiveMessage"]).unwrap();
        let value: Value = serde_json::from_str(&two).unwrap();
        assert_eq!(value["Statement"][0]["Principal"]["AWS"][1], "arn:aws:iam::222222222222:root");
        assert_eq!(value["Statement"][0]["Action"], "SQS:SendMessage");
        assert_eq!(value["Statement"][1]["Action"], json!(["SQS:*", "SQS:ReceiveMessage"]));
        assert_eq!(value["Statement"][1]["Resource"], ARN);
        assert!(add(Some(&two), "a", &["111111111111"], &["*"]).unwrap_err().message.contains("Already exists"));
        let left = without(Some(&two), ARN, "a").unwrap().unwrap();
        assert_eq!(without(Some(&left), ARN, "b").unwrap(), None);
        assert!(without(None, ARN, "b").unwrap_err().message.contains("can't find label"));
    }

    #[test]
    fn what_is_refused() {
        let account = ["111111111111"];
        assert!(add(None, "a b", &account, &["*"]).is_err());
        assert!(add(None, "a", &["root"], &["*"]).is_err());
        assert!(add(None, "a", &account, &["CreateQueue"]).is_err());
        assert!(add(None, "a", &[], &["*"]).unwrap_err().message.contains("AWSAccountIds"));
        assert!(add(None, "a", &account, &[]).unwrap_err().message.contains("Actions"));
        assert!(add(None, "a", &account, &["*"; 8]).is_err());
    }

    #[test]
    fn a_policy_of_another_form_is_kept() {
        let by_hand = r#"{"Version":"2012-10-17","Statement":{"Sid":"x","Effect":"Deny"}}"#;
        let value: Value = serde_json::from_str(&add(Some(by_hand), "a", &["111111111111"], &["*"]).unwrap()).unwrap();
        assert_eq!((&value["Version"], value["Statement"].as_array().unwrap().len()), (&json!("2012-10-17"), 2));
    }
}
