//! How numbers read.

use dream_trainer::metrics::{Spread, TimeLeft, format, median, model_flops_utilization};

#[test]
fn numbers_read_as_documented() {
    let rows = [
        (format::count(0), "0"),
        (format::count(999), "999"),
        (format::count(1_000), "1,000"),
        (format::count(8_030_261_248), "8,030,261,248"),
        (format::rate(0.04), "0.0"),
        (format::rate(99.94), "99.9"),
        (format::rate(99.96), "100"),
        (format::rate(12_345.4), "12,345"),
        (format::rate(f64::NAN), "NaN"),
        (format::bytes(512), "512 B"),
        (format::bytes(999_600), "1.00 MB (0.95 MiB)"),
        (format::bytes(16_060_522_496), "16.06 GB (14.96 GiB)"),
        (format::duration(0.0), "0s"),
        (format::duration(0.0123), "12ms"),
        (format::measured(0.118_09), "118.1 ms"),
        (format::measured(1.5), "1.500 s"),
        (format::duration(0.9996), "1.0s"),
        (format::duration(9.96), "10s"),
        (format::duration(59.7), "1m00s"),
        (format::duration(192.0), "3m12s"),
        (format::duration(3_599.6), "1h00m"),
        (format::duration(2.0 * 86_400.0 + 3.0 * 3_600.0), "2d03h"),
        (format::duration(f64::NAN), "?"),
        (format::loss(2.345_64), "2.3456"),
        (format::loss(0.0), "0.0000"),
        (format::loss(0.000_123_4), "1.2340e-4"),
        (format::loss(f64::INFINITY), "inf"),
        (format::norm(0.866), "0.87"),
        (format::norm(0.012), "1.20e-2"),
        (format::norm(123_456.0), "1.23e5"),
        (format::learning_rate(3e-4), "3.00e-4"),
        (format::learning_rate(0.0), "0"),
        (format::percent(0.125), "12.5%"),
    ];
    for (written, expected) in rows {
        assert_eq!(written, expected);
    }
}

#[test]
fn median_is_the_middle_or_the_mean_of_the_middle_two() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(Spread::of(&[2.0, 1.0, 7.0]), Some(Spread { median: 2.0, min: 1.0, max: 7.0 }));
}

#[test]
fn utilization_is_percent_of_one_rank() {
    // 51.47 GFLOP per token at 7,000 tokens per second on a device of 989 TFLOP per second.
    let percent = model_flops_utilization(51.47e9, 7_000.0, 989e12);
    assert!((percent - 36.4297).abs() < 1e-3, "{percent}");
}

#[test]
fn time_left_forgets_the_first_step_and_follows_the_last_ones() {
    let mut left = TimeLeft::default();
    assert_eq!(left.seconds(10), None);
    left.observe(60.0);
    assert_eq!(left.seconds(10), Some(600.0));
    left.observe(1.0);
    assert_eq!(left.seconds(10), Some(10.0));
    left.observe(3.0);
    assert_eq!(left.seconds(10), Some(20.0), "a mean while there are few");
    for _ in 0..100 {
        left.observe(4.0);
    }
    assert!((left.seconds(10).unwrap() - 40.0).abs() < 0.1);
}
