//! Numbers out of numbers: medians, their spread, the slope of a series and how sure it is.
//! Never: reads a clock or a file.

/// The middle one; the mean of both where there are two. None of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The smallest and the largest. None of nothing.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let smallest = values.iter().copied().min_by(f64::total_cmp)?;
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((smallest, largest))
}

/// A straight line through points, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    /// The mean of all y.
    pub(crate) mean: f64,
    /// By how much y grows with each unit of x.
    pub(crate) slope: f64,
    /// The standard error of `slope`: what the points' own scatter makes of it.
    pub(crate) slope_error: f64,
}

impl Line {
    /// Through these points (x, y). None with fewer than four, or all at the same x.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        if points.len() < 4 {
            return None;
        }
        let count = f64::from(u32::try_from(points.len()).ok()?);
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
        let mean = points.iter().map(|(_, y)| y).sum::<f64>() / count;
        let of_x = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        if of_x <= 0.0 {
            return None;
        }
        let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean)).sum::<f64>() / of_x;
        let residuals = points.iter().map(|(x, y)| (y - mean - slope * (x - mean_x)).powi(2)).sum::<f64>();
        let slope_error = (residuals / (count - 2.0) / of_x).sqrt();
        Some(Self { mean, slope, slope_error })
    }

    /// Whether y grows by more than `limit` for each unit of x, three standard errors and more beyond doubt.
    pub(crate) fn grows_beyond(&self, limit: f64) -> bool {
        self.slope - 3.0 * self.slope_error > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_spread_its_ends() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
        assert_eq!(spread(&[]), None);
    }

    /// Something between -1 and 1 that looks like noise, the same in each run.
    fn noise(step: u32) -> f64 {
        let mixed = step.wrapping_mul(2_654_435_761).rotate_left(7).wrapping_mul(40_503);
        f64::from(mixed % 2_001) / 1_000.0 - 1.0
    }

    /// Ten minutes of samples, one every five seconds: minutes, and 10,000 with this noise and growth a minute.
    fn samples(growth: f64, scatter: f64) -> Vec<(f64, f64)> {
        let minutes = |step: u32| f64::from(step) / 12.0;
        (0..120)
            .map(|step| (minutes(step), 10_000.0 + growth * minutes(step) + scatter * noise(step)))
            .collect()
    }

    #[test]
    fn a_leak_of_two_percent_a_minute_is_seen_through_noise_of_five() {
        let line = Line::through(&samples(200.0, 500.0)).unwrap();
        assert!(line.grows_beyond(100.0), "{line:?}");
        assert!((line.slope - 200.0).abs() < 60.0, "{line:?}");
    }

    #[test]
    fn noise_alone_is_no_leak() {
        for scatter in [0.0, 10.0, 500.0, 3_000.0] {
            let line = Line::through(&samples(0.0, scatter)).unwrap();
            assert!(!line.grows_beyond(0.0), "{line:?}");
        }
    }

    #[test]
    fn one_step_up_at_the_start_is_no_leak_of_one_percent_a_minute() {
        let mut series = samples(0.0, 10.0);
        series.iter_mut().skip(30).for_each(|(_, y)| *y += 200.0);
        let line = Line::through(&series).unwrap();
        assert!(!line.grows_beyond(100.0), "{line:?}");
    }

    #[test]
    fn a_single_fd_every_ten_seconds_is_seen() {
        let fds: Vec<_> = (0..120).map(|step| (f64::from(step) / 12.0, f64::from(300 + step / 2))).collect();
        assert!(Line::through(&fds).unwrap().grows_beyond(1.0));
    }

    #[test]
    fn too_few_points_have_no_slope() {
        assert_eq!(Line::through(&[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]), None);
        assert_eq!(Line::through(&[(1.0, 1.0); 5]), None);
    }
}
