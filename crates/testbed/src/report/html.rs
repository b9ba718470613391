//! A Markdown document as one HTML page that needs no other file: its pictures stand in it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// How it looks, by day and by night. Pictures are drawn for a white page.
const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #d5d5d5; --head: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181a; --line: #3a3d40; --head: #222528; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 0 auto; padding: 1.5rem; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
figure { margin: 1.25rem 0; overflow-x: auto; } figure svg { background: #fff; border-radius: 6px; max-width: 100%;
  height: auto; }
.table { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: 0.875rem; }
th, td { border: 1px solid var(--line); padding: 0.3rem 0.6rem; text-align: left; vertical-align: top; }
th { background: var(--head); } td { font-variant-numeric: tabular-nums; }
code { font: 0.9em ui-monospace, monospace; }
";

/// The page; pictures are found from `folder`.
pub(super) fn page(title: &str, text: &str, folder: &Path) -> Result<String> {
    let mut events = Vec::new();
    let mut picture: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match (event, &mut picture) {
            (Event::Start(Tag::Image { dest_url, .. }), _) => picture = Some(svg(folder, &dest_url)?),
            (Event::End(TagEnd::Image), Some(svg)) => {
                events.push(raw(&format!("<figure>{svg}</figure>")));
                picture = None;
            }
            // What the picture is called stands in it.
            (_, Some(_)) => {}
            (event @ Event::Start(Tag::Table(_)), None) => {
                events.extend([raw("<div class=\"table\">"), event])
            }
            (event @ Event::End(TagEnd::Table), None) => events.extend([event, raw("</div>")]),
            (event, None) => events.push(event),
        }
    }
    let mut body = String::new();
    html::push_html(&mut body, events.into_iter());
    let mut name = String::new();
    html::push_html(&mut name, [Event::Text(CowStr::from(title))].into_iter());
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{name}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n{body}</body>\n</html>\n"
    ))
}

fn raw(text: &str) -> Event<'static> {
    Event::InlineHtml(CowStr::from(text.to_owned()))
}

/// A picture, as it stands in a page.
fn svg(folder: &Path, path: &str) -> Result<String> {
    let path = folder.join(path);
    let svg =
        fs::read_to_string(&path).with_context(|| format!("cannot read the picture `{}`", path.display()))?;
    let begin = svg.find("<svg").with_context(|| format!("`{}` is no SVG", path.display()))?;
    Ok(svg[begin..].trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.svg"), "<?xml version=\"1.0\"?>\n<svg><text>bars</text></svg>\n")
            .unwrap();
        let text = "# One & two\n\n![What](a.svg)\n\n| a | b |\n| - | - |\n| 1 | **no** |\n";
        let page = page("One & two", text, folder.path()).unwrap();
        for part in [
            "<title>One &amp; two</title>",
            "<figure><svg><text>bars</text></svg></figure>",
            "<div class=\"table\"><table>",
            "<strong>no</strong>",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("src=") && !page.contains("href="), "{page}");
        assert!(super::page("x", "![What](b.svg)", folder.path()).is_err(), "a picture that is not there");
    }
}
