//! Where the bytes of a volume are that is made of other devices.

use std::ops::Range;

use super::wire::{Reader, Writer};

/// A device that a [`Mapping`] takes bytes from, as it was when the machine told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The device, as the machine called it.
    pub device: String,
    /// What is on it, such as `lvm`.
    pub kind: String,
    /// The number that tells it from all others; empty if it has none.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A part of a volume: its bytes are those of one component, or are dealt out to several in turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its length in bytes: as many whole chunks for each stripe.
    pub len: u64,
    /// How many bytes each stripe has in its turn. With one stripe it says nothing, and is `len`.
    pub chunk: u64,
    /// Where the bytes are.
    pub stripes: Vec<Stripe>,
}

/// Where a [`Segment`] has its bytes on one component: in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// The number of the component.
    pub component: usize,
    /// The offset in it, in bytes.
    pub start: u64,
}

impl Segment {
    /// A segment whose bytes are in one piece.
    #[must_use]
    pub fn linear(len: u64, component: usize, start: u64) -> Self {
        Self {
            len,
            chunk: len,
            stripes: vec![Stripe { component, start }],
        }
    }

    /// How many bytes of it are on each component; `None` if it cannot be.
    #[must_use]
    pub fn stripe_len(&self) -> Option<u64> {
        let count = u64::try_from(self.stripes.len()).ok()?;
        let round = self.chunk.checked_mul(count).filter(|&round| round > 0)?;
        (self.len > 0 && self.len.is_multiple_of(round)).then_some(self.len / count)
    }

    /// The part of it that `range`, counted from its beginning, is; `None` if it is not within, or does not
    /// begin and end where all stripes have had their turns.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Option<Self> {
        let count = u64::try_from(self.stripes.len()).ok()?;
        let len = range.end.checked_sub(range.start)?;
        let is_linear = count == 1;
        let part = Self {
            len,
            chunk: if is_linear { len } else { self.chunk },
            stripes: self
                .stripes
                .iter()
                .map(|stripe| {
                    let start = stripe.start.checked_add(range.start / count)?;
                    Some(Stripe { start, ..*stripe })
                })
                .collect::<Option<_>>()?,
        };
        let whole = is_linear || range.start.is_multiple_of(self.chunk.checked_mul(count)?);
        (range.end <= self.len && whole && part.stripe_len().is_some()).then_some(part)
    }
}

/// Where the bytes of a volume are that is made of other devices: its segments, one behind the other.
///
/// ```
/// use vmcore::image::{Component, Mapping, Segment};
///
/// let disk = Component {
///     device: "/dev/vda2".into(),
///     kind: "lvm".into(),
///     uuid: "dVzT8N-9k2l-lDHq-lMPs-EjoE-0o18-wL28X4".into(),
///     size: 100 << 20,
/// };
/// // The second half lies before the first one.
/// let (one, two) = (Segment::linear(8 << 20, 0, 32 << 20), Segment::linear(8 << 20, 0, 1 << 20));
/// let mapping = Mapping::new(vec![disk], vec![one, two]).unwrap();
/// assert_eq!(mapping.size(), 16 << 20);
/// let (stripe, len) = mapping.locate((8 << 20) + 4096).unwrap();
/// assert_eq!((stripe.start, len), ((1 << 20) + 4096, (8 << 20) - 4096));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    components: Vec<Component>,
    segments: Vec<Segment>,
}

impl Mapping {
    /// The most components that a mapping has.
    pub const MOST_COMPONENTS: usize = 64;
    /// The most stripes that a mapping has in all its segments.
    pub const MOST_STRIPES: usize = 512;

    /// A mapping; `None` if there is nothing in it or too much, or if it says what cannot be.
    #[must_use]
    pub fn new(components: Vec<Component>, segments: Vec<Segment>) -> Option<Self> {
        let stripes: usize = segments.iter().map(|segment| segment.stripes.len()).sum();
        if components.len() > Self::MOST_COMPONENTS || !(1..=Self::MOST_STRIPES).contains(&stripes)
        {
            return None;
        }
        let mut size: u64 = 0;
        for segment in &segments {
            size = size.checked_add(segment.len)?;
            let len = segment.stripe_len()?;
            for stripe in &segment.stripes {
                let component = components.get(stripe.component)?;
                if stripe.start.checked_add(len)? > component.size {
                    return None;
                }
            }
        }
        Some(Self {
            components,
            segments,
        })
    }

