//! A picture of physical memory: what lies where, as an SVG or as characters.
//!
//! All that is known of a machine's memory is laid over one another into one list of ranges
//! ([`Map::new`]), and that list is laid out as rows of cells of equal size ([`Map::grid`]). There are at
//! most so many rows and columns, whatever the memory is: cells grow until it fits, and rows without
//! memory are folded into a break.

pub(crate) mod svg;
pub(crate) mod text;

use std::ops::RangeInclusive;

use kjump::PhysRange;
use kjump::memory::image::Identity;
use kjump::memory::{MemoryKind, PAGE_SIZE, PageClass, RangeMap, VmcoreInfo};

/// What a byte of physical memory is, as the picture shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// In the file, and holds something.
    Data,
    /// In the file, as zeros.
    Zero,
    /// Free memory.
    Free,
    /// In the file; nobody knows more.
    Saved,
    /// Of the window or of low memory, and not in the file: another kernel was there.
    Aside,
    /// Memory of the machine that is not in the file.
    Missing,
    /// What firmware and devices have. It is not counted as memory, and no row is drawn for it alone.
    Reserved,
}

impl Kind {
    pub(crate) const COUNT: usize = 7;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Data,
        Self::Zero,
        Self::Free,
        Self::Saved,
        Self::Aside,
        Self::Missing,
        Self::Reserved,
    ];

    /// The name in the legend.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Zero => "zeros",
            Self::Free => "free",
            Self::Saved => "saved",
            Self::Aside => "window and low memory",
            Self::Missing => "not in the file",
            Self::Reserved => "firmware and devices",
        }
    }

    /// Red, green and blue. Told apart on white and on black, and by those who see no red or no green.
    fn colour(self) -> [u8; 3] {
        match self {
            Self::Data | Self::Saved => [0x2f, 0x6d, 0xc4],
            Self::Zero => [0xc3, 0xcd, 0xdb],
            Self::Free => [0x8f, 0xd6, 0xb4],
            Self::Aside => [0xf2, 0xa3, 0x2c],
            Self::Missing => [0xe0, 0x7a, 0x8b],
            Self::Reserved => [0x9a, 0x86, 0xb8],
        }
    }
}

impl From<PageClass> for Kind {
    fn from(class: PageClass) -> Self {
        match class {
            PageClass::Data => Self::Data,
            PageClass::Zero => Self::Zero,
            PageClass::Free => Self::Free,
        }
    }
}

/// What a picture is made from.
pub(crate) struct Subject<'a> {
    /// The kernel's release, if it is known. Hostile, as all text from a file.
    pub(crate) release: Option<&'a str>,
    /// The pages of the file by class, if they can be told apart.
    pub(crate) pages: Option<&'a RangeMap<PageClass>>,
    /// The memory in the file; counts where `pages` are not known.
    pub(crate) ranges: &'a RangeMap<()>,
    /// What the machine said of itself, if it did.
    pub(crate) identity: Option<&'a Identity>,
    /// Where the kernel lies, if that is known.
    pub(crate) kernel: Option<PhysRange>,
}

/// What lies where in a machine's physical memory.
pub(crate) struct Map {
    /// Kernel release, or `None`; printable and short.
    release: Option<String>,
    window: Option<PhysRange>,
    kernel: Option<PhysRange>,
    /// In ascending order, without overlaps.
    spans: Vec<(PhysRange, Kind)>,
    /// Bytes of each kind, in the order of [`Kind::ALL`].
    totals: Shares,
}

/// Bytes of each kind, in the order of [`Kind::ALL`].
type Shares = [u64; Kind::COUNT];

/// A map cut into rows of cells.
pub(crate) struct Grid {
    /// Binary logarithm of a cell's size in bytes.
    shift: u32,
    columns: usize,
    rows: Vec<Row>,
}

