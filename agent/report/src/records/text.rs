//! Lines of text read back: of drops' lines that end with a command, which flow they are about.
//!
//! Nothing is looked for within a line. It begins with the flow, and has to end, to the letter, with
//! what the agent writes about this flow: what is between the two comes from objects.

use std::net::IpAddr;

use crate::{
    escape::{FIX, INCIDENT},
    text::{FlowQuery, ID_SHOWN},
};

/// What the second word of a line says that it is.
const VERBS: [&str; 6] = ["DROP", "REJECT", "FINDING", "INCIDENT", "HEAL", "AGENT"];

/// Whether a line is a record in its form of text.
pub fn is_record(line: &str) -> bool {
    verb(line).is_some()
}

/// The verb of a line, and what follows it.
fn verb(line: &str) -> Option<(&str, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let (verb, rest) = rest.split_once(' ')?;
    (is_time(time) && VERBS.contains(&verb)).then_some((verb, rest))
}

/// The flow of a drop's line that ends with the command for it, and as much of its incident's id as
/// it shows.
pub fn fixed(line: &str) -> Option<(FlowQuery, &str)> {
    let (verb, rest) = verb(line)?;
    if !["DROP", "REJECT"].contains(&verb) {
        return None;
    }
    // Names hold no space.
    let (from, rest) = rest.split_once(" -> ")?;
    let (to, rest) = rest.split_once(' ')?;
    if from.is_empty() || from.contains(' ') {
        return None;
    }
    let (to, protocol) = to.rsplit_once('/')?;
    let (to, port) = to.rsplit_once(':')?;
    if !["TCP", "UDP", "SCTP"].contains(&protocol) || port.parse::<u16>().is_err() {
        return None;
    }
    let within = to.strip_prefix('[').and_then(|to| to.strip_suffix(']'));
    let to = within.filter(|to| is_v6(to)).unwrap_or(to);
    let (to, port) = match rest.strip_prefix("(Service ") {
        Some(rest) => dialled(rest.split_once(')')?.0)?,
        None => (to.to_owned(), port),
    };
    let flow = FlowQuery { from: from.to_owned(), to, port: format!("{port}/{protocol}") };
    let id = line.get(line.len().checked_sub(ID_SHOWN + 1)?..)?.strip_suffix(']')?;
    let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let end = format!("{FIX}{}{INCIDENT}{id}]", flow.fix_command());
    (is_id && line.ends_with(&end)).then_some((flow, id))
}

/// What was dialled of a Service, and the port: by its name where that is its cluster address.
fn dialled(service: &str) -> Option<(String, &str)> {
    let named = |service: &str| {
        let (namespace, name) = service.split_once('/')?;
        Some(format!("{namespace}/svc/{name}"))
    };
    let Some((service, via)) = service.split_once(" via ") else {
        let (service, port) = service.rsplit_once(':')?;
        return Some((named(service)?, port));
    };
    if let Some(node_port) = via.strip_prefix("NodePort ") {
        let (port, node) = node_port.split_once(" of ")?;
        return Some((node.to_owned(), port));
    }
    let address = via.strip_prefix("load balancer ").or(via.strip_prefix("external address "))?;
    Some((address.to_owned(), service.rsplit_once(':')?.1))
}

fn is_v6(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6())
}

/// A time as lines begin with it: RFC 3339 in UTC, in whole seconds.
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:ddZ";
    text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            literal => byte == *literal,
        })
}

/// A line as the agent wrote it, without what `kubectl logs` puts before it: with `--prefix` the pod
/// and its container, with `--timestamps` the kubelet's time.
pub fn bare(line: &str) -> &str {
    let line = line.trim_end_matches(['\n', '\r']);
    if line.starts_with('{') {
        return line;
    }
    let line = without_pod(line);
    match line.split_once(' ') {
        Some((time, rest)) if is_kubelets(time) && (rest.starts_with('{') || is_record(rest)) => {
            rest
        }
        _ => line,
    }
}

/// Without `[pod/NAME/CONTAINER] `.
fn without_pod(line: &str) -> &str {
    let is_name = |name: &str| {
        let is_of_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        !name.is_empty() && name.bytes().all(is_of_name)
    };
    let taken = line.strip_prefix("[pod/").and_then(|rest| {
        let (source, rest) = rest.split_once("] ")?;
        let (pod, container) = source.split_once('/')?;
        (is_name(pod) && is_name(container)).then_some(rest)
    });
    taken.unwrap_or(line)
}

