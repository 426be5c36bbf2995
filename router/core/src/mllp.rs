//! As much of MLLP (Minimal Lower Layer Protocol, HL7 Version 3 Standard, Transport Specification: MLLP, Release 1) as a
//! proxy needs that must not cut a message in half: where messages begin and end, and whether an answer is awaited.

/// Begins a message: a vertical tab. No HTTP request begins with it.
pub const START: u8 = 0x0b;
/// With a carriage return after it, ends one.
const END: u8 = 0x1c;
const RETURN: u8 = 0x0d;

/// Where the bytes of one direction stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// Between two messages. What comes before the next start belongs to none.
    #[default]
    Between,
    /// In one.
    Within,
    /// In one, after a byte that may be its end.
    Ending,
}

impl At {
    const fn next(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Between, START) => Self::Within,
            (Self::Between, _) | (Self::Ending, RETURN) => Self::Between,
            (_, END) => Self::Ending,
            _ => Self::Within,
        }
    }
}

/// A session: messages of the client, each answered by the application (an acknowledgement, or an error).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Talk {
    client: At,
    application: At,
    /// Answers. One message may have two of them (enhanced mode): more than there are messages count for nothing.
    awaited: u64,
}

impl Talk {
    /// Takes note of bytes of the client that pass. Returns how many messages have ended with them.
    pub fn asks(&mut self, bytes: &[u8]) -> u64 {
        let ended = follow(&mut self.client, bytes);
        self.awaited += ended;
        ended
    }

    /// Takes note of bytes of the application that pass. Returns how many messages have ended with them.
    pub fn answers(&mut self, bytes: &[u8]) -> u64 {
        let ended = follow(&mut self.application, bytes);
        self.awaited = self.awaited.saturating_sub(ended);
        ended
    }

    /// Whether the session can end without harm: no message is half way, and those of the client were answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.client == At::Between && self.application == At::Between && self.awaited == 0
    }

    /// Whether a message of the client is half way.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.client != At::Between
    }

    /// How many of these bytes of the client belong to the message that is half way.
    #[must_use]
    pub fn rest(&self, bytes: &[u8]) -> usize {
        let mut at = self.client;
        for (n, byte) in bytes.iter().enumerate() {
            if at == At::Between {
                return n;
            }
            at = at.next(*byte);
        }
        bytes.len()
    }
}

fn follow(at: &mut At, bytes: &[u8]) -> u64 {
    let mut ended = 0;
    for byte in bytes {
        let next = at.next(*byte);
        ended += u64::from(*at != At::Between && next == At::Between);
        *at = next;
    }
    ended
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASK: &[u8] = b"\x0bMSH|^~\\&|A\rPID|1\r\x1c\r";
    const ACK: &[u8] = b"\x0bMSH|^~\\&|B\rMSA|AA|1\r\x1c\r";

    #[test]
    fn a_session_is_quiet_between_an_answer_and_the_next_message() {
        let mut talk = Talk::default();
        assert!(talk.is_quiet() && !talk.is_asking());
        assert_eq!(talk.asks(&ASK[..5]), 0);
        assert!(!talk.is_quiet() && talk.is_asking());
        assert_eq!(talk.asks(&ASK[5..]), 1);
        assert!(!talk.is_quiet() && !talk.is_asking(), "its answer is awaited");
        assert_eq!(talk.answers(&ACK[..7]), 0);
        assert!(!talk.is_quiet());
        assert_eq!(talk.answers(&ACK[7..]), 1);
        assert!(talk.is_quiet());
        // What stands between messages is none.
        assert_eq!((talk.asks(b"\r\n \x1c\r"), talk.answers(b"\r\n")), (0, 0));
        assert!(talk.is_quiet());
    }

    #[test]
    fn each_message_has_an_answer_and_may_have_two() {
        let mut talk = Talk::default();
        talk.asks(&[ASK, ASK].concat());
        talk.answers(ACK);
        assert!(!talk.is_quiet(), "the second one is awaited");
        talk.answers(&[ACK, ACK].concat());
        assert!(talk.is_quiet());
        talk.asks(ASK);
        assert!(!talk.is_quiet(), "what came too much is no answer to the next");
    }

    #[test]
    fn an_end_needs_both_of_its_bytes() {
        let mut talk = Talk::default();
        assert_eq!(talk.asks(b"\x0ba\x1cb\x1c\x1c"), 0);
        assert!(talk.is_asking());
        assert_eq!(talk.asks(b"\r"), 1);
        assert!(!talk.is_asking());
    }

    #[test]
    fn the_rest_of_a_message_ends_where_it_ends() {
        let mut talk = Talk::default();
        assert_eq!(talk.rest(ASK), 0, "none is half way");
        talk.asks(&ASK[..4]);
        let more = [&ASK[4..], ASK].concat();
        assert_eq!(talk.rest(&more), ASK.len() - 4);
        assert_eq!(talk.rest(&ASK[4..6]), 2);
    }

    proptest! {
        /// However the bytes are cut into pieces, the same messages are seen in them.
        #[test]
        fn pieces_change_nothing(
            bytes in prop::collection::vec(prop_oneof![Just(START), Just(END), Just(RETURN), any::<u8>()], 0..200),
            cut in 0_usize..200,
        ) {
            let (mut whole, mut pieces) = (Talk::default(), Talk::default());
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(whole.asks(&bytes), pieces.asks(a) + pieces.asks(b));
            prop_assert_eq!(whole, pieces);
        }

        /// What is taken as the rest of a message ends it, or is all there is.
        #[test]
        fn the_rest_is_the_rest(
            bytes in prop::collection::vec(prop_oneof![Just(START), Just(END), Just(RETURN), any::<u8>()], 0..200),
        ) {
            let mut talk = Talk::default();
            talk.asks(&[START]);
            let n = talk.rest(&bytes);
            let ended = talk.asks(&bytes[..n]);
            prop_assert!(n == bytes.len() || (ended == 1 && !talk.is_asking()));
        }
    }
}
