//! Queues themselves: create, find, describe, list, tag, purge, delete, and their policies.

use std::collections::BTreeMap;

use super::checks::{range, required, tag_key, tags, too_many_tags};
use super::session::Session;
use crate::action::Class;
use crate::address::{is_name, name_in_token, token};
use crate::backend::Backend;
use crate::fault::{Fault, Result};
use crate::limits::{PAGE_MAX, QUEUE_NAME_MAX, TAGS_MAX};
use crate::policy;
use crate::queue_attributes::{changed, created, shown};
use crate::shapes::{
    AddPermission, CreateQueue, GetQueueAttributes, GetQueueAttributesAnswer, GetQueueUrl, ListDeadLetterSourceQueues,
    ListDeadLetterSourceQueuesAnswer, ListQueueTagsAnswer, ListQueues, ListQueuesAnswer, OfQueue, QueueUrlAnswer,
    RemovePermission, SetQueueAttributes, Table, TagQueue, Text, UntagQueue,
};
use crate::wire::Answer;

/// Names that are looked at at a time for a key that sees only some of them.
const LOOK: usize = 1_000;

impl<B: Backend> Session<'_, B> {
    pub(super) async fn create_queue(&self, request: CreateQueue<'_>) -> Result<Answer> {
        let name = required("QueueName", request.queue_name)?;
        if !is_name(&name) {
            let reason = format!(
                "It can only include alphanumeric characters, hyphens and underscores, 1 to {QUEUE_NAME_MAX} in length."
            );
            return Err(Fault::value("QueueName", &*name, &reason));
        }
        self.permit(&name, Class::Manage)?;
        let attributes = created(self.home, &name, &request.attributes.unwrap_or_default())?;
        attributes.redrive.as_ref().map_or(Ok(()), |redrive| self.permit_filling(&redrive.target))?;
        let tags: BTreeMap<String, String> = tags(request.tags.unwrap_or_default())?.into_iter().collect();
        self.backend.create(&name, attributes, tags).await?;
        self.write(&QueueUrlAnswer { queue_url: self.url(&name) })
    }

    pub(super) async fn delete_queue(&self, request: OfQueue<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        self.backend.delete(&queue).await?;
        self.done()
    }

    pub(super) async fn purge_queue(&self, request: OfQueue<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        self.backend.purge(&queue).await?;
        self.done()
    }

    pub(super) async fn get_queue_url(&self, request: GetQueueUrl<'_>) -> Result<Answer> {
        let name = required("QueueName", request.queue_name)?;
        if !is_name(&name) || request.owner.is_some_and(|owner| *owner != *self.home.account) {
            return Err(Fault::no_queue());
        }
        self.permit(&name, Class::Look)?;
        self.backend.get(&name).await?;
        self.write(&QueueUrlAnswer { queue_url: self.url(&name) })
    }

    pub(super) async fn get_queue_attributes(&self, request: GetQueueAttributes<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let names = request.attribute_names.unwrap_or_default();
        let queue = self.backend.get(&queue).await?;
        self.write(&GetQueueAttributesAnswer { attributes: shown(self.home, &queue, &names.items)? })
    }

    pub(super) async fn set_queue_attributes(&self, request: SetQueueAttributes<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let attributes = required("Attributes", request.attributes)?;
        let change = changed(self.home, &queue, &attributes)?;
        if let Some(Some(redrive)) = &change.redrive {
            self.permit_filling(&redrive.target)?;
        }
        self.backend.set(&queue, change).await?;
        self.done()
    }

    pub(super) async fn list_queues(&self, request: ListQueues<'_>) -> Result<Answer> {
        let prefix = request.queue_name_prefix.as_deref().unwrap_or_default();
        let page = Page::new(request.max_results, request.next_token)?;
        let names = self.visible_names(prefix, &page).await?;
        let (names, next_token) = page.cut(names);
        let queue_urls = names.iter().map(|name| self.url(name)).collect();
        self.write(&ListQueuesAnswer { queue_urls, next_token })
    }

    /// Enough names for the page, and one more, of queues that the caller may see. It hears of no others, not even by
    /// a token; so a limited key may need several looks at the whole list.
    async fn visible_names(&self, prefix: &str, page: &Page) -> Result<Vec<String>> {
        let ask = if self.who.is_limited() { page.ask().max(LOOK) } else { page.ask() };
        let mut names: Vec<String> = Vec::new();
        let mut after = page.after.clone();
        loop {
            let found = self.backend.list(prefix, after.as_deref(), ask).await?;
            let is_last = found.len() < ask;
            after = found.last().cloned();
            names.extend(found.into_iter().filter(|name| self.who.permits(name, Class::Look)));
            if is_last || names.len() >= page.ask() {
                names.truncate(page.ask());
                return Ok(names);
            }
        }
    }

    pub(super) async fn list_dead_letter_sources(&self, request: ListDeadLetterSourceQueues<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let page = Page::new(request.max_results, request.next_token)?;
        let names = self.backend.dead_letter_sources(&queue, page.after.as_deref(), page.ask()).await?;
        let (names, next_token) = page.cut(names);
        let queue_urls = names.iter().map(|name| self.url(name)).collect();
        self.write(&ListDeadLetterSourceQueuesAnswer { queue_urls, next_token })
    }

    pub(super) async fn tag_queue(&self, request: TagQueue<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let tags = tags(required("Tags", request.tags)?)?;
        self.backend.tag(&queue, tags.into_iter().map(|(key, value)| (key, Some(value))).collect()).await?;
        self.done()
    }

    pub(super) async fn untag_queue(&self, request: UntagQueue<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let keys = required("TagKeys", request.tag_keys)?;
        if keys.count > TAGS_MAX {
            return Err(too_many_tags(keys.count));
        }
        keys.items.iter().try_for_each(|key| tag_key(key))?;
        self.backend.tag(&queue, keys.items.into_iter().map(|key| (key.into_string(), None)).collect()).await?;
        self.done()
    }

    pub(super) async fn list_tags(&self, request: OfQueue<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let tags = self.backend.tags(&queue).await?;
        self.write(&ListQueueTagsAnswer { tags: Table(tags.into_iter().collect()) })
    }

    /// Two calls at the same time for one queue may leave only one of the two statements.
    pub(super) async fn add_permission(&self, request: AddPermission<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let found = self.backend.get(&queue).await?;
        let present = found.attributes.kept.get("Policy").map(String::as_str);
        let policy = policy::with(present, &self.home.arn(&queue), &request)?;
        self.backend.set_policy(&queue, Some(policy)).await?;
        self.done()
    }

    pub(super) async fn remove_permission(&self, request: RemovePermission<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let label = policy::label(request.label.as_deref())?;
        let found = self.backend.get(&queue).await?;
        let present = found.attributes.kept.get("Policy").map(String::as_str);
        let policy = policy::without(present, &self.home.arn(&queue), label)?;
        self.backend.set_policy(&queue, policy).await?;
        self.done()
    }
}

