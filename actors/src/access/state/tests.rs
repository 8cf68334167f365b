#![allow(clippy::unwrap_used)]
use super::super::token::TokenKind;
use super::*;
use secrecy::ExposeSecret;

const HOUR_MS: i64 = 3_600_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn token(kind: TokenKind) -> Token {
    Token::generate(kind).unwrap()
}

fn with_key(state: &mut AccessState, name: &str, role: Role) -> (Principal, Token) {
    let token = token(TokenKind::Key);
    let key = state
        .new_key(&NewKey::new(name, role), "node", &token, at(0))
        .unwrap();
    let principal = Principal::of_key(name, role, key.id);
    state.take_key(key);
    (principal, token)
}

fn open(state: &mut AccessState, principal: &Principal, now: Timestamp) -> Token {
    let token = token(TokenKind::Session);
    let (session, evicted) = state.new_session(principal, &token, now).unwrap();
    evicted.into_iter().for_each(|hash| state.drop_session(hash));
    state.take_session(session);
    token
}

fn mint(state: &mut AccessState, principal: &Principal, token: &Token, now: Timestamp) {
    let (code, evicted) = state.new_login_code(principal, token, now).unwrap();
    evicted.into_iter().for_each(|hash| state.drop_code(hash));
    state.take_code(code);
}

fn view(state: &AccessState) -> AccessView {
    state.view(&AccessView::default())
}

#[test]
fn a_key_proves_its_principal_and_nothing_else_does() {
    let mut state = AccessState::default();
    let (admin, key) = with_key(&mut state, "admin", Role::Admin);
    let view = view(&state);
    let key = key.into_secret();
    let key = key.expose_secret();
    assert_eq!(view.authenticate_key(key, at(1)), Some(admin));
    for wrong in [
        "",
        "trp_",
        &key[1..],
        &format!("{key} "),
        &key.to_lowercase(),
        &"x".repeat(10_000),
    ] {
        assert_eq!(view.authenticate_key(wrong, at(1)), None, "{wrong:?} was taken");
    }
    assert_eq!(view.authenticate_session(key, at(1)), None);
}

#[test]
fn the_last_administrator_key_stays() {
    let mut state = AccessState::default();
    let (first, _) = with_key(&mut state, "first", Role::Admin);
    with_key(&mut state, "user", Role::User);
    let id = first.key_id.unwrap();
    assert_eq!(state.revocation(id), Err(AccessError::LastAdmin { id }));
    let (second, _) = with_key(&mut state, "second", Role::Admin);
    assert_eq!(state.revocation(id).unwrap().remaining_admin, second.key_id);
}

#[test]
fn a_revoked_key_takes_its_sessions_and_codes_along() {
    let mut state = AccessState::default();
    with_key(&mut state, "admin", Role::Admin);
    let (user, key) = with_key(&mut state, "user", Role::User);
    let session = open(&mut state, &user, at(0)).into_secret();
    let code = token(TokenKind::LoginCode);
    mint(&mut state, &user, &code, at(0));
    let before = view(&state);
    assert_eq!(
        before.authenticate_session(session.expose_secret(), at(1)),
        Some(user.clone())
    );

    let revocation = state.revocation(user.key_id.unwrap()).unwrap();
    assert_eq!(
        (
            revocation.sessions.len(),
            revocation.codes.len(),
            revocation.remaining_admin
        ),
        (1, 1, None)
    );
    state.drop_key(user.key_id.unwrap()); // even if nothing else had gone yet
    let after = state.view(&before);
    assert_eq!(after.authenticate_session(session.expose_secret(), at(1)), None);
    assert_eq!(
        after.authenticate_key(key.into_secret().expose_secret(), at(1)),
        None
    );
    assert_eq!(state.redeem(code.hash(), at(1)), Err(AccessError::LoginCode));
    assert_eq!(
        state
            .new_session(&user, &token(TokenKind::Session), at(1))
            .unwrap_err(),
        AccessError::NotFound {
            id: user.key_id.unwrap()
        }
    );
}

#[test]
fn a_login_code_works_once_and_for_ten_minutes() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let codes = [token(TokenKind::LoginCode), token(TokenKind::LoginCode)];
    for code in &codes {
        mint(&mut state, &admin, code, at(0));
    }
    assert_eq!(state.redeem(codes[0].hash(), at(599_999)), Ok(admin.clone()));
    state.drop_code(codes[0].hash());
    assert_eq!(
        state.redeem(codes[0].hash(), at(599_999)),
        Err(AccessError::LoginCode)
    );
    assert_eq!(
        state.redeem(codes[1].hash(), at(600_000)),
        Err(AccessError::LoginCode)
    );
    assert_eq!(
        state.expired(&AccessView::default(), at(600_000)).codes,
        [codes[1].hash()]
    );
    let error = state
        .new_login_code(&Principal::anonymous(), &codes[0], at(0))
        .unwrap_err();
    assert_eq!(
        error,
        AccessError::NoKey {
            name: "anonymous".to_owned()
        }
    );
}

