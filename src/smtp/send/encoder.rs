//! A message in the form that DATA or BDAT wants.

/// A message block by block as BDAT wants it, behind one line that says how long it is, or as DATA does: a dot more before
/// each leading dot, and the end (RFC 5321 section 4.5.2).
pub(super) struct Encoder {
    chunking: bool,
    /// The line in front of the first block.
    first: String,
    line_start: bool,
}

impl Encoder {
    pub(super) fn new(chunking: bool, length: usize) -> Self {
        let first = if chunking { format!("BDAT {length} LAST\r\n") } else { String::new() };
        Self { chunking, first, line_start: true }
    }

    pub(super) fn encode(&mut self, block: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.first).into_bytes();
        bytes.reserve(block.len() + block.len() / 64 + 3);
        if self.chunking {
            bytes.extend(block);
            return bytes;
        }
        for byte in block {
            if self.line_start && *byte == b'.' {
                bytes.push(b'.');
            }
            bytes.push(*byte);
            self.line_start = *byte == b'\n';
        }
        bytes
    }

    /// The last block and what ends the message.
    pub(super) fn end(mut self, block: &[u8]) -> Vec<u8> {
        let mut bytes = self.encode(block);
        if !self.chunking {
            bytes.extend(b".\r\n");
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Encoder;

    #[test]
    fn dots_are_doubled_wherever_the_message_is_cut() {
        let message = b".a\r\n..b\r\nc.d\r\n.\r\n";
        for cut in 0..=message.len() {
            let (head, tail) = message.split_at(cut);
            let mut encoder = Encoder::new(false, message.len());
            let sent = [encoder.encode(head), encoder.end(tail)].concat();
            assert_eq!(sent, b"..a\r\n...b\r\nc.d\r\n..\r\n.\r\n", "{cut}");
            let mut encoder = Encoder::new(true, message.len());
            let sent = [encoder.encode(head), encoder.end(tail)].concat();
            assert_eq!(sent, [b"BDAT 17 LAST\r\n", &message[..]].concat(), "{cut}");
        }
    }
}
