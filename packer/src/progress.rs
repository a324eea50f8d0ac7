//! Progress of long steps: a bar on a terminal, plain lines elsewhere, always on stderr.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of one step.
pub struct Progress {
    bar: ProgressBar,
    /// On a terminal the bar itself says it; elsewhere a line at the start and one at the end.
    plain: Option<&'static str>,
}

impl Progress {
    /// Starts a step of `total` units; `unit` stands behind the count ("sentences", "bytes").
    pub fn start(step: &'static str, total: u64, unit: &'static str) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let (pos, len) = if unit == "bytes" {
                ("{bytes}", "{total_bytes}".to_string())
            } else {
                ("{pos}", format!("{{len}} {unit}"))
            };
            let template = format!("{step:<12} [{{bar:30}}] {pos}/{len} {{eta}} {{msg}}");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style.progress_chars("=> "));
            }
            Self { bar, plain: None }
        } else {
            eprintln!("{step}: {total} {unit}");
            Self { bar: ProgressBar::hidden(), plain: Some(step) }
        }
    }

    /// `by` more units are done; callable from several threads.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    /// Shows `text` behind the bar; says nothing without a terminal.
    pub fn message(&self, text: &str) {
        if self.plain.is_none() {
            self.bar.set_message(text.to_string());
        }
    }

    /// Says `text` on a line of its own.
    pub fn say(&self, text: &str) {
        match self.plain {
            Some(step) => eprintln!("{step}: {text}"),
            None => self.bar.println(text),
        }
    }

    /// The step is done.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        if let Some(step) = self.plain {
            eprintln!("{step}: done in {:.1} s", self.bar.elapsed().as_secs_f32());
        }
    }
}
