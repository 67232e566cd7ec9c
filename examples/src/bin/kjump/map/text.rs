//! The map as characters, in colour where the terminal has any.

use std::env;
use std::fmt;
use std::io::IsTerminal;

use super::{Grid, KERNEL, Kind, Look, Map, Row, dominant, mixed};
use crate::report::size;

/// The most rows.
const MAX_ROWS: usize = 48;
/// The most columns of cells, however wide the terminal is.
const MAX_COLUMNS: usize = 256;
/// Where the width is not known.
const USUAL_WIDTH: usize = 80;

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    /// Plain characters.
    None,
    /// The 256 colours of xterm.
    Palette,
    /// Any colour, in 24 bits.
    True,
}

/// The map as lines of text.
pub(crate) struct Text<'a> {
    pub(crate) map: &'a Map,
    /// How many characters a line may have.
    pub(crate) width: usize,
    pub(crate) colours: Colours,
}

impl<'a> Text<'a> {
    /// The map as it suits standard output: as wide as `COLUMNS` or the terminal says, and in colour on
    /// a terminal unless `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn for_stdout(map: &'a Map) -> Self {
        let stdout = std::io::stdout();
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let value = |name| env::var(name).unwrap_or_default();
        let colours = if !stdout.is_terminal() || set("NO_COLOR") || value("TERM") == "dumb" {
            Colours::None
        } else if matches!(value("COLORTERM").as_str(), "truecolor" | "24bit") {
            Colours::True
        } else {
            Colours::Palette
        };
        let width = value("COLUMNS")
            .parse()
            .ok()
            .or_else(|| {
                let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(&stdout)?;
                Some(usize::from(width))
            })
            .filter(|width| *width > 0)
            .unwrap_or(USUAL_WIDTH);
        Self {
            map,
            width,
            colours,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.map;
        let end = map.drawn().last().map_or(0, |range| range.end().get());
        let label = format!("{end:#x}").len();
        let grid = map.grid(columns(self.width, label), MAX_ROWS);
        writeln!(f, "{}", map.heading())?;
        writeln!(
            f,
            "{} of memory; a character is {}, a line {}",
            size(map.memory()),
            size(grid.cell_size()),
            size(grid.row_size())
        )?;
        let marks = Marks::of(map, &grid);
        for (index, row) in grid.rows.iter().enumerate() {
            if let Some(gap) = row.gap {
                writeln!(f, "{:>label$} : {} without memory", "...", size(gap))?;
            }
            write!(f, "{:>#label$x} |", row.start)?;
            self.row(f, &grid, row, marks.row(index))?;
        }
        self.legend(f)
    }
}

/// How many cells fit beside a label: a power of two, so that rows begin at round addresses.
fn columns(width: usize, label: usize) -> usize {
    let most = width.saturating_sub(label + 3).clamp(16, MAX_COLUMNS);
    // The largest power of two that is not above `most`.
    1 << most.ilog2()
}

/// The cells that window and kernel touch, as `row * columns + column`.
struct Marks {
    columns: usize,
    window: Vec<bool>,
    kernel: Vec<bool>,
}

impl Marks {
    fn of(map: &Map, grid: &Grid) -> Self {
        let cells = |range| {
            let mut touched = vec![false; grid.rows.len() * grid.columns];
            if let Some(range) = range {
                for (row, cells) in grid.touched(range) {
                    let row = row * grid.columns;
                    touched[row + cells.start()..=row + cells.end()].fill(true);
                }
            }
            touched
        };
        Self {
            columns: grid.columns,
            window: cells(map.window),
            kernel: cells(map.kernel),
        }
    }

    /// The letter over each cell of a row, if any.
    fn row(&self, row: usize) -> impl Iterator<Item = Option<char>> + '_ {
        let cells = row * self.columns..(row + 1) * self.columns;
        cells.map(|cell| match (self.window[cell], self.kernel[cell]) {
            (true, _) => Some('W'),
            (_, true) => Some('K'),
            _ => None,
        })
    }
}

