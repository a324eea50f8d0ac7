//! The training loop: rate, judging, best so far, step back, stop and resume.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::adam::Adam;
use super::checkpoint::{self, Checkpoint};
use super::student::Student;
use super::whiten::Coordinates;
use crate::progress::Progress;
use crate::{Error, Result};

/// Part of the steps over which the rate rises.
const WARM_UP: f64 = 0.05;
/// Joint length that gradients are cut to.
const LONGEST_GRADIENT: f64 = 1.0;
/// How often the rate is halved before giving up.
const MOST_HALVINGS: u32 = 8;

/// What is learnt: a loss to lower and a score to judge by, both of the student as it is.
pub trait Objective {
    /// The loss of one step on the tape, a scalar.
    ///
    /// # Errors
    /// When the arithmetic fails.
    fn loss(&self, student: &Student, step: u32) -> Result<Tensor>;

    /// On sentences that are not trained on; higher is better.
    ///
    /// # Errors
    /// When the arithmetic fails.
    fn score(&self, student: &Student) -> Result<f64>;

    /// What the score is called.
    fn score_name(&self) -> &'static str;

    /// What is trained beside the student.
    fn vars(&self) -> Vec<&Var> {
        Vec::new()
    }
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Name of the step for messages: "heal", "fine-tune".
    pub name: &'static str,
    /// Steps.
    pub steps: u32,
    /// Highest learning rate.
    pub rate: f64,
    /// Steps between two judgements.
    pub judge_every: u32,
}

impl Schedule {
    /// The rate of a step: linear warm-up, then half a cosine down to nothing.
    fn rate(&self, step: u32) -> f64 {
        let (at, all) = (f64::from(step), f64::from(self.steps.max(1)));
        let warm = (WARM_UP * all).max(1.0);
        if at < warm {
            return self.rate * (at + 1.0) / (warm + 1.0);
        }
        let done = (at - warm) / (all - warm).max(1.0);
        self.rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Where the state is kept between judgements, and whether to start from there.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// The checkpoint file.
    pub file: PathBuf,
    /// Go on from it.
    pub resume: bool,
    /// What the run depends on; a checkpoint of another is refused.
    pub fingerprint: String,
}

/// One judgement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u32,
    /// Mean loss since the last judgement; `None` before the first step.
    pub loss: Option<f64>,
    /// The score.
    pub score: f64,
}

/// What training did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Steps that were asked for.
    pub steps: u32,
    /// Steps done: fewer when stopped.
    pub done: u32,
    /// The step whose weights were kept.
    pub best_step: u32,
    /// What the scores are.
    pub score: &'static str,
    /// Score before the first step.
    pub before: f64,
    /// Score of the weights that were kept.
    pub best: f64,
    /// Score of the result: of the kept weights, averaged with those at the start where that was
    /// asked for.
    pub result: f64,
    /// How often the rate was halved because a number was not finite.
    pub halvings: u32,
    /// Numbers trained.
    pub parameters: usize,
    /// Seconds, over all runs when resumed.
    pub seconds: f64,
    /// Every judgement.
    pub curve: Vec<Point>,
}

/// Values of everything that is trained.
pub(super) type Values = Vec<Vec<f32>>;

/// The part of a run's state that is small.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Course {
    /// Steps done.
    pub step: u32,
    pub best: f64,
    pub best_step: u32,
    pub halvings: u32,
    pub seconds: f64,
    pub curve: Vec<Point>,
}

/// Trains `student` on `objective` and leaves it with the weights that scored best.
///
/// `coordinates` are those of the student's parameters, one after the other; what has none is
/// trained as it is. `stop` is asked after every step. With `keeping`, the state is written at every judgement; the
/// file stays, for the caller to remove when the result is safe.
///
/// # Errors
///
/// [`Error::Input`] when a checkpoint belongs to another run, or when numbers stop being finite
/// whatever the rate; [`Error::Io`] when a checkpoint cannot be read; the objective's.
pub fn train(
    (student, coordinates): (&Student, &[Option<Coordinates>]),
    objective: &dyn Objective,
    schedule: &Schedule,
    keeping: Option<&Keeping>,
    stop: &dyn Fn() -> bool,
) -> Result<Report> {
    let vars: Vec<&Var> = student.vars().into_iter().chain(objective.vars()).collect();
    let mut run = Run::start((student, coordinates), objective, schedule, &vars)?;
    if let Some(keeping) = keeping.filter(|k| k.resume) {
        run.resume(keeping)?;
    }
    let progress = Progress::start(schedule.name, u64::from(schedule.steps), "steps");
    progress.advance(u64::from(run.course.step));
    progress.say(&format!(
        "{} steps done, best {} {:.2}",
        run.course.step,
        objective.score_name(),
        run.course.best
    ));
    let mut told = false;
    let mut stopped = false;
    while run.course.step < schedule.steps && !stopped {
        run.step(&progress)?;
        stopped = stop();
        let step = run.course.step;
        if step.is_multiple_of(schedule.judge_every) || step == schedule.steps || stopped {
            run.judge(&progress)?;
            let Some(keeping) = keeping else { continue };
            if let Err(error) = checkpoint::write(&run.checkpoint(), keeping)
                && !told
            {
                progress.say(&format!("going on without a checkpoint: {error}"));
                told = true;
            }
        }
    }
    progress.finish();
    set(&vars, &run.best)?;
    Ok(run.report())
}

