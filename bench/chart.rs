//! Bar charts as SVG; pure.

use std::fmt::Write;

use crate::figures::shown;

const WIDTH: f64 = 640.0;
const LABEL: f64 = 190.0;
const BAR: f64 = 22.0;
const GAP: f64 = 8.0;
const HEAD: f64 = 34.0;

/// Horizontal bars under a title; the first is the one in colour.
pub fn bars(title: &str, values: &[(&str, f64)]) -> String {
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let height = HEAD + (BAR + GAP) * values.len() as f64 + GAP;
    let room = WIDTH - LABEL - 80.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"21\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (n, (name, value)) in values.iter().enumerate() {
        let top = HEAD + (BAR + GAP) * n as f64;
        let length = if most > 0.0 { room * value / most } else { 0.0 };
        let fill = if n == 0 { "#c2410c" } else { "#94a3b8" };
        let text = top + BAR * 0.7;
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text><rect x=\"{LABEL}\" y=\"{top:.0}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/><text x=\"{:.1}\" y=\"{text:.0}\">{}</text>",
            LABEL - 8.0,
            escaped(name),
            length.max(1.0),
            LABEL + length.max(1.0) + 6.0,
            shown(*value)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
