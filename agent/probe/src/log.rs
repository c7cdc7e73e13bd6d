//! The programs' own diagnostics, as ours.

/// Hands records of `log`, which aya-log speaks, on to `tracing`.
pub(crate) struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (program, message) = (record.target(), record.args());
        match record.level() {
            log::Level::Error => tracing::error!(program, "{message}"),
            log::Level::Warn => tracing::warn!(program, "{message}"),
            log::Level::Info => tracing::info!(program, "{message}"),
            log::Level::Debug | log::Level::Trace => tracing::debug!(program, "{message}"),
        }
    }

    fn flush(&self) {}
}
