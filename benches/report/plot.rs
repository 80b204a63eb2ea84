//! Two plots, written as SVG by hand.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const OURS: &str = "#0b6e4f";
const OTHERS: &str = "#9aa5b1";
const INK: &str = "#333";

pub(crate) struct Bar {
    pub(crate) title: String,
    pub(crate) value: f64,
    pub(crate) ours: bool,
}

pub(crate) struct Curve {
    pub(crate) title: &'static str,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) ours: bool,
}

fn color(ours: bool) -> &'static str {
    if ours { OURS } else { OTHERS }
}

fn svg(title: &str, height: f64, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"15\">{title}</text>\n{content}</svg>\n"
    )
}

/// Bars from the left, a title before each and its value behind it.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 330.0;
    const STEP: f64 = 30.0;
    let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let mut content = String::new();
    for (number, bar) in bars.iter().enumerate() {
        let y = 46.0 + STEP * number as f64;
        let width = (WIDTH - LEFT - 90.0) * bar.value.max(0.0) / most;
        let (text, color) = (y + 15.0, color(bar.ours));
        let _ = writeln!(
            content,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{:.0} {unit}</text>",
            LEFT - 8.0,
            bar.title,
            LEFT + width + 6.0,
            bar.value,
        );
    }
    svg(title, 60.0 + STEP * bars.len() as f64, &content)
}

/// Curves over one axis of time.
pub(crate) fn curves(title: &str, x_unit: &str, y_unit: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 330.0;
    const LEFT: f64 = 56.0;
    const TOP: f64 = 62.0;
    const BOTTOM: f64 = 286.0;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|point| point.0).fold(0.0, f64::max);
    let highest = points().map(|point| point.1).fold(0.0, f64::max);
    let x = |value: f64| LEFT + (WIDTH - LEFT - 20.0) * value / last;
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * value / highest;
    let mut content = String::new();
    for tick in 0..=4 {
        let value = (highest / 4.0).round() * f64::from(tick);
        let at = y(value);
        let _ = writeln!(
            content,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e7eb\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            WIDTH - 20.0,
            LEFT - 6.0,
            at + 4.0,
        );
    }
    for tick in 0..=last.floor() as u32 {
        let _ = writeln!(
            content,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            x(f64::from(tick)),
            BOTTOM + 18.0,
        );
    }
    let _ = writeln!(
        content,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{x_unit}</text>\
         <text x=\"16\" y=\"{}\">{y_unit}</text>",
        WIDTH - 20.0,
        BOTTOM + 36.0,
        TOP - 14.0,
    );
    for (number, curve) in curves.iter().enumerate() {
        let color = color(curve.ours);
        let line: Vec<String> = curve
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        let _ = writeln!(
            content,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{color}\">{}</text>",
            line.join(" "),
            LEFT + 120.0 + 180.0 * number as f64,
            TOP - 14.0,
            curve.title,
        );
    }
    svg(title, HEIGHT, &content)
}
