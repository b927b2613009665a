use chrono::{DateTime, Duration, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::{InvalidOrder, Month, Order, OrderError, OrderHeading, OrderedAct, Removed, Selector};
use crate::audit::LeafRow;
use crate::tlog::{NoteKeyKind, NoteSignature, NoteText, SignedNote, VerifierKey, VerifierKeys};

const ID: Uuid = Uuid::from_u128(7);

const TEXT: &str = "pga.audit.order.1
id 00000000-0000-0000-0000-000000000007
log example.com/audit
issued 2026-11-23T09:30:00.000000Z
expires 2026-12-23T09:30:00.000000Z
by ada
reason case 4711
erase personal
actor user 00000000-0000-0000-0000-000000000001
resource user 00000000-0000-0000-0000-000000000001
event 2026-11-01T10:00:00.123456Z 00000000-0000-0000-0000-0000000000aa
before 2026-01-01T00:00:00.000000Z
";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn heading() -> OrderHeading {
    OrderHeading {
        id: ID,
        log: "example.com/audit".parse().unwrap(),
        issued_at: time("2026-11-23T09:30:00Z"),
        expires_at: time("2026-12-23T09:30:00Z"),
        by: "ada".into(),
        reason: "case 4711".into(),
    }
}

fn parse(text: impl Into<String>) -> Result<Order, InvalidOrder> {
    Order::parse(&NoteText::new(text.into()).unwrap())
}

fn selectors() -> [Selector; 4] {
    let user = Uuid::from_u128(1);
    [
        Selector::Before(time("2026-01-01T00:00:00Z")),
        Selector::Event { at: time("2026-11-01T10:00:00.123456Z"), id: Uuid::from_u128(0xaa) },
        Selector::ResourceUser(user),
        Selector::ActorUser(user),
    ]
}

fn event(at: &str) -> LeafRow<'static> {
    LeafRow {
        // PostgreSQL counts from 2000.
        at_micros: (time(at) - time("2000-01-01T00:00:00Z")).num_microseconds().unwrap(),
        id: Uuid::from_u128(0xbb),
        writer: Uuid::nil(),
        writer_sequence: 0,
        actor_kind: "system",
        actor_id: None,
        actor_role: None,
        action: "user.update",
        resource_type: None,
        resource_id: None,
        outcome: "success",
        reason: None,
        request_id: None,
        session_id: None,
        provider: None,
        actor_name_commitment: None,
        address_commitment: None,
        user_agent_commitment: None,
        changes_commitment: None,
        mac: None,
        era: 1,
        xid: 1,
        signed: &[],
    }
}

#[test]
fn an_order_has_its_documented_text() {
    let order = Order::to_erase(heading(), selectors()).unwrap();
    assert_eq!(order.to_text().unwrap().as_str(), TEXT);
    assert_eq!(parse(TEXT), Ok(order));
    let order = Order::to_drop(heading(), ["2026-10".parse().unwrap(), "2026-01".parse().unwrap()]).unwrap();
    let text = order.to_text().unwrap();
    assert!(text.as_str().ends_with("\ndrop events\nmonth 2026-01\nmonth 2026-10\n"), "{text:?}");
    assert_eq!(Order::parse(&text), Ok(order));
}

#[test]
fn whatever_differs_is_no_order() {
    for (from, to) in [
        ("order.1", "order.2"),
        ("-0000-000000000007", "-0000-00000000000g"),
        ("00000000-0000-0000-0000-0000000000aa", "00000000-0000-0000-0000-0000000000AA"),
        ("00000000-0000-0000-0000-0000000000aa", "000000000000000000000000000000aa"),
        ("09:30:00.000000Z", "09:30:00Z"),
        ("09:30:00.000000Z", "09:30:00.000000+00:00"),
        ("09:30:00.000000Z", "09:30:60.000000Z"),
        ("2026-11-23T", "2026-11-23t"),
        ("log example.com/audit", "log "),
        ("log example.com/audit", "log  example.com/audit"),
        ("log example.com/audit", "log example.com/audit\u{202e}"),
        ("expires 2026-12", "expires 2026-10"),
        ("expires 2026-12-23T09:30:00.000000Z", "expires 2026-11-23T09:30:00.000000Z"),
        ("expires 2026-12-23T09:30:00.000000Z\n", ""),
        // Letters that look alike are other bytes.
        ("actor user", "\u{430}ctor user"),
        ("actor user", "actor us\u{435}r"),
        ("user 00000000-0000-0000-0000-000000000001", "user \u{ff10}0000000-0000-0000-0000-000000000001"),
        ("reason case 4711\n", "reason case 4711\u{2028}erase everything\n"),
        ("by ada", "by  ada"),
        ("by ada", "by "),
        ("by ada", "by\u{a0}ada"),
        ("by ada", "by ada\u{202e}"),
        ("case 4711", "case\u{9b}4711"),
        ("case 4711\n", "case 4711\n\n"),
        ("erase personal", "erase everything"),
        ("erase personal", "drop events"),
        ("actor user", "actor collector"),
        ("actor user", "actor  user"),
        ("before", "after"),
        ("before 2026-01-01T00:00:00.000000Z\n", "before 2026-01-01T00:00:00.000000Z\n\n"),
        ("before 2026-01-01T00:00:00.000000Z\n", "before 2026-01-01T00:00:00.000000Z \n"),
    ] {
        assert!(TEXT.contains(from), "{from:?}");
        assert!(parse(TEXT.replacen(from, to, 1)).is_err(), "{from:?} {to:?}");
    }
    let lines: Vec<&str> = TEXT.lines().collect();
    for gone in 0..7 {
        let text: String = lines
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != gone)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        assert!(parse(text).is_err(), "without line {gone}");
    }
    assert_eq!(parse(lines[..8].join("\n") + "\n"), Err(InvalidOrder::NothingSelected));
    let repeated = format!("{TEXT}before 2026-01-02T00:00:00.000000Z\n");
    assert_eq!(parse(repeated), Err(InvalidOrder::NotRising));
    let twice = TEXT.replacen("actor user", "actor user 00000000-0000-0000-0000-000000000001\nactor user", 1);
    assert_eq!(parse(twice), Err(InvalidOrder::NotRising));
}

