//! The ends of a flow as people name them.

mod dns;
mod find;
mod missing;
mod port;
mod suggest;
mod written;

use anyhow::{Context as _, bail};
use clap::Args;

pub(super) use find::Found;
pub(super) use port::Port;
pub(super) use written::{NamedEnd, NumberOrName, WrittenEnd, WrittenPort};

use crate::report::text::FlowQuery;

/// A flow to ask about.
#[derive(Debug, Args)]
pub(super) struct FlowArgs {
    /// Who connects: [NAMESPACE/]POD, [NAMESPACE/]KIND/NAME (deploy, sts, cronjob, …), node/NAME, a name
    /// of the cluster's DNS, or an address
    #[arg(long, value_name = "END")]
    from: String,
    /// Who is connected to: as --from, or [NAMESPACE/]svc/NAME; its port may be behind it, as in
    /// page.pulp.svc:80
    #[arg(long, value_name = "END")]
    to: String,
    /// Destination port, such as 8080, 53/UDP or http; TCP unless given
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Option<WrittenPort>,
}

/// A flow whose ends have been read.
#[derive(Clone, Debug)]
pub(super) struct Between {
    /// Who connects.
    pub from: NamedEnd,
    /// Who is connected to.
    pub to: NamedEnd,
    /// On which port; `None`: nobody has said.
    pub port: Option<WrittenPort>,
    /// How the ends are called by whoever wrote them: `--from`, or a field.
    pub labels: [&'static str; 2],
}

impl FlowArgs {
    /// Reads the ends; what names no namespace is in `namespace`.
    ///
    /// # Errors
    /// An end that cannot be read.
    pub(super) fn read(&self, namespace: Option<&str>) -> anyhow::Result<Between> {
        Between::read(["--from", "--to"], [&self.from, &self.to], self.port.clone(), namespace)
    }
}

impl Between {
    /// Reads the ends; what names no namespace is in `namespace`.
    ///
    /// # Errors
    /// An end that cannot be read, or one whose port is another than the port.
    pub(super) fn read(
        labels: [&'static str; 2],
        [from, to]: [&str; 2],
        port: Option<WrittenPort>,
        namespace: Option<&str>,
    ) -> anyhow::Result<Self> {
        // A client's own port takes no part in policy.
        let WrittenEnd { end: from, .. } = WrittenEnd::read(from, namespace).context(labels[0])?;
        let WrittenEnd { end: to, port: behind } =
            WrittenEnd::read(to, namespace).context(labels[1])?;
        let port = match (behind, port) {
            (Some(behind), Some(port)) => Some(same(&behind, &port).context(labels[1])?),
            (behind, port) => behind.or(port),
        };
        Ok(Self { from, to, port, labels })
    }

    /// The question as it can be asked again, from any namespace.
    pub(super) fn query(&self) -> FlowQuery {
        let Self { from, to, port, .. } = self;
        let port = port.as_ref().map(WrittenPort::in_full).unwrap_or_default();
        FlowQuery { from: from.to_string(), to: to.to_string(), port }
    }

    /// The namespace in which a name with dots is perhaps a pod's, which [`Self::query`] cannot say.
    pub(super) fn namespace_of_a_name(&self) -> Option<&str> {
        [&self.from, &self.to].into_iter().find_map(|end| match end {
            NamedEnd::Dotted { namespace, .. } => namespace.as_deref(),
            _ => None,
        })
    }

    /// Reads the ends of a record, which names pods by their namespace whatever that is called.
    ///
    /// # Errors
    /// An end that cannot be read.
    pub(super) fn of_record(from: &str, to: &str, port: &str) -> anyhow::Result<Self> {
        const LABEL: &str = "in the record";
        let end = |text: &str| NamedEnd::of_record(text).context(LABEL);
        let port = Some(port.parse().context(LABEL)?);
        Ok(Self { from: end(from)?, to: end(to)?, port, labels: [LABEL, LABEL] })
    }
}

/// One port that is written twice.
fn same(behind: &WrittenPort, port: &WrittenPort) -> anyhow::Result<WrittenPort> {
    let agree = behind.port == port.port
        && [behind.protocol, port.protocol]
            .iter()
            .flatten()
            .collect::<Vec<_>>()
            .windows(2)
            .all(|pair| pair[0] == pair[1]);
    if !agree {
        bail!("it has the port {behind} behind it, and the port asked for is {port}");
    }
    Ok(WrittenPort { port: port.port.clone(), protocol: port.protocol.or(behind.protocol) })
}
