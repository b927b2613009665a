//! The contract of [`SessionStore`], a function for each clause.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::ids::UserId;
use crate::session::{
    Epoch, IdpSession, NewSession, SaveOutcome, Session, SessionError, SessionId, SessionLifetimes,
    SessionLimit, SessionStore, SessionToken, WhenFull,
};
use crate::testing::Subject;
use crate::testing::support::together;

/// Runs the contract of `SessionStore` on the adapter that the expression yields (`async` → `Option<Subject<dyn SessionStore>>`).
#[macro_export]
macro_rules! session_contract {
    ($subject:expr) => {
        $crate::contract_tests!(
            $crate::testing::session,
            $subject,
            [
                a_created_session_is_loaded_by_its_token,
                the_secret_must_match,
                only_the_hash_of_the_secret_is_kept,
                an_idle_session_ends,
                a_touch_keeps_a_session_alive,
                the_absolute_limit_ends_a_session,
                a_save_needs_the_current_version,
                rotation_ends_the_old_token,
                a_deleted_session_is_gone,
                a_users_sessions_are_listed,
                sessions_are_counted,
                revoking_a_user_ends_all_sessions,
                epochs_only_grow,
                sessions_are_found_by_the_idp_session,
                sweeping_removes_only_what_is_over,
                binary_and_hostile_text_come_back_verbatim,
            ]
        );
    };
}

type SessionSubject = Subject<dyn SessionStore>;

const SHORT: Duration = Duration::from_millis(50);
const AFTER_SHORT: Duration = Duration::from_millis(60);
const HOUR: Duration = Duration::from_secs(3600);

const ANNA: UserId = UserId(Uuid::from_u128(1));
const BELA: UserId = UserId(Uuid::from_u128(2));

fn lasting(user: UserId) -> NewSession {
    NewSession::new(user, SessionLifetimes::new(HOUR, 2 * HOUR), "local")
}

fn idle_for(user: UserId, idle: Duration) -> NewSession {
    NewSession::new(user, SessionLifetimes::new(idle, HOUR), "local")
}

async fn create(subject: &SessionSubject, new: NewSession) -> (SessionToken, Session) {
    subject.port.create(new).await.unwrap()
}

async fn assert_over(subject: &SessionSubject, token: &SessionToken, session: &Session) {
    let store = &subject.port;
    assert_eq!(store.load(token).await.unwrap(), None);
    assert_eq!(store.find(session.id).await.unwrap(), None);
    assert!(!store.touch(session.id).await.unwrap());
    assert_eq!(store.save(session).await.unwrap(), SaveOutcome::Gone);
    assert_eq!(store.rotate(token).await.unwrap(), None);
    let listed = store.list(session.user).await.unwrap();
    assert!(listed.iter().all(|listed| listed.id != session.id));
    if let Some(idp) = &session.idp_session {
        let found = store.find_by_idp_session(&idp.provider, &idp.id).await.unwrap();
        assert!(found.iter().all(|found| found.id != session.id));
    }
    assert!(!store.delete(session.id).await.unwrap());
}

