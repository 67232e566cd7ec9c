//! The map as an SVG document that needs no other file.

use std::fmt;

use kjump::PhysRange;

use super::{Grid, KERNEL, Kind, Map, Row, mixed};
use crate::report::size;

/// The most rows; columns are always [`COLUMNS`].
const MAX_ROWS: usize = 96;
const COLUMNS: usize = 64;

// Lengths, in pixels.
const CELL: usize = 11;
const LEFT: usize = 128;
const RIGHT: usize = 92;
const WIDTH: usize = LEFT + COLUMNS * CELL + RIGHT;
const GRID: usize = COLUMNS * CELL;
/// Height of the break where rows without memory are left out.
const BREAK: usize = 32;
const LEGEND: usize = 124;
const LEGEND_LINE: usize = 22;

/// Colours that depend on whether the reader wants a light or a dark page.
const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1c2430}\
.h{font-size:20px;font-weight:600}.s{font-size:13px}.d{fill:#5c6878}\
.a{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:9.5px;fill:#5c6878}\
.bg{fill:#fff}.e{fill:#8290a4;fill-opacity:.12}.z{fill:none;stroke:#9aa6b6;stroke-width:1}\
.w,.k,.halo{fill:none;stroke-width:2;stroke-linecap:square}.halo{stroke:#fff;stroke-width:4.5}.w{stroke:#9a4d00}.k{stroke:#a3125f}\
.wt{fill:#9a4d00;font-size:11.5px;font-weight:600}.kt{fill:#a3125f;font-size:11.5px;font-weight:600}\
@media (prefers-color-scheme:dark){text{fill:#e6eaf0}.d,.a{fill:#9aa6b6}.bg{fill:#12161c}.halo{stroke:#12161c}\
.w{stroke:#ffd591}.k{stroke:#ff8ac4}.wt{fill:#ffd591}.kt{fill:#ff8ac4}}";

/// The map as an SVG.
pub(crate) struct Svg<'a>(pub(crate) &'a Map);

impl fmt::Display for Svg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(map) = self;
        let grid = map.grid(COLUMNS, MAX_ROWS);
        let entries = entries(map);
        let top = LEGEND + entries.len().div_ceil(2) * LEGEND_LINE + 14;
        let tops = tops(&grid, top);
        let bottom = tops.last().map_or(top, |y| y + CELL);
        let height = bottom + 28;
        write!(
            f,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">"#
        )?;
        writeln!(
            f,
            "\n<title id=\"title\">{}</title>",
            Escaped(&map.heading())
        )?;
        writeln!(f, "<desc id=\"desc\">{}</desc>", Escaped(&describe(map)))?;
        writeln!(f, "<style>{STYLE}</style>")?;
        writeln!(f, r#"<rect class="bg" width="{WIDTH}" height="{height}"/>"#)?;
        header(f, map, &grid)?;
        bar(f, map)?;
        for (index, entry) in entries.iter().enumerate() {
            entry.write(f, index)?;
        }
        for (row, y) in grid.rows.iter().zip(&tops) {
            draw_row(f, &grid, row, *y)?;
        }
        // The smaller one on top: what surrounds its line must not hide it.
        let mut by_size: Vec<_> = outlined(map).collect();
        by_size.sort_by_key(|(range, ..)| std::cmp::Reverse(range.len()));
        for (range, class, _) in by_size {
            outline(f, &grid, &tops, range, class)?;
        }
        let mut labels = Vec::new();
        for (range, class, name) in outlined(map) {
            label(f, &grid, &tops, &mut labels, range, class, name)?;
        }
        writeln!(f, "</svg>")
    }
}

/// Text in XML. Characters that XML 1.0 does not have, even escaped, become `?` (section 2.2 of its
/// specification).
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for char in self.0.chars() {
            match char {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => {
                    f.write_char('?')?;
                }
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// The picture in words, for those who do not see it.
fn describe(map: &Map) -> String {
    let mut text = format!("{} of memory", size(map.memory()));
    for kind in map.memory_kinds() {
        text += &format!(
            "; {}: {} ({:.1} %)",
            kind.name(),
            size(map.totals[kind as usize]),
            map.percent(kind)
        );
    }
    for (range, _, name) in outlined(map) {
        text += &format!("; {name} at {range}");
    }
    text + "."
}

/// The ranges that are outlined, in ascending order, with their class of style and their name.
fn outlined(map: &Map) -> impl Iterator<Item = (PhysRange, &'static str, &'static str)> {
    let window = map.window.map(|range| (range, "w", "window"));
    let kernel = map.kernel.map(|range| (range, "k", KERNEL));
    let mut both: Vec<_> = window.into_iter().chain(kernel).collect();
    both.sort_unstable();
    both.into_iter()
}

fn header(f: &mut fmt::Formatter<'_>, map: &Map, grid: &Grid) -> fmt::Result {
    writeln!(
        f,
        r#"<text class="h" x="24" y="38">{}</text>"#,
        Escaped(&map.heading())
    )?;
    writeln!(
        f,
        r#"<text class="s d" x="24" y="62">{} of memory. A cell is {}, a row {}; a cell of many kinds has a mixed colour.</text>"#,
        size(map.memory()),
        size(grid.cell_size()),
        size(grid.row_size()),
    )
}

/// The shares of all memory, side by side.
fn bar(f: &mut fmt::Formatter<'_>, map: &Map) -> fmt::Result {
    let width = (WIDTH - 48) as f64;
    writeln!(
        f,
        r#"<clipPath id="bar"><rect x="24" y="80" width="{width}" height="18" rx="5"/></clipPath><g clip-path="url(#bar)"><rect class="e" x="24" y="80" width="{width}" height="18"/>"#
    )?;
    let mut at = 24.0;
    for kind in map.memory_kinds() {
        let part = width * map.percent(kind) / 100.0;
        writeln!(
            f,
            r##"<rect x="{at:.2}" y="80" width="{part:.2}" height="18" fill="{}"/>"##,
            Colour(kind.colour())
        )?;
        at += part;
    }
    writeln!(f, "</g>")
}

/// A colour as `#rrggbb`.
struct Colour([u8; 3]);

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

/// A line of the legend.
enum Entry {
    Filled(Kind, String),
    Outlined(&'static str, &'static str, PhysRange),
}

fn entries(map: &Map) -> Vec<Entry> {
    let mut entries: Vec<_> = map
        .memory_kinds()
        .map(|kind| {
            let bytes = size(map.totals[kind as usize]);
            Entry::Filled(kind, format!("{bytes}, {:.1} %", map.percent(kind)))
        })
        .collect();
    let reserved = map.totals[Kind::Reserved as usize];
    if reserved > 0 {
        let text = format!("{}, drawn beside memory only", size(reserved));
        entries.push(Entry::Filled(Kind::Reserved, text));
    }
    entries.extend(outlined(map).map(|(range, class, name)| Entry::Outlined(class, name, range)));
    entries
}

impl Entry {
    fn write(&self, f: &mut fmt::Formatter<'_>, index: usize) -> fmt::Result {
        let x = 24 + index % 2 * (WIDTH - 48) / 2;
        let y = LEGEND + index / 2 * LEGEND_LINE;
        let (name, detail) = match self {
            Self::Filled(kind, detail) => {
                write!(
                    f,
                    r##"<rect x="{x}" y="{}" width="13" height="13" rx="2.5" fill="{}"/>"##,
                    y - 11,
                    Colour(kind.colour())
                )?;
                (kind.name(), detail.clone())
            }
            Self::Outlined(class, name, range) => {
                write!(
                    f,
                    r#"<rect class="{class}" x="{}" y="{}" width="11" height="11" rx="1.5"/>"#,
                    x + 1,
                    y - 10
                )?;
                (*name, format!("{}, {range}", size(range.len())))
            }
        };
        writeln!(
            f,
            r#"<text class="s" x="{}" y="{y}">{name}<tspan class="d" dx="8">{detail}</tspan></text>"#,
            x + 21
        )
    }
}

/// Where each row begins from above.
fn tops(grid: &Grid, top: usize) -> Vec<usize> {
    let mut y = top;
    grid.rows
        .iter()
        .map(|row| {
            y += if row.gap.is_some() { BREAK } else { 0 };
            y += CELL;
            y - CELL
        })
        .collect()
}

fn draw_row(f: &mut fmt::Formatter<'_>, grid: &Grid, row: &Row, y: usize) -> fmt::Result {
    if let Some(gap) = row.gap {
        draw_break(f, gap, y - BREAK)?;
    }
    let labelled = row.gap.is_some() || (row.start / grid.row_size()).is_multiple_of(4);
    if labelled {
        writeln!(
            f,
            r#"<text class="a" x="{}" y="{}" text-anchor="end">{:#x}</text>"#,
            LEFT - 8,
            y + CELL - 2,
            row.start
        )?;
    }
    // What a pointer that rests on the row is told.
    write!(
        f,
        r#"<g><title>{:#x}: {}</title><rect class="e" x="{LEFT}" y="{y}" width="{GRID}" height="{}"/>"#,
        row.start,
        row_in_words(grid, row),
        CELL - 1
    )?;
    let looks: Vec<_> = row.cells.iter().map(|cell| grid.look(cell)).collect();
    let mut column = 0;
    for run in looks.chunk_by(|left, right| left == right) {
        let (colour, filled) = mixed(run[0]);
        if filled > 0.0 {
            write!(
                f,
                r##"<rect x="{}" y="{y}" width="{}" height="{}" fill="{}""##,
                LEFT + column * CELL,
                run.len() * CELL,
                CELL - 1,
                Colour(colour)
            )?;
            if filled < 1.0 {
                write!(f, r#" fill-opacity="{:.2}""#, 0.3 + 0.7 * filled)?;
            }
            f.write_str("/>")?;
        }
        column += run.len();
    }
    writeln!(f, "</g>")
}

/// The kinds in a row, with their shares of it.
fn row_in_words(grid: &Grid, row: &Row) -> String {
    let parts: Vec<_> = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            // A sum of parts of one row, which is at most half of the address space.
            let bytes: u64 = row.cells.iter().map(|cell| cell[kind as usize]).sum();
            let percent = bytes as f64 * 100.0 / grid.row_size() as f64;
            (bytes > 0).then(|| format!("{percent:.0} % {}", kind.name()))
        })
        .collect();
    parts.join(", ")
}

/// A torn edge, and how much is left out.
fn draw_break(f: &mut fmt::Formatter<'_>, gap: u64, y: usize) -> fmt::Result {
    for y in [y + 5, y + BREAK - 6] {
        write!(f, r#"<path class="z" d="M{LEFT} {y}"#)?;
        for tooth in 0..GRID / 8 {
            write!(
                f,
                "l4 {}",
                if tooth % 2 == 0 {
                    "-2.5 4 2.5"
                } else {
                    "2.5 4 -2.5"
                }
            )?;
        }
        f.write_str(r#""/>"#)?;
    }
    writeln!(
        f,
        r#"<text class="a" x="{}" y="{}" text-anchor="middle">{} without memory</text>"#,
        LEFT + GRID / 2,
        y + BREAK / 2 + 3,
        size(gap)
    )
}

/// Draws a line around the cells that `range` touches.
fn outline(
    f: &mut fmt::Formatter<'_>,
    grid: &Grid,
    tops: &[usize],
    range: PhysRange,
    class: &str,
) -> fmt::Result {
    let touched: Vec<_> = grid.touched(range).collect();
    if touched.is_empty() {
        return Ok(());
    }
    // Under the line lies a wider one in the colour of the page, so that it stands out from any cell.
    write!(f, r#"<defs><path id="{class}" d=""#)?;
    for (index, (row, cells)) in touched.iter().enumerate() {
        let (low, high) = (*cells.start(), *cells.end() + 1);
        let y = tops[*row];
        let (left, right) = (LEFT + low * CELL, LEFT + high * CELL);
        write!(f, "M{left} {y}v{CELL}M{right} {y}v{CELL}")?;
        // An edge is drawn where the neighbour has no cell of the range.
        let above = index
            .checked_sub(1)
            .filter(|_| grid.rows[*row].gap.is_none());
        let below =
            Some(index + 1).filter(|_| grid.rows.get(row + 1).is_some_and(|row| row.gap.is_none()));
        for (neighbour, y) in [(above, y), (below, y + CELL)] {
            let (from, to) = neighbour
                .and_then(|index| touched.get(index))
                .map_or((low, low), |(_, cells)| (*cells.start(), *cells.end() + 1));
            for (start, end) in [(low, high.min(from)), (low.max(to), high)] {
                if start < end {
                    write!(f, "M{} {y}H{}", LEFT + start * CELL, LEFT + end * CELL)?;
                }
            }
        }
    }
    writeln!(
        f,
        r##""/></defs><use href="#{class}" class="halo"/><use href="#{class}" class="{class}"/>"##
    )
}

/// Writes the last word of an outlined range's name beside its first row, below the names that are there.
fn label(
    f: &mut fmt::Formatter<'_>,
    grid: &Grid,
    tops: &[usize],
    taken: &mut Vec<usize>,
    range: PhysRange,
    class: &str,
    name: &str,
) -> fmt::Result {
    let Some((row, _)) = grid.touched(range).next() else {
        return Ok(());
    };
    let mut y = tops[row] + CELL - 1;
    while taken.iter().any(|other| other.abs_diff(y) < 14) {
        y += 14;
    }
    taken.push(y);
    writeln!(
        f,
        r#"<text class="{class}t" x="{}" y="{y}">{}</text>"#,
        LEFT + GRID + 10,
        name.split(' ').next_back().unwrap_or(name)
    )
}
