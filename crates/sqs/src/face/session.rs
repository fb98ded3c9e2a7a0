//! One request on its way: who asked, what for, and by which name this face was called.

use serde::Serialize;

use crate::action::Class;
use crate::address::Home;
use crate::auth::Principal;
use crate::fault::{ACCESS_DENIED, Fault, Result};
use crate::shapes::{Done, Text};
use crate::wire::{Answer, Call};

pub(super) struct Session<'a, B> {
    pub(super) backend: &'a B,
    pub(super) home: &'a Home,
    /// Beginning of the URLs of queues.
    pub(super) base: String,
    pub(super) who: Principal<'a>,
    pub(super) call: &'a Call<'a>,
}

impl<B> Session<'_, B> {
    /// The queue that the request names, which the caller may use for this action.
    pub(super) fn queue(&self, url: Option<&Text>) -> Result<String> {
        let url = match url {
            Some(url) if !url.is_empty() => &**url,
            _ if self.call.names_queue_by_path() => self.call.path,
            _ => return Err(Fault::missing("QueueUrl")),
        };
        let name = self.home.name_in_url(url)?;
        self.permit(name, self.call.action.class())?;
        Ok(name.to_owned())
    }

    pub(super) fn permit(&self, queue: &str, class: Class) -> Result<()> {
        if self.who.permits(queue, class) {
            return Ok(());
        }
        let (who, action) = (&self.who.id, self.call.action.name().to_ascii_lowercase());
        let message = format!("{who} is not authorized to perform: sqs:{action} on resource: {}", self.home.arn(queue));
        Err(Fault::new(ACCESS_DENIED, message))
    }

    /// May messages be put there that were not sent there: by a redrive policy, or by a move?
    pub(super) fn permit_filling(&self, queue: &str) -> Result<()> {
        if self.who.permits(queue, Class::Send) { Ok(()) } else { self.permit(queue, Class::Manage) }
    }

    pub(super) fn url(&self, queue: &str) -> String {
        format!("{}/{}/{queue}", self.base, self.home.account)
    }

    pub(super) fn write(&self, answer: &impl Serialize) -> Result<Answer> {
        self.call.write(answer)
    }

    pub(super) fn done(&self) -> Result<Answer> {
        self.call.write(&Done {})
    }
}
