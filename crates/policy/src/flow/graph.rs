//! The graph of a definition, and everything that makes a definition impossible to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::definition::{Definition, ITEMS_MAX, Items, Kind, ROUNDS_MAX, STEPS_MAX, Step, Trigger, WIDTH_MAX, Work};
use super::expr::Reference;

/// Why a definition cannot run. Each names the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    NoSteps,
    TooManySteps {
        steps: usize,
    },
    TooManyRounds {
        rounds: u32,
    },
    SameName {
        step: String,
    },
    UnknownStep {
        step: String,
        after: String,
    },
    /// These steps wait for each other.
    Cycle {
        steps: Vec<String>,
    },
    /// A number out of its range.
    Range {
        step: String,
        what: &'static str,
    },
    /// What stands between `${` and `}` leads nowhere.
    Reference {
        step: String,
        reference: String,
        why: &'static str,
    },
    /// An undo that nobody could carry out.
    Undo {
        step: String,
    },
    TwoPivots {
        first: String,
        second: String,
    },
    /// A pivot that fans out could be committed in part.
    PivotFansOut {
        step: String,
    },
    /// It could fail when it is too late to go back.
    NotBeforePivot {
        step: String,
    },
    /// It could not be undone when another step fails.
    NotAfterPivot {
        step: String,
    },
    TriggerInSaga {
        step: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoSteps => f.write_str("there is no step"),
            Problem::TooManySteps { steps } => write!(f, "{steps} steps, at most {STEPS_MAX}"),
            Problem::TooManyRounds { rounds } => write!(f, "{rounds} more rounds, at most {ROUNDS_MAX}"),
            Problem::SameName { step } => write!(f, "two steps are called `{step}`"),
            Problem::UnknownStep { step, after } => {
                write!(f, "step `{step}` comes after `{after}`, which does not exist")
            }
            Problem::Cycle { steps } => write!(f, "these steps wait for each other: {}", steps.join(", ")),
            Problem::Range { step, what } => write!(f, "step `{step}`: {what}"),
            Problem::Reference { step, reference, why } => write!(f, "step `{step}`: `${{{reference}}}` {why}"),
            Problem::Undo { step } => write!(f, "step `{step}`: an undo is a command or a call"),
            Problem::TwoPivots { first, second } => write!(f, "`{first}` and `{second}` are both the pivot"),
            Problem::PivotFansOut { step } => write!(f, "step `{step}`: a pivot has no `for_each`"),
            Problem::NotBeforePivot { step } => {
                write!(f, "step `{step}` is compensable and does not come before the pivot")
            }
            Problem::NotAfterPivot { step } => {
                write!(f, "step `{step}` cannot be undone and does not come after all that can fail")
            }
            Problem::TriggerInSaga { step } => write!(f, "step `{step}`: in a saga the only trigger is all-ok"),
        }
    }
}

/// Steps are numbered as in the definition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) after: Vec<Vec<usize>>,
    pub(crate) before: Vec<Vec<usize>>,
    /// Each after all that it depends on.
    pub(crate) order: Vec<usize>,
    /// In which order steps that are ready get what is free: by priority, then as in `order`.
    pub(crate) by_priority: Vec<usize>,
}

impl Graph {
    pub(crate) fn new(definition: &Definition) -> Result<Graph, Vec<Problem>> {
        let steps = &definition.steps;
        if steps.is_empty() {
            return Err(vec![Problem::NoSteps]);
        }
        if steps.len() > STEPS_MAX {
            return Err(vec![Problem::TooManySteps { steps: steps.len() }]);
        }
        let rounds = definition.rounds;
        let mut problems: Vec<Problem> =
            (rounds > ROUNDS_MAX).then_some(Problem::TooManyRounds { rounds }).into_iter().collect();
        let after = links(steps, &mut problems);
        let mut before = vec![Vec::new(); steps.len()];
        for (step, needs) in after.iter().enumerate() {
            for need in needs {
                before[*need].push(step);
            }
        }
        let order = topological(&after, &before);
        if order.len() < steps.len() {
            let stuck = (0..steps.len()).filter(|n| !order.contains(n)).map(|n| steps[n].name.clone());
            problems.push(Problem::Cycle { steps: stuck.collect() });
            return Err(problems);
        }
        let mut by_priority = order.clone();
        by_priority.sort_by_key(|n| -steps[*n].priority.unwrap_or(definition.priority));
        let graph = Graph { after, before, order, by_priority };
        let upstream = graph.upstream();
        problems.extend(steps.iter().flat_map(ranges));
        problems.extend(steps.iter().enumerate().flat_map(|(n, step)| references(definition, step, n, &upstream[n])));
        if definition.is_saga() {
            problems.extend(saga(definition, &upstream));
        }
        if problems.is_empty() { Ok(graph) } else { Err(problems) }
    }

    /// For each step all that it comes after, directly or not.
    fn upstream(&self) -> Vec<BTreeSet<usize>> {
        let mut all: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.after.len()];
        for step in &self.order {
            let sets = self.after[*step].iter().flat_map(|need| all[*need].iter().copied().chain([*need]));
            all[*step] = sets.collect();
        }
        all
    }

    /// `steps` and all that come after them.
    pub(crate) fn downstream(&self, steps: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = steps.clone();
        for step in &self.order {
            if self.after[*step].iter().any(|need| found.contains(need)) {
                found.insert(*step);
            }
        }
        found
    }
}

