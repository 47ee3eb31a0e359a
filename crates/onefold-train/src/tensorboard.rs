//! Scalars for TensorBoard: the records of an event file.
//!
//! An event file is a run of records, each `length (u64) · checksum of it · data · checksum of the data`, all little-endian; the
//! checksums are CRC-32C, masked as TensorFlow does (`tfrecord`). The data is a protocol buffer `Event`: wall time (field 1, double),
//! step (2, varint), and a file version (3) or a summary (5) of values, each with tag (1) and number (2, float). The first record names
//! the version. Only what scalars need is here. Records are bytes; whoever keeps the file appends them.

/// Of the format; readers ask for it.
const VERSION: &str = "brain.Event:2";

/// The record that an event file begins with. `time` is in seconds since 1970.
pub fn header(time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, time);
    event.bytes(3, VERSION.as_bytes());
    record(&event.0)
}

/// A record with numbers of one step, each under a tag such as `loss/code`.
pub fn scalars<'a>(step: u64, time: f64, values: impl IntoIterator<Item = (&'a str, f32)>) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, number) in values {
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        value.float(2, number);
        summary.bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.double(1, time);
    if step > 0 {
        event.varint(2, step);
    }
    event.bytes(5, &summary.0);
    record(&event.0)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The checksum of `data`, rotated and moved, so that data that holds checksums does not check itself.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protocol buffer that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

/// How a field is encoded.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Eight = 1,
    Bytes = 2,
    Four = 5,
}

impl Message {
    fn key(&mut self, field: u64, wire: Wire) {
        self.number(field << 3 | wire as u64);
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, Wire::Varint);
        self.number(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, Wire::Eight);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, Wire::Four);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, Wire::Bytes);
        self.number(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte what TensorBoard's own writer makes of the same events: `testdata/tensorboard/make_events.py`.
    #[test]
    fn agrees_with_tensorboard() {
        let golden = include_bytes!("../../../testdata/tensorboard/events.tfevents");
        let records = [
            header(1_700_000_000.0),
            scalars(0, 1_700_000_000.5, [("loss/code", 2.5), ("weight/code", 0.25)]),
            scalars(1, 1_700_000_001.25, [("loss/math", -1.5)]),
            scalars(300, 1_700_000_002.0, [("lr", 1e-4), ("loss/ü", 0.0)]),
            scalars(5_000_000_000, 1_700_000_003.0, [("loss/code", f32::INFINITY)]),
        ];
        assert_eq!(records.concat(), golden);
    }

    /// Lengths beyond one byte of a varint.
    #[test]
    fn many_scalars_keep_their_lengths() {
        let tags: Vec<String> = (0..100).map(|i| format!("loss/{i}")).collect();
        let record = scalars(7, 0.0, tags.iter().map(|tag| (tag.as_str(), 1.0)));
        let length = u64::from_le_bytes(record[..8].try_into().unwrap()) as usize;
        assert_eq!(record.len(), length + 16);
        assert_eq!(record[8..12], masked(&record[..8]));
        assert_eq!(record[12 + length..], masked(&record[12..12 + length]));
    }
}
