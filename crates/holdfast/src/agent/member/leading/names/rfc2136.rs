//! A dynamic update of the DNS (RFC 2136), signed by a shared key (TSIG, RFC 8945), over TCP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::dnssec::rdata::tsig::TsigAlgorithm;
use hickory_proto::dnssec::tsig::TSigner;
use hickory_proto::op::{Message, MessageVerifier, ResponseCode, UpdateMessage, update_message};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use holdfast_cluster::etcd::Secret;
use holdfast_config::Dns;
use holdfast_host::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// By how many seconds the clocks of both may differ.
const FUDGE: u16 = 300;

/// Replaces all addresses of the name, in one transaction of the server: it has these afterwards, or those of before.
pub(super) async fn write(
    servers: &[SocketAddr],
    zone: &str,
    dns: &Dns,
    addresses: &BTreeSet<IpAddr>,
    key: Option<&(String, Secret)>,
    limit: Duration,
) -> Result<(), String> {
    let each = limit / u32::try_from(servers.len().max(1)).unwrap_or(1);
    let mut failures = Vec::new();
    for server in servers {
        let (message, verifier) = message(zone, dns, addresses, key)?;
        let asked = tokio::time::timeout(each, ask(*server, &message, verifier)).await;
        match asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", each.as_millis()))) {
            Ok(()) => return Ok(()),
            Err(why) => failures.push(format!("{server}: {why}")),
        }
    }
    Err(failures.join("; "))
}

fn message(
    zone: &str,
    dns: &Dns,
    addresses: &BTreeSet<IpAddr>,
    key: Option<&(String, Secret)>,
) -> Result<(Message, Option<MessageVerifier>), String> {
    let ttl = u32::try_from(dns.ttl.as_secs()).unwrap_or(u32::MAX);
    let (name, zone) = (absolute(&dns.name)?, absolute(zone)?);
    // Also sets number, kind and zone of the message.
    let mut message = update_message::delete_rrset(Record::update0(name.clone(), 0, RecordType::A), zone, false);
    let mut no_aaaa = Record::update0(name.clone(), 0, RecordType::AAAA);
    no_aaaa.set_dns_class(hickory_proto::rr::DNSClass::ANY);
    message.add_update(no_aaaa);
    for address in addresses {
        let data = match address {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        message.add_update(Record::from_rdata(name.clone(), ttl, data));
    }
    let Some((key, secret)) = key else { return Ok((message, None)) };
    let secret = STANDARD.decode(secret.expose().trim()).map_err(|_| format!("the secret of {key} is not base64"))?;
    let signer = TSigner::new(secret, TsigAlgorithm::HmacSha256, absolute(key)?, FUDGE).map_err(|e| e.to_string())?;
    let now = u32::try_from(clock::wall_ms() / 1000).map_err(|_| "the clock is wrong".to_owned())?;
    let verifier = message.finalize(&signer, now).map_err(|e| e.to_string())?;
    Ok((message, verifier))
}

fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|e| format!("{text}: {e}"))?;
    name.set_fqdn(true);
    Ok(name)
}

async fn ask(server: SocketAddr, message: &Message, verifier: Option<MessageVerifier>) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let bytes = message.to_vec().map_err(|e| e.to_string())?;
    let length = u16::try_from(bytes.len()).map_err(|_| "the update is too long".to_owned())?;
    let mut stream = TcpStream::connect(server).await.map_err(said)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.map_err(said)?;
    let length = stream.read_u16().await.map_err(said)?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.map_err(said)?;
    let parsed = Message::from_vec(&answer).map_err(|e| format!("not an answer: {e}"))?;
    if parsed.id() != message.id() {
        return Err("an answer to another question".to_owned());
    }
    // A server that does not know the key cannot sign its refusal.
    if parsed.response_code() != ResponseCode::NoError {
        return Err(format!("it refuses the update: {}", parsed.response_code()));
    }
    match verifier {
        Some(mut verify) => {
            verify(&answer).map(drop).map_err(|e| format!("its answer is not signed as it should be: {e}"))
        }
        None => Ok(()),
    }
}
