//! A real browser, without a window and without a network: Debian's `chromium-headless-shell`, told
//! what to do by the `DevTools` protocol over two pipes.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::namespace::Namespace;

/// How long a browser lives, in seconds: what waits for an answer that does not come ends then.
const LIFE_SECS: &str = "100";

/// Reads the protocol from descriptor 3 and writes it to 4, which are its ends of our pipes.
const START: &str = "exec chromium-headless-shell --no-sandbox --disable-gpu --hide-scrollbars \
                     --force-color-profile=srgb --font-render-hinting=none \
                     --remote-debugging-pipe about:blank 3<&0 4>&1 1>&2 0</dev/null";

/// The only fonts that pages are shown in, whatever else the machine has.
const FONTS: &str = "/usr/share/fonts/truetype/dejavu";
const FONT_FILES: [&str; 4] =
    ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"];

/// What a page is shown on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// In pixels.
    pub width: u32,
    /// Whether its user prefers dark colours.
    pub is_dark: bool,
    /// Whether it is paper.
    pub is_print: bool,
}

/// A running browser; ended when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    count: u64,
    session: Option<String>,
    events: Vec<Value>,
    _home: TempDir,
}

impl Browser {
    /// Starts it in a network namespace: one without interfaces shows that a page needs none.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let mut command = namespace.command("timeout");
        command.args(["--kill-after=5", LIFE_SECS, "sh", "-c", START]);
        command.env("HOME", home.path()).env("FONTCONFIG_FILE", fonts(home.path())?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("start chromium-headless-shell")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (commands, answers) = pipes.context("the browser's pipes")?;
        let answers = BufReader::new(answers);
        let (count, session, events) = (0, None, Vec::new());
        let mut browser = Self { child, commands, answers, count, session, events, _home: home };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Shows a file, and waits until it is loaded.
    pub fn open(&mut self, page: &Path, screen: Screen) -> Result<()> {
        let Screen { width, is_dark, is_print } = screen;
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({
            "media": if is_print { "print" } else { "" },
            "features": [{"name": "prefers-color-scheme", "value": scheme}],
        });
        self.call("Emulation.setEmulatedMedia", &media)?;
        self.events.clear();
        let url = format!("file://{}", page.display());
        self.call("Page.navigate", &json!({"url": url}))?;
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.read()?;
            self.events.push(event);
        }
        Ok(())
    }

    /// What an expression comes to, on the page. A promise is waited for.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.call("Runtime.evaluate", &asked)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        Ok(answer["result"]["value"].clone())
    }

    /// A picture of the page's upper part, as PNG.
    pub fn screenshot(&mut self, width: u32, height: u32) -> Result<Vec<u8>> {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let asked = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", &asked)?;
        Ok(BASE64_STANDARD.decode(answer["data"].as_str().context("a picture")?)?)
    }

    /// What the browser reported since the page was opened, by the protocol's name for it.
    pub fn events<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["method"] == method).map(|e| &e["params"])
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.count += 1;
        let mut command = json!({"id": self.count, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).context(method.to_owned())?;
        loop {
            let mut answer = self.read().with_context(|| method.to_owned())?;
            if answer["id"] == self.count {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
            self.events.push(answer);
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut message = Vec::new();
        self.answers.read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            bail!("the browser ended, or had its {LIFE_SECS} s");
        }
        Ok(serde_json::from_slice(&message)?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // `timeout` passes on the signals that it gets, to the browser with all its processes.
        let pid = i32::try_from(self.child.id()).map(nix::unistd::Pid::from_raw);
        let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM));
        let _ = self.child.wait();
    }
}

/// Writes a configuration of fonts that knows those few alone.
fn fonts(home: &Path) -> Result<std::path::PathBuf> {
    let folder = home.join("fonts");
    fs::create_dir(&folder)?;
    for file in FONT_FILES {
        let font = Path::new(FONTS).join(file);
        ensure!(font.is_file(), "{} is missing: Debian's fonts-dejavu-core has it", font.display());
        symlink(font, folder.join(file))?;
    }
    let configuration = home.join("fonts.conf");
    let (folder, cache) = (folder.display(), home.join("cache"));
    let cache = cache.display();
    let text = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n\
         <fontconfig><dir>{folder}</dir><cachedir>{cache}</cachedir></fontconfig>\n"
    );
    fs::write(&configuration, text)?;
    Ok(configuration)
}
