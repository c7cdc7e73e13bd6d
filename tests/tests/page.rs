//! The page of `whydrop report` in a real browser, without a network: what it logs, what it asks
//! for, whether it fits a phone, whether it can be read, and what it looks like. Needs root.
//!
//! `records/restrict-backend-ingress.jsonl` is what a real agent reported of a real outage of ten
//! minutes. To record it again: `cargo run -p whydrop-tests --bin whydrop-demo --
//! calico-restrict-backend-ingress --records FILE --minutes 10`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tempfile::TempDir;
use whydrop_tests::{
    browser::{Browser, Screen},
    world::{
        agent::binary,
        namespace::{Namespace, checked, sweep},
    },
};

const WIDE: Screen = Screen { width: 1000, is_dark: false, is_print: false };
/// The narrowest screen that WCAG 2 speaks of (1.4.10, reflow).
const PHONE: Screen = Screen { width: 320, is_dark: false, is_print: false };

/// How high a picture is: as much as fits a README.
const PICTURE_HEIGHT: u32 = 1280;

/// Set to take the pictures in `docs/` again.
const RENEW: &str = "WHYDROP_RENEW_PICTURES";

/// How far a picture may be from the one in `docs/`, on average, of 255 shades; two versions of
/// Chromium are about 1 apart, a block that has moved or lost its colour is more than 4.
const SHADES_APART_MAX: f64 = 3.0;

/// A page over records, and a browser to show it.
struct Shown {
    browser: Browser,
    page: PathBuf,
    _folder: TempDir,
    _nowhere: Namespace,
}

impl Shown {
    fn over(records: &Path, run: u32) -> Result<Self> {
        sweep();
        let folder = tempfile::tempdir()?;
        let page = folder.path().join("page.html");
        checked(Command::new(binary()?).arg("report").arg(records).arg("-o").arg(&page))?;
        // A namespace of its own has no interface that is up, not even the loopback.
        let nowhere = Namespace::create(run, "page")?;
        let browser = Browser::start(&nowhere)?;
        Ok(Self { browser, page, _folder: folder, _nowhere: nowhere })
    }

    fn open(&mut self, screen: Screen) -> Result<()> {
        self.browser.open(&self.page, screen)
    }

    /// Nothing was asked for but the page itself, and nothing went wrong.
    fn ensure_quiet(&self) -> Result<()> {
        let url = |event: &Value| event["request"]["url"].as_str().unwrap_or_default().to_owned();
        let asked: Vec<String> =
            self.browser.events("Network.requestWillBeSent").map(url).collect();
        let outside = |url: &&String| !url.starts_with("data:");
        let asked: Vec<&String> = asked.iter().filter(outside).collect();
        ensure!(asked == [&format!("file://{}", self.page.display())], "asked for {asked:?}");
        for complaint in [
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Audits.issueAdded",
        ] {
            let said: Vec<_> = self.browser.events(complaint).collect();
            ensure!(said.is_empty(), "{complaint}: {said:?}");
        }
        Ok(())
    }

    fn ensure(&mut self, what: &str, expression: &str) -> Result<()> {
        let found = self.browser.evaluate(expression)?;
        ensure!(found == Value::Array(Vec::new()), "{what}: {found}");
        Ok(())
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("records").join(name)
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// What reaches beyond the screen, unless something around it scrolls.
const OVERFLOWING: &str = r"
[...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > document.documentElement.clientWidth + 1
        && !e.closest('.code') && !e.closest('.skip') && !e.closest('thead');
}).map(e => e.outerHTML.slice(0, 120))
.concat(document.documentElement.scrollWidth > document.documentElement.clientWidth
    ? ['the page scrolls sideways'] : [])";

/// Text with less contrast than WCAG 2 asks for (1.4.3: 4.5), by the colours as they are computed.
const PALE: &str = r"
(() => {
    const parse = c => c.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const shape = e.matches?.('g.party') && e.querySelector('rect');
            if (shape) return parse(getComputedStyle(shape).fill);
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] === 1) return c;
        }
        return [255, 255, 255];
    };
    const pale = new Map();
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        const ink = light(parse(e instanceof SVGElement ? style.fill : style.color));
        const paper = light(behind(e));
        const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        if (contrast < 4.5) pale.set(e.tagName + '.' + e.getAttribute('class'), contrast);
    }
    return [...pale].map(([what, contrast]) => what + ' ' + contrast.toFixed(2));
})()";

/// What somebody who hears the page would miss.
const UNNAMED: &str = r"
[
    ...(document.documentElement.lang === 'en' ? [] : ['no language']),
    ...['header', 'main', 'footer', 'nav[aria-label], nav[aria-labelledby]', 'h1']
        .filter(each => !document.querySelector(each)),
    ...(document.querySelectorAll('h1').length === 1 ? [] : ['not one h1']),
    ...[...document.querySelectorAll('svg')]
        .filter(svg => svg.getAttribute('role') !== 'img' || svg.getAttribute('aria-labelledby')
            .split(' ').some(id => !document.getElementById(id)?.textContent.trim()))
        .map(svg => 'unnamed ' + svg.outerHTML.slice(0, 80)),
    ...[...document.querySelectorAll('th')].filter(th => !th.scope).map(th => th.textContent),
    ...[...document.querySelectorAll('time')]
        .filter(time => Number.isNaN(Date.parse(time.dateTime))).map(time => time.outerHTML),
    ...[...document.querySelectorAll('.code')]
        .filter(code => code.tabIndex !== 0 || !code.getAttribute('aria-label'))
        .map(code => 'cannot be scrolled by key: ' + code.outerHTML.slice(0, 80)),
    ...[...document.scripts].map(() => 'a script'),
]";

