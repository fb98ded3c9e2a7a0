//! `holdfast queue …`: what waits, what failed, and what to do about it.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_tasks::control::{MessageInfo, MoveInfo, QueueInfo, Redrive, Send, SendDone};

use super::{Common, duration, print_json, print_text};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, human, plural, table, width};

/// A message is at most 1 MiB; one byte more tells that it is too long.
const MESSAGE_BYTES_MAX: u64 = (1 << 20) + 1;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every queue: what waits, how old it is, what is among the dead letters
    List,
    /// Look at messages without receiving them
    Peek {
        queue: String,
        /// The first so many
        #[arg(short = 'n', long, default_value_t = 10)]
        limit: u32,
    },
    /// Send one message
    Send(SendOptions),
    /// Take dead letters back to the queues they came from
    Redrive {
        /// The queue that holds them
        queue: String,
        /// All to this queue instead
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        /// Messages a second [default: 500]
        #[arg(long)]
        rate: Option<u32>,
    },
    /// How the moves of a queue's dead letters went
    Moves { queue: String },
    /// Throw away everything that is in a queue
    Purge {
        queue: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SendOptions {
    queue: String,
    /// The message; from standard input when left out
    body: Option<String>,
    /// Read the message from a file
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// Visible after this time, for example 10m
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Group of a FIFO queue
    #[arg(long)]
    group: Option<String>,
    /// Deduplication id of a FIFO queue
    #[arg(long)]
    deduplication: Option<String>,
    /// Sent once for each key, however often this is run
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    let client = common.client()?;
    match command {
        Command::List => list(common, &client).await,
        Command::Peek { queue, limit } => peek(common, &client, &queue, limit).await,
        Command::Send(options) => send(common, &client, options).await,
        Command::Redrive { queue, to, rate } => {
            let task: MoveInfo = client.post(&path(&queue, "/redrive"), &Redrive { to, rate }).await?;
            said(common, &task, &format!("moving {} from {queue}\n", plural(task.to_move as usize, "message")))
        }
        Command::Moves { queue } => moves(common, &client, &queue).await,
        Command::Purge { queue, yes } => purge(common, &client, &queue, yes).await,
    }
}

fn path(queue: &str, rest: &str) -> String {
    format!("/v1/tasks/queues/{queue}{rest}")
}

fn said(common: &Common, value: &impl serde::Serialize, text: &str) -> Result<Exit, Failure> {
    match common.json {
        true => print_json(value)?,
        false => print_text(text),
    }
    Ok(Exit::Ok)
}

async fn list(common: &Common, client: &Client) -> Result<Exit, Failure> {
    let queues: Vec<QueueInfo> = client.get("/v1/tasks/queues").await?;
    if common.json {
        print_json(&queues)?;
        return Ok(Exit::Ok);
    }
    if queues.is_empty() {
        print_text("no queues: write [queue.NAME] into the file, or let a client create one\n");
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let names = ["QUEUE", "VISIBLE", "IN FLIGHT", "DELAYED", "OLDEST", "DEAD LETTERS"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for queue in &queues {
        rows.push(row(queue, &queues, style));
    }
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

fn row(queue: &QueueInfo, all: &[QueueInfo], style: Style) -> Vec<String> {
    let holds_dead_letters = !queue.dead_letters_of.is_empty();
    let visible = queue.visible.to_string();
    let oldest = match queue.visible + queue.in_flight + queue.delayed {
        0 => "-".to_owned(),
        _ => human(Duration::from_millis(queue.oldest_ms)),
    };
    let dead = queue.dead_letter.as_ref().map_or_else(String::new, |name| {
        let there = all.iter().find(|q| q.name == *name).map_or(0, |q| q.visible + q.in_flight);
        format!("{there} in {name}")
    });
    vec![
        queue.name.clone(),
        if holds_dead_letters && queue.visible > 0 { style.red(&visible) } else { visible },
        queue.in_flight.to_string(),
        queue.delayed.to_string(),
        oldest,
        dead,
    ]
}

async fn peek(common: &Common, client: &Client, queue: &str, limit: u32) -> Result<Exit, Failure> {
    let messages: Vec<MessageInfo> = client.get(&path(queue, &format!("/messages?many={limit}"))).await?;
    if common.json {
        print_json(&messages)?;
        return Ok(Exit::Ok);
    }
    if messages.is_empty() {
        print_text(&format!("{queue} is empty\n"));
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let mut text = String::new();
    for message in &messages {
        text.push_str(&shown(message, style));
    }
    print_text(&text);
    Ok(Exit::Ok)
}

/// One message: what it is, then what happened to it, then the beginning of its body.
fn shown(m: &MessageInfo, style: Style) -> String {
    let age = holdfast_host::clock::wall_ms().saturating_sub(m.sent_wall_ms);
    let mut lines = vec![format!(
        "{}  {}, sent {} ago, received {}, failed {}",
        style.bold(&m.id),
        m.state,
        human(Duration::from_millis(age)),
        plural(m.receives as usize, "time"),
        plural(m.failures as usize, "time"),
    )];
    if let Some(dead) = &m.dead {
        let error = dead.error.as_ref().map_or_else(String::new, |e| format!(": {}", first_line(e)));
        lines.push(format!("  {} of {} ({}){error}", style.red("dead letter"), dead.source, dead.reason));
    } else if let Some(error) = &m.error {
        lines.push(format!("  last error: {}", first_line(error)));
    }
    lines.push(format!("  {}", first_line(&m.body)));
    lines.join("\n") + "\n"
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let room = width().saturating_sub(4).max(20);
    // Control characters of a message are not for this terminal.
    let clean: String = line.chars().filter(|c| !c.is_control()).collect();
    match clean.chars().count() > room {
        true => clean.chars().take(room - 1).chain(['…']).collect(),
        false => clean,
    }
}

async fn send(common: &Common, client: &Client, options: SendOptions) -> Result<Exit, Failure> {
    let body = match (options.body, options.file) {
        (Some(body), _) => body,
        (None, Some(file)) => {
            let opened = std::fs::File::open(&file);
            read(opened.map_err(|e| unreadable(&file.display(), e))?, &file.display())?
        }
        (None, None) => read(std::io::stdin().lock(), &"standard input")?,
    };
    let delay = options.delay.as_deref().map(duration).transpose()?;
    let message = Send {
        body,
        delay_ms: delay.map(holdfast_policy::time::millis),
        group: options.group,
        deduplication: options.deduplication,
        idempotency: options.idempotency_key,
        fingerprint: None,
    };
    let done: SendDone = client.post(&path(&options.queue, "/messages"), &message).await?;
    let again = if done.duplicate { "sent before as" } else { "sent" };
    said(common, &done, &format!("{again} {}\n", done.id))
}

fn read(from: impl Read, name: &dyn std::fmt::Display) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MESSAGE_BYTES_MAX).read_to_string(&mut text).map_err(|e| unreadable(name, e))?;
    Ok(text)
}

fn unreadable(name: &dyn std::fmt::Display, error: std::io::Error) -> Failure {
    Failure::new("HF0811", format!("cannot read the message from {name}"))
        .because(error)
        .hint("messages are text in UTF-8; encode other bytes, for example with base64")
        .exit(Exit::Usage)
}

async fn moves(common: &Common, client: &Client, queue: &str) -> Result<Exit, Failure> {
    let moves: Vec<MoveInfo> = client.get(&path(queue, "/moves")).await?;
    if common.json {
        print_json(&moves)?;
        return Ok(Exit::Ok);
    }
    if moves.is_empty() {
        print_text(&format!("nothing was moved from {queue}\n"));
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    let names = ["STATE", "MOVED", "OF", "TO", "WHY"];
    let mut rows = vec![names.iter().map(|n| style.dim(n)).collect::<Vec<_>>()];
    for task in moves {
        let to = task.destination.unwrap_or_else(|| "where each came from".into());
        let why = task.failure.unwrap_or_default();
        rows.push(vec![task.state, task.moved.to_string(), task.to_move.to_string(), to, why]);
    }
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

async fn purge(common: &Common, client: &Client, queue: &str, yes: bool) -> Result<Exit, Failure> {
    let info: QueueInfo = client.get(&path(queue, "")).await?;
    let many = info.visible + info.in_flight + info.delayed;
    if !yes {
        return Err(Failure::new("HF0812", format!("{queue} holds {}", plural(many as usize, "message")))
            .hint(format!("to throw them away: holdfast queue purge {queue} --yes"))
            .exit(Exit::Refused));
    }
    let () = client.post(&path(queue, "/purge"), &serde_json::json!({})).await?;
    said(common, &serde_json::json!({ "purged": many }), &format!("threw away {}\n", plural(many as usize, "message")))
}
