//! Moves of messages out of a dead-letter queue.

use super::checks::{range, required};
use super::session::Session;
use crate::action::Class;
use crate::address::{open_task_handle, task_handle};
use crate::backend::{Backend, Error, MoveTask};
use crate::fault::{Fault, INVALID_PARAMETER, NOT_FOUND, Result};
use crate::limits::{MOVE_RATE_MAX, MOVES_MAX};
use crate::shapes::{
    CancelMessageMoveTask, CancelMessageMoveTaskAnswer, ListMessageMoveTasks, ListMessageMoveTasksAnswer,
    MoveTaskAnswer, StartMessageMoveTask, StartMessageMoveTaskAnswer, Text,
};
use crate::wire::Answer;

impl<B: Backend> Session<'_, B> {
    pub(super) async fn start_move(&self, request: StartMessageMoveTask<'_>) -> Result<Answer> {
        let source = self.queue_of_arn("SourceArn", request.source_arn)?;
        self.permit(&source, Class::Manage)?;
        let destination = request.destination_arn.filter(|arn| !arn.is_empty());
        let destination = destination.map(|arn| self.queue_of_arn("DestinationArn", Some(arn))).transpose()?;
        destination.as_deref().map_or(Ok(()), |queue| self.permit_filling(queue))?;
        let rate = request.max_number_of_messages_per_second;
        let rate = range("MaxNumberOfMessagesPerSecond", rate, 1, MOVE_RATE_MAX)?;
        let handle = self.backend.start_move(&source, destination.as_deref(), rate).await.map_err(absent)?;
        self.write(&StartMessageMoveTaskAnswer { task_handle: task_handle(&source, &handle) })
    }

    /// The handle says which queue it belongs to, but a client can write anything there: the queue is asked.
    pub(super) async fn cancel_move(&self, request: CancelMessageMoveTask<'_>) -> Result<Answer> {
        let (source, handle) = open_task_handle(&required("TaskHandle", request.task_handle)?)?;
        self.permit(&source, Class::Manage)?;
        let most = usize::try_from(MOVES_MAX).unwrap_or(usize::MAX);
        let tasks = self.backend.moves(&source, most).await.map_err(absent)?;
        if !tasks.iter().any(|task| task.handle == handle) {
            return Err(Fault::new(NOT_FOUND, "Task does not exist."));
        }
        let moved = self.backend.cancel_move(&handle).await.map_err(absent)?;
        self.write(&CancelMessageMoveTaskAnswer { approximate_number_of_messages_moved: moved })
    }

    pub(super) async fn list_moves(&self, request: ListMessageMoveTasks<'_>) -> Result<Answer> {
        let source = self.queue_of_arn("SourceArn", request.source_arn)?;
        self.permit(&source, Class::Manage)?;
        let limit = range("MaxResults", request.max_results, 1, MOVES_MAX)?.unwrap_or(1);
        let limit = usize::try_from(limit).unwrap_or(1);
        let tasks = self.backend.moves(&source, limit).await.map_err(absent)?;
        let results = tasks.into_iter().map(|task| self.shown(task)).collect();
        self.write(&ListMessageMoveTasksAnswer { results })
    }

    fn shown(&self, task: MoveTask) -> MoveTaskAnswer {
        MoveTaskAnswer {
            task_handle: (task.status == "RUNNING").then(|| task_handle(&task.source, &task.handle)),
            status: task.status,
            source_arn: self.home.arn(&task.source),
            destination_arn: task.destination.map(|queue| self.home.arn(&queue)),
            max_number_of_messages_per_second: task.rate_max,
            approximate_number_of_messages_moved: task.moved,
            approximate_number_of_messages_to_move: task.to_move,
            failure_reason: task.failure,
            started_timestamp: task.started_ms,
        }
    }

    fn queue_of_arn(&self, parameter: &str, arn: Option<Text>) -> Result<String> {
        let arn = required(parameter, arn)?;
        if arn.split(':').count() != 6 || !arn.starts_with("arn:") {
            let form = "arn:<partition>:<service>:<region>:<account-id>:<resource-id>";
            return Err(Fault::new(INVALID_PARAMETER, format!("{parameter} must be of the form {form}.")));
        }
        let name = self.home.name_in_arn(&arn).map(str::to_owned);
        name.ok_or_else(|| Fault::new(NOT_FOUND, format!("The queue that {parameter} names does not exist.")))
    }
}

/// These actions call a missing queue a missing resource.
fn absent(error: Error) -> Fault {
    match error {
        Error::QueueDoesNotExist => Fault::new(NOT_FOUND, "The queue that the request names does not exist."),
        error => error.into(),
    }
}