/// A page of a list. Only who names a size gets a token for the next one; so does SQS.
struct Page {
    size: Option<u32>,
    after: Option<String>,
}

impl Page {
    fn new(size: Option<i64>, token: Option<Text>) -> Result<Page> {
        let size = range("MaxResults", size, 1, PAGE_MAX)?;
        let after = token.filter(|token| !token.is_empty()).map(|token| name_in_token(&token)).transpose()?;
        Ok(Page { size, after })
    }

    /// One more than fits, to know whether there is more.
    fn ask(&self) -> usize {
        let most = usize::try_from(PAGE_MAX).unwrap_or(usize::MAX);
        self.size.and_then(|size| usize::try_from(size).ok()).map_or(most, |size| size + 1)
    }

    fn cut(&self, mut names: Vec<String>) -> (Vec<String>, Option<String>) {
        let Some(size) = self.size.and_then(|size| usize::try_from(size).ok()) else { return (names, None) };
        let more = names.len() > size;
        names.truncate(size);
        let next = names.last().filter(|_| more).map(|last| token(last));
        (names, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("q{n}")).collect()
    }

    #[test]
    fn only_a_page_with_a_size_and_more_behind_it_has_a_token() {
        let page = Page::new(Some(2), None).unwrap();
        assert_eq!((page.ask(), page.cut(names(3))), (3, (names(2), Some(token("q1")))));
        assert_eq!(page.cut(names(2)), (names(2), None));
        let whole = Page::new(None, None).unwrap();
        assert_eq!((whole.ask(), whole.cut(names(1000)).1), (1000, None));
        assert!(Page::new(Some(0), None).is_err() && Page::new(Some(1001), None).is_err());
    }

    #[test]
    fn a_token_goes_on_where_the_last_page_ended() {
        let token = token("q1");
        assert_eq!(Page::new(Some(2), Some(Text::from(&*token))).unwrap().after.as_deref(), Some("q1"));
    }
}