/// A time as the kubelet writes it: RFC 3339, with a fraction and of any zone.
fn is_kubelets(time: &str) -> bool {
    let of_time = |byte: u8| byte.is_ascii_digit() || b"-+:.TZ".contains(&byte);
    time.bytes().all(of_time) && time.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-01-02T03:04:05Z DROP shop/web -> books/db:5432/TCP  ingress denied by \
                        NetworkPolicy books/x; 1 SYN, NETFILTER_DROP; fix: whydrop fix --from \
                        shop/web --to books/db --port 5432/TCP  [incident 00c0ffee]";

    fn query(from: &str, to: &str, port: &str) -> FlowQuery {
        FlowQuery { from: from.to_owned(), to: to.to_owned(), port: port.to_owned() }
    }

    #[test]
    fn a_drops_line_names_its_flow() {
        let flow = query("shop/web", "books/db", "5432/TCP");
        assert_eq!(fixed(LINE), Some((flow, "00c0ffee")));
        let service = LINE
            .replace("TCP  ingress", "TCP (Service books/pg:80)  ingress")
            .replace("--to books/db --port 5432", "--to books/svc/pg --port 80");
        let flow = query("shop/web", "books/svc/pg", "80/TCP");
        assert_eq!(fixed(&service), Some((flow, "00c0ffee")));
        for (via, to, port) in [
            (":80 via load balancer 198.51.100.8", "198.51.100.8", "80"),
            (":80 via external address fd78::8", "fd78::8", "80"),
            (" via NodePort 30080 of node/n2", "node/n2", "30080"),
            (" via NodePort 30080 of 192.0.2.2", "192.0.2.2", "30080"),
        ] {
            let line = LINE
                .replace("TCP  ingress", &format!("TCP (Service books/pg{via})  ingress"))
                .replace("--to books/db --port 5432", &format!("--to {to} --port {port}"));
            let flow = query("shop/web", to, &format!("{port}/TCP"));
            assert_eq!(fixed(&line), Some((flow, "00c0ffee")), "{line}");
        }
        let v6 = LINE.replace("books/db:", "[fd78::10]:").replace("books/db", "fd78::10");
        let flow = query("shop/web", "fd78::10", "5432/TCP");
        assert_eq!(fixed(&v6), Some((flow, "00c0ffee")));
        let quoted = LINE
            .replace("shop/web ->", "shop/x$(id) ->")
            .replace("--from shop/web", "--from 'shop/x$(id)'");
        let flow = query("shop/x$(id)", "books/db", "5432/TCP");
        assert_eq!(fixed(&quoted), Some((flow, "00c0ffee")));
    }

    #[test]
    fn nothing_else_is_a_drops_line() {
        for (part, other) in [
            ("2026-01-02T03:04:05Z ", ""),
            ("2026-01-02T03:04:05Z", " 2026-01-02T03:04:05Z"),
            ("05Z", "05.678Z"),
            ("DROP", "FINDING"),
            ("DROP", "AGENT"),
            ("shop/web ->", "shop/other ->"),
            ("books/db:5432", "books/db:5433"),
            ("5432/TCP  ingress", "5432/UDP  ingress"),
            ("5432/TCP  ingress", "5432/TCP (Service books/db:5432)  ingress"),
            ("--from shop/web", "--from tenant/evil"),
            ("--to books/db", "--to books/db --to books/db"),
            ("; fix", ";  fix"),
            ("  [incident", " [incident"),
            ("00c0ffee]", "00c0ffee] "),
            ("00c0ffee]", "00C0FFEE]"),
            ("00c0ffee]", "c0ffee]"),
            ("00c0ffee]", "é0c0ffee]"),
        ] {
            let line = LINE.replacen(part, other, 1);
            assert_ne!(line, LINE, "{part}");
            assert_eq!(fixed(&line), None, "{line}");
        }
    }

    #[test]
    fn what_kubectl_puts_before_a_line_is_taken_off() {
        for before in [
            "",
            "[pod/whydrop-x1z/whydrop] ",
            "2026-01-02T03:04:05.123456789Z ",
            "2026-01-02T05:04:05.1+02:00 ",
            "[pod/whydrop-x1z/whydrop] 2026-01-02T03:04:05.1Z ",
        ] {
            for line in [LINE, r#"{"schema":1}"#] {
                assert_eq!(bare(&format!("{before}{line}\r\n")), line, "{before}");
            }
        }
        for before in [
            " ",
            "x ",
            "[pod/a b/whydrop] ",
            "[pod/whydrop] ",
            "[incident 0] ",
            "2026-01-02T03:04:05.1Z  ",
            "2026-01-02T03:04:05.1Z [pod/whydrop-x1z/whydrop] ",
            "2026-01-02T03:04:05.1Z 2026-01-02T03:04:05.1Z ",
        ] {
            let line = format!("{before}{LINE}");
            assert_eq!(fixed(bare(&line)), None, "{line}");
            let line = format!("{before}{{");
            assert!(!bare(&line).starts_with('{'), "{line}");
        }
    }
}