/// Clause 1.
pub async fn a_created_session_is_loaded_by_its_token(subject: SessionSubject) {
    let data = json!({"theme": "dark", "numbers": [0, -1, 0.5, u64::MAX], "none": null});
    let address: IpAddr = "2001:db8::7".parse().unwrap();
    let idp_session = IdpSession { provider: "corporate".into(), id: "_index".into() };
    let new = lasting(ANNA)
        .with_data(data.clone())
        .with_client(Some(address), Some("Mozilla/5.0".into()))
        .with_idp_session(idp_session.clone());
    let (token, session) = create(&subject, new).await;
    assert_eq!((token.id(), session.user, session.epoch), (session.id, ANNA, Epoch(0)));
    assert_eq!(session.id.shard(), SessionId::shard_text(ANNA));
    assert_eq!((session.provider.as_str(), session.idp_session.as_ref()), ("local", Some(&idp_session)));
    assert_eq!((session.address, session.user_agent.as_deref()), (Some(address), Some("Mozilla/5.0")));
    assert_eq!(session.data, data);
    assert_eq!((session.idle, session.last_seen_at), (HOUR, session.created_at));
    assert_eq!(session.idle_expires_at, session.created_at + HOUR);
    assert_eq!(session.expires_at, session.created_at + 2 * HOUR);
    assert_eq!(subject.port.load(&token).await.unwrap().as_ref(), Some(&session));
    assert_eq!(subject.port.find(session.id).await.unwrap().as_ref(), Some(&session));
    let read: SessionToken = token.expose().parse().unwrap();
    assert_eq!(subject.port.load(&read).await.unwrap().as_ref(), Some(&session));
    let (plain, session) = create(&subject, lasting(ANNA)).await;
    assert_eq!(subject.port.load(&plain).await.unwrap(), Some(session));
}

/// Clause 2.
pub async fn the_secret_must_match(subject: SessionSubject) {
    let (token, session) = create(&subject, lasting(ANNA)).await;
    let guessed = SessionToken::generate(token.id());
    assert_eq!(subject.port.load(&guessed).await.unwrap(), None);
    assert_eq!(subject.port.rotate(&guessed).await.unwrap(), None);
    let unknown = SessionToken::generate(SessionId::for_user(ANNA, Uuid::max()));
    assert_eq!(subject.port.load(&unknown).await.unwrap(), None);
    assert_eq!(subject.port.load(&token).await.unwrap(), Some(session));
}

/// Clause 3. What the backend itself keeps only the adapter's own test can read.
pub async fn only_the_hash_of_the_secret_is_kept(subject: SessionSubject) {
    let (token, session) = create(&subject, lasting(ANNA)).await;
    let exposed = token.expose();
    let (_, secret) = exposed.split_once('.').unwrap();
    let loaded = subject.port.load(&token).await.unwrap().unwrap();
    let yielded = format!("{:?} {session:?} {}", subject.port, serde_json::to_string(&loaded).unwrap());
    assert!(!yielded.contains(secret));
    let hash = hex::encode(token.secret_hash().0);
    let rebuilt: SessionToken = format!("{}.{hash}", token.id()).parse().unwrap();
    assert_eq!(subject.port.load(&rebuilt).await.unwrap(), None);
}

/// Clause 4.
pub async fn an_idle_session_ends(subject: SessionSubject) {
    let idp_session = IdpSession { provider: "corporate".into(), id: "1".into() };
    let (token, session) = create(&subject, idle_for(ANNA, SHORT).with_idp_session(idp_session)).await;
    subject.pass(AFTER_SHORT).await;
    assert_over(&subject, &token, &session).await;
}

/// Clause 5.
pub async fn a_touch_keeps_a_session_alive(subject: SessionSubject) {
    let store = &subject.port;
    let moment = Duration::from_millis(10);
    let (_, plain) = create(&subject, lasting(ANNA)).await;
    let limits = SessionLifetimes::new(HOUR, HOUR + moment / 2);
    let (_, capped) = create(&subject, NewSession::new(ANNA, limits, "local")).await;
    subject.pass(moment).await;
    assert!(store.touch(plain.id).await.unwrap());
    let touched = store.find(plain.id).await.unwrap().unwrap();
    assert!(touched.last_seen_at > plain.last_seen_at);
    assert_eq!(touched.idle_expires_at, touched.last_seen_at + HOUR);
    assert_eq!((touched.expires_at, touched.version), (plain.expires_at, plain.version));
    assert!(store.touch(capped.id).await.unwrap());
    let touched = store.find(capped.id).await.unwrap().unwrap();
    assert_eq!(touched.idle_expires_at, capped.expires_at, "never past the absolute limit");

    let steps = async |_| {
        let (token, session) = create(&subject, idle_for(ANNA, SHORT)).await;
        subject.pass(SHORT * 2 / 3).await;
        let touched = store.touch(session.id).await.unwrap();
        subject.pass(SHORT * 2 / 3).await;
        (touched, store.load(&token).await.unwrap())
    };
    let (touched, loaded) = subject.within(SHORT * 4 / 3 + SHORT / 3, steps).await;
    assert!(touched);
    assert!(loaded.is_some(), "its first idle limit is over, its second is not");
}

