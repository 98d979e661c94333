//! Reading figures out of what programs print and write.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// Returns the losses of a run by step, from its `metrics.jsonl`.
pub(super) fn losses(file: &Path) -> Result<BTreeMap<u64, f64>, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let losses = losses_in(&text);
    if losses.is_empty() { Err(format!("{} holds no loss", file.display())) } else { Ok(losses) }
}

/// Returns the losses in rows of metrics. One that is not finite is `null`, and its name stands beside
/// it.
fn losses_in(text: &str) -> BTreeMap<u64, f64> {
    let loss = |row: &Value| match row["loss"].as_f64() {
        None => row["nonfinite"]["loss"].as_str()?.parse().ok(),
        finite => finite,
    };
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter_map(|row| Some((row["step"].as_u64()?, loss(&row)?))).collect()
}

/// Returns the largest difference of two runs, relative to the second: at the first step, and over all.
pub(super) fn differences(
    ours: &BTreeMap<u64, f64>,
    theirs: &BTreeMap<u64, f64>,
) -> Result<(f64, f64), String> {
    if ours.len() != theirs.len() || ours.keys().ne(theirs.keys()) {
        return Err(format!("one run has {} steps, the other {}", ours.len(), theirs.len()));
    }
    let relative: Vec<f64> =
        ours.iter().map(|(step, loss)| (loss - theirs[step]).abs() / theirs[step].abs()).collect();
    if relative.iter().any(|difference| difference.is_nan()) {
        return Err("a loss is not a number".to_owned());
    }
    let largest = relative.iter().copied().fold(0.0, f64::max);
    Ok((relative[0], largest))
}

/// Returns the last line that is a JSON object.
pub(super) fn last_object(output: &str) -> Option<Value> {
    let mut objects = output.lines().rev().filter(|line| line.starts_with('{'));
    objects.find_map(|line| serde_json::from_str(line).ok())
}

/// Returns the names of spans of a trace with the milliseconds of rank 0 in each, longest first.
pub(super) fn longest_spans(trace: &Value, count: usize) -> Vec<(String, f64)> {
    let mut totals: BTreeMap<String, f64> = BTreeMap::new();
    let events = trace["traceEvents"].as_array().map(Vec::as_slice).unwrap_or_default();
    for event in events.iter().filter(|event| event["pid"].as_u64() == Some(0)) {
        if let (Some(name), Some(micros)) = (event["name"].as_str(), event["dur"].as_f64()) {
            *totals.entry(name.to_owned()).or_default() += micros / 1000.0;
        }
    }
    let mut totals: Vec<(String, f64)> = totals.into_iter().collect();
    totals.sort_by(|a, b| b.1.total_cmp(&a.1));
    totals.truncate(count);
    totals
}

/// Returns the peak of a GPU's matrix products in bf16 without sparsity, in operations per second, as
/// its maker states it.
pub(super) fn peak_flops(gpu: &str) -> Option<f64> {
    let table = [
        ("H200", 989e12),
        ("H100 PCIe", 756e12),
        ("H100", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
        ("L4", 121e12),
    ];
    table.iter().find(|(name, _)| gpu.contains(name)).map(|(_, flops)| *flops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(losses: &[f64]) -> BTreeMap<u64, f64> {
        losses.iter().enumerate().map(|(step, loss)| (step as u64 + 1, *loss)).collect()
    }

    #[test]
    fn runs_are_compared_step_by_step() {
        let (first, largest) =
            differences(&run(&[2.0, 1.01]), &run(&[2.0, 1.0])).expect("as long as each other");
        assert!(first == 0.0 && (largest - 0.01).abs() < 1e-12, "{largest}");
        assert!(differences(&run(&[1.0]), &run(&[1.0, 2.0])).is_err());
        assert!(differences(&run(&[f64::NAN]), &run(&[1.0])).is_err());
    }

    #[test]
    fn a_loss_that_is_not_finite_is_one() {
        let rows = "{\"step\":1,\"loss\":2.5}\n{\"step\":1,\"val_loss\":3}\n\
                    {\"step\":2,\"loss\":null,\"nonfinite\":{\"loss\":\"NaN\"}}\n";
        let losses = losses_in(rows);
        assert_eq!(losses.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert!(losses[&1] == 2.5 && losses[&2].is_nan());
        assert!(differences(&losses, &losses).is_err());
    }

    #[test]
    fn figures_are_found_among_other_lines() {
        let output = "warming up\n{\"a\":1}\n{broken\ndone\n";
        assert_eq!(last_object(output), Some(json!({"a": 1})));
        assert_eq!(last_object("nothing"), None);
    }

    #[test]
    fn spans_are_summed_by_name_for_the_first_rank() {
        let span = |name: &str, pid: u64, dur: f64| json!({"ph": "X", "name": name, "pid": pid, "dur": dur});
        let trace = json!({"traceEvents": [
            span("forward", 0, 1000.0), span("backward", 0, 2500.0), span("forward", 0, 500.0),
            span("forward", 1, 9000.0), json!({"ph": "M", "name": "process_name", "pid": 0}),
        ]});
        let expected = [("backward".to_owned(), 2.5), ("forward".to_owned(), 1.5)];
        assert_eq!(longest_spans(&trace, 5), expected);
        assert_eq!(longest_spans(&trace, 1).len(), 1);
    }

    #[test]
    fn known_gpus_have_a_peak() {
        assert_eq!(peak_flops("NVIDIA H100 80GB HBM3"), Some(989e12));
        assert_eq!(peak_flops("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(peak_flops("something else"), None);
    }
}