#[test]
fn the_page_stands_alone_and_can_be_read() -> Result<()> {
    let mut shown = Shown::over(&data("restrict-backend-ingress.jsonl"), 0)?;
    for is_dark in [false, true] {
        for screen in [WIDE, PHONE] {
            shown.open(Screen { is_dark, ..screen })?;
            shown.ensure_quiet()?;
            shown
                .browser
                .evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")?;
            shown.ensure("beyond the screen", OVERFLOWING)?;
            shown.ensure("too pale", PALE)?;
            shown.ensure("not to be heard", UNNAMED)?;
        }
    }
    shown.open(Screen { is_print: true, ..WIDE })?;
    shown.ensure("too pale on paper", PALE)?;
    let heading = shown.browser.evaluate("document.querySelector('h2').textContent")?;
    ensure!(
        heading
            == "8 of 8 backend/backend-api could not reach backend/postgres-primary on 5432/TCP",
        "{heading}"
    );
    Ok(())
}

#[test]
fn names_are_text_whatever_they_hold() -> Result<()> {
    let records = fs::read_to_string(data("restrict-backend-ingress.jsonl"))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("nasty.jsonl");
    let nasty = r#"<script>document.title=1</script>\"><img src=https://example.com/x>\u202ecba"#;
    let records = records.replace("postgres-primary-0", &format!("postgres{nasty}"));
    // And one too long for any box.
    fs::write(&file, records.replace("backend-api\"", &format!("{}\"", "long-name-".repeat(6))))?;
    let mut shown = Shown::over(&file, 1)?;
    shown.open(PHONE)?;
    shown.ensure_quiet()?;
    shown.ensure("beyond the screen", OVERFLOWING)?;
    shown.ensure("not to be heard", UNNAMED)?;
    shown.ensure(
        "elements out of names",
        "[...document.querySelectorAll('img, script')].map(String)",
    )?;
    let text = shown.browser.evaluate("document.body.textContent")?;
    let text = text.as_str().context("text")?;
    ensure!(text.contains("postgres<script>document.title=1</script>\"><img"), "not as it stands");
    ensure!(text.contains(r"\u{202e}cba"), "turned text is not shown as such");
    Ok(())
}

/// How far apart two pictures are on average, of 255 shades, drawn at an eighth of their size: there
/// the edges of letters, which every version draws a little differently, have become grey.
const APART: &str = r"
(async () => {
    const load = async url => {
        const image = new Image();
        image.src = url;
        await image.decode();
        const canvas = document.createElement('canvas');
        canvas.width = image.width / 8;
        canvas.height = image.height / 8;
        const context = canvas.getContext('2d');
        context.imageSmoothingQuality = 'high';
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        return context.getImageData(0, 0, canvas.width, canvas.height);
    };
    const [one, other] = [await load(ONE), await load(OTHER)];
    if (one.width !== other.width || one.height !== other.height) return 255;
    return one.data.reduce((sum, v, i) => sum + Math.abs(v - other.data[i]), 0)
        / one.data.length * 4 / 3;
})()";

#[test]
fn the_page_looks_as_it_does_in_the_docs() -> Result<()> {
    let mut shown = Shown::over(&data("restrict-backend-ingress.jsonl"), 2)?;
    for (name, screen) in [
        ("report-light.png", WIDE),
        ("report-dark.png", Screen { is_dark: true, ..WIDE }),
        ("report-phone.png", Screen { width: 390, ..PHONE }),
    ] {
        shown.open(screen)?;
        let picture = shown.browser.screenshot(screen.width, PICTURE_HEIGHT)?;
        if env::var_os(RENEW).is_some() {
            fs::write(docs(name), &picture)?;
        }
        let kept = fs::read(docs(name)).with_context(|| format!("docs/{name}"))?;
        let url = |png: &[u8]| format!("'data:image/png;base64,{}'", BASE64_STANDARD.encode(png));
        let asked = APART.replace("ONE", &url(&picture)).replace("OTHER", &url(&kept));
        let blank = tempfile::Builder::new().suffix(".html").tempfile()?;
        shown.browser.open(blank.path(), WIDE)?;
        let apart = shown.browser.evaluate(&asked)?.as_f64().context("a number")?;
        if apart > SHADES_APART_MAX {
            let seen = env::temp_dir().join(name);
            fs::write(&seen, &picture)?;
            let (seen, kept) = (seen.display(), format!("docs/{name}"));
            anyhow::bail!(
                "{seen} is {apart:.1} shades from {kept}. If that is as it should be, set {RENEW}=1"
            );
        }
    }
    Ok(())
}