/// Clause 6.
pub async fn the_absolute_limit_ends_a_session(subject: SessionSubject) {
    let limits = SessionLifetimes::new(HOUR, SHORT);
    let (token, session) = create(&subject, NewSession::new(ANNA, limits, "local")).await;
    assert_eq!(session.idle_expires_at, session.expires_at);
    subject.port.touch(session.id).await.unwrap();
    subject.pass(AFTER_SHORT).await;
    assert_over(&subject, &token, &session).await;
}

/// Clause 7.
pub async fn a_save_needs_the_current_version(subject: SessionSubject) {
    let store = &subject.port;
    let (token, session) = create(&subject, lasting(ANNA)).await;
    assert!(store.touch(session.id).await.unwrap());
    let changed = Session { data: json!({"step": 1}), user_agent: Some("forged".into()), ..session.clone() };
    let SaveOutcome::Saved { version } = store.save(&changed).await.unwrap() else {
        panic!("the version is current");
    };
    assert!(version > session.version);
    let loaded = store.load(&token).await.unwrap().unwrap();
    assert_eq!((&loaded.data, loaded.version), (&json!({"step": 1}), version));
    assert_eq!((loaded.user_agent.as_ref(), loaded.expires_at), (None, session.expires_at));
    assert_eq!(store.save(&session).await.unwrap(), SaveOutcome::Conflict);
    assert_eq!(store.load(&token).await.unwrap().as_ref(), Some(&loaded));

    let saves = (0..8).map(|number| {
        let store = Arc::clone(&subject.port);
        let session = Session { data: json!({"save": number}), ..loaded.clone() };
        async move { store.save(&session).await.unwrap() }
    });
    let outcomes = together(saves).await;
    let saved = outcomes.iter().filter(|outcome| matches!(outcome, SaveOutcome::Saved { .. })).count();
    let conflicts = outcomes.iter().filter(|outcome| **outcome == SaveOutcome::Conflict).count();
    assert_eq!((saved, conflicts), (1, 7));

    assert!(store.delete(session.id).await.unwrap());
    assert_eq!(store.save(&loaded).await.unwrap(), SaveOutcome::Gone);
    assert_eq!(store.load(&token).await.unwrap(), None);
}

/// Clause 8.
pub async fn rotation_ends_the_old_token(subject: SessionSubject) {
    let store = &subject.port;
    let (first, session) = create(&subject, lasting(ANNA)).await;
    let second = store.rotate(&first).await.unwrap().expect("the token is current");
    assert_eq!(second.id(), first.id());
    assert_eq!(store.load(&first).await.unwrap(), None);
    assert_eq!(store.rotate(&first).await.unwrap(), None);
    assert_eq!(store.load(&second).await.unwrap(), Some(session));

    let rotations = (0..8).map(|_| {
        let (store, token) = (Arc::clone(&subject.port), second.clone());
        async move { store.rotate(&token).await.unwrap() }
    });
    let rotated: Vec<SessionToken> = together(rotations).await.into_iter().flatten().collect();
    assert!(rotated.len() <= 1, "{rotated:?}");
    if let Some(third) = rotated.first() {
        assert_eq!(store.load(&second).await.unwrap(), None);
        assert!(store.load(third).await.unwrap().is_some());
    }
}

