//! Bytes that come in pieces.

use std::fmt::Debug;

use crate::dice::Dice;

/// Up to here every place is tried; beyond, some.
const EVERY: usize = 256;

/// Wherever the bytes are cut, a reader either waits or says of the first part what it says of all: what follows can't
/// change what was understood. `read` says none where it waits.
pub(crate) fn decides_once<T: PartialEq + Debug>(bytes: &[u8], read: impl Fn(&[u8]) -> Option<T>) {
    let all = read(bytes);
    for cut in cuts(bytes) {
        if let Some(early) = read(&bytes[..cut]) {
            assert_eq!(Some(early), all, "of the first {cut} bytes, and of all {}", bytes.len());
        }
    }
}

fn cuts(bytes: &[u8]) -> Vec<usize> {
    if bytes.len() <= EVERY {
        return (0..bytes.len()).collect();
    }
    let mut dice = Dice::of(bytes);
    let some = (0..EVERY / 4).map(|_| dice.below(bytes.len()));
    (0..EVERY / 4).chain(some).chain(bytes.len() - EVERY / 8..bytes.len()).collect()
}
