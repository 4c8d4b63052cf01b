//! The Prometheus text format, version 0.0.4.

use std::fmt::Write as _;

use dyad_net::IpFamily;

use super::of_family;

/// How many samples were at most how large.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    /// Upper bounds, rising, each with how many samples are below it and above the one before.
    buckets: Vec<(f64, u64)>,
    count: u64,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: impl Iterator<Item = f64>) -> Self {
        Self { buckets: bounds.map(|bound| (bound, 0)).collect(), count: 0, sum: 0.0 }
    }

    pub(super) fn observe(&mut self, value: f64) {
        let at = self.buckets.partition_point(|(bound, _)| *bound < value);
        if let Some((_, count)) = self.buckets.get_mut(at) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// Text under construction.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn samples(&mut self, name: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        samples.into_iter().for_each(|(labels, value)| self.sample(name, &labels, value));
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, f64)>,
    ) {
        self.family(name, "counter", help);
        self.samples(name, samples);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        self.family(name, "gauge", help);
        self.samples(name, samples);
    }

    pub(super) fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl Iterator<Item = (IpFamily, &'a Histogram)>,
    ) {
        self.family(name, "histogram", help);
        for (family, histogram) in histograms {
            let labels = of_family(family);
            let mut below = 0;
            for (bound, count) in &histogram.buckets {
                below += count;
                self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), below as f64);
            }
            self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), histogram.count as f64);
            self.sample(&format!("{name}_sum"), &labels, histogram.sum);
            self.sample(&format!("{name}_count"), &labels, histogram.count as f64);
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A label's value.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
