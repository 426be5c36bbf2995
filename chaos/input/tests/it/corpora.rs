//! All bytes that were ever kept, and what is near them, through the laws: what a fuzzer once found stays found, without one.

use domicile_chaos_input::{ALL, Check, Dice};

use crate::kept::{folder, kept};

#[test]
fn every_target_has_its_laws_and_something_to_begin_with() {
    let targets = folder("fuzz_targets").read_dir().unwrap();
    let mut names: Vec<String> = targets
        .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ALL.map(|(name, _)| name));
    for (name, _) in ALL {
        assert!(kept(name).len() > 5, "{name} has hardly any seeds");
    }
}

#[test]
fn all_that_was_kept_passes() {
    for (name, check) in ALL {
        for (file, bytes) in kept(name) {
            passes(check, &bytes, &file);
        }
    }
}

/// What a fuzzer does, without one: pieces left out, doubled, swapped and overwritten, the same each time.
#[test]
fn what_is_near_to_it_passes() {
    for (name, check) in ALL {
        for (file, bytes) in kept(name) {
            let mut dice = Dice::of(&bytes);
            for round in 0..50 {
                let mut near = bytes.clone();
                for _ in 0..=dice.below(3) {
                    damage(&mut near, &mut dice);
                }
                passes(check, &near, &format!("{file}, round {round}"));
            }
        }
    }
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let from = dice.below(bytes.len() + 1);
    let to = bytes.len().min(from + dice.below(9));
    match dice.below(5) {
        0 => drop(bytes.drain(from..to)),
        1 => bytes.truncate(from),
        2 => bytes.extend_from_within(from..to),
        3 => bytes[from..to].reverse(),
        _ => {
            let byte = u8::try_from(dice.below(256)).unwrap();
            bytes.splice(from..to, [byte]);
        }
    }
}

fn passes(check: Check, bytes: &[u8], which: &str) {
    if let Err(why) = std::panic::catch_unwind(|| check(bytes)) {
        eprintln!("in {which}: {:?}", String::from_utf8_lossy(bytes));
        std::panic::resume_unwind(why);
    }
}
