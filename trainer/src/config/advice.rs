//! What to do about a configuration error: the nearest name, the nearest number, another way.

use super::{error::ConfigErrorKind, key::KeyPath, other_tools};
use crate::mesh::MeshError;

impl ConfigErrorKind {
    /// Returns what to do about it, where there is something to say beyond the message.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::UnknownKey { key, nearest, note, allowed } => {
                let help = unknown_key_help(key, nearest.as_ref(), allowed);
                Some(if note.is_empty() { help } else { format!("{note}\n{help}") })
            }
            Self::NoEffect { key, remedy, .. } => {
                let (_, name) = key.split_last()?;
                Some(format!("{remedy}, or leave `{name}` out"))
            }
            Self::WrongValue { value, expected, .. } => {
                other_tools::value_here(value, expected).or_else(|| nearest_choice(value, expected))
            }
            Self::NotToml { first, translated, .. } => {
                translated.as_ref().map(|ours| format!("`{first}` is written `{ours}`"))
            }
            Self::ReadFile { .. } => {
                Some("`--config` takes the path of a TOML file; `configs/` holds examples".into())
            }
            Self::Indivisible { dividend, n, by, .. } => nearest_multiples(dividend, *n, *by),
            Self::BatchMismatch { global, micro, data_parallel, .. } => {
                let step = micro.checked_mul(*data_parallel).filter(|step| *step > 0)?;
                let fits = global.is_multiple_of(step).then(|| {
                    format!("leave `gradient_accumulation_steps` out to get {}", global / step)
                });
                fits.or_else(|| {
                    nearest_multiples(&KeyPath::from("global_batch_size"), *global, step)
                })
            }
            Self::SeveralAuto { .. } => Some(
                "`auto` takes what the other degrees leave, so all others need a number".into(),
            ),
            Self::Mesh(error) => mesh_help(error),
            Self::Missing { key, .. } if key.to_string() == "model.name" => {
                Some("add a table `[model]` with the `name` of a recipe".into())
            }
            Self::WorldConflict { .. } => Some(
                "set `world_size` to \"auto\" or leave it out when a launcher starts the ranks"
                    .into(),
            ),
            _ => None,
        }
    }
}

fn unknown_key_help(key: &KeyPath, nearest: Option<&KeyPath>, allowed: &[String]) -> String {
    let parent = |key: &KeyPath| key.split_last().map(|(parent, _)| parent);
    let allowed: Vec<String> = allowed.iter().map(|name| format!("`{name}`")).collect();
    let list = format!("allowed here: {}", allowed.join(", "));
    let with_list = |text: String| {
        if allowed.is_empty() { text } else { format!("{text}\n{list}") }
    };
    match nearest {
        Some(near) if parent(near) == parent(key) => {
            let name = near.split_last().map_or_else(String::new, |(_, last)| last.to_owned());
            with_list(format!("did you mean `{name}`?"))
        }
        Some(near) => with_list(format!("did you mean `{near}`?")),
        None => list,
    }
}

fn mesh_help(error: &MeshError) -> Option<String> {
    let auto = "a degree of `\"auto\"` takes the ranks the others leave; \
                `preset = \"ddp\"` sets `dp_replicate` to it";
    match error {
        MeshError::ProductMismatch { product: 1, .. } => Some(auto.into()),
        MeshError::ProductMismatch { .. } => Some(format!("{}\n{auto}", error.hint()?)),
        _ => error.hint(),
    }
}

/// Finds the name in backticks in `expected` that resembles the string `value`.
fn nearest_choice(value: &str, expected: &str) -> Option<String> {
    let written = value.strip_prefix('"')?.strip_suffix('"')?;
    let choices = expected.split('`').skip(1).step_by(2).map(|name| name.trim_matches('"'));
    let nearest =
        nearest_name(written, choices.clone()).or_else(|| abbreviation(written, choices))?;
    let is_boolean = ["true", "false"].contains(&nearest);
    Some(if is_boolean {
        format!("did you mean `{nearest}`?")
    } else {
        format!("did you mean `\"{nearest}\"`?")
    })
}

/// Returns the candidate that differs from `written` in few letters.
pub(crate) fn nearest_name<'a>(
    written: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|name| (strsim::damerau_levenshtein(&written, name), name))
        .filter(|(distance, name)| distance * 3 <= written.chars().count().max(name.len()))
        .min()
        .map(|(_, name)| name)
}

/// Returns the longest candidate whose letters `written` has in this order, as `bfloat16` has those
/// of `bf16`.
fn abbreviation<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let is_within = |name: &&str| {
        let mut letters = written.chars();
        name.len() > 2 && name.chars().all(|wanted| letters.any(|letter| letter == wanted))
    };
    candidates.filter(is_within).max_by_key(|name| name.len())
}

fn nearest_multiples(key: &KeyPath, n: usize, by: usize) -> Option<String> {
    let below = n.checked_div(by)?.checked_mul(by)?;
    let above = below.checked_add(by)?;
    let (_, name) = key.split_last()?;
    Some(if below == 0 {
        format!("nearest `{name}` that fits: {above}")
    } else {
        format!("nearest `{name}` that fit: {below}, {above}")
    })
}
