//! What good files mean, and that no file makes the parser panic.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use domicile_config::{MAX_BYTES, parse};
use domicile_model::residency::Category;
use domicile_model::validate::violations;
use proptest::prelude::*;

const REGIONS: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }
"#;

fn example() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../regions.toml")).unwrap()
}

#[test]
fn the_example_is_good_and_is_the_fleet_of_the_brief() {
    let fleet = parse("regions.toml", &example()).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(violations(&fleet), []);
    assert_eq!(fleet.regions.len(), 6);
    for (tenant, cell, primary, dr) in [
        ("mercy-health", "mercy-health", "us-east-1", "us-west-2"),
        ("nhs-trust-london", "nhs-trust-london", "eu-west-1", "eu-central-1"),
        ("apollo-hospitals", "apollo-hospitals", "ap-south-1", "ap-southeast-1"),
        ("foothill-group", "clinics", "us-west-2", "us-east-1"),
    ] {
        let tenant = &fleet.tenants[tenant];
        assert_eq!(tenant.cell.as_str(), cell);
        let cell = &fleet.cells[&tenant.cell];
        assert_eq!((cell.primary.as_str(), cell.dr.as_str()), (primary, dr));
        assert!(cell.database.is_some() && cell.application.len() == 2, "{cell:?}");
    }
    let clinics = fleet.tenants.values().filter(|t| t.cell.as_str() == "clinics");
    assert!(clinics.count() >= 5);
    let apollo = &fleet.tenants["apollo-hospitals"].residency;
    let country = |code| domicile_model::Country::new(code).unwrap();
    assert!(apollo.allows(Category::Dr, country("SG"), &fleet.jurisdictions));
    assert!(!apollo.allows(Category::Storage, country("SG"), &fleet.jurisdictions));
    assert_eq!(fleet.cells["apollo-hospitals"].rpo_ms, 900_000);
}

#[test]
fn the_short_form_is_enough() {
    let text = format!("{REGIONS}\n[tenants.mercy]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n");
    let fleet = parse("f", &text).unwrap();
    let mercy = &fleet.tenants["mercy"];
    assert_eq!((mercy.name.as_str(), mercy.cell.as_str()), ("mercy", "mercy"));
    assert_eq!(mercy.residency, domicile_model::Residency::default());
    assert_eq!(fleet.cells["mercy"].rpo_ms, 3_600_000);
}

#[test]
fn a_silo_may_be_given_by_tenant_or_by_cell_or_by_both_alike() {
    let regions = "primary = \"us-east-1\"\ndr = \"us-west-2\"\n";
    for (tenant, cell) in [(regions, ""), ("", regions), (regions, regions)] {
        let text = format!("{REGIONS}\n[tenants.a]\n{tenant}\n[cells.a]\nrpo = \"5m\"\n{cell}");
        let fleet = parse("f", &text).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(fleet.cells["a"].rpo_ms, 300_000);
        assert_eq!(fleet.cells["a"].primary.as_str(), "us-east-1");
    }
}

#[test]
fn availability_first_is_said_by_the_cell_or_by_the_tenant_whose_cell_it_is() {
    let database = "[cells.a.database]\nname = \"d\"\nuser = \"u\"\npassword = \"env:P\"\n\
        us-east-1 = { address = \"10.0.0.1:5432\", agent = \"10.0.0.1:7070\" }\n\
        us-west-2 = { address = \"10.0.0.2:5432\", agent = \"10.0.0.2:7070\" }\n";
    let regions = "primary = \"us-east-1\"\ndr = \"us-west-2\"\n";
    let first = "availability_first = true\n";
    for (tenant, cell, chosen) in [
        (regions.to_owned(), String::new(), false),
        (format!("{regions}{first}"), String::new(), true),
        (regions.to_owned(), first.to_owned(), true),
        (format!("{regions}{first}"), first.to_owned(), true),
        (String::new(), format!("{regions}{first}"), true),
        (format!("{regions}availability_first = false\n"), String::new(), false),
    ] {
        let text = format!("{REGIONS}\n[tenants.a]\n{tenant}\n[cells.a]\n{cell}{database}");
        let fleet = parse("f", &text).unwrap_or_else(|report| panic!("{report}\n{text}"));
        assert_eq!(fleet.cells["a"].availability_first, chosen, "{text}");
    }
}

