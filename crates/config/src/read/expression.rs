//! `${…}` in the texts of a workflow: what they refer to.

use holdfast_policy::flow::expr::{self, Expr, Template};

use crate::nearest::nearest;

/// One reference. What it stands for is known when a run is at its step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Parameter(String),
    Output(String),
    Error(String),
    Item,
    Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// A text in which references are replaced.
    Template,
    /// `when`.
    Condition,
}

const ROOTS: [&str; 4] = ["parameters", "steps", "item", "run"];

/// Every reference of a text in its order, or why it cannot be read.
pub(crate) fn expression(text: &str, language: Language) -> Result<Vec<Reference>, String> {
    let told = |error: expr::ExprError| error.what;
    match language {
        Language::Template => Template::parse(text).map_err(told)?.references().map(reference).collect(),
        Language::Condition => Expr::parse(text).map_err(told)?.references().into_iter().map(reference).collect(),
    }
}

fn reference(found: &expr::Reference) -> Result<Reference, String> {
    let parts: Vec<&str> = found.path.iter().map(String::as_str).collect();
    match parts[..] {
        ["parameters", name] => Ok(Reference::Parameter(name.to_owned())),
        ["steps", step, "output", ..] => Ok(Reference::Output(step.to_owned())),
        ["steps", step, "error", ..] => Ok(Reference::Error(step.to_owned())),
        ["item", ..] => Ok(Reference::Item),
        ["run", "id" | "nominal" | "round"] => Ok(Reference::Run),
        ["parameters", ..] => Err("a parameter is `${parameters.NAME}`".into()),
        ["steps", ..] => Err("a step has `${steps.STEP.output}` and `${steps.STEP.error}`".into()),
        ["run", ..] => Err("a run has `${run.id}`, `${run.nominal}` and `${run.round}`".into()),
        [root, ..] => Err(match nearest(root, ROOTS) {
            Some(meant) => format!("did you mean `${{{meant}}}`?"),
            None => "a reference begins with `parameters`, `steps`, `item` or `run`".into(),
        }),
        [] => Err("an empty reference".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_where_they_stand() {
        let text = "--day=${parameters.day} $HOME $${x} ${steps.a-b.output.rows.0}${steps.c.error} ${item} ${run.id}";
        let all = [
            Reference::Parameter("day".into()),
            Reference::Output("a-b".into()),
            Reference::Error("c".into()),
            Reference::Item,
            Reference::Run,
        ];
        assert_eq!(expression(text, Language::Template).unwrap(), all);
        assert_eq!(expression("no reference, $ alone, {braces}", Language::Template).unwrap(), []);
        let condition = "${steps.a.output.count} > 0 and not (${parameters.dry} or ${steps.b.error} == 'x')";
        let names = ["a", "dry", "b"];
        let found = expression(condition, Language::Condition).unwrap();
        for (reference, name) in found.iter().zip(names) {
            assert!(format!("{reference:?}").contains(name), "{reference:?}");
        }
        assert_eq!(found.len(), names.len());
    }

    #[test]
    fn what_is_no_reference_is_told() {
        for (text, told) in [
            ("${parameters.day", "without `}`"),
            ("${}", "is not a name"),
            ("${steps..output}", "is not a name"),
            ("${parameters.a b}", "is not a name"),
            ("${parameters.a.b}", "${parameters.NAME}"),
            ("${parameter.a}", "`${parameters}`"),
            ("${steps.a}", "${steps.STEP.output}"),
            ("${steps.a.result}", "${steps.STEP.output}"),
            ("${run.day}", "${run.nominal}"),
            ("${env.HOME}", "begins with"),
        ] {
            let fault = expression(text, Language::Template).unwrap_err();
            assert!(fault.contains(told), "{text}: {fault}");
        }
        for text in ["", "${item} >", "count > 0", "(${item}", "${item} = 1"] {
            expression(text, Language::Condition).unwrap_err();
        }
    }
}