#[test]
fn what_is_not_over_cannot_be_ordered() {
    let future = Selector::Before(heading().issued_at + Duration::microseconds(1));
    assert_eq!(Order::to_erase(heading(), [future]), Err(InvalidOrder::NotOver));
    assert_eq!(
        Order::to_drop(heading(), [Month::of(heading().issued_at).unwrap()]),
        Err(InvalidOrder::NotOver)
    );
}

#[test]
fn an_order_covers_what_its_selectors_select_and_nothing_else() {
    let order = Order::to_erase(heading(), selectors()).unwrap();
    let covers = |event: &LeafRow<'_>| order.covers(event, Removed::PersonalFields);
    let (user, other) = (Uuid::from_u128(1).to_string(), Uuid::from_u128(2).to_string());
    let plain = event("2026-06-01T00:00:00Z");
    assert!(!covers(&plain));
    let cases = [
        (LeafRow { actor_kind: "user", actor_id: Some(&user), ..plain }, true),
        (LeafRow { actor_kind: "user", actor_id: Some(&other), ..plain }, false),
        (LeafRow { actor_kind: "collector", actor_id: Some(&user), ..plain }, false),
        (LeafRow { actor_kind: "user", ..plain }, false),
        (LeafRow { resource_type: Some("user"), resource_id: Some(&user), ..plain }, true),
        (LeafRow { resource_type: Some("session"), resource_id: Some(&user), ..plain }, false),
        (LeafRow { resource_id: Some(&user), ..plain }, false),
        (LeafRow { id: Uuid::from_u128(0xaa), ..event("2026-11-01T10:00:00.123456Z") }, true),
        (LeafRow { id: Uuid::from_u128(0xaa), ..event("2026-11-01T10:00:00.123457Z") }, false),
        (event("2025-12-31T23:59:59.999999Z"), true),
        (event("2026-01-01T00:00:00Z"), false),
        // What comes after the order needs another one.
        (LeafRow { actor_kind: "user", actor_id: Some(&user), ..event("2026-11-23T09:30:00Z") }, false),
        (LeafRow { at_micros: i64::MIN, actor_kind: "user", actor_id: Some(&user), ..plain }, false),
    ];
    for (event, expected) in cases {
        assert_eq!(covers(&event), expected, "{event:?}");
        assert!(!order.covers(&event, Removed::Event), "rows stay: {event:?}");
    }
}

#[test]
fn an_order_to_drop_covers_rows_of_its_months() {
    let order = Order::to_drop(heading(), ["2026-01".parse().unwrap(), "2026-03".parse().unwrap()]).unwrap();
    for (at, expected) in [
        ("2025-12-31T23:59:59.999999Z", false),
        ("2026-01-01T00:00:00Z", true),
        ("2026-02-10T00:00:00Z", false),
        ("2026-03-31T23:59:59.999999Z", true),
        ("2026-04-01T00:00:00Z", false),
    ] {
        for removed in [Removed::Event, Removed::PersonalFields] {
            assert_eq!(order.covers(&event(at), removed), expected, "{at}");
        }
    }
}

fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    // 1970 to 2026-11-23.
    (0..1_795_000_000_000_000_i64).prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        any::<u128>().prop_map(|id| Selector::ActorUser(Uuid::from_u128(id))),
        any::<u128>().prop_map(|id| Selector::ResourceUser(Uuid::from_u128(id))),
        (instant(), any::<u128>()).prop_map(|(at, id)| Selector::Event { at, id: Uuid::from_u128(id) }),
    ]
}

