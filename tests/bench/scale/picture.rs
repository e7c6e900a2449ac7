//! The figures that depend on the size of the cluster, as a picture: one small chart each, both axes logarithmic.

use std::{fmt::Write, fs, path::Path};

use crate::figures::{Figure, short};

const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 190.0;
const MARGIN: f64 = 34.0;
const COLUMNS: usize = 3;
/// The largest size that something is promised for.
const PROMISED: f64 = 10_000.0;

/// Writes them to `scale.svg`; those that were measured of one size alone are left out.
pub fn write(folder: &Path, figures: &[Figure]) {
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        let sizes = figures.iter().filter(|other| other.name == figure.name).count();
        if sizes > 1 && !names.contains(&figure.name) {
            names.push(figure.name);
        }
    }
    let (mut charts, mut place) = (String::new(), (0, 0));
    for name in &names {
        let points: Vec<&Figure> = figures.iter().filter(|figure| figure.name == *name).collect();
        let at = |number: u32, size: f64| f64::from(number) * size;
        chart(&mut charts, &points, at(place.0, WIDTH), at(place.1, HEIGHT));
        place =
            if place.0 + 1 == u32::try_from(COLUMNS).expect("few") { (0, place.1 + 1) } else { (place.0 + 1, place.1) };
    }
    let rows = f64::from(u32::try_from(names.len().div_ceil(COLUMNS)).expect("few"));
    let (width, height) = (WIDTH * 3.0, HEIGHT * rows);
    let head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    );
    fs::write(folder.join("scale.svg"), format!("{head}{charts}</svg>\n")).expect("target/bench can be written");
}

/// One chart, with the bound as a broken line.
fn chart(into: &mut String, points: &[&Figure], left: f64, top: f64) {
    let bound = points[0].bound();
    let values = points.iter().filter_map(|point| point.value).chain(bound).filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
        let value = value.max(0.01);
        (low.min(value), high.max(value))
    });
    let part = |value: f64, low: f64, high: f64| (value.max(0.01) / low).ln() / (high / low).ln().max(0.01);
    let x = |pods: usize| {
        let pods = f64::from(u32::try_from(pods).expect("a size"));
        left + MARGIN + part(pods, 5.0, PROMISED) * (WIDTH - 2.0 * MARGIN)
    };
    let y = |value: f64| top + HEIGHT - MARGIN - part(value, low, high) * (HEIGHT - 2.2 * MARGIN);
    let mut draw = |text: String| into.push_str(&text);
    let (right, bottom) = (left + WIDTH - MARGIN, top + HEIGHT - MARGIN);
    draw(format!("<text x=\"{}\" y=\"{}\">{} ({})</text>", left + MARGIN, top + 20.0, points[0].name, points[0].unit));
    draw(format!("<path d=\"M{} {bottom}H{right}\" stroke=\"black\"/>", left + MARGIN));
    if let Some(bound) = bound {
        let (at, from) = (y(bound), left + MARGIN);
        draw(format!("<path d=\"M{from} {at:.1}H{right}\" stroke=\"green\" stroke-dasharray=\"5 4\"/>"));
        draw(format!(
            "<text x=\"{right}\" y=\"{:.1}\" fill=\"green\" text-anchor=\"end\">{}</text>",
            at - 3.0,
            short(bound)
        ));
    }
    let mut line = String::new();
    for point in points {
        let at = x(point.pods);
        draw(format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 14.0, point.pods));
        let Some(value) = point.value.filter(|value| value.is_finite()) else { continue };
        let _ = write!(line, "{}{at:.1} {:.1}", if line.is_empty() { "M" } else { "L" }, y(value));
        draw(format!("<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"steelblue\"/>", y(value)));
        let above = y(value) - 6.0;
        draw(format!("<text x=\"{at:.1}\" y=\"{above:.1}\" text-anchor=\"middle\">{}</text>", short(value)));
    }
    draw(format!("<path d=\"{line}\" fill=\"none\" stroke=\"steelblue\"/>"));
}
