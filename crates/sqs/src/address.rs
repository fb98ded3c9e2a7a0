//! How clients call a queue: by name, URL or ARN; and the tokens that carry them from page to page.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fault::{Fault, INVALID_ADDRESS, INVALID_PARAMETER, Result, quoted};
use crate::limits::{QUEUE_NAME_MAX, TASK_HANDLE_MAX, TOKEN_BYTES_MAX};

pub(crate) const FIFO_SUFFIX: &str = ".fifo";

/// Region and account of all queues behind a face.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) region: String,
    pub(crate) account: String,
}

/// A queue is FIFO exactly if its name ends so.
pub(crate) fn is_fifo(name: &str) -> bool {
    name.ends_with(FIFO_SUFFIX)
}

/// 1 to 80 letters, digits, hyphens and underscores, `.fifo` at the end included.
pub(crate) fn is_name(name: &str) -> bool {
    let stem = name.strip_suffix(FIFO_SUFFIX).unwrap_or(name);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !stem.is_empty() && name.len() <= QUEUE_NAME_MAX && stem.bytes().all(allowed)
}

impl Home {
    /// Name in the URL of a queue, or in the path of one: `/ACCOUNT/NAME`. The host does not matter: clients reach
    /// the same face by many names.
    pub(crate) fn name_in_url<'a>(&self, url: &'a str) -> Result<&'a str> {
        let wrong =
            || Fault::new(INVALID_ADDRESS, format!("The address {} is not valid for this endpoint.", quoted(url)));
        let path = match url.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').ok_or_else(wrong)?..],
            None => url,
        };
        let (account, name) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(wrong)?;
        let name = name.strip_suffix('/').unwrap_or(name);
        if name.is_empty() || name.contains('/') {
            return Err(wrong());
        }
        if account != self.account || !is_name(name) {
            return Err(Fault::no_queue());
        }
        Ok(name)
    }

    pub(crate) fn arn(&self, name: &str) -> String {
        format!("arn:aws:sqs:{}:{}:{name}", self.region, self.account)
    }

    /// `None` for what is no queue of this region and account.
    pub(crate) fn name_in_arn<'a>(&self, arn: &'a str) -> Option<&'a str> {
        let mut parts = arn.splitn(6, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (arn, partition, service, region, account, name) = (next(), next(), next(), next(), next(), next());
        let here = arn == "arn" && partition.starts_with("aws") && service == "sqs";
        (here && region == self.region && account == self.account && is_name(name)).then_some(name)
    }
}

/// The last name of a page, for the next one.
pub(crate) fn token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

pub(crate) fn name_in_token(token: &str) -> Result<String> {
    let bytes = Some(token).filter(|t| t.len() <= TOKEN_BYTES_MAX).and_then(|t| URL_SAFE_NO_PAD.decode(t).ok());
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| is_name(name));
    name.ok_or_else(|| Fault::value("NextToken", token, "It is not one that was given out."))
}

/// Handle of a move: its source with it, so that who may manage that queue can be asked before anything is done.
pub(crate) fn task_handle(source: &str, handle: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{source}/{handle}"))
}

/// Source and the backend's own handle.
pub(crate) fn open_task_handle(handle: &str) -> Result<(String, String)> {
    let bytes = Some(handle).filter(|h| h.len() <= TASK_HANDLE_MAX).and_then(|h| URL_SAFE_NO_PAD.decode(h).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once('/')).filter(|(source, _)| is_name(source));
    let (source, handle) =
        parts.ok_or_else(|| Fault::new(INVALID_PARAMETER, "Value for parameter TaskHandle is invalid."))?;
    Ok((source.to_owned(), handle.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        Home { region: "eu-west-1".into(), account: "000000000000".into() }
    }

    #[test]
    fn names() {
        for good in ["a", "A-b_9", "a.fifo", &"x".repeat(80)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".fifo", "a.b", "a.fifo.fifo", "a b", "ä", &"x".repeat(81), &format!("{}.fifo", "x".repeat(76))]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn urls() {
        let home = home();
        for good in
            ["http://h:1/000000000000/q", "https://sqs.eu-west-1.amazonaws.com/000000000000/q", "/000000000000/q/"]
        {
            assert_eq!(home.name_in_url(good).unwrap(), "q");
        }
        for (bad, code) in [
            ("q", "InvalidAddress"),
            ("", "InvalidAddress"),
            ("http://h", "InvalidAddress"),
            ("http://h/q", "InvalidAddress"),
            ("http://h/000000000000/", "InvalidAddress"),
            ("http://h/000000000000/a/b", "InvalidAddress"),
            ("http://h/000000000001/q", "AWS.SimpleQueueService.NonExistentQueue"),
            ("http://h/000000000000/a.b", "AWS.SimpleQueueService.NonExistentQueue"),
        ] {
            assert_eq!(home.name_in_url(bad).unwrap_err().kind.code, code, "{bad}");
        }
    }

    #[test]
    fn arns() {
        let home = home();
        assert_eq!(home.name_in_arn(&home.arn("q.fifo")), Some("q.fifo"));
        for bad in [
            "",
            "q",
            "arn:aws:sns:eu-west-1:000000000000:q",
            "arn:aws:sqs:eu-west-2:000000000000:q",
            "arn:aws:sqs:eu-west-1:1:q",
        ] {
            assert_eq!(home.name_in_arn(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_and_handles_come_back() {
        assert_eq!(name_in_token(&token("q.fifo")).unwrap(), "q.fifo");
        assert!(name_in_token("*").is_err() && name_in_token(&token("a b")).is_err());
        assert!(name_in_token(&"A".repeat(TOKEN_BYTES_MAX + 1)).is_err());
        let handle = task_handle("q", "17/x");
        assert_eq!(open_task_handle(&handle).unwrap(), ("q".to_owned(), "17/x".to_owned()));
        assert!(open_task_handle("foobar").is_err() && open_task_handle(&token("no-slash")).is_err());
    }
}