impl Text<'_> {
    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        grid: &Grid,
        row: &Row,
        marks: impl Iterator<Item = Option<char>>,
    ) -> fmt::Result {
        let cells: Vec<_> = row
            .cells
            .iter()
            .zip(marks)
            .map(|(cell, mark)| (grid.look(cell), mark))
            .collect();
        if self.colours == Colours::None {
            let line: String = cells
                .iter()
                .map(|(look, mark)| mark.unwrap_or_else(|| sign(*look)))
                .collect();
            return writeln!(f, "{}", line.trim_end());
        }
        for run in cells.chunk_by(|(left, _), (right, _)| left == right) {
            let (colour, filled) = mixed(run[0].0);
            if filled > 0.0 {
                self.background(f, colour)?;
            }
            for (_, mark) in run {
                write!(f, "{}", mark.unwrap_or(' '))?;
            }
            if filled > 0.0 {
                f.write_str("\x1b[0m")?;
            }
        }
        writeln!(f)
    }

    /// Makes what follows black or white on `colour` (ECMA-48, `SGR`; ISO 8613-6 for the colours).
    fn background(&self, f: &mut fmt::Formatter<'_>, colour: [u8; 3]) -> fmt::Result {
        let [red, green, blue] = colour.map(u32::from);
        // How bright the eye finds it (ITU-R BT.601).
        let dark = red * 299 + green * 587 + blue * 114 < 128_000;
        match self.colours {
            Colours::None => Ok(()),
            Colours::True => {
                let ink = if dark { "255;255;255" } else { "0;0;0" };
                write!(f, "\x1b[38;2;{ink};48;2;{red};{green};{blue}m")
            }
            Colours::Palette => {
                // A cube of 6 × 6 × 6 colours begins at 16 and ends with white at 231. The levels are 0,
                // 95, and every 40 from there.
                let level = |part: u32| match part {
                    0..48 => 0,
                    48..115 => 1,
                    _ => (part - 35) / 40,
                };
                let ink = if dark { 231 } else { 16 };
                let paper = 16 + 36 * level(red) + 6 * level(green) + level(blue);
                write!(f, "\x1b[38;5;{ink};48;5;{paper}m")
            }
        }
    }

    fn legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.map;
        writeln!(f)?;
        for kind in Kind::ALL {
            let bytes = map.totals[kind as usize];
            if bytes == 0 {
                continue;
            }
            f.write_str("  ")?;
            if self.colours == Colours::None {
                write!(f, "{} ", character(kind))?;
            } else {
                self.background(f, kind.colour())?;
                f.write_str("  \x1b[0m")?;
            }
            write!(f, " {:<22}{:>12}", kind.name(), size(bytes))?;
            if kind == Kind::Reserved {
                writeln!(f, "  beside memory only")?;
            } else {
                writeln!(f, " {:>6.1} %", map.percent(kind))?;
            }
        }
        if self.colours == Colours::None {
            writeln!(f, "  +  much of it data, among others")?;
        }
        for (letter, name, range) in [('W', "window", map.window), ('K', KERNEL, map.kernel)] {
            if let Some(range) = range {
                writeln!(
                    f,
                    "  {letter}  {name:<22}{:>12}  {range}",
                    size(range.len())
                )?;
            }
        }
        Ok(())
    }
}

/// The character for a cell that holds nothing else.
fn character(kind: Kind) -> char {
    match kind {
        Kind::Data | Kind::Saved => '#',
        Kind::Zero => '0',
        Kind::Free => '.',
        Kind::Aside => 'w',
        Kind::Missing => '-',
        Kind::Reserved => 'r',
    }
}

/// The character for a cell: data is `+` where there is much else.
fn sign(look: Look) -> char {
    let sum: u8 = look.iter().sum();
    match dominant(&look) {
        None => ' ',
        Some(kind @ (Kind::Data | Kind::Saved)) if look[kind as usize] + 1 < sum => '+',
        Some(kind) => character(kind),
    }
}