#[test]
fn login_codes_are_bounded_and_the_oldest_goes() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let oldest = token(TokenKind::LoginCode);
    mint(&mut state, &admin, &oldest, at(0));
    for _ in 0..LOGIN_CODES_MAX {
        mint(&mut state, &admin, &token(TokenKind::LoginCode), at(1));
    }
    assert_eq!(state.login_codes_len(), LOGIN_CODES_MAX);
    assert_eq!(state.redeem(oldest.hash(), at(2)), Err(AccessError::LoginCode));
}

#[test]
fn a_session_lives_while_it_is_used_but_not_for_ever() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let session = open(&mut state, &admin, at(0)).into_secret();
    let session = session.expose_secret();
    let mut view = view(&state);
    for hours in (20..720).step_by(20) {
        assert_eq!(
            view.authenticate_session(session, at(hours * HOUR_MS)),
            Some(admin.clone()),
            "after {hours} h"
        );
        let mut used = state.take_fresh_usage(&view).sessions;
        assert_eq!(used.len(), 1);
        assert!(state.expired(&view, at(hours * HOUR_MS)).sessions.is_empty());
        state.take_session(used.remove(0));
        view = state.view(&view);
    }
    assert_eq!(
        view.authenticate_session(session, at(720 * HOUR_MS)),
        None,
        "after 30 days"
    );
    assert_eq!(state.expired(&view, at(720 * HOUR_MS)).sessions.len(), 1);

    let idle = open(&mut state, &admin, at(0)).into_secret();
    let view = state.view(&view);
    assert_eq!(
        view.authenticate_session(idle.expose_secret(), at(24 * HOUR_MS)),
        None,
        "idle for a day"
    );
}

#[test]
fn a_session_that_another_node_sees_used_stays() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let session = token(TokenKind::Session);
    let (record, _) = state.new_session(&admin, &session, at(0)).unwrap();
    state.take_session(record.clone());
    let view = view(&state);
    state.take_session(SessionRecord {
        last_seen_at: at(20 * HOUR_MS),
        ..record
    });
    let view = state.view(&view);
    assert!(state.expired(&view, at(40 * HOUR_MS)).sessions.is_empty());
    let session = session.into_secret();
    let found = view.authenticate_session(session.expose_secret(), at(40 * HOUR_MS));
    assert_eq!(found, Some(admin));
}

#[test]
fn sessions_are_bounded_and_the_one_unused_the_longest_goes() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let oldest = open(&mut state, &admin, at(0));
    for n in 0..SESSIONS_MAX {
        open(&mut state, &admin, at(1 + i64::try_from(n).unwrap()));
    }
    assert_eq!(state.sessions_len(), SESSIONS_MAX);
    assert!(!state.close_session(oldest.hash()));
}

#[test]
fn who_signs_in_again_and_again_ends_no_session_of_others() {
    let mut state = AccessState::default();
    let (admin, _) = with_key(&mut state, "admin", Role::Admin);
    let (user, _) = with_key(&mut state, "user", Role::User);
    let session = open(&mut state, &admin, at(0)).into_secret();
    for n in 0..SESSIONS_MAX {
        open(&mut state, &user, at(1 + n as i64));
    }
    assert_eq!(state.sessions_len(), SESSIONS_MAX);
    let found = view(&state).authenticate_session(session.expose_secret(), at(2));
    assert_eq!(found, Some(admin));
}

#[test]
fn last_use_is_told_and_written_once() {
    let mut state = AccessState::default();
    let (_, key) = with_key(&mut state, "admin", Role::Admin);
    let view = view(&state);
    assert!(state.take_fresh_usage(&view).keys.is_empty());
    view.authenticate_key(key.into_secret().expose_secret(), at(7))
        .unwrap();
    assert_eq!(view.list()[0].last_used_at, Some(at(7)));
    assert_eq!(state.take_fresh_usage(&view).keys[0].1, at(7));
    assert!(state.take_fresh_usage(&view).keys.is_empty());
}

#[test]
fn names_are_checked_and_unique() {
    let mut state = AccessState::default();
    with_key(&mut state, "Ana María @home", Role::User);
    let key = |name| state.new_key(&NewKey::new(name, Role::User), "x", &token(TokenKind::Key), at(0));
    assert!(matches!(key("Ana María @home"), Err(AccessError::Exists { .. })));
    for bad in [
        "",
        " a",
        "a ",
        "a\nb",
        "<b>",
        "anonymous",
        "node",
        &"a".repeat(65),
    ] {
        assert!(
            matches!(key(bad), Err(AccessError::Name { .. })),
            "{bad:?} was taken"
        );
    }
}
