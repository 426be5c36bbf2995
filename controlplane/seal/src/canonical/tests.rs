//! The RFC's own vectors, and what must hold for any value.

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use super::*;

fn text(value: &Value) -> String {
    String::from_utf8(canonical(value).unwrap()).unwrap()
}

/// RFC 8785, appendix B: the bits of a double, and how it is written.
const NUMBERS: [(u64, &str); 24] = [
    (0x0000_0000_0000_0000, "0"),
    (0x8000_0000_0000_0000, "0"),
    (0x0000_0000_0000_0001, "5e-324"),
    (0x8000_0000_0000_0001, "-5e-324"),
    (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
    (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
    (0x4340_0000_0000_0000, "9007199254740992"),
    (0xc340_0000_0000_0000, "-9007199254740992"),
    (0x4430_0000_0000_0000, "295147905179352830000"),
    (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
    (0x44b5_2d02_c7e1_4af6, "1e+23"),
    (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
    (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
    (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
    (0x444b_1ae4_d6e2_ef50, "1e+21"),
    (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
    (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
    (0x41b3_de43_5555_5553, "333333333.3333332"),
    (0x41b3_de43_5555_5554, "333333333.33333325"),
    (0x41b3_de43_5555_5555, "333333333.3333333"),
    (0x41b3_de43_5555_5556, "333333333.3333334"),
    (0x41b3_de43_5555_5557, "333333333.33333343"),
    (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
    (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
];

#[test]
fn numbers_are_written_as_the_rfc_lists_them() {
    for (bits, expected) in NUMBERS {
        let number = Number::from_f64(f64::from_bits(bits)).unwrap();
        assert_eq!(text(&Value::Number(number)), expected, "{bits:016x}");
        assert_eq!(text(&parse(expected.as_bytes()).unwrap()), expected);
    }
    for none in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(number::ecmascript(none), None);
    }
}

/// RFC 8785, 3.2.2 to 3.2.4: the sample, and its bytes.
#[test]
fn the_sample_of_the_rfc_comes_out_byte_by_byte() {
    let sample = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
      }"#;
    let expected = "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a\
        5b3333333333333333332e333333333333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282\
        ac245c75303030665c6e4127425c225c5c5c5c5c222f227d";
    let bytes = canonical(&parse(sample.as_bytes()).unwrap()).unwrap();
    assert_eq!(hex::encode(bytes), expected);
}

/// RFC 8785, 3.2.3: names are in the order of their UTF-16 code units.
#[test]
fn names_are_sorted_as_the_rfc_shows() {
    let sample = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
        "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let sorted = text(&parse(sample.as_bytes()).unwrap());
    let order = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
    let at: Vec<usize> = order.iter().map(|word| sorted.find(word).unwrap()).collect();
    assert!(at.is_sorted(), "{sorted}");
}

#[test]
fn an_integer_is_exact_or_refused() {
    for exact in
        ["0", "-1", "9007199254740991", "9007199254740992", "1000000000000000000", "123456789012345680000"]
    {
        assert_eq!(text(&parse(exact.as_bytes()).unwrap()), exact);
    }
    // The neighbours of what a double can hold; one would be written as another number.
    for lossy in ["9007199254740993", "-9007199254740993", "18446744073709551615", "1152921504606846976"] {
        let value = parse(lossy.as_bytes()).unwrap();
        assert_eq!(canonical(&value), Err(JsonError::Inexact(lossy.to_owned())));
    }
    for huge in ["123456789012345678901", "1e400", "-1e999"] {
        assert!(matches!(parse(huge.as_bytes()), Err(JsonError::Inexact(_))), "{huge}");
    }
    assert_eq!(canonical(&json!(u64::MAX)), Err(JsonError::Inexact(u64::MAX.to_string())));
}

#[test]
fn what_has_two_meanings_is_refused() {
    let twice = parse(br#"{"a":1,"b":{"x":1,"\u0078":2}}"#).unwrap_err();
    assert_eq!(twice, JsonError::Twice { at: 18, name: "x".into() });
    assert!(twice.to_string().contains("`x` twice"));
    for bad in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\"}",
        "{\"a\":1,}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "nul",
        "tru",
        "\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\n\"",
        "1 2",
        "[1 2]",
        "{1:2}",
        "'a'",
        "\u{feff}1",
        "NaN",
        "Infinity",
        "\"\\u+123\"",
    ] {
        assert!(
            matches!(parse(bad.as_bytes()), Err(JsonError::Syntax { .. })),
            "{bad:?}: {:?}",
            parse(bad.as_bytes())
        );
    }
    assert!(matches!(parse(b"\"\xff\""), Err(JsonError::Syntax { at: 1, .. })));
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(nested(MOST_DEPTH).as_bytes()).is_ok());
    assert_eq!(parse(nested(MOST_DEPTH + 2).as_bytes()), Err(JsonError::Deep));
    assert_eq!(parse("[".repeat(1_000_000).as_bytes()), Err(JsonError::Deep));
    let deep = (0..=MOST_DEPTH).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(canonical(&deep), Err(JsonError::Deep));
    assert_eq!(parse(&vec![b' '; MOST_BYTES + 1]), Err(JsonError::Long));
    assert_eq!(canonical(&json!("x".repeat(MOST_BYTES))), Err(JsonError::Long));
}

/// Any value, with doubles of all magnitudes.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_992i64..=9_007_199_254_740_992).prop_map(Value::from),
        any::<u64>()
            .prop_filter_map("finite", |bits| Number::from_f64(f64::from_bits(bits)).map(Value::Number)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The same value in another spelling: members backwards, spaces, every character escaped.
fn otherwise(value: &Value, out: &mut String) {
    let string = |text: &str, out: &mut String| {
        out.push('"');
        text.encode_utf16().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
        out.push('"');
    };
    match value {
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push_str(" [ ");
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { " , " } else { "" });
                otherwise(item, out);
            }
            out.push_str("\n]");
        }
        Value::Object(members) => {
            out.push_str("\t{");
            for (i, (name, member)) in members.iter().rev().enumerate() {
                out.push_str(if i > 0 { " , " } else { "" });
                string(name, out);
                out.push_str(" : ");
                otherwise(member, out);
            }
            out.push('}');
        }
        other => out.push_str(&text(other)),
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_its_own(value in values()) {
        let once = canonical(&value).unwrap();
        prop_assert_eq!(canonical(&parse(&once).unwrap()).unwrap(), once);
    }

    #[test]
    fn one_value_has_one_form_however_it_is_spelt(value in values()) {
        let mut spelling = String::new();
        otherwise(&value, &mut spelling);
        prop_assert_eq!(canonical(&parse(spelling.as_bytes()).unwrap()).unwrap(), canonical(&value).unwrap());
    }

    #[test]
    fn the_order_of_members_does_not_matter(members in prop::collection::btree_map(any::<String>(), values(), 0..8)) {
        let forwards: Map<String, Value> = members.clone().into_iter().collect();
        let backwards: Map<String, Value> = members.into_iter().rev().collect();
        prop_assert_eq!(canonical(&Value::Object(forwards)).unwrap(), canonical(&Value::Object(backwards)).unwrap());
    }

    /// The usual reader agrees about what is JSON and what it means, up to its rounding of fractions.
    #[test]
    fn nobody_else_reads_it_otherwise(value in values()) {
        let bytes = canonical(&value).unwrap();
        let ours = parse(&bytes).unwrap();
        let theirs: Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert!(alike(&ours, &theirs), "{} / {}", ours, theirs);
    }

    #[test]
    fn rubbish_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,0-9eE.+\\-\\\\ua-f \n]{0,60}") {
        let _ = parse(&bytes);
        if let Ok(value) = parse(text.as_bytes()) {
            let _ = canonical(&value);
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}

fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            a == b || (a - b).abs() <= a.abs() * 1e-15
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        (a, b) => a == b,
    }
}
