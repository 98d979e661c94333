//! How numbers read on a console.

/// Writes a count with thousands separators, as in `12,345`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a rate: rounded with thousands separators from 100 on, with one decimal below.
pub fn rate(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value.abs() < 99.95 { format!("{value:.1}") } else { count(value.round().max(0.0) as u64) }
}

/// Writes bytes in decimal and binary units, as in `16.06 GB (14.96 GiB)`; the two differ by 7 %
/// and are often mixed up.
pub fn bytes(value: u64) -> String {
    const PREFIXES: [(&str, i32); 4] = [("T", 4), ("G", 3), ("M", 2), ("k", 1)];
    for (prefix, power) in PREFIXES {
        let decimal = value as f64 / 1000_f64.powi(power);
        if decimal >= 0.9995 {
            let binary = value as f64 / 1024_f64.powi(power);
            let binary_prefix = prefix.to_uppercase();
            return format!("{decimal:.2} {prefix}B ({binary:.2} {binary_prefix}iB)");
        }
    }
    format!("{value} B")
}

/// Writes seconds by their two largest units, as in `3m12s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0}ms", seconds * 1e3);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    if days > 0 {
        format!("{days}d{hours:02}h")
    } else if hours > 0 {
        format!("{hours}h{minutes:02}m")
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", whole % 60)
    } else {
        format!("{whole}s")
    }
}

/// Writes seconds with four digits or more, to compare measurements.
pub fn measured(seconds: f64) -> String {
    if seconds < 0.999_95 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.3} s") }
}

/// Writes a loss with four decimals, in scientific notation where these would not show it.
pub fn loss(value: f64) -> String {
    decimals(value, 4)
}

/// Writes a gradient norm with two decimals, in scientific notation where these would not show it.
pub fn norm(value: f64) -> String {
    decimals(value, 2)
}

/// Writes a learning rate as in `3.00e-4`.
pub fn learning_rate(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.2e}") }
}

/// Writes a share of one in percent, as in `12.5%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn decimals(value: f64, places: i32) -> String {
    let plain = value == 0.0 || (10_f64.powi(1 - places)..1e4).contains(&value.abs());
    if plain || !value.is_finite() {
        format!("{value:.*}", places as usize)
    } else {
        format!("{value:.*e}", places as usize)
    }
}