/// A row of cells.
struct Row {
    /// Address of the first cell.
    start: u64,
    /// If rows were left out right below this one: how many bytes hold no memory here.
    gap: Option<u64>,
    cells: Vec<Shares>,
}

/// The name of the kernel's image in the legend. Its end is where the last known symbol is.
const KERNEL: &str = "most of the kernel";

/// The longest release that is shown, in characters. `uname` has at most 64.
const MAX_RELEASE: usize = 64;

impl Map {
    /// Lays what is known over one another: first what the file holds, then window and low memory, then
    /// the machine's memory map.
    pub(crate) fn new(subject: &Subject<'_>) -> Self {
        let mut spans: Vec<(PhysRange, Kind)> = match subject.pages {
            Some(pages) => pages
                .iter()
                .map(|(range, class)| (range, Kind::from(*class)))
                .collect(),
            None => subject
                .ranges
                .ranges()
                .map(|range| (range, Kind::Saved))
                .collect(),
        };
        if let Some(identity) = subject.identity {
            lay_under(&mut spans, [(identity.window, Kind::Aside)]);
            lay_under(
                &mut spans,
                identity.low.ranges().map(|range| (range, Kind::Aside)),
            );
            lay_under(
                &mut spans,
                identity.memory.iter().map(|(range, kind)| match kind {
                    MemoryKind::Ram => (range, Kind::Missing),
                    _ => (range, Kind::Reserved),
                }),
            );
        }
        let mut totals = [0; Kind::COUNT];
        for (range, kind) in &spans {
            // Ranges do not overlap, so their sum fits into the address space.
            totals[*kind as usize] += range.len();
        }
        Self {
            release: subject.release.map(printable),
            window: subject.identity.map(|identity| identity.window),
            kernel: subject.kernel,
            spans,
            totals,
        }
    }

    /// How many bytes of memory there are, without [`Kind::Reserved`].
    fn memory(&self) -> u64 {
        self.memory_kinds()
            .map(|kind| self.totals[kind as usize])
            .sum()
    }

    /// The kinds that there are, without [`Kind::Reserved`].
    fn memory_kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Reserved && self.totals[*kind as usize] > 0)
    }

    /// What share of memory `kind` is, in percent.
    fn percent(&self, kind: Kind) -> f64 {
        self.totals[kind as usize] as f64 * 100.0 / self.memory().max(1) as f64
    }

    /// A heading.
    fn heading(&self) -> String {
        match &self.release {
            Some(release) => format!("Physical memory of Linux {release}"),
            None => "Physical memory of an unknown kernel".to_owned(),
        }
    }

    /// The map as rows of `columns` cells, a power of two, and at most `max_rows` rows (at least 2). A
    /// cell is a page at least.
    fn grid(&self, columns: usize, max_rows: usize) -> Grid {
        let columns = columns.max(1).next_power_of_two();
        let row_of_cells = columns.trailing_zeros();
        let max_rows = max_rows.max(2) as u64;
        // A row is at most half of the address space, so at the last there are two. Larger rows never are
        // more, so the smallest size that does is found by halves.
        let (mut shift, mut enough) = (PAGE_SIZE.trailing_zeros(), 63 - row_of_cells);
        while shift < enough {
            let middle = shift.midpoint(enough);
            if self.count_rows(middle + row_of_cells) <= max_rows {
                enough = middle;
            } else {
                shift = middle + 1;
            }
        }
        let mut grid = Grid {
            shift,
            columns,
            rows: self.empty_rows(shift, columns),
        };
        for (range, kind) in &self.spans {
            grid.paint(*range, *kind);
        }
        grid
    }

    /// Ranges that rows are drawn for.
    fn drawn(&self) -> impl Iterator<Item = PhysRange> + '_ {
        let memory = self.memory() > 0;
        self.spans
            .iter()
            .filter(move |(_, kind)| !memory || *kind != Kind::Reserved)
            .map(|(range, _)| *range)
    }

    /// How many rows of `1 << row_shift` bytes hold memory.
    fn count_rows(&self, row_shift: u32) -> u64 {
        let mut next = 0;
        let mut count = 0;
        for range in self.drawn() {
            let rows = rows_of(range, row_shift);
            let first = next.max(*rows.start());
            count += (rows.end() + 1).saturating_sub(first);
            next = rows.end() + 1;
        }
        count
    }

    /// The rows that hold memory, without anything painted.
    fn empty_rows(&self, shift: u32, columns: usize) -> Vec<Row> {
        let row_shift = shift + columns.trailing_zeros();
        let mut rows = Vec::new();
        let mut next = 0;
        let mut reached = 0;
        for range in self.drawn() {
            let touched = rows_of(range, row_shift);
            let first = next.max(*touched.start());
            for index in first..=*touched.end() {
                let folded = index > next;
                rows.push(Row {
                    start: index << row_shift,
                    gap: folded.then(|| range.start().get() - reached),
                    cells: vec![[0; Kind::COUNT]; columns],
                });
                next = index + 1;
            }
            reached = range.end().get();
        }
        rows
    }
}

