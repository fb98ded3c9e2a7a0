//! The agent's API: axum on the Unix socket.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::core::Core;
use super::member::alone;
use crate::api::{
    Applied, Apply, CanLose, ClusterInfo, Desired, Done, IncidentQuery, KeyInfo, KeyWish, MigrateQuery, NodeChange,
    Pause, RenewWish, Restart, Resume, Rolling, RollingNext, Scale, Switchover, Token, TokenWish, WhyQuery,
};
use crate::failure::{Exit, Failure};
use crate::layout::Layout;

/// A configuration file is at most 4 MiB; JSON escapes may double it.
const REQUEST_BYTES_MAX: usize = 10 << 20;

type Answer<T> = Result<Json<T>, Failure>;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.exit {
            Exit::Usage => StatusCode::BAD_REQUEST,
            Exit::Refused => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}

pub(super) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/v1/ping", get(async || Json(serde_json::json!({ "pid": std::process::id() }))))
        .route("/v1/status", get(async |State(core): State<Arc<Core>>| Json(core.status().await)))
        .route("/v1/system", get(async |State(core): State<Arc<Core>>| Json(core.system().await)))
        .route("/v1/desired", get(desired))
        .route("/v1/why/{name}", get(why))
        .route("/v1/incidents", get(incidents))
        .route("/v1/apply", post(apply))
        .route("/v1/down", post(down))
        .route("/v1/restart", post(restart))
        .route("/v1/scale", post(scale))
        .route("/v1/switchover", post(switchover))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/node", post(node))
        .route("/v1/can-lose/{what}", get(can_lose))
        .route("/v1/cluster", get(cluster))
        .route("/v1/keys", get(keys).post(change_keys))
        .route("/v1/cluster/token", post(cluster_token))
        .route("/v1/cluster/renew", post(cluster_renew))
        .route("/v1/rolling", post(rolling))
        .route("/v1/migrate", post(migrate))
        .route("/v1/tasks/{*path}", any(tasks))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(core)
}

/// Binds the socket anew: the agent's lock is held, so whoever left one there is dead.
pub(super) fn bind(layout: &Layout) -> Result<UnixListener, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new("HF0314", format!("cannot listen on {}", layout.socket().display()))
            .because(e)
            .hint("holdfast doctor")
    };
    let socket = layout.socket();
    let dir = holdfast_host::seqpacket::open_dir(&layout.data_dir).map_err(failed)?;
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // By the directory's descriptor: a socket address holds 108 bytes, a data directory may be deeper.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/agent.sock", dir.as_raw_fd())).map_err(failed)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

pub(super) async fn serve(listener: UnixListener, core: Arc<Core>) {
    if let Err(error) = axum::serve(listener, router(core)).await {
        tracing::error!(code = "HF0314", %error, "the API ended");
    }
}

async fn desired(State(core): State<Arc<Core>>) -> Answer<Option<Desired>> {
    Ok(Json(core.desired().await))
}

async fn why(
    State(core): State<Arc<Core>>,
    Path(name): Path<String>,
    Query(query): Query<WhyQuery>,
) -> Answer<crate::api::Why> {
    core.why(&name, query.incident).await.map(Json)
}

async fn incidents(
    State(core): State<Arc<Core>>,
    Query(query): Query<IncidentQuery>,
) -> Answer<Vec<crate::api::Incident>> {
    core.incidents(&query).await.map(Json)
}

async fn apply(State(core): State<Arc<Core>>, Json(request): Json<Apply>) -> Answer<Applied> {
    core.apply(request).await.map(Json)
}

async fn down(State(core): State<Arc<Core>>) -> Answer<Done> {
    core.down().await.map(Json)
}

async fn restart(State(core): State<Arc<Core>>, Json(request): Json<Restart>) -> Answer<Done> {
    core.restart(&request.target).await.map(Json)
}

async fn scale(State(core): State<Arc<Core>>, Json(request): Json<Scale>) -> Answer<Done> {
    core.scale(&request.service, request.replicas).await.map(Json)
}

async fn switchover(State(core): State<Arc<Core>>, Json(request): Json<Switchover>) -> Answer<Done> {
    core.switch_over(request).await.map(Json)
}

async fn pause(State(core): State<Arc<Core>>, Json(request): Json<Pause>) -> Answer<Done> {
    core.pause(request).await.map(Json)
}

async fn resume(State(core): State<Arc<Core>>, Json(request): Json<Resume>) -> Answer<Done> {
    core.resume(request).await.map(Json)
}

async fn node(State(core): State<Arc<Core>>, Json(request): Json<NodeChange>) -> Answer<Done> {
    core.change_node(&request).await.map(Json)
}

async fn can_lose(State(core): State<Arc<Core>>, Path(what): Path<String>) -> Answer<CanLose> {
    core.can_lose(&what).await.map(Json)
}

async fn cluster(State(core): State<Arc<Core>>) -> Answer<ClusterInfo> {
    core.member.as_ref().ok_or_else(alone).map(|member| Json(member.info()))
}

async fn keys(State(core): State<Arc<Core>>) -> Answer<Vec<KeyInfo>> {
    core.member.as_ref().ok_or_else(alone).map(|member| Json(member.keys()))
}

async fn change_keys(State(core): State<Arc<Core>>, Json(request): Json<KeyWish>) -> Answer<Done> {
    core.change_key(&request).await.map(Json)
}

async fn cluster_token(State(core): State<Arc<Core>>, Json(request): Json<TokenWish>) -> Answer<Token> {
    core.join_token(&request).await.map(Json)
}

async fn cluster_renew(State(core): State<Arc<Core>>, Json(request): Json<RenewWish>) -> Answer<Done> {
    core.renew(&request).await.map(Json)
}

async fn rolling(State(core): State<Arc<Core>>, Json(request): Json<Rolling>) -> Answer<RollingNext> {
    core.rolling(&request).await.map(Json)
}

async fn migrate(
    State(core): State<Arc<Core>>,
    Query(query): Query<MigrateQuery>,
    Json(request): Json<Apply>,
) -> Answer<Done> {
    core.migrate(&request, query.node.as_deref()).await.map(Json)
}

/// Passed on to the plane that keeps queues and workflows.
async fn tasks(State(core): State<Arc<Core>>, method: Method, uri: Uri, body: Bytes) -> Result<Response, Failure> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let path = path.strip_prefix("/v1/tasks").unwrap_or(path);
    let answer = core.tasks.ask(method, &format!("/v1{path}"), body).await?;
    Ok(answer.map(axum::body::Body::from).into_response())
}

pub(super) async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let (content_type, body) = core.metrics().await;
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
