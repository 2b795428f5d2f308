//! What processes held over time, and whether that grows. In: samples. Out: slopes, a table, complaints.
//! Never: looks at the warm-up.

use crate::statistics::Line;
use crate::table::{lay_out, number};
use crate::tree::{Holdings, Process};

/// Growth of memory that is noise, a minute: a share of its mean.
const MEMORY_NOISE: f64 = 0.01;
/// Growth of open files that is noise, a minute: streams come and go.
const FDS_NOISE: f64 = 0.5;

/// The time is divided into so many parts, and only their means are looked at: samples that follow each other are of the
/// same streams, and look surer together than they are.
const BLOCKS: usize = 12;

/// All processes at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) minutes: f64,
    pub(super) held: Vec<(Process, Holdings)>,
}

/// One process, or all together, over time.
#[derive(Clone, Debug)]
pub(super) struct Series {
    name: String,
    /// Minutes, and what was held then.
    points: Vec<(f64, Holdings)>,
}

impl Series {
    pub(super) fn of(daemon: &str, process: &Process, samples: &[Sample]) -> Self {
        let points = samples.iter().filter_map(|sample| {
            let (_, holdings) = sample.held.iter().find(|(held, _)| held == process)?;
            Some((sample.minutes, *holdings))
        });
        Self { name: format!("{daemon}: {}", process.name), points: points.collect() }
    }

    pub(super) fn of_all(daemon: &str, samples: &[Sample]) -> Self {
        let sum = |sample: &Sample| {
            sample.held.iter().fold(Holdings::default(), |sum, (_, held)| Holdings {
                rss_bytes: sum.rss_bytes + held.rss_bytes,
                pss_bytes: sum.pss_bytes + held.pss_bytes,
                fds: sum.fds + held.fds,
            })
        };
        let points = samples.iter().map(|sample| (sample.minutes, sum(sample))).collect();
        Self { name: format!("{daemon}: all processes"), points }
    }

    fn line(&self, warm: f64, of: fn(&Holdings) -> u64) -> Option<Line> {
        let points: Vec<_> = self
            .points
            .iter()
            .filter(|(minutes, _)| *minutes >= warm)
            .map(|(minutes, held)| (*minutes, f64::from(u32::try_from(of(held)).unwrap_or(u32::MAX))))
            .collect();
        Line::through(&means(&points, BLOCKS))
    }
}

/// The means of so many parts, of equally many points each; fewer points are left as they are.
fn means(points: &[(f64, f64)], blocks: usize) -> Vec<(f64, f64)> {
    let mean = |block: &[(f64, f64)]| {
        let count = f64::from(u32::try_from(block.len()).unwrap_or(u32::MAX));
        let (x, y) = block.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / count, y / count)
    };
    points.chunks((points.len() / blocks).max(1)).map(mean).collect()
}

/// Slopes from minute `warm` on. Complains of what grows, and of a process that was not seen for long enough.
pub(super) fn table(all: &[Series], warm: f64, complaints: &mut Vec<String>) -> String {
    let head = ["process", "RSS MB", "% a minute", "PSS MB", "% a minute", "fds", "a minute"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for series in all {
        let of =
            [|held: &Holdings| held.rss_bytes, |held: &Holdings| held.pss_bytes, |held: &Holdings| held.fds];
        let [Some(rss), Some(pss), Some(fds)] = of.map(|of| series.line(warm, of)) else {
            complaints.push(format!("{}: seen too rarely", series.name));
            continue;
        };
        for (what, line) in [("RSS", rss), ("PSS", pss)] {
            if line.grows_beyond(MEMORY_NOISE * line.mean) {
                complaints.push(format!(
                    "{}: {what} grows by {} KB a minute",
                    series.name,
                    number(line.slope / 1e3)
                ));
            }
        }
        if fds.grows_beyond(FDS_NOISE) {
            complaints.push(format!("{}: {} more fds a minute", series.name, number(fds.slope)));
        }
        let share = |line: Line| {
            format!("{:+.2} ± {:.2}", 100.0 * line.slope / line.mean, 100.0 * line.slope_error / line.mean)
        };
        lines.push(vec![
            series.name.clone(),
            number(rss.mean / 1e6),
            share(rss),
            number(pss.mean / 1e6),
            share(pss),
            number(fds.mean),
            format!("{:+.2} ± {:.2}", fds.slope, fds.slope_error),
        ]);
    }
    lay_out(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten minutes of a process of 10 MB and 200 fds, which gets so much a minute.
    fn series(bytes: u64, fds: u64) -> Series {
        let process = Process { pid: 1, started: 2, name: "handoffd".to_owned() };
        let sample = |step: u64| {
            let noise = (step * 7_919 % 13) * 1_000;
            let rss_bytes = 10_000_000 + bytes * step / 20 + noise;
            let held =
                Holdings { rss_bytes, pss_bytes: rss_bytes / 2, fds: 200 + fds * step / 20 + step % 3 };
            Sample {
                minutes: f64::from(u32::try_from(step).unwrap()) / 20.0,
                held: vec![(process.clone(), held)],
            }
        };
        Series::of("steady", &process, &(0..200).map(sample).collect::<Vec<_>>())
    }

    fn complaints(series: &Series) -> Vec<String> {
        let mut complaints = Vec::new();
        let table = table(std::slice::from_ref(series), 2.5, &mut complaints);
        assert!(table.contains("| steady: handoffd |"), "{table}");
        complaints
    }

    #[test]
    fn who_keeps_what_it_has_is_well() {
        assert_eq!(complaints(&series(0, 0)), [""; 0]);
    }

    #[test]
    fn who_loses_a_quarter_of_a_megabyte_a_minute_is_found() {
        let complaints = complaints(&series(250_000, 0));
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].starts_with("steady: handoffd: RSS grows by 25"), "{complaints:?}");
    }

    #[test]
    fn who_leaves_one_fd_open_a_minute_is_found() {
        let complaints = complaints(&series(0, 1));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains("more fds a minute"), "{complaints:?}");
    }

    #[test]
    fn streams_that_stay_for_a_while_are_no_leak() {
        // Fewer of them and more of them, for half a minute each: 600 samples of ten minutes.
        let fds = |step: u32| f64::from(100 + step / 30 * 2_654_435 % 11);
        let points: Vec<_> = (0..600).map(|step| (f64::from(step) / 60.0, fds(step))).collect();
        let (alone, together) =
            (Line::through(&points).unwrap(), Line::through(&means(&points, BLOCKS)).unwrap());
        assert!(together.slope_error > 2.0 * alone.slope_error, "{alone:?} {together:?}");
        assert!(!together.grows_beyond(FDS_NOISE), "{together:?}");
    }

    #[test]
    fn who_grows_only_while_it_warms_up_is_well() {
        let mut series = series(0, 0);
        for (minutes, held) in &mut series.points {
            held.rss_bytes -= if *minutes < 2.5 { 5_000_000 } else { 0 };
        }
        assert_eq!(complaints(&series), [""; 0]);
    }

    #[test]
    fn who_was_hardly_seen_is_not_called_well() {
        let mut series = series(0, 0);
        series.points.truncate(53);
        let mut complaints = Vec::new();
        table(&[series], 2.5, &mut complaints);
        assert_eq!(complaints, ["steady: handoffd: seen too rarely"]);
    }
}
