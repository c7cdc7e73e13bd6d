//! A question of `explain` and `fix`, asked about a cluster that has been read: thousands of them in one
//! process.

use whydrop_core::{answer::Answer, cluster::Snapshot, remedy::mark::Mark};

use super::{
    ends::{Between, WrittenPort},
    fix::{NoFix, text_of},
    judge::{AddressArgs, Judged, judge},
};

/// A flow as the flags of a command name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `--from`.
    pub from: String,
    /// `--to`.
    pub to: String,
    /// `--port`.
    pub port: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--as-is`.
    pub as_is: bool,
}

impl Asked {
    /// What comes of it, as `explain` judges it.
    ///
    /// # Errors
    /// What the command says before it ends with code 2: an end that cannot be read or is not there, or
    /// a question that no packet comes of.
    pub fn answer(&self, snapshot: &Snapshot) -> anyhow::Result<Answer> {
        Ok(self.judged(snapshot)?.answer)
    }

    /// What `fix` prints, or why it prints nothing.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn fix(&self, snapshot: &Snapshot, mark: &Mark) -> anyhow::Result<Result<String, NoFix>> {
        Ok(text_of(snapshot, self.judged(snapshot)?, mark))
    }

    fn judged(&self, snapshot: &Snapshot) -> anyhow::Result<Judged> {
        let Self { from, to, port, namespace, as_is } = self;
        let port = port.as_deref().map(str::parse::<WrittenPort>).transpose()?;
        let between = Between::read(["--from", "--to"], [from, to], port, namespace.as_deref())?;
        judge(snapshot, &between, AddressArgs { as_is: *as_is })
    }
}
