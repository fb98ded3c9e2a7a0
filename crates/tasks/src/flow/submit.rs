//! A run is asked for: by a person, a client, or a step of another run.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_policy::flow::{Key, ParameterKind, Value};

use super::declared::Workflow;
use super::leader::First;
use super::stored::{NewRun, Submitted};
use super::{Flows, Pinned};
use crate::error::{Error, Result};

impl Flows {
    /// The same key with the same parameters is the same run.
    pub(crate) async fn submit(
        &self,
        workflow: &str,
        parameters: BTreeMap<String, Value>,
        key: Option<String>,
    ) -> Result<Submitted> {
        self.submit_for(workflow, parameters, key.map(|key| format!("key:{key}")), None).await
    }

    /// For a step of another run; the same attempt gets the same run.
    pub(super) async fn submit_below(
        &self,
        key: &Key,
        workflow: &str,
        parameters: BTreeMap<String, Value>,
    ) -> Result<Submitted> {
        self.submit_for(workflow, parameters, Some(format!("step:{key}")), Some(key.run.clone())).await
    }

    /// The run that this attempt has begun.
    pub(super) async fn below(&self, key: &Key) -> Result<Option<String>> {
        self.0.ground.desk.store.run_of_key(&format!("step:{key}")).await
    }

    async fn submit_for(
        &self,
        workflow: &str,
        parameters: BTreeMap<String, Value>,
        key: Option<String>,
        parent: Option<String>,
    ) -> Result<Submitted> {
        let pinned = self.in_force(workflow)?;
        let parameters = typed(&pinned.declared, parameters)?;
        // Before anything is stored: the machine says it in a sentence.
        pinned
            .machine
            .accept(&parameters)
            .map_err(|reason| Error::Parameters { workflow: workflow.to_owned(), reason })?;
        let new = NewRun { pinned, parameters, key, parent, nominal: None, held: false };
        let submitted = self.0.ground.desk.store.submit_run(new).await?;
        if submitted.fresh {
            self.begin_leading(&submitted.id).await?;
        }
        Ok(submitted)
    }

    /// Of a run that was just stored.
    pub(super) async fn begin_leading(&self, id: &str) -> Result<()> {
        if self.0.ground.desk.store.is_shared() && !self.leads() {
            // The plane that leads finds it.
            return Ok(());
        }
        let row = self.0.ground.desk.store.flow_run(id).await?;
        self.lead(&row, First::Nothing).await?;
        self.pump();
        Ok(())
    }

    /// As the file says now.
    pub(super) fn in_force(&self, workflow: &str) -> Result<Arc<Pinned>> {
        let declared = self.0.ground.definition.borrow().workflows.get(workflow).cloned();
        let declared = declared.ok_or_else(|| Error::NoWorkflow { workflow: workflow.to_owned() })?;
        if let Some(pinned) = self.known(&declared.hash()?) {
            return Ok(pinned);
        }
        let pinned = Arc::new(Pinned::new(declared)?);
        self.remember(&pinned);
        Ok(pinned)
    }
}

/// Texts become what the parameter is: a command line has nothing else.
pub(crate) fn typed(declared: &Workflow, given: BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>> {
    given
        .into_iter()
        .map(|(name, value)| {
            let kind = declared.parameters.get(&name).map(super::declared::Given::kind);
            let (Some(kind), Value::Text(text)) = (kind, &value) else { return Ok((name, value)) };
            let typed = match kind {
                ParameterKind::Text | ParameterKind::Date => Some(value.clone()),
                ParameterKind::Integer | ParameterKind::Number => text.trim().parse().ok().map(Value::Number),
                ParameterKind::Bool => text.trim().parse().ok().map(Value::Bool),
            };
            let reason = || format!("parameter `{name}` must be {}, not `{text}`", kind.name());
            let bad = || Error::Parameters { workflow: declared.name.clone(), reason: reason() };
            Ok((name.clone(), typed.ok_or_else(bad)?))
        })
        .collect()
}
