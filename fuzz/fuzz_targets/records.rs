//! Images whose checksums are right and whose records say anything: nothing is believed because of that.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::image::{
    BLOCK, IdentitySpec, RECORDS, commit, examine, record, saved_header, stream,
};
use kjump_fuzz::{Damage, Number};
use libfuzzer_sys::fuzz_target;
use vmcore::image::{Identity, ImageId, Paging, Platform};
use vmcore::{PhysRange, RangeMap};

#[derive(Arbitrary, Debug)]
struct Input {
    identity: Option<IdentitySpec>,
    in_order: bool,
    commit: Option<(u8, u32, Option<Number>)>,
    records: Vec<RecordSpec>,
    /// Words of bodies and payloads that lie: of which record, where, and what.
    lies: Vec<(u8, bool, u8, Number)>,
    damage: Damage,
}

#[derive(Arbitrary, Debug)]
enum RecordSpec {
    Notes(Vec<u8>),
    Chunk {
        gap: u8,
        runs: Vec<(u8, u16)>,
        codec: u8,
        data: Vec<u8>,
    },
    /// A part of the index with what is not in one yet.
    Index,
    End,
    Any {
        kind: u8,
        body: Vec<u8>,
        payload: Vec<u8>,
        len: Option<Number>,
    },
}

/// A record that is to be written.
struct Planned {
    kind: u32,
    body: Vec<u8>,
    payload: Vec<u8>,
    len: Option<u64>,
}

/// Puts an image together.
#[derive(Default)]
struct Builder {
    records: Vec<Planned>,
    /// Where the next record will be.
    offset: u64,
    /// Where the next chunk may begin.
    memory: u64,
    entries: Vec<u8>,
    count: u32,
    last_part: u64,
    /// Pages of data, zero and free; bytes stored; chunks.
    totals: [u64; 7],
    end: u64,
}

impl Builder {
    fn push(&mut self, kind: u32, body: Vec<u8>, payload: Vec<u8>, len: Option<u64>) {
        self.offset += (BLOCK + payload.len().next_multiple_of(BLOCK)) as u64;
        self.records.push(Planned {
            kind,
            body,
            payload,
            len,
        });
    }

    fn index(&mut self) {
        let mut body = self.last_part.to_le_bytes().to_vec();
        body.extend(self.count.to_le_bytes());
        self.last_part = self.offset;
        self.count = 0;
        let payload = std::mem::take(&mut self.entries);
        self.push(3, body, payload, None);
    }

    fn chunk(&mut self, gap: u8, runs: &[(u8, u16)], codec: u8, data: &[u8]) {
        let runs: Vec<(u64, u64)> = runs
            .iter()
            .take(1000)
            .map(|(class, pages)| match class % 3 {
                // As much data as a file of the fuzzer's should have.
                0 => (0, u64::from(pages % 20) + 1),
                class => (class.into(), u64::from(*pages) + 1),
            })
            .collect();
        let pages = |class| {
            runs.iter()
                .filter(|run| run.0 == class)
                .map(|run| run.1)
                .sum::<u64>()
        };
        let size = pages(0) as usize * BLOCK;
        if runs.is_empty() || size > 1 << 20 {
            return;
        }
        let mut plain = data.to_vec();
        plain.resize(size, 0x55);
        let packed = match codec % 3 {
            1 => lz4(&plain),
            2 => zstd::bulk::compress(&plain, 1).expect("to memory"),
            _ => Vec::new(),
        };
        let (codec, stored) = if packed.is_empty() || packed.len() >= size {
            (0_u32, plain)
        } else {
            (u32::from(codec % 3), packed)
        };
        let start = self.memory + u64::from(gap) * 4096;
        let all: u64 = runs.iter().map(|run| run.1).sum();
        self.memory = start + all * 4096;
        let mut body = start.to_le_bytes().to_vec();
        body.extend(codec.to_le_bytes());
        body.extend((runs.len() as u32).to_le_bytes());
        for (class, pages) in &runs {
            body.extend(((*class as u32) << 30 | *pages as u32).to_le_bytes());
        }
        for class in 0..3 {
            self.totals[class as usize] += pages(class);
        }
        self.totals[3] += stored.len() as u64;
        self.totals[4 + codec as usize] += u64::from(!stored.is_empty());
        self.entries.extend(self.offset.to_le_bytes());
        self.entries.extend((stored.len() as u64).to_le_bytes());
        self.entries.extend_from_slice(&body);
        self.count += 1;
        self.push(2, body, stored, None);
    }

