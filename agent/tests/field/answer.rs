//! What the program answers, held against what is true.

use std::{io::Write as _, process::Output};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{
    case::{Ask, Expect, Flow, NoRemedy, Passes, Ports, Remedy, port},
    client::{stderr, stdout, whydrop},
    dump::Inputs,
};

impl Expect {
    /// As the answer names it.
    const fn effective(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unknown => "unknown",
            Self::Some => "some",
            Self::Error => "error",
        }
    }

    /// The exit code that it means, where it means one.
    const fn exit(self) -> Option<i32> {
        match self {
            Self::Allow => Some(0),
            Self::Deny => Some(1),
            Self::Error => Some(2),
            Self::Unknown | Self::Some => None,
        }
    }
}

/// What is not as the case has it; nothing, if all is.
pub(crate) fn faults(ask: &Ask, inputs: &Inputs) -> Vec<String> {
    let mut faults = Faults::default();
    let question = Question::of(ask, inputs);
    let text = question.explain("text", &[]);
    faults.exit(&text, ask);
    if text.status.code() == Expect::Error.exit() {
        faults.words(&stderr(&text), &ask.says, &ask.never);
        return faults.0;
    }
    faults.words(&stdout(&text), &ask.says, &ask.never);
    faults.words(&stderr(&text), &ask.warns, &[]);
    let answer = question.explain("json", &[]);
    faults.exit(&answer, ask);
    let Ok(answer) = serde_json::from_str::<Value>(&stdout(&answer)) else {
        faults.add(format!("no answer: {}", stderr(&answer).trim()));
        return faults.0;
    };
    faults.effective("effective", ask, &answer);
    let class = &answer["cause"]["class"];
    if let Some(expected) = ask.class.as_deref().filter(|expected| class != expected) {
        faults.add(format!("class: expected {expected}, found {class}"));
    }
    if ask.check {
        match question.check(ask) {
            Ok(line) => faults.effective("check: effective", ask, &line),
            Err(said) => faults.add(format!("check: no answer: {said}")),
        }
    }
    match &ask.remedy {
        None => {}
        Some(Remedy::None(NoRemedy::None)) => {
            let remedy = &answer["remedy"];
            if !remedy.is_null() {
                faults.add(format!("a remedy is offered: {}", remedy["summary"]));
            }
        }
        Some(Remedy::Passes(passes)) => faults.remedied(&question, passes, &answer["remedy"]),
    }
    faults.0
}

/// A question, as the program gets it.
#[derive(Clone, Copy)]
struct Question<'a> {
    from: &'a str,
    to: &'a str,
    port: Option<&'a Ports>,
    protocol: Option<&'a str>,
    args: &'a [String],
    inputs: &'a Inputs,
}

impl<'a> Question<'a> {
    fn of(ask: &'a Ask, inputs: &'a Inputs) -> Self {
        let Ask { from, to, port, protocol, args, .. } = ask;
        Self { from, to, port: port.as_ref(), protocol: protocol.as_deref(), args, inputs }
    }

    /// The same of other ends.
    fn about(self, flow: &'a Flow) -> Self {
        let Flow { from, to, port, protocol } = flow;
        Self { from, to, port: port.as_ref(), protocol: protocol.as_deref(), ..self }
    }

    fn run(&self, command: &str, flags: &[&str], more: &[String]) -> Output {
        let mut arguments = vec![command, "-f"];
        arguments.extend(self.inputs.paths.iter().chain(more).map(String::as_str));
        arguments.extend(self.args.iter().map(String::as_str));
        arguments.extend(flags);
        whydrop(&arguments, &self.inputs.stdin)
    }

    /// The answer, with more manifests.
    fn explain(&self, form: &str, more: &[String]) -> Output {
        let mut flags = vec!["-o", form, "--from", self.from, "--to", self.to];
        let port = port(self.port, self.protocol);
        flags.extend(port.iter().flat_map(|port| ["--port", port.as_str()]));
        self.run("explain", &flags, more)
    }

    /// What `check` finds of the flow, as its line of JSON.
    fn check(&self, ask: &Ask) -> Result<Value, String> {
        let port = match self.port {
            Some(Ports::Number(number)) => json!(number),
            other => json!(port(other, None)),
        };
        let passes = ask.expect.any() == [Expect::Allow];
        let expect = if passes { "allow" } else { "deny" };
        let mut flow = json!({ "from": self.from, "to": self.to, "port": port, "expect": expect });
        if let Some(protocol) = self.protocol {
            flow["protocol"] = protocol.into();
        }
        let flows = file(&json!([flow]).to_string());
        let path = flows.path().to_string_lossy();
        let output = self.run("check", &["-o", "json", "--flows", &path], &[]);
        serde_json::from_str(&stdout(&output)).map_err(|_| stderr(&output).trim().to_owned())
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    fn effective(&mut self, what: &str, ask: &Ask, answer: &Value) {
        let found = &answer["effective"];
        if !ask.expect.any().iter().any(|expect| found == expect.effective()) {
            self.add(format!("{what}: expected {:?}, found {found}", ask.expect.any()));
        }
    }

    fn exit(&mut self, output: &Output, ask: &Ask) {
        let any = ask.expect.any().iter().map(|expect| expect.exit());
        let codes: Option<Vec<i32>> =
            ask.exit.map_or_else(|| any.collect(), |code| Some(vec![code]));
        let Some(codes) = codes else { return };
        if !output.status.code().is_some_and(|code| codes.contains(&code)) {
            let said = stderr(output);
            self.add(format!("expected exit code {codes:?}, found {}: {said}", output.status));
        }
    }

    fn words(&mut self, text: &str, says: &[String], never: &[String]) {
        for part in says.iter().filter(|part| !text.contains(part.as_str())) {
            self.add(format!("expected to contain {part:?}:\n{text}"));
        }
        for part in never.iter().filter(|part| text.contains(part.as_str())) {
            self.add(format!("expected not to contain {part:?}:\n{text}"));
        }
    }

    /// With the remedy among the manifests.
    fn remedied(&mut self, question: &Question<'_>, passes: &Passes, remedy: &Value) {
        let Some(manifest) = remedy["manifest"].as_str() else {
            return self.add("no remedy is offered".to_owned());
        };
        self.words(manifest, &passes.says, &passes.never);
        let file = file(manifest);
        let more = [file.path().display().to_string()];
        let own = std::iter::once(*question);
        for question in own.chain(passes.also.iter().map(|flow| question.about(flow))) {
            let output = question.explain("text", &more);
            if output.status.code() != Some(0) {
                let Question { from, to, .. } = question;
                let said = stdout(&output) + &stderr(&output);
                self.add(format!("with the remedy, {from} -> {to} does not pass:\n{said}"));
            }
        }
        for question in passes.not.iter().map(|flow| question.about(flow)) {
            let output = question.explain("text", &more);
            if output.status.code() == Some(0) {
                let Question { from, to, .. } = question;
                self.add(format!("with the remedy, {from} -> {to} passes as well"));
            }
        }
    }
}
