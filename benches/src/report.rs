use std::path::PathBuf;

use serde::Serialize;

/// One benchmark, as `summary.json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    name: &'static str,
    ours: f64,
    peer: f64,
    unit: &'static str,
    /// How many times as good as the peer, whichever way the unit runs: the median of the ratios round by round.
    ratio: f64,
    /// The lowest and the highest of these ratios.
    spread: [f64; 2],
}

/// Whether more of a unit is better or worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// Measurements of one round: ours and the peer's, taken one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) ours: f64,
    pub(crate) peer: f64,
}

impl Summary {
    pub(crate) fn of(name: &'static str, unit: &'static str, better: Better, rounds: &[Round]) -> Self {
        let ratio = |round: &Round| match better {
            Better::More => round.ours / round.peer,
            Better::Less => round.peer / round.ours,
        };
        let ratios = sorted(rounds.iter().map(ratio));
        Self {
            name,
            ours: median(&sorted(rounds.iter().map(|round| round.ours))),
            peer: median(&sorted(rounds.iter().map(|round| round.peer))),
            unit,
            ratio: median(&ratios),
            spread: [ratios[0], ratios[ratios.len() - 1]],
        }
    }
}

/// Writes `bench/summary.json` into the target folder, and prints a table.
#[expect(clippy::print_stdout, reason = "the table is the program's result")]
pub(crate) fn write(results: &[Summary]) -> anyhow::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("summary.json"), serde_json::to_string_pretty(results)?)?;
    println!("{:<32} {:>14} {:>14} {:<26} {:>6}  spread", "benchmark", "ours", "peer", "unit", "ratio");
    for Summary { name, ours, peer, unit, ratio, spread: [low, high] } in results {
        println!("{name:<32} {ours:>14.1} {peer:>14.1} {unit:<26} {ratio:>6.2}  {low:.2} to {high:.2}");
    }
    Ok(())
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
