//! What `/metrics` says. In: Prometheus text. Out: every metric's kind, its labels, and their values.
//!
//! Never: looks at the numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Daemon, eventually};

/// All metrics, by name; a histogram's parts are one metric.
#[derive(Debug, Default)]
pub struct Exposition(pub BTreeMap<String, Metric>);

/// One metric.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// The values of each label; `le` is left out.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

impl Exposition {
    /// What this daemon says once each worker has shown itself: some metrics come with its first beat.
    ///
    /// # Panics
    /// When a worker does not show itself in time.
    #[must_use]
    pub fn of(daemon: &Daemon) -> Self {
        eventually("each worker has shown itself", || {
            let (_, text) = daemon.get("/metrics")?;
            let sizes = text.lines().filter(|line| line.starts_with("handoffd_worker_rss_bytes{"));
            let sizes: Vec<&str> = sizes.collect();
            let are_all_known = !sizes.is_empty() && !sizes.iter().any(|line| line.ends_with(" 0"));
            are_all_known.then(|| Self::read(&text))
        })
    }

    /// Reads it.
    ///
    /// # Panics
    /// When it is no Prometheus text, or a sample has no TYPE before it.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').expect("a name and a type");
                metrics.0.insert(name.to_owned(), Metric { kind: kind.to_owned(), ..Metric::default() });
            } else if !line.starts_with('#') && !line.is_empty() {
                metrics.add(line);
            }
        }
        metrics
    }

    /// The metric that a query means by this name, and whether it means a histogram's buckets.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(&Metric, bool)> {
        if let Some(metric) = self.0.get(name) {
            // A histogram's own name has no samples.
            return (metric.kind != "histogram").then_some((metric, false));
        }
        let (base, part) = name.rsplit_once('_')?;
        let metric = self.0.get(base).filter(|metric| metric.kind == "histogram")?;
        ["bucket", "sum", "count"].contains(&part).then_some((metric, part == "bucket"))
    }

    fn add(&mut self, sample: &str) {
        let (series, _) = sample.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').expect("a closing brace")),
            None => (series, ""),
        };
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .find(|base| self.0.get(*base).is_some_and(|metric| metric.kind == "histogram"));
        let metric = self.0.get_mut(base.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no TYPE"));
        // No value of ours has a comma or a quote in it.
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').expect("a label's value");
            if key != "le" {
                metric.labels.entry(key.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_labels_and_values_are_read() {
        let text = "# HELP a x\n# TYPE a counter\na{r=\"x\",s=\"1\"} 0\na{r=\"y\",s=\"1\"} 2\n# TYPE h histogram\n\
                    h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n";
        let read = Exposition::read(text);
        let (a, _) = read.find("a").unwrap();
        assert_eq!(a.kind, "counter");
        assert_eq!(a.labels["r"].iter().collect::<Vec<_>>(), ["x", "y"]);
        assert!(read.find("h_bucket").unwrap().1 && !read.find("h_sum").unwrap().1);
        assert!(read.find("h").is_none() && read.find("a_sum").is_none() && read.find("b").is_none());
        assert!(read.0["h"].labels.is_empty());
    }
}
