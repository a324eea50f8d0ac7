//! What to prune to, and how.

use grouse_runtime::format::MatrixKind;

use super::cost::Measure;
use super::groups::Sizes;
use super::{places, stacked};
use crate::model::DenseModel;
use crate::{Error, Result};

/// How weights are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Groups, the density of every matrix chosen by what its outputs are worth.
    #[default]
    Auto,
    /// Groups, the same density everywhere (PGB without its choice of counts).
    Groups,
    /// Whole heads and feed-forward neurons (after Kwon et al. 2022), the rest refitted.
    Rows,
    /// Single weights of least magnitude removed: the runtime gains nothing from them.
    Magnitude,
    /// Single weights removed by magnitude times input norm (Sun et al. 2023), as above.
    Wanda,
}

/// Steps to leave out when their worth is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Improve the groups on the true error.
    pub polish: bool,
    /// Refit the kept weights by least squares; a bias takes over the mean of what is lost anyway.
    pub refit: bool,
    /// Fit all matrices again to the inputs that they have behind other pruned ones.
    pub sequential: bool,
    /// Let the automatic method leave out whole heads and neurons.
    pub units: bool,
    /// Let the automatic method choose the number of groups matrix by matrix.
    pub counts: bool,
}

impl Default for Steps {
    fn default() -> Self {
        Self { polish: true, refit: true, sequential: true, units: true, counts: true }
    }
}

/// What to prune to.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How weights are chosen.
    pub method: Method,
    /// What to keep / all, of what `measure` counts; above 0 and up to 1. Weights are those of the
    /// encoder's linear layers.
    pub density: f64,
    /// What the density counts.
    pub measure: Measure,
    /// Groups per matrix; chosen by the density when `None`.
    pub groups: Option<usize>,
    /// Fraction of the inputs that all outputs of a matrix keep; when `None`, as many as the
    /// density allows when every input is used.
    pub shared: Option<f64>,
    /// What is done after grouping.
    pub steps: Steps,
    /// Random candidates of the search; none leaves the allocation by losses.
    pub search: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::Auto,
            density: 0.5,
            measure: Measure::Weights,
            groups: None,
            shared: None,
            steps: Steps::default(),
            search: 0,
            seed: 0,
        }
    }
}

impl Options {
    /// The budget in what is measured.
    pub fn budget(&self, model: &DenseModel) -> u64 {
        (self.density * dense_cost(model, self.measure) as f64).round() as u64
    }

    /// Refuses what cannot be done with `model`.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn check(&self, model: &DenseModel) -> Result<()> {
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::input(
                format!("the density {} is not above 0 and up to 1", self.density),
                "0.5 keeps half of the weights",
            ));
        }
        let most = model.config.hidden_size;
        if let Some(groups) = self.groups
            && !(1..=most).contains(&groups)
        {
            return Err(Error::input(
                format!("{groups} groups for {most} outputs"),
                format!("give 1 to {most} groups; 8 is a good start"),
            ));
        }
        if let Some(shared) = self.shared
            && !(0.0..=self.density).contains(&shared)
        {
            return Err(Error::input(
                format!("the shared fraction {shared} is not between 0 and the density"),
                format!("all outputs can share at most {} of the inputs", self.density),
            ));
        }
        if self.search > 0 && self.method != Method::Auto {
            return Err(Error::input(
                "only the automatic method searches",
                "leave --search out, or give --method auto",
            ));
        }
        if self.measure != Measure::Weights && self.method != Method::Auto {
            return Err(Error::input(
                "only the automatic method keeps to bytes or multiply-accumulates",
                "give --density, or --method auto",
            ));
        }
        Ok(())
    }
}

/// What all matrices of `model` cost when dense.
pub fn dense_cost(model: &DenseModel, measure: Measure) -> u64 {
    places(model)
        .map(|(layer, kind)| {
            let (rows, cols) = shape(model, layer, kind);
            measure.of(&Sizes::new(rows, cols, 1.0, 1, None))
        })
        .sum()
}

/// Outputs and inputs of a packed matrix.
pub fn shape(model: &DenseModel, layer: usize, kind: MatrixKind) -> (usize, usize) {
    let linears = stacked(&model.layers[layer], kind);
    let rows = linears.iter().map(|l| l.weight.rows).sum();
    (rows, linears.first().map_or(0, |l| l.weight.cols))
}
