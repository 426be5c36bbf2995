//! As much of WebSocket (RFC 6455) as a proxy needs that wants to say goodbye: where frames begin and end, and the frame
//! that closes.

/// "Service restart": the server goes away and comes back (IANA's registry of close codes). Clients reconnect.
pub const SERVICE_RESTART: u16 = 1012;

/// Follows the frames of one direction, without looking into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    at: At,
    /// Set by a close frame: nothing may follow it.
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// In the head of a frame, of which so much was seen.
    Head { seen: [u8; 14], len: usize },
    /// In its payload, of which so many bytes are to come.
    Payload(u64),
}

impl Default for Frames {
    fn default() -> Self {
        Self { at: At::Head { seen: [0; 14], len: 0 }, closed: false }
    }
}

impl Frames {
    /// Takes note of bytes that pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Payload(left) => {
                    let n = (*left).min(bytes.len() as u64);
                    *left -= n;
                    bytes = &bytes[usize::try_from(n).unwrap_or(bytes.len())..];
                    if *left == 0 {
                        *self = Self { closed: self.closed, ..Self::default() };
                    }
                }
                At::Head { seen, len } => {
                    seen[*len] = bytes[0];
                    *len += 1;
                    bytes = &bytes[1..];
                    if let Some(payload) = whole(&seen[..*len]) {
                        let closes = seen[0] & 0x0f == 8;
                        self.closed |= closes;
                        self.at = if payload == 0 {
                            At::Head { seen: [0; 14], len: 0 }
                        } else {
                            At::Payload(payload)
                        };
                    }
                }
            }
        }
    }

    /// Whether a frame may be put in here: between two others, and none has closed the connection.
    #[must_use]
    pub const fn may_insert(&self) -> bool {
        !self.closed && matches!(self.at, At::Head { len: 0, .. })
    }

    /// Whether a close frame has passed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }
}

/// The length of the payload, once the head is whole (RFC 6455, section 5.2).
fn whole(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (len, at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(head.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    (head.len() >= at + mask).then_some(len)
}

/// A frame that closes, as a server sends it.
#[must_use]
pub fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x88, 2, high, low]
}

/// A frame that closes, as a client sends it: masked.
#[must_use]
pub fn masked_close_frame(code: u16, mask: [u8; 4]) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [0x88, 0x82, mask[0], mask[1], mask[2], mask[3], high ^ mask[0], low ^ mask[1]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, payload: &[u8], mask: bool) -> Vec<u8> {
        let mut out = vec![0x80 | opcode];
        let bit = if mask { 0x80 } else { 0 };
        match payload.len() {
            n @ 0..126 => out.push(bit | u8::try_from(n).unwrap()),
            n @ 126..65536 => {
                out.push(bit | 126);
                out.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                out.push(bit | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        if mask {
            out.extend([1, 2, 3, 4]);
        }
        out.extend(payload);
        out
    }

    #[test]
    fn the_closing_frames_are_frames_that_close() {
        let mut frames = Frames::default();
        frames.pass(&close_frame(SERVICE_RESTART));
        assert!(frames.is_closed() && !frames.may_insert());
        let masked = masked_close_frame(SERVICE_RESTART, [9, 8, 7, 6]);
        assert_eq!([masked[6] ^ 9, masked[7] ^ 8], SERVICE_RESTART.to_be_bytes());
        let mut frames = Frames::default();
        frames.pass(&masked);
        assert!(frames.is_closed());
    }

    proptest! {
        /// However the bytes are cut, frames end where they end, and only there.
        #[test]
        fn boundaries_do_not_depend_on_the_cuts(
            sizes in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..5),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (size, mask) in sizes {
                // A payload that looks like frames.
                bytes.extend(frame(2, &[0x88, 0x00].repeat(size.div_ceil(2))[..size], mask));
                ends.push(bytes.len());
            }
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).chain([bytes.len()]).collect();
            at.sort_unstable();
            let (mut frames, mut from) = (Frames::default(), 0);
            for to in at {
                frames.pass(&bytes[from..to]);
                from = to;
                prop_assert_eq!(frames.may_insert(), ends.contains(&to));
                prop_assert!(!frames.is_closed());
            }
        }
    }
}