impl Grid {
    /// Size of a cell in bytes.
    fn cell_size(&self) -> u64 {
        1 << self.shift
    }

    /// Size of a row in bytes.
    fn row_size(&self) -> u64 {
        self.cell_size() << self.columns.trailing_zeros()
    }

    /// The parts of `range` in each row that shares an address with it: the row's number, and the first
    /// and the last cell.
    fn touched(&self, range: PhysRange) -> impl Iterator<Item = (usize, RangeInclusive<usize>)> {
        let row_mask = self.row_size() - 1;
        let first = self
            .rows
            .partition_point(|row| (row.start | row_mask) < range.start().get());
        self.rows[first..]
            .iter()
            .enumerate()
            .take_while(move |(_, row)| row.start < range.end().get())
            .map(move |(index, row)| {
                let low = range.start().get().max(row.start);
                let high = (range.end().get() - 1).min(row.start | row_mask);
                let cell = |addr: u64| {
                    // No more than a row has cells, so it fits.
                    usize::try_from((addr & row_mask) >> self.shift).unwrap_or(0)
                };
                (first + index, cell(low)..=cell(high))
            })
    }

    /// Adds the bytes of `range` to the cells that they lie in, as far as there are rows for them.
    fn paint(&mut self, range: PhysRange, kind: Kind) {
        let mask = self.cell_size() - 1;
        let touched: Vec<_> = self.touched(range).collect();
        for (row, cells) in touched {
            let row = &mut self.rows[row];
            for cell in cells {
                let start = row.start + ((cell as u64) << self.shift);
                let low = range.start().get().max(start);
                let last = (range.end().get() - 1).min(start | mask);
                // The last byte of the address space is in no range, so this does not overflow.
                row.cells[cell][kind as usize] += last - low + 1;
            }
        }
    }

    /// What the cell looks like: its parts in eighths, rounded, in the order of [`Kind::ALL`]. A cell
    /// that holds anything has one eighth of something.
    fn look(&self, cell: &Shares) -> Look {
        let mut look = [0; Kind::COUNT];
        for (eighths, bytes) in look.iter_mut().zip(cell) {
            let share = *bytes as f64 / self.cell_size() as f64;
            // Between 0 and 8.
            #[allow(clippy::cast_sign_loss, reason = "a share is not negative")]
            let rounded = (share * 8.0).round() as u8;
            *eighths = rounded;
        }
        if look == [0; Kind::COUNT]
            && let Some(kind) = dominant(cell)
        {
            look[kind as usize] = 1;
        }
        look
    }
}

/// The parts of a cell, in eighths.
type Look = [u8; Kind::COUNT];