/// Clause 9.
pub async fn a_deleted_session_is_gone(subject: SessionSubject) {
    let (token, session) = create(&subject, lasting(ANNA)).await;
    let (other, _) = create(&subject, lasting(ANNA)).await;
    assert!(subject.port.delete(session.id).await.unwrap());
    assert_over(&subject, &token, &session).await;
    assert!(subject.port.load(&other).await.unwrap().is_some());
}

/// Clause 10.
pub async fn a_users_sessions_are_listed(subject: SessionSubject) {
    assert_eq!(subject.port.list(ANNA).await.unwrap(), []);
    let mut sessions = Vec::new();
    for user in [ANNA, BELA, ANNA, ANNA] {
        sessions.push(create(&subject, lasting(user)).await.1);
        subject.pass(Duration::from_millis(2)).await;
    }
    assert!(subject.port.delete(sessions[2].id).await.unwrap());
    let expected = [sessions[3].clone(), sessions[0].clone()];
    assert_eq!(subject.port.list(ANNA).await.unwrap(), expected);
    assert_eq!(subject.port.list(BELA).await.unwrap(), [sessions[1].clone()]);
}

/// Clause 11.
pub async fn sessions_are_counted(subject: SessionSubject) {
    let store = &subject.port;
    assert_eq!(store.count().await.unwrap(), 0);
    for user in [ANNA, ANNA, BELA] {
        create(&subject, lasting(user)).await;
    }
    create(&subject, idle_for(ANNA, SHORT)).await;
    let (_, deleted) = create(&subject, lasting(BELA)).await;
    assert!(store.delete(deleted.id).await.unwrap());
    subject.pass(AFTER_SHORT).await;
    assert_eq!(store.count_of_user(ANNA).await.unwrap(), 2);
    assert_eq!(store.count_of_user(BELA).await.unwrap(), 1);
    assert_eq!(store.count_of_user(UserId(Uuid::max())).await.unwrap(), 0);
    assert!(store.count().await.unwrap() >= 3);
    sweep_all(&subject, 100).await;
    assert_eq!(store.count().await.unwrap(), 3);
}

async fn sweep_all(subject: &SessionSubject, limit: u32) -> u64 {
    let mut sum = 0;
    // One more than there can be sessions in a clause.
    for _ in 0..100 {
        let removed = subject.port.sweep(limit).await.unwrap();
        assert!(removed <= u64::from(limit), "{removed} were removed, asked for were at most {limit}");
        if removed == 0 {
            return sum;
        }
        sum += removed;
    }
    panic!("sweeping does not come to an end");
}

/// Clause 12.
pub async fn revoking_a_user_ends_all_sessions(subject: SessionSubject) {
    let idp_session = IdpSession { provider: "corporate".into(), id: "1".into() };
    let mut revoked = Vec::new();
    for _ in 0..3 {
        revoked.push(create(&subject, lasting(ANNA).with_idp_session(idp_session.clone())).await);
    }
    let (other, _) = create(&subject, lasting(BELA)).await;
    let epoch = subject.port.revoke_user(ANNA).await.unwrap();
    for (token, session) in &revoked {
        assert_over(&subject, token, session).await;
    }
    assert_eq!(subject.port.count_of_user(ANNA).await.unwrap(), 0);
    let (token, later) = create(&subject, lasting(ANNA)).await;
    assert_eq!(later.epoch, epoch);
    assert_eq!(subject.port.load(&token).await.unwrap(), Some(later));
    assert!(subject.port.load(&other).await.unwrap().is_some());
}

