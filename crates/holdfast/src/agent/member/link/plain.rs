//! The greeting of a cluster without an authority: read-only, and proof of nothing but that somebody answers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Questions;

/// Longest question or answer.
const LINE_BYTES_MAX: usize = 256;
const HELLO: &str = "holdfast-link 1";

/// One question, one answer.
pub(super) async fn answer(stream: &mut TcpStream, name: &str, questions: &Questions) -> Option<()> {
    let line = read_line(stream).await?;
    let more = line.strip_prefix(HELLO)?;
    let told = match more.strip_prefix(' ') {
        None if more.is_empty() => String::new(),
        None => return None,
        Some(asked) => {
            let (question, argument) = asked.split_once(' ')?;
            format!(" {}", questions.answer(question, argument)?)
        }
    };
    stream.write_all(format!("{HELLO} {name}{told}\n").as_bytes()).await.ok()
}

pub(super) async fn ask(addr: SocketAddr, name: &str, question: &str, argument: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let line = exchange(&mut stream, &format!("{HELLO} {question} {argument}")).await.ok()??;
    line.strip_prefix(&format!("{HELLO} {name} ")).map(str::to_owned)
}

/// Whether it is `name`; `None` when it closes without a word.
pub(in super::super) async fn look(addr: SocketAddr, name: &str) -> std::io::Result<Option<bool>> {
    let mut stream = TcpStream::connect(addr).await?;
    let line = exchange(&mut stream, HELLO).await?;
    Ok(line.map(|line| line == format!("{HELLO} {name}")))
}

async fn exchange(stream: &mut TcpStream, line: &str) -> std::io::Result<Option<String>> {
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    Ok(read_line(stream).await)
}

async fn read_line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(line).ok(),
            byte if line.len() < LINE_BYTES_MAX => line.push(byte),
            _ => return None,
        }
    }
}
