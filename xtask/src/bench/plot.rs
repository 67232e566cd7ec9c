//! Lines over logarithmic axes, as SVG.

use std::fmt::Write as _;

/// Size of a panel's drawing area, in pixels.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 340.0;

/// Room around it: for the axis' labels on the left, and for titles above.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 62.0;

/// Height of a line of the legend.
const LEGEND_LINE: f64 = 18.0;

/// A picture.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// From left to right.
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes. X is memory in MiB, Y is time in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) dashed: bool,
    /// Numbers above zero, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A logarithmic axis.
struct Axis {
    from: f64,
    to: f64,
    /// Where `from` and `to` are, in pixels.
    start: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = (value / self.from).ln() / (self.to / self.from).ln();
        self.start + share * (self.end - self.start)
    }
}

impl Plot {
    /// As a file of its own.
    pub(crate) fn svg(&self) -> String {
        let panels = self.panels.len() as f64;
        let width = panels * (LEFT + WIDTH + RIGHT);
        let legend = self
            .panels
            .iter()
            .map(|panel| panel.series.len())
            .max()
            .unwrap_or(0);
        // The guide has a line of the legend too.
        let height = TOP + HEIGHT + BOTTOM + (legend + 1) as f64 * LEGEND_LINE;
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">"
        );
        let _ = writeln!(svg, "<title>{}</title>", escape(&self.title));
        let _ = writeln!(
            svg,
            "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>"
        );
        text(
            &mut svg,
            (LEFT, 28.0),
            "font-size=\"18\" font-weight=\"bold\"",
            &self.title,
        );
        text(&mut svg, (LEFT, 48.0), "fill=\"#555\"", &self.subtitle);
        // All have the same memory below them.
        let all = self.panels.iter().flat_map(|panel| &panel.series);
        let memory = bounds(all.flat_map(|series| &series.points).map(|point| point.0));
        for (number, panel) in self.panels.iter().enumerate() {
            panel.draw(
                &mut svg,
                number as f64 * (LEFT + WIDTH + RIGHT) + LEFT,
                memory,
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    /// Draws it with the left end of its drawing area at `left`, and `memory` from its left to its right.
    fn draw(&self, svg: &mut String, left: f64, memory: Option<(f64, f64)>) {
        text(svg, (left, TOP - 14.0), "font-weight=\"bold\"", &self.title);
        let bottom = TOP + HEIGHT;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>"
        );
        let all = self.series.iter().flat_map(|series| &series.points);
        let (Some((from, to)), Some((low, high))) = (memory, bounds(all.map(|point| point.1)))
        else {
            let middle = (left + WIDTH / 2.0, TOP + HEIGHT / 2.0);
            text(
                svg,
                middle,
                "text-anchor=\"middle\"",
                "nothing was measured",
            );
            return;
        };
        // So that no point lies on the frame.
        let x = Axis {
            from: from / 1.3,
            to: to * 1.3,
            start: left,
            end: left + WIDTH,
        };
        let y = Axis {
            from: low / 1.3,
            to: high * 1.3,
            start: bottom,
            end: TOP,
        };
        for tick in powers_of_two(x.from, x.to) {
            let at = x.at(tick);
            grid(svg, (at, TOP), (at, bottom));
            text(
                svg,
                (at, bottom + 18.0),
                "text-anchor=\"middle\"",
                &size(tick),
            );
        }
        for tick in decimals(y.from, y.to) {
            let at = y.at(tick);
            grid(svg, (left, at), (left + WIDTH, at));
            text(
                svg,
                (left - 8.0, at + 4.0),
                "text-anchor=\"end\"",
                &format!("{tick}"),
            );
        }
        text(
            svg,
            (left + WIDTH / 2.0, bottom + 40.0),
            "text-anchor=\"middle\"",
            &self.x_label,
        );
        let (label_x, label_y) = (left - 44.0, TOP + HEIGHT / 2.0);
        let turned =
            format!("text-anchor=\"middle\" transform=\"rotate(-90 {label_x:.1} {label_y:.1})\"");
        text(svg, (label_x, label_y), &turned, &self.y_label);
        self.guide(svg, &x, &y);
        for (number, series) in self.series.iter().enumerate() {
            let points: Vec<_> = series
                .points
                .iter()
                .map(|&(a, b)| (x.at(a), y.at(b)))
                .collect();
            series.line(svg, &points);
            let at = legend_line(bottom, number);
            series.line(svg, &[(left, at), (left + 28.0, at)]);
            let name = match series.points.is_empty() {
                true => format!("{} (not measured)", series.name),
                false => series.name.clone(),
            };
            text(svg, (left + 38.0, at + 4.0), "", &name);
        }
    }
}

impl Panel {
    /// A line of what grows as X does, through the last point of the first line.
    fn guide(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let Some(&(right, top)) = self.series.first().and_then(|series| series.points.last())
        else {
            return;
        };
        // It leaves the frame at its left side, or at its bottom.
        let left = f64::max(x.from, y.from * right / top);
        let (from, to) = ((left, top * left / right), (right, top));
        let place = |(a, b)| (x.at(a), y.at(b));
        let at = legend_line(y.start, self.series.len());
        for (from, to) in [
            (place(from), place(to)),
            ((x.start, at), (x.start + 28.0, at)),
        ] {
            let _ = writeln!(
                svg,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\" \
                 stroke-dasharray=\"1 4\" stroke-width=\"2\"/>",
                from.0, from.1, to.0, to.1
            );
        }
        text(
            svg,
            (x.start + 38.0, at + 4.0),
            "",
            "in proportion to memory",
        );
    }
}

/// Where a line of the legend is, below a drawing area that ends at `bottom`.
fn legend_line(bottom: f64, number: usize) -> f64 {
    bottom + BOTTOM + number as f64 * LEGEND_LINE
}

impl Series {
    /// A line through these points of the picture, with a mark on each: full dots, or rings if it is dashed.
    fn line(&self, svg: &mut String, points: &[(f64, f64)]) {
        let Self { colour, dashed, .. } = self;
        let (dash, fill) = if *dashed {
            (" stroke-dasharray=\"5 4\"", "white")
        } else {
            ("", *colour)
        };
        let list: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            list.join(" ")
        );
        for (x, y) in points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            );
        }
    }
}