#[test]
fn one_slip_is_one_mistake() {
    // The region's country is wrong; that its tenants' residency can't be judged follows from that.
    let text = r#"
[regions]
us-east-1 = { country = "usa", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }
[tenants.a]
primary = "us-east-1"
dr = "us-west-2"
residency = ["US"]
[cells.pool]
primary = "us-west-2"
dr = "Nope"
[tenants.b]
cell = "pool"
"#;
    let report = parse("f", text).unwrap_err();
    assert_eq!(report.list.iter().map(|m| m.line).collect::<Vec<_>>(), [Some(3), Some(11)], "{report}");
}

#[test]
fn a_file_beyond_the_limit_is_refused_unread() {
    let report = parse("f", &" ".repeat(MAX_BYTES + 1)).unwrap_err();
    assert_eq!(report.list.len(), 1, "{report}");
}

#[test]
fn a_report_is_bounded() {
    let text: String = (0..5_000).map(|n| format!("key{n} = 1\n")).collect();
    let report = parse("f", &text).unwrap_err();
    assert_eq!(report.list.len(), 501);
    assert!(report.list[500].what.contains("more mistakes"));
}

#[test]
fn nesting_without_end_is_an_error_and_not_a_crash() {
    for open in ["[", "{a=", "[{a="] {
        assert!(parse("f", &format!("a = {}", open.repeat(200_000))).is_err());
    }
    assert!(parse("f", &format!("[{}a]", "a.".repeat(200_000))).is_err());
}

#[test]
fn a_key_of_too_many_parts_has_its_line() {
    let text = format!("{REGIONS}# {0}\n\n[tenants]\na{0} = 1\n", ".a".repeat(100));
    let report = parse("f", &text).unwrap_err();
    assert_eq!(report.list.iter().map(|m| m.line).collect::<Vec<_>>(), [Some(8)], "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse("f", &text);
    }

    /// The example with a piece replaced by something else: near to what people write, and never a panic.
    #[test]
    fn no_damage_to_the_example_makes_it_panic(permille in 0usize..1000, length in 0usize..40, with in "[\\[\\]{}=\"',a-z0-9. \n#]{0,12}") {
        let text = example();
        let at = (0..=text.len() * permille / 1000).rev().find(|i| text.is_char_boundary(*i)).unwrap();
        let end = (at + length..text.len() + 40).find(|i| text.is_char_boundary((*i).min(text.len()))).unwrap();
        let damaged = format!("{}{with}{}", &text[..at], &text[end.min(text.len())..]);
        if let Err(report) = parse("f", &damaged) {
            prop_assert!(!report.list.is_empty());
            prop_assert!(report.list.iter().all(|m| !m.what.is_empty() && !m.hint.is_empty()));
        }
    }
}

#[test]
fn approvals_are_none_where_nobody_asks_for_any() {
    use domicile_model::{Approvals, CellId, Change, Need};
    let tenant = "[tenants.mercy]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n";
    let read = |text: &str| parse("f", &format!("{REGIONS}\n{text}\n{tenant}")).unwrap().approvals;
    assert_eq!(read(""), None, "a file that says nothing changes nothing");
    assert_eq!(read("[approvals]"), Some(Approvals::default()));
    let policy = read(
        "[approvals]\nswitchover = \"one\"\nexpires = \"30m\"\n[approvals.cells.mercy]\nfailover = \"two\"",
    );
    let policy = policy.unwrap();
    let (mercy, other) = (CellId::new("mercy").unwrap(), CellId::new("other").unwrap());
    assert_eq!(policy.expires_ms, 1_800_000);
    assert_eq!(policy.need(&mercy, Change::Switchover), Need::One);
    assert_eq!(policy.need(&mercy, Change::Failover), Need::Two);
    assert_eq!(policy.need(&other, Change::Failover), Need::None);
}
