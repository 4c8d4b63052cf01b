//! What a bench prints.

use serde_json::{Value, json};

/// A measured figure, beside what it is held against.
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    ours: f64,
    /// What it is held against, in words, and its figure.
    against: Option<(&'static str, f64)>,
    ratio: Option<f64>,
    /// Of the ratio, if it was measured in pairs; else of our figure.
    spread: (f64, f64),
    /// Why there is none.
    skipped: Option<String>,
}

/// The middle one of some values, NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this share of all is not above, NaN of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> (f64, f64) {
    (quantile(values, 0.0), quantile(values, 1.0))
}

impl Figure {
    /// A figure that stands alone.
    pub(crate) fn alone(name: impl Into<String>, unit: &'static str, values: &[f64]) -> Self {
        Self {
            name: name.into(),
            unit,
            ours: median(values),
            against: None,
            ratio: None,
            spread: spread(values),
            skipped: None,
        }
    }

    /// A figure that should be at most `limit`.
    pub(crate) fn limited(name: impl Into<String>, unit: &'static str, values: &[f64], limit: f64) -> Self {
        let alone = Self::alone(name, unit, values);
        Self { against: Some(("limit", limit)), ratio: Some(alone.ours / limit), ..alone }
    }

    /// A figure that should be at least `target`.
    pub(crate) fn at_least(name: impl Into<String>, unit: &'static str, values: &[f64], target: f64) -> Self {
        let alone = Self::alone(name, unit, values);
        Self { against: Some(("at least", target)), ratio: Some(alone.ours / target), ..alone }
    }

    /// Pairs of ours and a peer's, each measured one right after the other: the median of their ratios counts.
    pub(crate) fn paired(
        name: impl Into<String>,
        unit: &'static str,
        peer: &'static str,
        pairs: &[(f64, f64)],
    ) -> Self {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        Self {
            against: Some((peer, median(&theirs))),
            ratio: Some(median(&ratios)),
            spread: spread(&ratios),
            ..Self::alone(name, unit, &ours)
        }
    }

    /// None, and why.
    pub(crate) fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::alone(name, "", &[]) }
    }

    pub(crate) fn line(&self) -> String {
        if let Some(why) = &self.skipped {
            return format!("{:<58} skipped: {why}", self.name);
        }
        let held = match (self.against, self.ratio) {
            (Some((what, value)), Some(ratio)) => {
                format!("{what:<12} {:>8} {:<5} ratio {:>6}", number(value), self.unit, number(ratio))
            }
            _ => String::new(),
        };
        format!(
            "{:<58} {:>8} {:<5} {held:<41} spread {} to {}",
            self.name,
            number(self.ours),
            self.unit,
            number(self.spread.0),
            number(self.spread.1)
        )
    }

    pub(crate) fn json(&self) -> Value {
        match &self.skipped {
            Some(why) => json!({"name": self.name, "skipped": why}),
            None => json!({
                "name": self.name, "unit": self.unit, "ours": self.ours,
                "against": self.against.map(|(what, value)| json!({"what": what, "value": value})),
                "ratio": self.ratio, "low": self.spread.0, "high": self.spread.1,
            }),
        }
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        size if size > 0.0 => format!("{value:.5}"),
        _ => "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_held_against_each_other_one_by_one() {
        // The machine was three times slower in one round: in both halves of it.
        let figure = Figure::paired("x", "us", "peer", &[(11.0, 10.0), (36.0, 30.0), (12.0, 10.0)]);
        assert_eq!(figure.json()["ratio"], 1.2);
        assert_eq!(figure.json()["ours"], 12.0);
        assert_eq!((figure.spread.0, figure.spread.1), (1.1, 1.2));
    }

    #[test]
    fn quantiles_of_few_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), 3.0);
        assert!(median(&[]).is_nan());
    }
}
