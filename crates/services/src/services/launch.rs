//! What an instance is launched with: the definition as the shim reads it, placeholders filled in.

use std::path::PathBuf;

use holdfast_config::{Check, Command, Kind, Value};
use holdfast_host::shim::spec::{Log, Restart, Spec, Stop, Value as SpecValue};
use holdfast_policy::InstanceId;
use holdfast_policy::time::millis;

use crate::supervisor::{Definition, Launch, Role};

pub(crate) const LABEL_DEFINITION: &str = "definition";
pub(crate) const LABEL_PORT: &str = "port";
pub(crate) const LABEL_HOST: &str = "host";

/// `{port}`, `{host}`, `{service}`, `{instance}` and `{ordinal}` stand for the values of the instance.
pub(crate) fn fill(text: &str, definition: &Definition, instance: &InstanceId, port: Option<u16>) -> String {
    if !text.contains('{') {
        return text.to_owned();
    }
    let port = port.map_or_else(String::new, |p| p.to_string());
    text.replace("{port}", &port)
        .replace("{host}", &definition.service.host.to_string())
        .replace("{service}", &instance.service)
        .replace("{instance}", &instance.to_string())
        .replace("{ordinal}", &instance.ordinal.to_string())
}

pub(crate) fn spec(launch: &Launch, node: &str, cgroup: Option<PathBuf>) -> Spec {
    let (definition, instance) = (&*launch.definition, &launch.instance);
    let service = &definition.service;
    let fill = |text: &String| fill(text, definition, instance, launch.port);
    let argv = match &service.command {
        Command::Argv(argv) => argv.iter().map(fill).collect(),
        Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), fill(line)],
    };
    let notifies = [&service.startup, &service.ready, &service.live];
    let notify = notifies.into_iter().flatten().any(|p| p.check == Check::Notify);
    let mut labels = vec![(LABEL_DEFINITION.to_owned(), format!("{:016x}", definition.hash))];
    labels.extend(launch.port.map(|p| (LABEL_PORT.to_owned(), p.to_string())));
    labels.push((LABEL_HOST.to_owned(), service.host.to_string()));
    Spec {
        instance: instance.to_string(),
        ordinal: instance.ordinal,
        node: node.to_owned(),
        generation: launch.generation,
        argv,
        env: environment(definition, instance, launch.port),
        env_files: service.env_files.clone(),
        // holdfast's own processes need what the agent was given; programs get the short list.
        env_inherit: definition.internal,
        spares_descendants: definition.starts_others,
        workdir: Some(service.workdir.clone()),
        user: service.user.clone(),
        group: service.group.clone(),
        umask: service.umask,
        open_files: service.open_files,
        restart: Restart::from(&service.restart),
        stop: Stop {
            command: service.stop.command.as_ref().map(|argv| argv.iter().map(fill).collect()),
            signal: service.stop.signal,
            grace_ms: millis(service.stop.grace),
        },
        log: Log { size_bytes_max: service.log.size_bytes_max, keep: service.log.keep, ..Log::default() },
        notify,
        oneshot: service.kind == Kind::Job,
        fenced: service.fenced,
        standby: matches!(launch.role, Role::Standby | Role::Dry),
        final_deadline: service.standby.is_some(),
        role: if launch.role == Role::Active { String::new() } else { launch.role.name().to_owned() },
        cgroup,
        fds: definition.listeners.clone(),
        labels,
        ..Spec::default()
    }
}

/// What a program of the instance is given: the program itself, and the commands beside it.
pub(crate) fn environment(
    definition: &Definition,
    instance: &InstanceId,
    port: Option<u16>,
) -> Vec<(String, SpecValue)> {
    let mut env: Vec<(String, SpecValue)> = vec![
        ("HOLDFAST_SERVICE".into(), SpecValue::Plain(instance.service.to_string())),
        ("HOLDFAST_INSTANCE".into(), SpecValue::Plain(instance.to_string())),
        ("HOLDFAST_ORDINAL".into(), SpecValue::Plain(instance.ordinal.to_string())),
    ];
    env.extend(port.map(|p| ("PORT".to_owned(), SpecValue::Plain(p.to_string()))));
    for (name, value) in &definition.service.env {
        let value = match value {
            Value::Plain(text) => SpecValue::Plain(fill(text, definition, instance, port)),
            Value::File(path) => SpecValue::File(path.clone()),
            Value::Env(name) => SpecValue::Env(name.clone()),
        };
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value));
    }
    env
}
