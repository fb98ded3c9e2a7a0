//! With which key of the file a drill's prober signs.

use std::sync::Arc;

use holdfast_config::{AccessKey, Config, Permission, Value};
use holdfast_drill::Access;
use holdfast_sqs::{Secret, Signer};

/// A drill's queues are called so, and each has another number.
const QUEUES: &str = "_drill-0";

pub(super) fn of(config: &Config) -> Access {
    if config.keys.is_empty() {
        return Access::Open;
    }
    let may = |key: &&AccessKey| [Permission::Send, Permission::Receive].iter().all(|p| key.may(*p, QUEUES));
    let Some(key) = config.keys.values().find(may) else {
        let hint = "no key of the file may send and receive in queues of drills; give one queues = [\"_drill-*\"]";
        return Access::Barred(hint.to_owned());
    };
    let region = config.tasks.as_ref().map(|t| t.region.clone()).unwrap_or_default();
    match secret(&key.secret) {
        Ok(secret) => Access::Key(Arc::new(Signer { id: key.id.clone(), secret: Secret::new(secret), region })),
        Err(because) => Access::Barred(format!("the secret of the key `{}` cannot be read: {because}", key.name)),
    }
}

fn secret(value: &Value) -> Result<String, String> {
    let text = match value {
        Value::Plain(text) => text.clone(),
        Value::File(path) => std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
        Value::Env(name) => std::env::var(name).map_err(|e| format!("{name}: {e}"))?,
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