/// The kind that has the largest share, if there is any.
fn dominant<N: Copy + Ord + Default>(shares: &[N; Kind::COUNT]) -> Option<Kind> {
    // Of equal shares the first one counts, which says more.
    let (kind, share) = Kind::ALL
        .into_iter()
        .zip(shares)
        .rev()
        .max_by_key(|(_, share)| **share)?;
    (*share > N::default()).then_some(kind)
}

/// The colour that a cell of this look has, and how much of the cell is memory, from 0 to 1.
fn mixed(look: Look) -> ([u8; 3], f64) {
    let sum: u32 = look.iter().map(|eighths| u32::from(*eighths)).sum();
    let mut colour = [0; 3];
    for (at, part) in colour.iter_mut().enumerate() {
        let weighted: u32 = Kind::ALL
            .into_iter()
            .zip(look)
            .map(|(kind, eighths)| u32::from(kind.colour()[at]) * u32::from(eighths))
            .sum();
        *part = u8::try_from(weighted / sum.max(1)).unwrap_or(u8::MAX);
    }
    (colour, f64::from(sum.min(8)) / 8.0)
}

/// The numbers of the rows that `range` touches.
fn rows_of(range: PhysRange, row_shift: u32) -> RangeInclusive<u64> {
    range.start().get() >> row_shift..=(range.end().get() - 1) >> row_shift
}

/// Adds those parts of `below`, ranges in ascending order without overlaps, that `spans` leave open.
fn lay_under(
    spans: &mut Vec<(PhysRange, Kind)>,
    below: impl IntoIterator<Item = (PhysRange, Kind)>,
) {
    let mut open = Vec::new();
    let mut first = 0;
    for (range, kind) in below {
        let mut at = range.start().get();
        while spans
            .get(first)
            .is_some_and(|(span, _)| span.end() <= range.start())
        {
            first += 1;
        }
        let mut index = first;
        while let Some((span, _)) = spans.get(index)
            && span.start() < range.end()
        {
            open.extend(PhysRange::new(at, span.start().get()).map(|part| (part, kind)));
            at = at.max(span.end().get());
            index += 1;
        }
        open.extend(PhysRange::new(at, range.end().get()).map(|part| (part, kind)));
        // The last span may reach into the next range.
        first = index.saturating_sub(1).max(first);
    }
    spans.append(&mut open);
    spans.sort_unstable();
}

/// `text` without what a terminal or XML could take for something else, and not too long.
fn printable(text: &str) -> String {
    crate::report::plain(text)
        .chars()
        .take(MAX_RELEASE)
        .collect()
}

/// The virtual address from which on the kernel maps itself, and the end of that mapping
/// (`__START_KERNEL_map` and `KERNEL_IMAGE_SIZE` in `arch/x86/include/asm/page_64_types.h`).
const KERNEL_MAP: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

/// Where a kernel's image lies at least: from the start of its text to the last symbol that VMCOREINFO
/// names. `phys_base` is what the image was moved by (`arch/x86/kernel/head64.c`).
pub(crate) fn kernel_image(info: &VmcoreInfo) -> Option<PhysRange> {
    let phys_base: i64 = info.get("NUMBER(phys_base)")?.trim().parse().ok()?;
    let symbols = info
        .iter()
        .filter(|(key, _)| key.starts_with("SYMBOL("))
        .filter_map(|(_, value)| u64::from_str_radix(value.trim(), 16).ok())
        .filter(|addr| KERNEL_MAP.contains(addr));
    let start = u64::from_str_radix(info.get("SYMBOL(_stext)")?.trim(), 16).ok()?;
    let last = symbols.max()?;
    let physical = |addr: u64| {
        addr.checked_sub(KERNEL_MAP.start)?
            .checked_add_signed(phys_base)
    };
    // The last symbol's own page is part of it.
    let end = physical(last)?
        .checked_add(1)?
        .checked_next_multiple_of(PAGE_SIZE)?;
    PhysRange::new(physical(start)?, end)
}

#[cfg(test)]
mod tests;
