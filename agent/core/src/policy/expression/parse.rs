//! The grammar, by recursive descent:
//!
//! ```text
//! selector  = [ or ]
//! or        = and { "||" and }
//! and       = operation { "&&" operation }
//! operation = { "!" } ( "(" or ")" | "all()" | "global()" | "has(" label ")" | label condition )
//! condition = ( "==" | "!=" | "contains" | "starts with" | "ends with" ) string
//!           | ( "in" | "not in" ) "{" [ string { "," string } [ "," ] ] "}"
//! string    = '"' … '"' | "'" … "'"
//! ```

use std::sync::Arc;

use super::Expression;
use crate::policy::requirement::{Operator, Requirement};

/// How deep parentheses may nest: beyond what anybody writes, and far from the end of a thread's
/// stack.
const DEPTH_MAX: usize = 64;

/// How long a label's key may be, as Calico's grammar has it.
const LABEL_MAX: usize = 512;

/// Where a selector breaks the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: expected {expected}, found {found}")]
pub struct Fault {
    /// 1-based number of the character at which it does.
    pub column: usize,
    /// What would have been right there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// Reads a selector; an empty one is `all()`.
///
/// # Errors
/// The first place where it breaks the grammar.
pub fn parse(text: &str) -> Result<Expression, Fault> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.skip_blanks();
    if parser.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.or()?;
    if parser.rest().is_empty() { Ok(expression) } else { parser.fault("&&, || or the end") }
}

struct Parser<'a> {
    text: &'a str,
    /// Offset of what comes next, blanks skipped.
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.skip_blanks();
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Takes a symbol, or a word, if it comes next.
    fn take(&mut self, word: &str) -> bool {
        let comes = self.rest().starts_with(word);
        if comes {
            self.advance(word.len());
        }
        comes
    }

    fn fault<T>(&self, expected: &str) -> Result<T, Fault> {
        let found = match self.rest().chars().next() {
            Some(character) => format!("{character:?}"),
            None => "the end".to_owned(),
        };
        Err(self.fault_at(self.at, expected, found))
    }

    fn fault_at(&self, at: usize, expected: &str, found: String) -> Fault {
        let column = self.text[..at].chars().count() + 1;
        Fault { column, expected: expected.to_owned(), found }
    }

    fn or(&mut self) -> Result<Expression, Fault> {
        let mut parts = vec![self.and()?];
        while self.take("||") {
            parts.push(self.and()?);
        }
        Ok(one_or(parts, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, Fault> {
        let mut parts = vec![self.operation()?];
        while self.take("&&") {
            parts.push(self.operation()?);
        }
        Ok(one_or(parts, Expression::And))
    }

    fn operation(&mut self) -> Result<Expression, Fault> {
        let mut is_negated = false;
        while self.take("!") {
            is_negated = !is_negated;
        }
        let expression = self.operand()?;
        Ok(if is_negated { expression.negated() } else { expression })
    }

    fn operand(&mut self) -> Result<Expression, Fault> {
        if self.rest().starts_with('(') {
            return self.in_parentheses();
        }
        if let Some(inner) = self.call("has") {
            let key = inner.trim();
            if !key.is_empty() && label_length(key) == key.len() {
                self.at += "has(".len() + inner.len();
                return self.closed(condition(key, Operator::Exists));
            }
            self.at += "has(".len();
            self.skip_blanks();
            return self.fault("a label");
        }
        for (word, expression) in [("all", Expression::All), ("global", Expression::Global)] {
            if let Some(inner) = self.call(word).filter(|inner| inner.trim().is_empty()) {
                self.at += word.len() + "(".len() + inner.len();
                return self.closed(expression);
            }
        }
        let key = &self.rest()[..label_length(self.rest())];
        if key.is_empty() {
            return self.fault("a label, all(), has(…), ! or (");
        }
        self.advance(key.len());
        Ok(condition(key, self.condition()?))
    }

    fn in_parentheses(&mut self) -> Result<Expression, Fault> {
        if self.depth == DEPTH_MAX {
            return self.fault(&format!("at most {DEPTH_MAX} parentheses within each other"));
        }
        self.depth += 1;
        self.advance("(".len());
        let expression = self.or()?;
        self.depth -= 1;
        if self.take(")") { Ok(expression) } else { self.fault("&&, || or )") }
    }

    /// The expression, if the parenthesis is closed that it ends with.
    fn closed(&mut self, expression: Expression) -> Result<Expression, Fault> {
        if self.take(")") { Ok(expression) } else { self.fault(")") }
    }

    /// What stands in the parentheses of `name(…)`, if that comes next, without a blank before them; where
    /// they are not closed, all that follows.
    fn call(&self, name: &str) -> Option<&'a str> {
        let inner = self.rest().strip_prefix(name)?.strip_prefix('(')?;
        Some(inner.split_once(')').map_or(inner, |(inner, _)| inner))
    }

    /// What a condition asks of the label that it began with.
    fn condition(&mut self) -> Result<Operator, Fault> {
        if self.take("==") {
            Ok(Operator::In(vec![self.string()?]))
        } else if self.take("!=") {
            Ok(Operator::NotIn(vec![self.string()?]))
        } else if self.take("contains") {
            Ok(Operator::Contains(self.string()?))
        } else if self.take_words("starts", "with") {
            Ok(Operator::StartsWith(self.string()?))
        } else if self.take_words("ends", "with") {
            Ok(Operator::EndsWith(self.string()?))
        } else if self.take_words("not", "in") {
            Ok(Operator::NotIn(self.set()?))
        } else if self.take("in") {
            Ok(Operator::In(self.set()?))
        } else {
            self.fault("==, !=, in, not in, contains, starts with or ends with")
        }
    }

    /// Takes two words, which Calico lets stand without a blank between them.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let before = self.at;
        let taken = self.take(first) && self.take(second);
        if !taken {
            self.at = before;
        }
        taken
    }

    fn set(&mut self) -> Result<Vec<Arc<str>>, Fault> {
        if !self.take("{") {
            return self.fault("{");
        }
        let mut values = Vec::new();
        while !self.rest().starts_with('}') {
            values.push(self.string()?);
            if !self.take(",") {
                break;
            }
        }
        if self.take("}") { Ok(values) } else { self.fault(", or }") }
    }

    /// A string in quotes of either kind; there is no escape in it.
    fn string(&mut self) -> Result<Arc<str>, Fault> {
        let Some(quote @ ('\'' | '"')) = self.rest().chars().next() else {
            return self.fault("a string in quotes");
        };
        let inner = &self.rest()[1..];
        let Some((value, _)) = inner.split_once(quote) else {
            let end = self.text.len();
            return Err(self.fault_at(end, &format!("a closing {quote}"), "the end".to_owned()));
        };
        self.advance(value.len() + 2);
        Ok(value.into())
    }
}

fn one_or(mut parts: Vec<Expression>, several: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            several(parts)
        }
    }
}

fn condition(key: &str, operator: Operator) -> Expression {
    Expression::Label(Requirement { key: key.into(), operator })
}

/// How many bytes of a label's key the text begins with.
fn label_length(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    text.find(|c| !is_part(c)).unwrap_or(text.len()).min(LABEL_MAX)
}
