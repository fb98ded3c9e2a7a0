//! What an operator asks of etcd: how members do, who they are, and keeping their databases small.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Repeat, read};
use super::wire::{Header, signed, unsigned};
use super::{Etcd, snapshot};
use crate::{Error, Result};

/// A database of the default limit (2 GiB) is rewritten within this time on a slow disk.
const DEFRAGMENT_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub endpoint: String,
    /// Or why it cannot be told.
    pub status: std::result::Result<MemberStatus, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// See [`super::version_warnings`].
    pub version: String,
    /// Differs between endpoints when they are not of one cluster.
    pub cluster_id: u64,
    pub member_id: u64,
    /// 0 when this member knows none.
    pub leader_id: u64,
    pub revision: u64,
    pub raft_term: u64,
    pub raft_index: u64,
    pub raft_applied_index: u64,
    pub db_bytes: u64,
    /// The rest comes free by defragmenting.
    pub db_in_use_bytes: u64,
    pub is_learner: bool,
    /// What it says against itself.
    pub errors: Vec<String>,
    /// Of the whole cluster, as this member knows them.
    pub alarms: Vec<Alarm>,
}

impl MemberStatus {
    pub fn is_leader(&self) -> bool {
        self.leader_id != 0 && self.leader_id == self.member_id
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub member_id: u64,
    /// `NOSPACE` (nothing can be written) or `CORRUPT`.
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started for the first time.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

#[derive(Deserialize)]
struct StatusAnswer {
    header: Header,
    #[serde(default)]
    version: String,
    #[serde(default, deserialize_with = "unsigned")]
    leader: u64,
    #[serde(default, rename = "raftTerm", deserialize_with = "unsigned")]
    raft_term: u64,
    #[serde(default, rename = "raftIndex", deserialize_with = "unsigned")]
    raft_index: u64,
    #[serde(default, rename = "raftAppliedIndex", deserialize_with = "unsigned")]
    raft_applied_index: u64,
    #[serde(default, rename = "dbSize", deserialize_with = "signed")]
    db_size: i64,
    #[serde(default, rename = "dbSizeInUse", deserialize_with = "signed")]
    db_size_in_use: i64,
    #[serde(default, rename = "isLearner")]
    is_learner: bool,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct AlarmAnswer {
    #[serde(default)]
    alarms: Vec<RawAlarm>,
}

#[derive(Deserialize)]
struct RawAlarm {
    #[serde(default, rename = "memberID", deserialize_with = "unsigned")]
    member_id: u64,
    #[serde(default)]
    alarm: String,
}

#[derive(Deserialize)]
struct MembersAnswer {
    #[serde(default)]
    members: Vec<RawMember>,
}

#[derive(Deserialize)]
struct AddedAnswer {
    member: RawMember,
}

#[derive(Deserialize)]
struct RawMember {
    #[serde(default, rename = "ID", deserialize_with = "unsigned")]
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
    #[serde(default, rename = "isLearner")]
    is_learner: bool,
}

impl From<RawMember> for Member {
    fn from(raw: RawMember) -> Member {
        let RawMember { id, name, peer_urls, client_urls, is_learner } = raw;
        Member { id, name, peer_urls, client_urls, is_learner }
    }
}

impl From<AlarmAnswer> for Vec<Alarm> {
    fn from(answer: AlarmAnswer) -> Vec<Alarm> {
        answer.alarms.into_iter().map(|raw| Alarm { member_id: raw.member_id, kind: raw.alarm }).collect()
    }
}

impl Etcd {
    /// Of every endpoint, asked at the same time; takes no longer than two requests may.
    pub async fn status(&self) -> Vec<EndpointStatus> {
        let mut asked = JoinSet::new();
        for index in 0..self.inner.client.len() {
            let etcd = self.clone();
            asked.spawn(async move { (index, etcd.status_of(index).await) });
        }
        let mut all: Vec<_> = asked.join_all().await;
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, status)| status).collect()
    }

    async fn status_of(&self, index: usize) -> EndpointStatus {
        let limit = self.inner.client.request_timeout;
        let status = self.ask::<StatusAnswer>(index, "/v3/maintenance/status", json!({}), limit).await;
        let endpoint = self.inner.client.name(index).to_owned();
        EndpointStatus { endpoint, status: status.map(member_status).map_err(|e| e.to_string()) }
    }

    async fn ask<T: DeserializeOwned>(&self, index: usize, path: &str, request: Value, limit: Duration) -> Result<T> {
        let body = Bytes::from(request.to_string());
        let client = &self.inner.client;
        client.at(index, path, &body, limit, read).await.map_err(|failure| failure.into_error(client.name(index)))
    }

    pub async fn members(&self) -> Result<Vec<Member>> {
        let request = json!({"linearizable": true});
        let answer: MembersAnswer = self.inner.client.call("/v3/cluster/member/list", &request, Repeat::Yes).await?;
        Ok(answer.members.into_iter().map(Member::from).collect())
    }

    /// Announces a member that is about to start with `peer_urls`.
    pub async fn add_member(&self, peer_urls: &[String]) -> Result<Member> {
        let request = json!({"peerURLs": peer_urls});
        let answer: AddedAnswer = self.inner.client.call("/v3/cluster/member/add", &request, Repeat::No).await?;
        Ok(answer.member.into())
    }

    pub async fn remove_member(&self, id: u64) -> Result<()> {
        let request = json!({"ID": id.to_string()});
        let _: MembersAnswer = self.inner.client.call("/v3/cluster/member/remove", &request, Repeat::No).await?;
        Ok(())
    }

    pub async fn alarms(&self) -> Result<Vec<Alarm>> {
        let request = json!({"action": "GET"});
        let answer: AlarmAnswer = self.inner.client.call("/v3/maintenance/alarm", &request, Repeat::Yes).await?;
        Ok(answer.into())
    }

    /// After its cause is gone; disarming what is not armed does nothing.
    pub async fn disarm(&self, alarm: &Alarm) -> Result<()> {
        let request = json!({"action": "DEACTIVATE", "memberID": alarm.member_id.to_string(), "alarm": alarm.kind});
        let _: AlarmAnswer = self.inner.client.call("/v3/maintenance/alarm", &request, Repeat::Yes).await?;
        Ok(())
    }

    /// Gives free pages of one member's database back; that member answers nobody meanwhile.
    pub async fn defragment(&self, endpoint: &str) -> Result<()> {
        let index = self.index_of(endpoint)?;
        let _: Value = self.ask(index, "/v3/maintenance/defragment", json!({}), DEFRAGMENT_TIMEOUT).await?;
        Ok(())
    }

    /// A copy of one member's database in `file`, for `etcdctl snapshot restore`; its checksum is verified. Bytes written.
    pub async fn snapshot(&self, endpoint: &str, file: &Path) -> Result<u64> {
        let index = self.index_of(endpoint)?;
        snapshot::save(&self.inner.client, index, file).await
    }

    fn index_of(&self, endpoint: &str) -> Result<usize> {
        let wanted = endpoint.trim_end_matches('/');
        let found = (0..self.inner.client.len()).find(|index| self.inner.client.name(*index) == wanted);
        let reason = || format!("{endpoint} is none of the configured endpoints");
        found.ok_or_else(|| Error::Setup { what: "endpoint".into(), reason: reason() })
    }
}

fn member_status(answer: StatusAnswer) -> MemberStatus {
    // Asking for alarms is a vote of the whole cluster; what a member knows of them stands among its errors.
    let (alarms, errors) = answer.errors.into_iter().partition::<Vec<_>, _>(|error| alarm(error).is_some());
    MemberStatus {
        version: answer.version,
        cluster_id: answer.header.cluster_id,
        member_id: answer.header.member_id,
        leader_id: answer.leader,
        revision: answer.header.revision,
        raft_term: answer.raft_term,
        raft_index: answer.raft_index,
        raft_applied_index: answer.raft_applied_index,
        db_bytes: answer.db_size.unsigned_abs(),
        db_in_use_bytes: answer.db_size_in_use.unsigned_abs(),
        is_learner: answer.is_learner,
        errors,
        alarms: alarms.iter().filter_map(|text| alarm(text)).collect(),
    }
}

/// `memberID:123 alarm:NOSPACE`
fn alarm(text: &str) -> Option<Alarm> {
    let mut fields = text.split_whitespace().map(|field| field.split_once(':'));
    let (("memberID", id), ("alarm", kind)) = (fields.next()??, fields.next()??) else { return None };
    Some(Alarm { member_id: id.parse().ok()?, kind: kind.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_from_other_errors() {
        let nospace = Alarm { member_id: 8_630_161_756_594_109_333, kind: "NOSPACE".into() };
        assert_eq!(alarm("memberID:8630161756594109333 alarm:NOSPACE "), Some(nospace.clone()));
        assert_eq!(alarm("memberID:8630161756594109333  alarm:NOSPACE"), Some(nospace));
        for other in ["", "etcdserver: no leader", "memberID:x alarm:NOSPACE", "memberID:1", "alarm:NOSPACE memberID:1"]
        {
            assert_eq!(alarm(other), None, "{other}");
        }
    }
}
