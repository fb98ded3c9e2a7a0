//! The 23 actions of SQS, and which class of permission each needs.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Any of the others will do: to find a queue and see how it is.
    Look,
    Send,
    Receive,
    Manage,
}

macro_rules! actions {
    ($($name:ident $class:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Action { $($name,)* }

        impl Action {
            pub(crate) const ALL: &'static [Action] = &[$(Action::$name,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Action::$name => stringify!($name),)* }
            }

            pub(crate) fn class(self) -> Class {
                match self { $(Action::$name => Class::$class,)* }
            }
        }
    };
}

actions! {
    AddPermission Manage,
    CancelMessageMoveTask Manage,
    ChangeMessageVisibility Receive,
    ChangeMessageVisibilityBatch Receive,
    CreateQueue Manage,
    DeleteMessage Receive,
    DeleteMessageBatch Receive,
    DeleteQueue Manage,
    GetQueueAttributes Look,
    GetQueueUrl Look,
    ListDeadLetterSourceQueues Manage,
    ListMessageMoveTasks Manage,
    ListQueues Look,
    ListQueueTags Look,
    PurgeQueue Manage,
    ReceiveMessage Receive,
    RemovePermission Manage,
    SendMessage Send,
    SendMessageBatch Send,
    SetQueueAttributes Manage,
    StartMessageMoveTask Manage,
    TagQueue Manage,
    UntagQueue Manage,
}

impl Action {
    pub(crate) fn parse(name: &str) -> Option<Action> {
        Action::ALL.iter().copied().find(|action| action.name() == name)
    }

    /// The action answers with nothing but success.
    pub(crate) fn is_silent(self) -> bool {
        use Action::*;
        matches!(
            self,
            AddPermission
                | ChangeMessageVisibility
                | DeleteMessage
                | DeleteQueue
                | PurgeQueue
                | RemovePermission
                | SetQueueAttributes
                | TagQueue
                | UntagQueue
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_actions_of_the_model_are_there() {
        assert_eq!(Action::ALL.len(), 23);
        assert!(Action::ALL.iter().all(|a| Action::parse(a.name()) == Some(*a)));
        assert_eq!(Action::parse("sendmessage"), None);
    }
}
