use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

struct Given(Value);

impl Scope for Given {
    fn resolve(&self, path: &[String]) -> Result<Cow<'_, Value>, String> {
        descend(&self.0, path, "the scope").map(Cow::Borrowed)
    }
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

fn given() -> Given {
    let list = Value::List(vec![Value::from("one"), Value::from("two")]);
    let steps = map([("count", map([("output", map([("rows", Value::from(3.0)), ("names", list)]))]))]);
    Given(map([("steps", steps), ("item", Value::from("a b")), ("dry", Value::Bool(false)), ("none", Value::Null)]))
}

#[test]
fn conditions_and_their_answers() {
    for (text, answer) in [
        ("true", true),
        ("${dry}", false),
        ("not ${dry}", true),
        ("not not ${dry}", false),
        ("${steps.count.output.rows} > 0", true),
        ("${steps.count.output.rows} >= 3 and ${steps.count.output.rows} <= 3", true),
        ("${steps.count.output.rows} < -1.5", false),
        ("${steps.count.output.names.1} == 'two'", true),
        ("${item} == \"a b\"", true),
        ("'it\\'s' != \"it's\"", false),
        ("'b' > 'a'", true),
        ("1 == '1'", false),
        ("${none} == null", true),
        ("true or false and false", true),
        ("(true or false) and false", false),
        ("not true == false", true),
        ("true or ${missing}", true),
        ("false and ${missing}", false),
    ] {
        let expr = Expr::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(expr.is_true(&given()), Ok(answer), "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, at, says) in [
        ("", 0, "a value is missing"),
        ("1 ==", 4, "a value is missing"),
        ("(true", 0, "never closed"),
        ("true)", 4, "should end here"),
        ("true false", 5, "should end here"),
        ("1 < 2 < 3", 6, "do not chain"),
        ("yes", 0, "`yes` is no value"),
        ("true & false", 5, "`&` has no meaning"),
        ("1 = 1", 2, "a comparison is one of"),
        ("'open", 0, "has no end"),
        ("1 == ${a", 5, "without `}`"),
        ("${a..b}", 0, "`` is not a name"),
        ("1.2.3 > 0", 0, "`1.2.3` is not a number"),
        ("0x10 > 0", 0, "`0x10` is not a number"),
        ("é", 0, "`é` has no meaning"),
    ] {
        let why = Expr::parse(text).unwrap_err();
        assert!(why.at == at && why.what.contains(says), "{text}: {why}");
    }
    for (text, at, says) in [
        ("${item} > 1", 8, "a text and a number have no order"),
        ("true and ${item}", 9, "a text, not true or false"),
        ("1 == ${steps.other}", 5, "without `other`"),
        ("not 1", 4, "a number, not true or false"),
    ] {
        let why = Expr::parse(text).unwrap().is_true(&given()).unwrap_err();
        assert!(why.at == at && why.what.contains(says), "{text}: {why}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
    assert!(Expr::parse(&deep(32)).is_ok());
    assert!(Expr::parse(&deep(33)).unwrap_err().what.contains("deeper than 32"));
    assert!(Expr::parse(&"not ".repeat(33)).unwrap_err().what.contains("deeper than 32"));
    assert!(Expr::parse(&" ".repeat(EXPR_BYTES_MAX + 1)).unwrap_err().what.contains("longer than 4096"));
    assert!(Template::parse(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
    let scope = Given(map([("big", Value::Text("x".repeat(RENDERED_BYTES_MAX / 2)))]));
    assert_eq!(Template::parse("${big}${big}").unwrap().render(&scope).unwrap().len(), RENDERED_BYTES_MAX);
    assert!(Template::parse("${big}${big}!").unwrap().render(&scope).is_err());
}

#[test]
fn templates_are_filled_in() {
    for (text, want) in [
        ("plain", "plain"),
        ("", ""),
        ("copy-${item}.txt", "copy-a b.txt"),
        ("${steps.count.output}", r#"{"names":["one","two"],"rows":3}"#),
        ("${ item }${none}!", "a b!"),
        ("$${item} costs $5", "${item} costs $5"),
    ] {
        assert_eq!(Template::parse(text).unwrap().render(&given()).as_deref(), Ok(want), "{text}");
    }
    assert_eq!(Template::parse("${steps.count.output.rows}").unwrap().value(&given()), Ok(Value::from(3.0)));
    let found = Expr::parse("${a.b} == 1 or not (${c} and ${d})").unwrap();
    let paths: Vec<String> = found.references().iter().map(|r| r.path.join(".")).collect();
    assert_eq!(paths, ["a.b", "c", "d"]);
}

proptest! {
    /// Whatever is typed, the answer is a condition or an error inside the text.
    #[test]
    fn no_text_breaks_the_parser(text in "[ ()<>=!$.{}a-c'\"0-9\\\\é-]{0,60}") {
        for why in [Expr::parse(&text).err(), Template::parse(&text).err()].into_iter().flatten() {
            prop_assert!(why.at <= text.len(), "{why}");
        }
    }

    /// A template without references means itself.
    #[test]
    fn plain_texts_stay_as_they_are(text in "[^$]{0,40}") {
        let scope = Given(Value::Map(BTreeMap::new()));
        prop_assert_eq!(Template::parse(&text).unwrap().render(&scope).unwrap(), text);
    }
}
