//! Communication is issued ahead of the computation it hides behind.

use std::sync::{Arc, Mutex};

use dream_trainer::fsdp::{ActivationCheckpointing, FullyShardConfig};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::parity::fsdp;
use crate::world::Case;

/// Writes what a rank does as lines: `issue all_gather blocks.0`, `+forward blocks.0`, `-forward
/// blocks.0`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

/// The `unit` of a span; empty if it has none.
#[derive(Default)]
struct Unit(String);

impl Visit for Unit {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "unit" {
            value.clone_into(&mut self.0);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut unit = Unit::default();
        attributes.record(&mut unit);
        context.span(id).unwrap().extensions_mut().insert(unit.0);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let unit = span.extensions().get::<String>().unwrap().clone();
        match span.name() {
            "issue all_gather" | "issue reduce_scatter" => {
                self.push(format!("{} {unit}", span.name()));
            }
            name if !unit.is_empty() => self.push(format!("+{name} {unit}")),
            _ => {}
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let unit = span.extensions().get::<String>().unwrap().clone();
        if !unit.is_empty() && !span.name().starts_with("issue") {
            self.push(format!("-{} {unit}", span.name()));
        }
    }
}

/// Trains two ranks for two steps and returns what the first did in the second step.
fn lines(prefetch_units: usize, checkpointing: ActivationCheckpointing) -> Vec<String> {
    let config = FullyShardConfig { prefetch_units, ..FullyShardConfig::default() };
    let case = Case { degrees: fsdp(2), config, checkpointing, steps: 2, ..Case::default() };
    let lines = Lines::default();
    case.run_with(|rank, train| {
        let lines = if rank == 0 { lines.clone() } else { Lines::default() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), train)
    });
    let all = std::mem::take(&mut *lines.0.lock().unwrap());
    let second = all.iter().rposition(|line| line == "+forward embedding").unwrap();
    let first_issue =
        all[..second].iter().rposition(|line| line == "issue all_gather embedding").unwrap();
    all[first_issue..].to_vec()
}

/// Checks that the lines contain these, in this order.
fn in_order(lines: &[String], expected: &[&str]) {
    let mut rest = lines.iter();
    for line in expected {
        assert!(rest.any(|other| other == line), "`{line}` is missing or too late in {lines:#?}");
    }
}

#[test]
fn the_next_unit_is_gathered_while_one_computes() {
    for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::Full] {
        let lines = lines(1, checkpointing);
        in_order(
            &lines,
            &["issue all_gather blocks.0", "+forward embedding", "+all_gather blocks.0"],
        );
        in_order(
            &lines,
            &["issue all_gather blocks.1", "+forward blocks.0", "+all_gather blocks.1"],
        );
        in_order(&lines, &["issue all_gather head", "+forward blocks.1", "+all_gather head"]);
    }
}

#[test]
fn the_unit_before_is_gathered_and_the_one_behind_reduced_while_one_goes_back() {
    for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::Full] {
        let lines = lines(1, checkpointing);
        let backward = lines.iter().position(|line| line == "-forward head").unwrap();
        in_order(
            &lines[backward..],
            &["issue all_gather blocks.0", "issue reduce_scatter blocks.1"],
        );
        in_order(
            &lines[backward..],
            &[
                "issue reduce_scatter blocks.1",
                "issue reduce_scatter blocks.0",
                "+reduce_scatter blocks.1",
            ],
        );
    }
}

#[test]
fn nothing_is_issued_ahead_without_units_in_flight() {
    let lines = lines(0, ActivationCheckpointing::None);
    for unit in ["embedding", "blocks.0", "blocks.1", "head"] {
        let issued =
            lines.iter().position(|line| *line == format!("issue all_gather {unit}")).unwrap();
        assert_eq!(lines[issued + 1], format!("+all_gather {unit}"), "in {lines:#?}");
        let reduced =
            lines.iter().position(|line| *line == format!("issue reduce_scatter {unit}")).unwrap();
        assert_eq!(lines[reduced + 1], format!("+reduce_scatter {unit}"), "in {lines:#?}");
    }
}
