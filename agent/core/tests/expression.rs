//! Calico's selector language: what it means, where it breaks, and that it reads what it writes.

use proptest::prelude::*;
use whydrop_core::{
    policy::{
        expression::{Expression, parse},
        requirement::{Labelled, Labels, Operator, Requirement},
        selector::Selector,
    },
    problem::FieldPath,
};

fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn selectors_mean_what_calico_says() {
    let web = "app=web env=prod debug=";
    let cases = [
        ("", true),
        (" \t", true),
        ("all()", true),
        ("all( )", true),
        ("global()", true),
        ("app == 'web'", true),
        ("app==\"web\"", true),
        ("app == 'Web'", false),
        ("app != 'web'", false),
        ("team != 'web'", true),
        ("app in {'db', \"web\"}", true),
        ("app in{'web',}", true),
        ("app in {}", false),
        ("app not in {}", true),
        ("app not in {'web'}", false),
        ("app notin {'db'}", true),
        ("team not in {'db'}", true),
        ("has(app)", true),
        ("has( app )", true),
        ("has(team)", false),
        ("!has(team)", true),
        ("has(debug) && debug == ''", true),
        ("team == ''", false),
        ("app contains 'e'", true),
        ("app contains ''", true),
        ("team contains ''", false),
        ("app starts with 'we'", true),
        ("app startswith 'eb'", false),
        ("app ends with 'eb'", true),
        ("app ends\twith 'we'", false),
        ("!app == 'web'", false),
        ("!!app == 'web'", true),
        ("!(app == 'web' && env == 'test')", true),
        ("app == 'db' || app == 'web' && env == 'prod'", true),
        ("(app == 'db' || app == 'web') && env == 'test'", false),
        ("app == 'web' && env == 'test' || has(debug)", true),
        ("all == 'x' || global == 'x' || has == 'x' || in == 'x'", false),
        ("kubernetes.io/metadata.name != 'it\"s'", true),
    ];
    for (text, expected) in cases {
        let expression = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert_eq!(expression.matches((&labels(web)).into()), expected, "{text}");
        let again = parse(&expression.to_string()).expect("what it writes");
        assert_eq!(again, expression, "{text}");
    }
}

#[test]
fn all_and_global_mean_namespaces_where_a_namespace_is_asked_for() {
    let none = Labels::new();
    let named = [("projectcalico.org/name", "shop")];
    let in_one = Labelled { given: &named, global: false, ..Labelled::from(&none) };
    let in_none = Labelled { all: false, ..Labelled::from(&none) };
    for (text, one, other) in [
        ("all()", true, false),
        ("global()", false, true),
        ("!global()", true, false),
        ("projectcalico.org/name == 'shop'", true, false),
        ("team != 'blue'", true, true),
    ] {
        let expression = parse(text).expect("a selector");
        assert_eq!(
            (expression.matches(in_one), expression.matches(in_none)),
            (one, other),
            "{text}"
        );
    }
}

#[test]
fn faults_name_the_column() {
    let deep = format!("{}all(){}", "(".repeat(65), ")".repeat(65));
    let long = format!("{} == 'x'", "k".repeat(513));
    let cases = [
        ("app = 'web'", 5, "expected ==", "found '='"),
        ("app == web", 8, "a string in quotes", "'w'"),
        ("app == 'web", 12, "a closing '", "the end"),
        ("app", 4, "expected ==, !=, in", "the end"),
        ("app == 'web' &&", 16, "a label", "the end"),
        ("app == 'web' & has(x)", 14, "&&, || or the end", "'&'"),
        ("app == 'web' has(x)", 14, "&&, || or the end", "'h'"),
        ("(app == 'web'", 14, "&&, || or )", "the end"),
        ("app == 'web')", 13, "&&, || or the end", "')'"),
        ("app in 'web'", 8, "expected {", "'\\''"),
        ("app in {'web' 'db'}", 15, ", or }", "'\\''"),
        ("app in {'web'", 14, ", or }", "the end"),
        ("app not 'web'", 5, "expected ==", "'n'"),
        ("has()", 5, "a label", "')'"),
        ("has (app)", 5, "expected ==", "'('"),
        ("has(a b)", 5, "a label", "'a'"),
        ("has(app", 8, "expected )", "the end"),
        ("a == 'b' && all(", 17, "expected )", "the end"),
        ("global( ", 9, "expected )", "the end"),
        ("'web' == app", 1, "a label", "'\\''"),
        ("äpp == 'web'", 1, "a label", "'ä'"),
        ("app == 'ä' ? ", 12, "&&, || or the end", "'?'"),
        ("app ==\n'web'", 7, "a string in quotes", "'\\n'"),
        (&deep, 65, "at most 64 parentheses", "'('"),
        (&long, 513, "expected ==", "'k'"),
    ];
    for (text, column, expected, found) in cases {
        let fault = parse(text).expect_err(text).to_string();
        assert!(fault.starts_with(&format!("column {column}: ")), "{text}: {fault}");
        assert!(fault.contains(expected) && fault.contains(found), "{text}: {fault}");
    }
}

#[test]
fn a_problem_names_field_and_column() {
    let path = FieldPath::root("spec").field("selector");
    let problem = Selector::read("app = 'web'", &path).expect_err("a fault").to_string();
    let expected = "spec.selector: expected ==, !=, in, not in, contains, starts with or ends with \
        at column 5, found '=' in \"app = 'web'\"";
    assert_eq!(problem, expected);
}

fn value() -> impl Strategy<Value = std::sync::Arc<str>> {
    prop_oneof!["[a-z .\"{}()&|!]{0,6}", "[a-z .'{}()&|!]{0,6}"].prop_map(Into::into)
}

fn condition() -> impl Strategy<Value = Expression> {
    let values = || prop::collection::vec(value(), 0..4);
    let operator = prop_oneof![
        values().prop_map(Operator::In),
        values().prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist),
        value().prop_map(Operator::Contains),
        value().prop_map(Operator::StartsWith),
        value().prop_map(Operator::EndsWith),
    ];
    let key = prop_oneof!["[a-zA-Z0-9_./-]{1,8}", Just("in".to_owned()), Just("has".to_owned())];
    (key, operator).prop_map(|(key, operator)| {
        Expression::Label(Requirement { key: key.as_str().into(), operator })
    })
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf =
        prop_oneof![1 => Just(Expression::All), 1 => Just(Expression::Global), 8 => condition()];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Expression::negated),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expression::And),
            prop::collection::vec(inner, 2..4).prop_map(Expression::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(expression in expression()) {
        prop_assert_eq!(parse(&expression.to_string()), Ok(expression));
    }

    #[test]
    fn nothing_makes_it_panic(text in "[a-z =!&|(){},'\"ä\t]{0,40}") {
        let _ = parse(&text);
    }

    #[test]
    fn a_negation_is_the_contrary(expression in expression(), web in "[a-z]=[a-z]") {
        let labels = labels(&web);
        let negated = expression.clone().negated();
        prop_assert_eq!(negated.matches((&labels).into()), !expression.matches((&labels).into()));
    }
}