/// Clause 13.
pub async fn epochs_only_grow(subject: SessionSubject) {
    let store = &subject.port;
    assert_eq!(store.epoch(ANNA).await.unwrap(), Epoch(0));
    let first = store.revoke_user(ANNA).await.unwrap();
    assert!(first > Epoch(0));
    let revocations = (0..8).map(|_| {
        let store = Arc::clone(&subject.port);
        async move { store.revoke_user(ANNA).await.unwrap() }
    });
    let mut last = first;
    for epoch in together(revocations).await {
        assert!(epoch > first);
        last = last.max(epoch);
    }
    assert_eq!(store.epoch(ANNA).await.unwrap(), last);
    create(&subject, lasting(ANNA)).await;
    let revoked = store.revoke_user(ANNA).await.unwrap();
    assert!(revoked > last);
    sweep_all(&subject, 100).await;
    assert_eq!(store.epoch(ANNA).await.unwrap(), revoked, "sweeping forgets no epoch");
    assert_eq!(store.epoch(BELA).await.unwrap(), Epoch(0));
}

/// Clause 14.
pub async fn sessions_are_found_by_the_idp_session(subject: SessionSubject) {
    let idp = |provider: &str, id: &str| IdpSession { provider: provider.into(), id: id.into() };
    let mut ids = Vec::new();
    for (user, idp_session) in [
        (ANNA, idp("one", "1")),
        (ANNA, idp("one", "1")),
        (BELA, idp("one", "1")),
        (ANNA, idp("one", "2")),
        (ANNA, idp("two", "1")),
    ] {
        ids.push(create(&subject, lasting(user).with_idp_session(idp_session)).await.1.id);
    }
    create(&subject, lasting(ANNA)).await;
    let found = async |provider: &str, id: &str| {
        let sessions = subject.port.find_by_idp_session(provider, id).await.unwrap();
        let mut ids: Vec<SessionId> = sessions.into_iter().map(|session| session.id).collect();
        ids.sort();
        ids
    };
    let mut expected = ids[..3].to_vec();
    expected.sort();
    assert_eq!(found("one", "1").await, expected);
    assert_eq!(found("two", "1").await, ids[4..]);
    assert_eq!(found("two", "2").await, []);
    assert_eq!(found("on", "e1").await, []);
    assert!(subject.port.delete(ids[4]).await.unwrap());
    assert_eq!(found("two", "1").await, []);
}

/// Clause 15.
pub async fn sweeping_removes_only_what_is_over(subject: SessionSubject) {
    for _ in 0..3 {
        create(&subject, idle_for(ANNA, SHORT)).await;
        create(&subject, lasting(BELA)).await;
    }
    subject.port.revoke_user(BELA).await.unwrap();
    let mut live = Vec::new();
    for user in [ANNA, BELA] {
        live.push(create(&subject, lasting(user)).await);
    }
    subject.pass(AFTER_SHORT).await;
    let removed = sweep_all(&subject, 2).await;
    assert!(removed <= 6, "{removed} of 6 were removed");
    assert_eq!(subject.port.count().await.unwrap(), 2);
    for (token, session) in live {
        assert_eq!(subject.port.load(&token).await.unwrap(), Some(session));
    }
}

/// Clause 16.
pub async fn binary_and_hostile_text_come_back_verbatim(subject: SessionSubject) {
    let hostile = "'; DROP TABLE sessions; --\r\n\t\u{1}\u{7f}\\\"{a}*?%_ é \u{10ffff}\u{202e}";
    let idp = |provider: &str, id: &str| IdpSession { provider: provider.into(), id: id.into() };
    let new = NewSession {
        provider: hostile.into(),
        user_agent: Some(hostile.into()),
        data: json!({hostile: [hostile, {"": ""}]}),
        ..lasting(ANNA).with_idp_session(idp(hostile, hostile))
    };
    let (token, session) = create(&subject, new.clone()).await;
    assert_eq!((&session.provider, &session.data), (&new.provider, &new.data));
    assert_eq!((&session.user_agent, &session.idp_session), (&new.user_agent, &new.idp_session));
    assert_eq!(subject.port.load(&token).await.unwrap().as_ref(), Some(&session));
    let found = subject.port.find_by_idp_session(hostile, hostile).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&session));
    assert_eq!(subject.port.find_by_idp_session("a\0", "b\0").await.unwrap(), []);

    let nul = || "a\0b".to_owned();
    let refused = [
        ("provider", NewSession { provider: nul(), ..lasting(ANNA) }),
        ("user_agent", lasting(ANNA).with_client(None, Some(nul()))),
        ("idp_provider", lasting(ANNA).with_idp_session(idp(&nul(), "1"))),
        ("idp_session", lasting(ANNA).with_idp_session(idp("one", &nul()))),
        ("data", lasting(ANNA).with_data(json!([{"deep": nul()}]))),
        ("data", lasting(ANNA).with_data(json!({nul(): 1}))),
    ];
    for (expected, new) in refused {
        let refused = subject.port.create(new).await;
        assert!(
            matches!(refused, Err(SessionError::InvalidText { field }) if field == expected),
            "{expected}: {refused:?}"
        );
    }
    let changed = Session { data: json!(nul()), ..session };
    let refused = subject.port.save(&changed).await;
    assert!(matches!(refused, Err(SessionError::InvalidText { field: "data" })), "{refused:?}");
    assert_eq!(subject.port.count().await.unwrap(), 1);
}