    fn finish(&mut self) {
        if self.count > 0 {
            self.index();
        }
        self.end = self.offset;
        let mut body = self.last_part.to_le_bytes().to_vec();
        body.extend(1_u32.to_le_bytes());
        body.extend(self.totals.iter().flat_map(|number| number.to_le_bytes()));
        self.push(4, body, vec![0], None);
    }
}

/// The block of LZ4 that holds all of `data` as literals: for what is inside, other targets answer.
fn lz4(data: &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = data.split_first() else {
        return Vec::new();
    };
    // As many equal bytes as there are at the beginning become one match.
    let same = rest.iter().take_while(|&&byte| byte == first).count();
    let tail = &data[1 + same..];
    if same < 100 || tail.len() < 12 {
        return Vec::new();
    }
    let long = |mut len: usize, out: &mut Vec<u8>| {
        while len >= 255 {
            out.push(255);
            len -= 255;
        }
        out.push(len as u8);
    };
    let mut out = vec![0x1f, first, 1, 0];
    long(same - 19, &mut out);
    out.push(if tail.len() < 15 {
        (tail.len() as u8) << 4
    } else {
        0xf0
    });
    if tail.len() >= 15 {
        long(tail.len() - 15, &mut out);
    }
    out.extend_from_slice(tail);
    out
}

fn machine() -> Option<Identity> {
    Some(Identity {
        id: ImageId([7; 16]),
        release: "6.12".to_owned(),
        build_id: Vec::new(),
        paging: Paging::FourLevel,
        window: PhysRange::new(0x10_0000, 0x20_0000)?,
        low: RangeMap::new(),
        memory: RangeMap::new(),
        free_fill: None,
        uptime: 60,
        platform: Platform::default(),
        volumes: Vec::new(),
    })
}

fuzz_target!(|input: Input| {
    let identity = match input.identity {
        Some(spec) => spec.build(),
        None => machine(),
    };
    let Some(identity) = identity else { return };
    let mut builder = Builder {
        offset: RECORDS as u64,
        ..Builder::default()
    };
    let plain = input
        .records
        .iter()
        .all(|record| matches!(record, RecordSpec::Chunk { .. } | RecordSpec::Index));
    if plain {
        builder.push(1, vec![0; 8], Vec::new(), None);
    }
    for record in &input.records {
        match record {
            RecordSpec::Notes(notes) => builder.push(1, vec![0; 8], notes.clone(), None),
            RecordSpec::Chunk {
                gap,
                runs,
                codec,
                data,
            } => builder.chunk(*gap, runs, *codec, data),
            RecordSpec::Index if builder.count > 0 => builder.index(),
            RecordSpec::Index => {}
            RecordSpec::End => builder.finish(),
            RecordSpec::Any {
                kind,
                body,
                payload,
                len,
            } => builder.push(
                (kind % 6).into(),
                body[..body.len().min(4016)].to_vec(),
                payload.clone(),
                len.map(Number::get),
            ),
        }
    }
    builder.finish();
    for (which, of_payload, at, lie) in &input.lies {
        let count = builder.records.len();
        let record = &mut builder.records[usize::from(*which) % count];
        let bytes = if *of_payload {
            &mut record.payload
        } else {
            &mut record.body
        };
        let at = usize::from(*at) * 4;
        for (byte, lie) in bytes.iter_mut().skip(at).zip(lie.get().to_le_bytes()) {
            *byte = lie;
        }
    }

    let mut file = saved_header(&identity, 0x1234, input.in_order);
    file.extend(match input.commit {
        Some((state, attempts, end)) => {
            let end = end.map_or(builder.end, Number::get);
            commit(identity.id, (state % 5).into(), attempts, end)
        }
        None if input.in_order => vec![0; BLOCK],
        None => commit(identity.id, 1, 0, builder.end),
    });
    for planned in &builder.records {
        let Planned {
            kind,
            body,
            payload,
            len,
        } = planned;
        let len = len.unwrap_or(payload.len() as u64);
        file.extend(record(
            identity.id,
            file.len() as u64,
            *kind,
            body,
            payload,
            len,
        ));
    }
    input.damage.apply(&mut file);
    let (examined, streamed) = (examine(&file), stream(&file));
    if plain && input.lies.is_empty() && input.damage.is_none() && input.commit.is_none() {
        assert!(examined.is_ok(), "{:?}", examined.err());
        assert!(examined.ok() == streamed.ok(), "both ways to read are one");
    }
});