/// Signatures that anybody could make: of the message itself.
fn sign(key: &VerifierKey, text: &NoteText) -> SignedNote {
    let mut bytes = vec![0; 64];
    text.as_str().bytes().enumerate().for_each(|(at, byte)| bytes[at % 64] ^= byte);
    SignedNote::new(text.clone(), NoteSignature { name: key.name().clone(), id: key.id(), bytes }).unwrap()
}

fn is_signed(_: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let mut bytes = vec![0; 64];
    message.iter().enumerate().for_each(|(at, byte)| bytes[at % 64] ^= byte);
    bytes == signature
}

fn key(name: &str, kind: NoteKeyKind) -> VerifierKey {
    VerifierKey::new(name.parse().unwrap(), kind, [7; 32])
}

#[test]
fn an_order_is_opened_with_a_pinned_key_for_its_log_alone() {
    let order = Order::to_erase(heading(), selectors()).unwrap();
    let pinned = key("example.com/orders", NoteKeyKind::Ed25519);
    let keys = VerifierKeys::new([pinned.clone()]).unwrap();
    let note = sign(&pinned, &order.to_text().unwrap());
    let open =
        |note: &SignedNote, log: &str, keys| Order::open(note, &log.parse().unwrap(), keys, &is_signed);
    assert_eq!(open(&note, "example.com/audit", &keys), Ok(order));
    assert!(matches!(open(&note, "example.com/audit/1", &keys), Err(OrderError::OtherLog { .. })));

    let stranger = sign(&key("example.com/others", NoteKeyKind::Ed25519), note.unverified_text());
    assert!(matches!(open(&stranger, "example.com/audit", &keys), Err(OrderError::Signature(Some(_)))));
    let nobody = VerifierKeys::default();
    assert!(matches!(open(&note, "example.com/audit", &nobody), Err(OrderError::Signature(Some(_)))));
    let forged = note
        .to_string()
        .replace("user 00000000-0000-0000-0000-000000000001", "user 00000000-0000-0000-0000-000000000002");
    let forged = SignedNote::parse(forged.as_bytes()).unwrap();
    assert!(matches!(open(&forged, "example.com/audit", &keys), Err(OrderError::Signature(Some(_)))));
    let checkpoint = sign(&pinned, &NoteText::new("example.com/audit/1\n1\nAAAA\n").unwrap());
    assert!(matches!(open(&checkpoint, "example.com/audit", &keys), Err(OrderError::Invalid(_))));
}

#[test]
fn no_text_of_an_order_brings_in_a_line_of_its_own() {
    for text in
        ["case\nbefore 2026-01-01T00:00:00.000000Z", "case\r", "a\u{85}b", "a\u{2029}b", "", " ", "x\n"]
    {
        for (by, reason) in [(text, "case"), ("ada", text)] {
            let heading = OrderHeading { by: by.into(), reason: reason.into(), ..heading() };
            assert!(
                matches!(Order::to_erase(heading, selectors()), Err(InvalidOrder::Text { .. })),
                "{text:?}"
            );
        }
    }
    let made_by_hand =
        Order { by: "ada\nreason x".into(), ..Order::to_erase(heading(), selectors()).unwrap() };
    assert_eq!(made_by_hand.to_text(), Err(InvalidOrder::Text { field: "by" }));
}

proptest! {
    #[test]
    fn an_order_that_differs_has_another_text(one in prop::collection::btree_set(selector(), 1..5), two in prop::collection::btree_set(selector(), 1..5)) {
        let text = |selectors: &std::collections::BTreeSet<Selector>| Order::to_erase(heading(), selectors.clone()).unwrap().to_text();
        prop_assert_eq!(one == two, text(&one) == text(&two));
    }

    #[test]
    fn orders_are_read_as_they_were_written(
        selectors in prop::collection::vec(selector(), 1..20), before in prop::option::of(instant()), reason in "[^ ].{0,80}[^ ]",
    ) {
        let heading = OrderHeading { reason, ..heading() };
        if let Ok(order) = Order::to_erase(heading, selectors.into_iter().chain(before.map(Selector::Before))) {
            prop_assert_eq!(Order::parse(&order.to_text().unwrap()), Ok(order));
        }
    }

    #[test]
    fn what_is_read_is_written_as_it_was(at in 0..TEXT.len(), cut in 0..4_usize, new in prop::collection::vec("[a-z0-9 \n:.TZ-]|actor user |before ", 0..3)) {
        let end = (at + cut).min(TEXT.len());
        let text = format!("{}{}{}", &TEXT[..at], new.concat(), &TEXT[end..]);
        if let Ok(text) = NoteText::new(text)
            && let Ok(order) = Order::parse(&text)
        {
            prop_assert_eq!(order.to_text(), Ok(text));
        }
    }
}

#[test]
fn an_act_is_one_or_the_other() {
    let mixed = TEXT.replace("before 2026-01-01T00:00:00.000000Z", "month 2026-01");
    assert!(parse(mixed).is_err());
    let order = parse(TEXT).unwrap();
    assert!(matches!(order.act, OrderedAct::ErasePersonal(selectors) if selectors.len() == 4));
}