/// For an adapter that limits the sessions of a user: it refuses, however many sign in at once, and counts only what lives.
pub async fn a_full_user_is_refused_one_more_session(make: impl FnOnce(SessionLimit) -> SessionSubject) {
    let subject = make(at_most(3, WhenFull::Refuse));
    create(&subject, lasting(BELA)).await;
    let created = create_together(&subject, 20).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 3);
    for refused in created.iter().filter_map(|created| created.as_ref().err()) {
        assert!(matches!(refused, SessionError::TooManySessions { limit: 3 }), "{refused:?}");
    }
    assert_eq!(subject.port.count_of_user(ANNA).await.unwrap(), 3);
    for session in subject.port.list(ANNA).await.unwrap() {
        assert!(subject.port.delete(session.id).await.unwrap());
    }
    for _ in 0..3 {
        create(&subject, idle_for(ANNA, SHORT)).await;
    }
    subject.pass(AFTER_SHORT).await;
    create(&subject, lasting(ANNA)).await;
    subject.port.revoke_user(ANNA).await.unwrap();
    let created = create_together(&subject, 4).await;
    assert_eq!(
        created.iter().filter(|created| created.is_ok()).count(),
        3,
        "neither expired nor revoked ones count"
    );
}

/// For an adapter that limits the sessions of a user: those that began first end, however many sign in at once.
pub async fn the_oldest_session_makes_room(make: impl FnOnce(SessionLimit) -> SessionSubject) {
    let subject = make(at_most(3, WhenFull::EvictOldest));
    let (other, _) = create(&subject, lasting(BELA)).await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(create(&subject, lasting(ANNA)).await.0);
        subject.pass(Duration::from_millis(2)).await;
    }
    for (number, token) in tokens.iter().enumerate() {
        assert_eq!(subject.port.load(token).await.unwrap().is_some(), number >= 2, "session {number}");
    }
    let created = create_together(&subject, 20).await;
    assert!(created.iter().all(Result::is_ok));
    assert_eq!(subject.port.count_of_user(ANNA).await.unwrap(), 3);
    assert!(subject.port.load(&tokens[4]).await.unwrap().is_none(), "20 began later");
    assert!(subject.port.load(&other).await.unwrap().is_some());
    sweep_all(&subject, 100).await;
    assert_eq!(subject.port.count().await.unwrap(), 4);
}

fn at_most(max: u32, when_full: WhenFull) -> SessionLimit {
    SessionLimit::new(NonZeroU32::new(max).expect("a limit of a suite is not 0"), when_full)
}

async fn create_together(subject: &SessionSubject, number: usize) -> Vec<Result<SessionToken, SessionError>> {
    let creates = (0..number).map(|_| {
        let store = Arc::clone(&subject.port);
        async move { store.create(lasting(ANNA)).await.map(|(token, _)| token) }
    });
    together(creates).await
}
