//! Plan files: what was decided, by names, for people to read and edit; the figures are comments.
//!
//! Written by `defer plan -o`, judged by `defer plan --check`, deployed by `defer run --plan`.
//!
//! ```toml
//! version = 1                 # required
//! model = "resnet50"          # for people
//! model_hash = "9c1f..."      # required: of the model's content, weights included
//! result_codec = "raw"        # of the link back to the dispatcher; raw without it
//!
//! [[stage]]                   # one or more, in the order of the chain
//! devices = ["pi-kitchen"]    # required; several deal the items out among them
//! codec = "raw"               # of the link into the stage; raw without it
//! cut = "relu_12"             # the stage ends after this tensor, a name that `defer plan --cuts` lists;
//!                             # the last stage has none
//! ```

mod read;
mod write;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use graph::Hash;
use pipeline::Layout;

use crate::failure::Hint;
use crate::input::read_text;
use crate::output::plan::PlanReport;

/// The version of the format that is read and written.
const VERSION: i64 = 1;

/// What a plan file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanFile {
    /// The model's name.
    pub(crate) model: String,
    /// [`graph::Model::hash`] of the model as it is on disk.
    pub(crate) model_hash: Hash,
    /// Who runs what.
    pub(crate) layout: Layout,
}

impl PlanFile {
    /// Reads the file at `path`, for the model with this hash.
    pub(crate) fn load(path: &Path, model: Hash) -> Result<PlanFile> {
        let shown = path.display();
        let text = read_text(path)
            .with_context(|| format!("cannot read the plan `{shown}`"))
            .hint("check the path; `defer plan MODEL -o FILE` writes such a file")?;
        let plan = read::plan(&text)
            .with_context(|| format!("the plan `{shown}` is not right"))
            .hint("`defer plan MODEL -o FILE` writes a file with every key")?;
        if plan.model_hash == model {
            return Ok(plan);
        }
        let (name, hash) = (&plan.model, plan.model_hash);
        Err(anyhow!("the plan `{shown}` is for another model, `{name}` with the hash {hash}, not {model}"))
            .hint("name the model that it was made for, or plan again with -o")
    }

    /// The text of the file; what the figures were stands in comments.
    pub(crate) fn text(&self, report: &PlanReport) -> String {
        write::plan(self, report)
    }
}

#[cfg(test)]
mod tests {
    use pipeline::LayoutStage;
    use wire::Codec;

    use super::*;
    use crate::output::plan::samples;

    /// A plan for what a sample shows.
    fn of(report: &PlanReport) -> PlanFile {
        let stage = |(i, stage): (usize, &crate::output::plan::StageRow)| LayoutStage {
            devices: stage.devices.iter().map(|device| device.device.clone()).collect(),
            codec: if i == 1 { Codec::LZ4 } else { Codec::RAW },
            cut: stage.cut.clone(),
        };
        let stages = report.stages.iter().enumerate().map(stage).collect();
        let layout = Layout { stages, result_codec: Codec::LZ4 };
        PlanFile { model: report.model.clone(), model_hash: Hash::of(b"model"), layout }
    }

    #[test]
    fn a_written_plan_reads_back_as_the_same() {
        for report in [samples::chain(1), samples::chain(3), samples::balancing(64), samples::hostile()] {
            let plan = of(&report);
            let text = plan.text(&report);
            assert_eq!(read::plan(&text).unwrap(), plan, "{text}");
        }
        let text = of(&samples::chain(2)).text(&samples::chain(2));
        for part in ["125.0 items/s", "# Stage 1: 10 operators", "100 % busy", "cut = \"relu_1\""] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn codecs_may_be_left_out() {
        let hash = Hash::of(b"");
        let text = format!("version = 1\nmodel_hash = '{hash}'\n[[stage]]\ndevices = ['a']");
        let plan = read::plan(&text).unwrap();
        assert_eq!(plan.layout.codecs().collect::<Vec<_>>(), [Codec::RAW; 2]);
        assert_eq!(plan.model, "");
    }

    #[test]
    fn what_is_not_right_is_named_with_its_place() {
        let hash = Hash::of(b"");
        let check = |rest: &str, expected: &str| {
            let text = format!("version = 1\nmodel_hash = '{hash}'\n{rest}");
            let error = read::plan(&text).expect_err(&text).to_string();
            assert!(error.starts_with(expected), "{error}\n{text}");
        };
        let stage = |rest: &str| format!("[[stage]]\ndevices = ['a']\n{rest}");
        check("", "line 1, column 1: `stage` is missing");
        check("stage = []", "line 3, column 9: `stage` must hold at least one [[stage]]");
        check("stage = 3", "line 3, column 9: `stage` must be written [[stage]], not a whole number");
        check(
            &stage("speed = 1"),
            "line 5, column 1: `stage.speed` is no known key; [[stage]] may have devices, codec, cut",
        );
        check(
            &stage("codec = 'zip'"),
            "line 5, column 9: `stage.codec` cannot be read: there is no codec `zip`",
        );
        check(
            &stage("codec = 3"),
            "line 5, column 9: `stage.codec` must be a text in quotes, not a whole number",
        );
        check(
            &stage("cut = ''"),
            "line 5, column 7: `stage.cut` must not be empty; leave it out in the last stage",
        );
        check("[[stage]]", "line 3, column 1: `stage.devices` is missing");
        check("[[stage]]\ndevices = []", "line 4, column 11: `stage.devices` must name at least one device");
        check(
            "[[stage]]\ndevices = 'a'",
            "line 4, column 11: `stage.devices` must be a list in brackets, not a text",
        );
        check(
            "[[stage]]\ndevices = ['a', '']",
            "line 4, column 17: `stage.devices` must not name a device of no name",
        );
        check("[[stage]]\ndevices = ['a', 3]", "line 4, column 17: `stage.devices` must be a text in quotes");
        check(
            "codecs = 1",
            "line 3, column 1: `codecs` is no known key; a plan file may have version, model",
        );
        check(
            &format!("result_codec = 'x'\n{}", stage("")),
            "line 3, column 16: `result_codec` cannot be read: there is no codec `x`",
        );
        for (text, expected) in [
            ("", "line 1, column 1: `version` is missing"),
            ("version = 2", "line 1, column 11: `version` must be 1, not 2"),
            ("version = 1", "line 1, column 1: `model_hash` is missing"),
            (
                "version = 1\nmodel_hash = 'ab'",
                "line 2, column 14: `model_hash` cannot be read: `ab` is not a hash",
            ),
            ("version = ", "line 1, column"),
        ] {
            let error = read::plan(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