    /// The devices that it takes bytes from.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// How many bytes there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        // No overflow: that was checked when it was made.
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// How many pieces it has on its components.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.ranges().count()
    }

    /// The pieces that it has on its components, as the number of the component and a range of its bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        self.segments.iter().flat_map(|segment| {
            let len = segment.stripe_len().unwrap_or(0);
            segment
                .stripes
                .iter()
                // No overflow: that was checked when it was made.
                .map(move |stripe| (stripe.component, stripe.start..stripe.start + len))
        })
    }

    /// Where the byte at `offset` is, and how many from there on follow each other; `None` behind the end.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<(Stripe, u64)> {
        let mut at = offset;
        for segment in &self.segments {
            if at >= segment.len {
                at -= segment.len;
                continue;
            }
            let (turn, inside) = (at / segment.chunk, at % segment.chunk);
            let count = segment.stripes.len() as u64;
            // No overflow and no truncation: all of this is within the segment, which was checked.
            let stripe = segment.stripes.get((turn % count) as usize)?;
            let start = stripe.start + turn / count * segment.chunk + inside;
            return Some((Stripe { start, ..*stripe }, segment.chunk - inside));
        }
        None
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        // No truncation: there are `MOST_COMPONENTS` and `MOST_STRIPES` at most.
        to.u32(self.components.len() as u32);
        for component in &self.components {
            for text in [&component.device, &component.kind, &component.uuid] {
                to.string(text);
            }
            to.u64(component.size);
        }
        to.u32(self.segments.len() as u32);
        for segment in &self.segments {
            to.u64(segment.len);
            to.u64(segment.chunk);
            to.u32(segment.stripes.len() as u32);
            for stripe in &segment.stripes {
                to.u32(stripe.component as u32);
                to.u64(stripe.start);
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let count = |from: &mut Reader<'_>, most: usize| {
            let count = usize::try_from(from.u32()?).ok()?;
            (count <= most).then_some(count)
        };
        // Nothing is allocated by these counts: this ends where the bytes do.
        let mut components = Vec::new();
        for _ in 0..count(from, Self::MOST_COMPONENTS)? {
            components.push(Component {
                device: from.string()?,
                kind: from.string()?,
                uuid: from.string()?,
                size: from.u64()?,
            });
        }
        let mut segments = Vec::new();
        for _ in 0..count(from, Self::MOST_STRIPES)? {
            let (len, chunk) = (from.u64()?, from.u64()?);
            let mut stripes = Vec::new();
            for _ in 0..count(from, Self::MOST_STRIPES)? {
                stripes.push(Stripe {
                    component: usize::try_from(from.u32()?).ok()?,
                    start: from.u64()?,
                });
            }
            segments.push(Segment {
                len,
                chunk,
                stripes,
            });
        }
        Self::new(components, segments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component(size: u64) -> Component {
        Component {
            device: "/dev/vda".into(),
            kind: "lvm".into(),
            uuid: "a-number".into(),
            size,
        }
    }

    fn segment() -> impl Strategy<Value = Segment> {
        let stripe =
            (0usize..3, 0u64..1 << 20).prop_map(|(component, start)| Stripe { component, start });
        (1u64..5, 1u64..5000, prop::collection::vec(stripe, 1..4)).prop_map(
            |(rounds, chunk, stripes)| {
                let chunk = if stripes.len() == 1 {
                    rounds * chunk
                } else {
                    chunk
                };
                let rounds = if stripes.len() == 1 { 1 } else { rounds };
                Segment {
                    len: rounds * chunk * stripes.len() as u64,
                    chunk,
                    stripes,
                }
            },
        )
    }

    fn mapping() -> impl Strategy<Value = Mapping> {
        prop::collection::vec(segment(), 1..6).prop_map(|segments| {
            Mapping::new(vec![component(2 << 20); 3], segments).expect("it fits")
        })
    }

    /// Where the byte at `offset` of a segment is, by the plainest reckoning: byte by byte, in turns.
    fn place(segment: &Segment, offset: u64) -> (usize, u64) {
        let (mut stripe, mut starts) = (0, vec![0; segment.stripes.len()]);
        let mut left = offset;
        while left >= segment.chunk {
            left -= segment.chunk;
            starts[stripe] += segment.chunk;
            stripe = (stripe + 1) % starts.len();
        }
        let found = segment.stripes[stripe];
        (found.component, found.start + starts[stripe] + left)
    }

    #[test]
    fn what_cannot_be_is_no_mapping() {
        let new = |size, segment| Mapping::new(vec![component(size)], vec![segment]);
        assert!(new(10, Segment::linear(10, 0, 0)).is_some());
        for segment in [
            Segment::linear(11, 0, 0),
            Segment::linear(10, 0, 1),
            Segment::linear(10, 1, 0),
            Segment::linear(0, 0, 0),
            Segment::linear(u64::MAX, 0, 0),
            Segment::linear(1, 0, u64::MAX),
            Segment {
                chunk: 3,
                ..Segment::linear(10, 0, 0)
            },
            Segment {
                stripes: Vec::new(),
                ..Segment::linear(10, 0, 0)
            },
            Segment {
                len: 8,
                chunk: u64::MAX,
                stripes: vec![
                    Stripe {
                        component: 0,
                        start: 0
                    };
                    2
                ],
            },
        ] {
            assert_eq!(new(10, segment.clone()), None, "{segment:?}");
        }
        assert!(Mapping::new(vec![component(10)], Vec::new()).is_none());
        let many = |count| vec![Segment::linear(1, 0, 0); count];
        assert!(Mapping::new(vec![component(1)], many(Mapping::MOST_STRIPES)).is_some());
        assert!(Mapping::new(vec![component(1)], many(Mapping::MOST_STRIPES + 1)).is_none());
        let halves = vec![Segment::linear(1 << 63, 0, 0); 2];
        assert!(Mapping::new(vec![component(u64::MAX)], halves).is_none());
    }

    proptest! {
        #[test]
        fn every_byte_is_where_the_turns_put_it(mapping in mapping(), at: prop::sample::Index) {
            let offset = at.index(mapping.size() as usize) as u64;
            let mut inside = offset;
            let segment = mapping.segments.iter().find(|segment| {
                let here = inside < segment.len;
                inside -= if here { 0 } else { segment.len };
                here
            });
            let segment = segment.expect("it is within");
            let (found, len) = mapping.locate(offset).expect("it is within");
            prop_assert_eq!((found.component, found.start), place(segment, inside));
            prop_assert!(len > 0 && inside + len <= segment.len);
            let last = place(segment, inside + len - 1);
            prop_assert_eq!(last, (found.component, found.start + len - 1));
            let is_in = |(component, range): (usize, Range<u64>)| {
                component == found.component && range.contains(&found.start)
            };
            prop_assert!(mapping.ranges().any(is_in));
            prop_assert_eq!(mapping.locate(mapping.size()), None);
        }

        #[test]
        fn a_part_has_the_bytes_of_the_whole(segment in segment(), from in 0u64..20000, len in 1u64..20000) {
            if let Some(part) = segment.part(from..from + len) {
                prop_assert_eq!(part.len, len);
                for offset in [0, len / 2, len - 1] {
                    prop_assert_eq!(place(&part, offset), place(&segment, from + offset));
                }
            } else {
                let round = segment.chunk * segment.stripes.len() as u64;
                let even = segment.stripes.len() == 1 || (from % round == 0 && len % round == 0);
                prop_assert!(from + len > segment.len || !even);
            }
        }

        #[test]
        fn mappings_read_back(mapping in mapping()) {
            let mut writer = Writer::default();
            mapping.encode(&mut writer);
            let mut reader = Reader::new(&writer.bytes);
            prop_assert_eq!(Mapping::decode(&mut reader), Some(mapping));
            prop_assert_eq!(reader.left(), 0);
        }

        #[test]
        fn any_bytes_are_a_mapping_that_holds_or_none(
            mapping in mapping(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let mut writer = Writer::default();
            mapping.encode(&mut writer);
            let mut bytes = writer.bytes;
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(mapping) = Mapping::decode(&mut Reader::new(&bytes)) {
                for (component, range) in mapping.ranges() {
                    prop_assert!(range.start < range.end);
                    prop_assert!(range.end <= mapping.components()[component].size);
                }
                for offset in [0, mapping.size() / 2, mapping.size() - 1] {
                    prop_assert!(mapping.locate(offset).is_some());
                }
            }
        }
    }
}