fn links(steps: &[Step], problems: &mut Vec<Problem>) -> Vec<Vec<usize>> {
    let mut numbers = BTreeMap::new();
    for (n, step) in steps.iter().enumerate() {
        if numbers.insert(step.name.as_str(), n).is_some() {
            problems.push(Problem::SameName { step: step.name.clone() });
        }
    }
    let mut links = Vec::with_capacity(steps.len());
    for step in steps {
        let mut needs = BTreeSet::new();
        for name in &step.after {
            match numbers.get(name.as_str()) {
                Some(n) => _ = needs.insert(*n),
                None => problems.push(Problem::UnknownStep { step: step.name.clone(), after: name.clone() }),
            }
        }
        links.push(needs.into_iter().collect());
    }
    links
}

/// Shorter than the number of steps when there is a cycle.
fn topological(after: &[Vec<usize>], before: &[Vec<usize>]) -> Vec<usize> {
    let mut left: Vec<usize> = after.iter().map(Vec::len).collect();
    let mut free: BTreeSet<usize> = (0..after.len()).filter(|n| left[*n] == 0).collect();
    let mut order = Vec::with_capacity(after.len());
    while let Some(step) = free.pop_first() {
        order.push(step);
        for next in &before[step] {
            left[*next] -= 1;
            if left[*next] == 0 {
                free.insert(*next);
            }
        }
    }
    order
}

fn ranges(step: &Step) -> Vec<Problem> {
    let each = step.each.as_ref();
    let wrong = [
        (step.retry.attempts == 0, "attempts is at least 1"),
        (each.is_some_and(|e| e.width == 0 || e.width > WIDTH_MAX), "width is 1 to 100"),
        (each.is_some_and(|e| e.items_max > ITEMS_MAX), "items_max is at most 10,000"),
    ];
    let found = wrong.into_iter().filter(|(wrong, _)| *wrong);
    let mut problems: Vec<Problem> = found.map(|(_, what)| Problem::Range { step: step.name.clone(), what }).collect();
    if step.undo.as_ref().is_some_and(|work| !matches!(work, Work::Command { .. } | Work::Http { .. })) {
        problems.push(Problem::Undo { step: step.name.clone() });
    }
    problems
}

fn references(definition: &Definition, step: &Step, own: usize, upstream: &BTreeSet<usize>) -> Vec<Problem> {
    let visible = |name: &str, with_own: bool| {
        let found = definition.steps.iter().position(|s| s.name == name);
        found.is_some_and(|n| upstream.contains(&n) || with_own && n == own)
    };
    let wrong = |reference: &Reference, item: bool, undo: bool| -> Option<&'static str> {
        let path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["parameters", name, ..] if definition.parameters.contains_key(*name) => None,
            ["parameters", ..] => Some("is no parameter of this workflow"),
            ["steps", name, "output" | "error", ..] if visible(name, undo) => None,
            ["steps", _, "output" | "error", ..] => Some("is no step that comes before"),
            ["steps", ..] => Some("names neither `output` nor `error` of a step"),
            ["item", ..] if item => None,
            ["item", ..] => Some("stands outside of a `for_each`"),
            ["run", "id" | "nominal" | "round"] => None,
            _ => Some("begins with none of parameters, steps, item, run.id, run.nominal, run.round"),
        }
    };
    let mut problems = Vec::new();
    let mut look = |reference: &Reference, item: bool, undo: bool| {
        if let Some(why) = wrong(reference, item, undo) {
            problems.push(Problem::Reference { step: step.name.clone(), reference: reference.path.join("."), why });
        }
    };
    let fans_out = step.each.is_some();
    step.when.iter().flat_map(|expr| expr.references()).for_each(|r| look(r, false, false));
    let lists = step.each.iter().flat_map(|each| match &each.items {
        Items::From(template) => vec![template],
        Items::List(list) => list.iter().collect(),
    });
    lists.flat_map(|t| t.references()).for_each(|r| look(r, false, false));
    step.work.templates().into_iter().flat_map(|t| t.references()).for_each(|r| look(r, fans_out, false));
    let undo = step.undo.iter().flat_map(|work| work.templates());
    undo.flat_map(|t| t.references()).for_each(|r| look(r, fans_out, true));
    problems
}

/// Everything that can fail comes before the pivot, and everything that cannot be undone after it. Without a pivot, the last
/// compensable step is the point of no return.
fn saga(definition: &Definition, upstream: &[BTreeSet<usize>]) -> Vec<Problem> {
    let of_kind = |kind: Kind| {
        let steps = definition.steps.iter().enumerate();
        steps.filter(move |(_, step)| definition.kind(step) == Some(kind)).map(|(n, _)| n).collect::<Vec<usize>>()
    };
    let name = |n: usize| definition.steps[n].name.clone();
    let (compensable, pivots) = (of_kind(Kind::Compensable), of_kind(Kind::Pivot));
    let mut problems = Vec::new();
    let wrong = definition.steps.iter().filter(|step| step.trigger != Trigger::AllOk);
    problems.extend(wrong.map(|step| Problem::TriggerInSaga { step: step.name.clone() }));
    if let [first, second, ..] = pivots[..] {
        problems.push(Problem::TwoPivots { first: name(first), second: name(second) });
    }
    let pivot = pivots.first().copied();
    if let Some(pivot) = pivot {
        if definition.steps[pivot].each.is_some() {
            problems.push(Problem::PivotFansOut { step: name(pivot) });
        }
        let late = compensable.iter().filter(|n| !upstream[pivot].contains(n));
        problems.extend(late.map(|n| Problem::NotBeforePivot { step: name(*n) }));
    }
    let must = pivot.map_or(compensable.clone(), |pivot| vec![pivot]);
    let early = of_kind(Kind::Retriable).into_iter().filter(|n| !must.iter().all(|m| upstream[*n].contains(m)));
    problems.extend(early.map(|n| Problem::NotAfterPivot { step: name(n) }));
    problems
}