fn grid(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), attributes: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" {attributes}>{}</text>",
        at.0,
        at.1,
        escape(words)
    );
}

/// The least and the greatest of numbers that can be drawn, if there are any.
fn bounds(numbers: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let numbers = numbers.filter(|number| number.is_finite() && *number > 0.0);
    numbers.fold(None, |bounds, number| {
        let (low, high) = bounds.unwrap_or((number, number));
        Some((f64::min(low, number), f64::max(high, number)))
    })
}

/// The powers of two within these bounds.
fn powers_of_two(from: f64, to: f64) -> Vec<f64> {
    let ticks = (0..63).map(|power| (1_u64 << power) as f64);
    ticks.filter(|tick| (from..=to).contains(tick)).collect()
}

/// The numbers 1, 2 and 5 with any zeros within these bounds.
fn decimals(from: f64, to: f64) -> Vec<f64> {
    let ticks = (-6..12).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    ticks.filter(|tick| (from..=to).contains(tick)).collect()
}

/// A size of so many MiB.
fn size(mib: f64) -> String {
    if mib < 1024.0 {
        format!("{mib} MiB")
    } else {
        format!("{} GiB", mib / 1024.0)
    }
}

fn escape(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plot(series: Vec<Series>) -> Plot {
        let panel = Panel {
            title: "a < b & c".to_owned(),
            x_label: "memory".to_owned(),
            y_label: "seconds".to_owned(),
            series,
        };
        Plot {
            title: "Title".to_owned(),
            subtitle: "more > less".to_owned(),
            panels: vec![panel.clone(), panel],
        }
    }

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            name: "ours & theirs".to_owned(),
            colour: "#123456",
            dashed: true,
            points: points.to_vec(),
        }
    }

    /// Fails unless every element is closed, in order, and every attribute has a value in quotes.
    fn is_well_formed(svg: &str) {
        let mut open: Vec<String> = Vec::new();
        let mut rest = svg;
        while let Some((text, after)) = rest.split_once('<') {
            assert!(!text.contains('>'), "{text:?}");
            assert!(
                text.split('&').skip(1).all(|entity| entity
                    .split_once(';')
                    .is_some_and(|(name, _)| ["amp", "lt", "gt"].contains(&name))),
                "{text:?}"
            );
            let (tag, after) = after.split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (tag, closed) = tag
                .strip_suffix('/')
                .map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let parts: Vec<&str> = attributes.split('"').collect();
            assert!(
                parts.len() % 2 == 1 && parts.last().unwrap().trim().is_empty(),
                "{tag:?}"
            );
            for name in parts[..parts.len() - 1].iter().step_by(2) {
                assert!(
                    name.trim()
                        .strip_suffix('=')
                        .is_some_and(|name| !name.is_empty()),
                    "{tag:?}"
                );
            }
            if !closed {
                open.push(name.to_owned());
            }
        }
        assert!(
            open.is_empty() && rest.trim().is_empty(),
            "{open:?} {rest:?}"
        );
    }

    #[test]
    fn what_is_drawn_is_a_picture() {
        let svg = plot(vec![
            series(&[(256.0, 1.5), (512.0, 3.0), (16384.0, 120.0)]),
            series(&[]),
        ])
        .svg();
        is_well_formed(&svg);
        for words in [
            "256 MiB",
            "16 GiB",
            ">100<",
            "seconds",
            "ours &amp; theirs",
            "(not measured)",
            "a &lt; b",
        ] {
            assert!(svg.contains(words), "{words:?} is not in {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let empty = plot(vec![series(&[])]).svg();
        is_well_formed(&empty);
        assert!(empty.contains("nothing was measured"));
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn an_open_element_is_noticed() {
        is_well_formed("<svg><text x=\"1\">a</svg>");
    }

    #[test]
    fn what_takes_twice_as_long_is_as_far_away_everywhere() {
        let axis = Axis {
            from: 1.0,
            to: 64.0,
            start: 100.0,
            end: 160.0,
        };
        for power in 0..=6 {
            let at = axis.at(f64::from(1 << power));
            assert!((at - 100.0 - 10.0 * f64::from(power)).abs() < 1e-9);
        }
    }

    proptest! {
        #[test]
        fn any_points_lie_within_the_frame(points in proptest::collection::vec((1.0_f64..1e7, 0.001_f64..1e6), 1..20)) {
            let svg = plot(vec![series(&points)]).svg();
            is_well_formed(&svg);
            let number = |line: &str, name: &str| -> f64 {
                let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.parse().unwrap()
            };
            let width = 2.0 * (LEFT + WIDTH + RIGHT);
            for line in svg.lines().filter(|line| line.starts_with("<circle")) {
                let (x, y) = (number(line, "cx"), number(line, "cy"));
                prop_assert!(x >= LEFT && x <= width && y >= TOP, "{line}");
            }
        }
    }
}