struct Run<'a> {
    student: &'a Student,
    coordinates: &'a [Option<Coordinates>],
    objective: &'a dyn Objective,
    schedule: &'a Schedule,
    vars: &'a [&'a Var],
    adam: Adam,
    /// The state at the last judgement, to step back to.
    good: (Values, Adam),
    best: Values,
    course: Course,
    /// Sum and number of losses since the last judgement.
    losses: (f64, u32),
    started: Instant,
    seconds_before: f64,
}

impl<'a> Run<'a> {
    fn start(
        (student, coordinates): (&'a Student, &'a [Option<Coordinates>]),
        objective: &'a dyn Objective,
        schedule: &'a Schedule,
        vars: &'a [&'a Var],
    ) -> Result<Self> {
        let score = objective.score(student)?;
        let values = get(vars)?;
        let adam = Adam::new(vars);
        Ok(Self {
            student,
            coordinates,
            objective,
            schedule,
            vars,
            good: (values.clone(), adam.clone()),
            adam,
            best: values,
            course: Course {
                step: 0,
                best: score,
                best_step: 0,
                halvings: 0,
                seconds: 0.0,
                curve: vec![Point { step: 0, loss: None, score }],
            },
            losses: (0.0, 0),
            started: Instant::now(),
            seconds_before: 0.0,
        })
    }

    fn resume(&mut self, keeping: &Keeping) -> Result<()> {
        let sizes: Vec<usize> = self.best.iter().map(Vec::len).collect();
        let saved = checkpoint::read(keeping, &sizes)?;
        set(self.vars, &saved.values)?;
        self.good = (saved.values, saved.adam.clone());
        self.adam = saved.adam;
        self.best = saved.best;
        self.course = saved.course;
        self.seconds_before = self.course.seconds;
        Ok(())
    }

    fn step(&mut self, progress: &Progress) -> Result<()> {
        let step = self.course.step;
        let loss = self.objective.loss(self.student, step)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let halved = 0.5f64.powi(self.course.halvings as i32);
        let rate = self.schedule.rate(step) * halved;
        let mut sound = value.is_finite();
        if sound {
            let grads = loss.backward()?;
            sound = self
                .adam
                .step((self.vars, self.coordinates), &grads, rate, LONGEST_GRADIENT)?
                .is_finite();
        }
        if sound {
            self.losses = (self.losses.0 + value, self.losses.1 + 1);
        } else {
            self.step_back(progress)?;
        }
        self.course.step += 1;
        progress.advance(1);
        progress.message(&format!("loss {value:.4}"));
        Ok(())
    }

    /// Back to the last judgement, with half the rate.
    fn step_back(&mut self, progress: &Progress) -> Result<()> {
        self.course.halvings += 1;
        let step = self.course.step + 1;
        if self.course.halvings > MOST_HALVINGS {
            return Err(Error::input(
                format!("step {step}: the loss is not a number, whatever the rate"),
                "give a lower --heal-rate, and check that the text is plain sentences",
            ));
        }
        set(self.vars, &self.good.0)?;
        self.adam = self.good.1.clone();
        self.losses = (0.0, 0);
        progress.say(&format!(
            "step {step}: the loss is not a number; back to the last good state, rate halved"
        ));
        Ok(())
    }

    fn judge(&mut self, progress: &Progress) -> Result<()> {
        let score = self.objective.score(self.student)?;
        if !score.is_finite() {
            return self.step_back(progress);
        }
        let values = get(self.vars)?;
        let step = self.course.step;
        if score > self.course.best {
            (self.course.best, self.course.best_step) = (score, step);
            self.best.clone_from(&values);
        }
        self.good = (values, self.adam.clone());
        let (sum, count) = std::mem::take(&mut self.losses);
        let loss = (count > 0).then(|| sum / f64::from(count));
        self.course.curve.push(Point { step, loss, score });
        self.course.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        let left = f64::from(self.schedule.steps - step) * self.course.seconds / f64::from(step);
        progress.say(&format!(
            "step {step} of {}: loss {:.4}, {} {score:.2}, {:.1} min left",
            self.schedule.steps,
            loss.unwrap_or(0.0),
            self.objective.score_name(),
            left / 60.0
        ));
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            values: self.good.0.clone(),
            adam: self.good.1.clone(),
            best: self.best.clone(),
            course: self.course.clone(),
        }
    }

    fn report(self) -> Report {
        let Course { step, best, best_step, halvings, seconds, curve } = self.course;
        Report {
            steps: self.schedule.steps,
            done: step,
            best_step,
            score: self.objective.score_name(),
            before: curve.first().map_or(best, |point| point.score),
            best,
            result: best,
            halvings,
            parameters: self.best.iter().map(Vec::len).sum(),
            seconds,
            curve,
        }
    }
}

/// Sets `vars` to the average of `before` and what they are, `part` of the way from the first to
/// the second. Averages of weights that training moved a little are often better than both ends
/// (Wortsman et al. 2022).
///
/// # Errors
/// When the arithmetic fails.
pub(super) fn blend(vars: &[&Var], before: &Values, part: f64) -> Result<()> {
    let mut values = get(vars)?;
    let part = part as f32;
    for (value, before) in values.iter_mut().flatten().zip(before.iter().flatten()) {
        *value = before + part * (*value - before);
    }
    set(vars, &values)
}

pub(super) fn get(vars: &[&Var]) -> Result<Values> {
    Ok(vars.iter().map(|v| v.flatten_all()?.to_vec1()).collect::<candle_core::Result<_>>()?)
}

fn set(vars: &[&Var], values: &Values) -> Result<()> {
    for (var, values) in vars.iter().zip(values) {
        var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}
