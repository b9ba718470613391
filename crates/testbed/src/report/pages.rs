//! Pages of experiments as parts of a larger document.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// The page of an experiment, its headings a level lower and its pictures as seen from the document; `to_experiments` is
/// the way there.
pub(super) fn included(folder: &Path, name: &str, to_experiments: &Path) -> Result<String> {
    let path = folder.join(format!("{name}.md"));
    let shown = path.display();
    let page = fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no page `{shown}`; `defer-testbed run {}` makes it",
            folder.join(format!("{name}.toml")).display()
        )
    })?;
    Ok(lowered(&page, &to_experiments.to_string_lossy()))
}

fn lowered(page: &str, to_experiments: &str) -> String {
    let line = |line: &str| match line {
        _ if line.starts_with('#') => format!("#{line}\n"),
        _ if line.starts_with("![") => {
            format!("{}\n", line.replacen("](", &format!("]({to_experiments}/"), 1))
        }
        _ => format!("{line}\n"),
    };
    page.lines().map(line).collect()
}

/// The way from one folder to another, both as seen from here.
pub(super) fn between(from: &Path, to: &Path) -> Result<PathBuf> {
    let whole =
        |path: &Path| std::path::absolute(path).with_context(|| format!("no path: `{}`", path.display()));
    let (from, to) = (whole(from)?, whole(to)?);
    let parts = |path: &'_ Path| -> Vec<PathBuf> {
        path.components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| PathBuf::from(part.as_os_str()))
            .collect()
    };
    let (from, to) = (parts(&from), parts(&to));
    let same = std::iter::zip(&from, &to).take_while(|(a, b)| a == b).count();
    Ok(from[same..].iter().map(|_| PathBuf::from("..")).chain(to[same..].iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_part_of_a_larger_one() {
        let page = "# Title\n\nText of a [link](results/a).\n\n![A picture](figures/a.svg)\n\n## Part\n";
        assert_eq!(
            lowered(page, "../experiments"),
            "## Title\n\nText of a [link](results/a).\n\n![A picture](../experiments/figures/a.svg)\n\n### Part\n"
        );
    }

    #[test]
    fn the_way_between_folders() {
        for (from, to, way) in [
            ("docs", "experiments", "../experiments"),
            ("/a/b/c", "/a/d", "../../d"),
            ("/a", "/a/b", "b"),
            ("./docs", "experiments", "../experiments"),
        ] {
            assert_eq!(between(Path::new(from), Path::new(to)).unwrap(), Path::new(way), "{from} {to}");
        }
    }
}
