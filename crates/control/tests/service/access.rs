//! Who may do what; who did what.

use std::net::IpAddr;

use strongroom_api::{
    self as api, AssignmentCreate, AuditEntry, Restore, RestoreMachine, RestoreReplace, Role,
    Scope, SignIn, TokenCreate, UserCreate, UserUpdate,
};
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::{ItemFilter, PageRequest, rights::Caller};

use crate::world::{World, refusal, source};

on_both_databases! {
    the_first_token_opens_the_door_once,
    sign_in_and_rights,
    what_another_server_takes_away_is_gone_within_a_second,
    a_password_is_changed_with_the_present_one,
    who_signs_in_in_vain_costs_the_same_whoever_it_is,
    strangers_lock_nobody_out,
    a_token_is_within_the_one_that_made_it,
    when_a_token_was_used_last_is_known_and_seldom_written,
    a_clock_that_jumps_and_comes_back_ends_no_token,
    the_owner_makes_a_token,
    machines_are_reached_by_their_own_items_only,
    rights_are_looked_at_first,
    the_last_admin_stays,
    everything_is_in_the_audit_log,
}

const PASSWORD: &str = "correct horse battery";

async fn user(world: &World, name: &str) {
    let request = UserCreate { name: name.to_owned(), password: PASSWORD.to_owned() };
    world.control.create_user(&world.admin, request).await.expect("a user");
}

async fn assign(world: &World, user: &str, role: Role, scope: Scope) {
    let request = AssignmentCreate { user: user.to_owned(), role, scope };
    world.control.assign(&world.admin, request).await.expect("a right");
}

async fn session(world: &World, name: &str) -> String {
    world.control.sign_in(sign_in(name, PASSWORD), None).await.expect("signs in").secret
}

fn sign_in(name: &str, password: &str) -> SignIn {
    SignIn { name: name.to_owned(), password: password.to_owned() }
}

async fn the_first_token_opens_the_door_once(bed: Bed) {
    let world = World::new(bed).await;
    let secret = world.control.first_token().await.expect("asks").expect("a token");
    assert_eq!(world.control.first_token().await.expect("asks"), None);
    let caller = world.control.caller(&secret).await.expect("known");
    assert_eq!(caller.name, "admin");
    world.control.users(&caller, &PageRequest::default()).await.expect("may");
    world.pass(13 * 3600);
    world.control.settle().await.expect("settles");
    assert_eq!(refusal(world.control.caller(&secret).await), "auth.token");
}

async fn sign_in_and_rights(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    world.protected("web").await;
    let vault = control.vault(&world.admin, "main").await.expect("a vault").value.id;
    user(&world, "ann").await;
    let wrong = control.sign_in(sign_in("ann", "wrong"), None).await.map(drop);
    assert_eq!(refusal(wrong), "auth.failed");
    let issued = control.sign_in(sign_in("ann", PASSWORD), None).await.expect("signs in");
    let ann = control.caller(&issued.secret).await.expect("known");
    // Without a right nothing exists.
    assert_eq!(refusal(control.vault(&ann, "main").await), "vault.unknown");
    assert_eq!(
        control
            .items(&ann, &ItemFilter::default(), &PageRequest::default())
            .await
            .expect("a list")
            .items,
        []
    );
    assign(&world, "ann", Role::Reader, Scope::Vault(vault)).await;
    let ann = control.caller(&issued.secret).await.expect("known");
    control.vault(&ann, "main").await.expect("sees");
    let now = strongroom_api::BackupNow::default();
    assert_eq!(refusal(control.backup_now(&ann, "web", now.clone()).await), "auth.forbidden");
    assign(&world, "ann", Role::Operator, Scope::Vault(vault)).await;
    let ann = control.caller(&issued.secret).await.expect("known");
    control.backup_now(&ann, "web", now).await.expect("may");
    // A token can do no more than its user, and less.
    let request = TokenCreate {
        name: "monitor".to_owned(),
        role: Some(Role::Reader),
        ..TokenCreate::default()
    };
    let token = control.create_token(&ann, request).await.expect("a token");
    let monitor = control.caller(&token.secret).await.expect("known");
    control.item(&monitor, "web").await.expect("sees");
    assert_eq!(
        refusal(control.backup_now(&monitor, "web", strongroom_api::BackupNow::default()).await),
        "auth.forbidden"
    );
    control.delete_token(&ann, token.token.id).await.expect("revokes");
    assert_eq!(refusal(control.caller(&token.secret).await), "auth.token");
}

fn change(current: Option<&str>, password: &str) -> UserUpdate {
    UserUpdate {
        password: Some(password.to_owned()),
        current_password: current.map(str::to_owned),
        disabled: None,
    }
}

async fn a_password_is_changed_with_the_present_one(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    user(&world, "ann").await;
    let (one, two) = (session(&world, "ann").await, session(&world, "ann").await);
    let ann = control.caller(&one).await.expect("known");
    let narrow = TokenCreate {
        name: "report".to_owned(),
        role: Some(Role::Reader),
        ..TokenCreate::default()
    };
    let narrow = control.create_token(&ann, narrow).await.expect("a token");
    let narrow = control.caller(&narrow.secret).await.expect("known");
    let new = "another long password";
    let by_narrow = control.update_user(&narrow, "ann", change(Some(PASSWORD), new)).await;
    assert_eq!(refusal(by_narrow), "auth.forbidden");
    for current in [None, Some("not the present one")] {
        let refused = control.update_user(&ann, "ann", change(current, new)).await;
        assert_eq!(refusal(refused), "auth.password");
    }
    control.update_user(&ann, "ann", change(Some(PASSWORD), new)).await.expect("her own");
    // The token that did it is left, and no other.
    control.caller(&one).await.expect("is left");
    assert_eq!(refusal(control.caller(&two).await), "auth.token");
    assert_eq!(control.tokens(&ann, &PageRequest::default()).await.expect("a list").items.len(), 1);
    // Who manages access needs no present password; guesses of it are counted, too.
    let other = "a third long password";
    control.update_user(&world.admin, "ann", change(None, other)).await.expect("may");
    assert_eq!(refusal(control.caller(&one).await), "auth.token");
    let one = control.sign_in(sign_in("ann", other), None).await.expect("signs in").secret;
    let ann = control.caller(&one).await.expect("known");
    for _ in 0..5 {
        let refused = control.update_user(&ann, "ann", change(Some("wrong"), new)).await;
        assert_eq!(refusal(refused), "auth.password");
    }
    let refused = control.update_user(&ann, "ann", change(Some("wrong"), new)).await;
    assert_eq!(refusal(refused), "auth.rate");
}

async fn who_signs_in_in_vain_costs_the_same_whoever_it_is(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    // One with a password, one without, one who is disabled, and one whom nobody knows.
    user(&world, "ann").await;
    control.first_token().await.expect("asks");
    user(&world, "off").await;
    let off = UserUpdate { disabled: Some(true), ..UserUpdate::default() };
    control.update_user(&world.admin, "off", off).await.expect("disabled");
    let mut costs = Vec::new();
    let tries =
        [("ann", "wrong"), ("admin", "wrong"), ("off", PASSWORD), ("nobody", "x"), ("", "")];
    for (name, password) in tries {
        let before = control.hashed();
        let refused = control.sign_in(sign_in(name, password), None).await.map(drop);
        assert_eq!(refusal(refused), "auth.failed", "{name}");
        let after = control.hashed();
        costs.push((after.0 - before.0, after.1 - before.1));
    }
    assert!(costs[0].0 == 1 && costs[0].1 > 10_000, "{costs:?}");
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
}

async fn strangers_lock_nobody_out(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    user(&world, "ann").await;
    let here = Some(IpAddr::from([192, 0, 2, 1]));
    let there = Some(IpAddr::from([192, 0, 2, 2]));
    for _ in 0..5 {
        let wrong = control.sign_in(sign_in("ann", "wrong"), here).await.map(drop);
        assert_eq!(refusal(wrong), "auth.failed");
    }
    let limited = control.sign_in(sign_in("ann", PASSWORD), here).await.map(drop);
    assert_eq!(refusal(limited), "auth.rate");
    control.sign_in(sign_in("ann", PASSWORD), there).await.expect("signs in from elsewhere");
    world.pass(10);
    control.record_failed_sign_ins(true).await.expect("records");
    let entries = control.audit_entries(&world.admin, None, 100).await.expect("entries");
    let failed: Vec<_> = entries.iter().filter(|entry| entry.outcome == "denied").collect();
    let counts: Vec<_> = failed.iter().map(|entry| entry.detail["failures"].clone()).collect();
    assert_eq!(counts, [4, 1], "the first at once, the others together");
    assert_eq!(failed[0].target, "ann");
    assert_eq!(failed[0].detail["addresses"]["192.0.2.1"], 4);
}

async fn a_token_is_within_the_one_that_made_it(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    world.protected("web").await;
    user(&world, "ann").await;
    assign(&world, "ann", Role::Operator, Scope::Server).await;
    let ann = control.caller(&session(&world, "ann").await).await.expect("known");
    let make = async |caller: &Caller, request: TokenCreate| {
        control.create_token(caller, TokenCreate { name: "x".to_owned(), ..request }).await
    };
    // It ends no later, but by the password.
    let long = TokenCreate { days: Some(30), ..TokenCreate::default() };
    assert_eq!(refusal(make(&ann, long.clone()).await.map(drop)), "token.outlives");
    let with = |password: &str| TokenCreate { password: Some(password.to_owned()), ..long.clone() };
    assert_eq!(refusal(make(&ann, with("wrong")).await.map(drop)), "auth.password");
    let own = make(&ann, with(PASSWORD)).await.expect("a token of its own");
    assert_eq!((own.token.parent, own.token.effective_role), (None, Some(Role::Operator)));
    let child = make(&ann, TokenCreate::default()).await.expect("a token").token;
    let held = ann.token.expect("a token");
    assert_eq!((child.parent, child.expires), (Some(held.id), held.expires));
    // It may no more.
    let vault = control.vault(&world.admin, "main").await.expect("a vault").value.id;
    let item = control.item(&world.admin, "web").await.expect("an item").value.id;
    let narrow = TokenCreate {
        role: Some(Role::Reader),
        scope: Some(Scope::Vault(vault)),
        ..TokenCreate::default()
    };
    let issued = make(&ann, narrow).await.expect("a token");
    let narrow = control.caller(&issued.secret).await.expect("known");
    for wider in [
        TokenCreate { role: Some(Role::Operator), ..TokenCreate::default() },
        TokenCreate { scope: Some(Scope::Server), ..TokenCreate::default() },
        with(PASSWORD),
    ] {
        assert_eq!(refusal(make(&narrow, wider).await.map(drop)), "auth.forbidden");
    }
    let on_item = TokenCreate { scope: Some(Scope::Item(item)), ..TokenCreate::default() };
    let grandchild = make(&narrow, on_item).await.expect("narrower still");
    // A narrow token sees itself and what was made with it, and revokes no other.
    let seen = control.tokens(&narrow, &PageRequest::default()).await.expect("a list").items;
    let mut seen: Vec<_> = seen.iter().map(|token| token.id).collect();
    seen.sort_unstable();
    let mut expected = [issued.token.id, grandchild.token.id];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let refused = control.delete_token(&narrow, own.token.id).await;
    assert_eq!(refusal(refused), "token.not_found");
    // What was revoked takes along what was made with it; the other stays.
    control.delete_token(&ann, held.id).await.expect("its own");
    assert_eq!(refusal(control.caller(&issued.secret).await), "auth.token");
    assert_eq!(refusal(control.caller(&grandchild.secret).await), "auth.token");
    assert_eq!(refusal(make(&narrow, TokenCreate::default()).await.map(drop)), "auth.token");
    control.caller(&own.secret).await.expect("stands for itself");
    let entries = control.audit_entries(&world.admin, None, 100).await.expect("entries");
    let revoked = entries.iter().find(|entry| !entry.detail["revoked"].is_null());
    let revoked = revoked.expect("recorded").detail["revoked"].as_array().expect("a list").len();
    assert_eq!(revoked, 4);
    let denied = |entry: &&AuditEntry| entry.action == "access.token" && entry.outcome == "denied";
    assert_eq!(entries.iter().filter(denied).count(), 1);
}

async fn when_a_token_was_used_last_is_known_and_seldom_written(bed: Bed) {
    let mut world = World::new(bed).await;
    user(&world, "ann").await;
    assign(&world, "ann", Role::VaultAdmin, Scope::Server).await;
    let secret = session(&world, "ann").await;
    let last = async |world: &World| {
        let all = world.control.tokens(&world.admin, &PageRequest::default()).await;
        all.expect("a list").items[0].last_used
    };
    assert_eq!(last(&world).await, None);
    let begun = world.now();
    world.control.caller(&secret).await.expect("known");
    assert_eq!(last(&world).await, Some(begun));
    world.control.keep_house().await.expect("keeps house");
    // Two hours of many requests are two writes.
    let before = world.control.pulse().writes().0;
    for request in 1..=720 {
        world.pass(10);
        world.control.caller(&secret).await.expect("known");
        if request % 30 == 0 {
            world.control.write_down_uses(false).await.expect("writes");
        }
    }
    assert_eq!(world.control.pulse().writes().0 - before, 2);
    let used = world.now();
    assert_eq!(last(&world).await, Some(used));
    let me = world.control.who_am_i(&secret).await.expect("known");
    assert_eq!(me.token.last_used, Some(used));
    // A crash forgets the last hour at most, a stop nothing. Nobody who asks: nothing is written.
    world.pass(600);
    world.control.caller(&secret).await.expect("known");
    world.restart().await;
    assert_eq!(last(&world).await, Some(used));
    world.control.caller(&secret).await.expect("known");
    let used = world.now();
    world.control.write_down_uses(true).await.expect("writes");
    world.restart().await;
    assert_eq!(last(&world).await, Some(used));
    let before = world.control.pulse().writes().0;
    world.pass(5 * 3600);
    world.control.write_down_uses(false).await.expect("writes");
    world.control.write_down_uses(true).await.expect("writes");
    assert_eq!(world.control.pulse().writes().0, before);
    // One that was revoked meanwhile is no trouble.
    let ann = world.control.caller(&secret).await.expect("known");
    world.control.delete_token(&ann, ann.token.expect("a token").id).await.expect("its own");
    world.control.write_down_uses(true).await.expect("writes");
}

async fn a_clock_that_jumps_and_comes_back_ends_no_token(bed: Bed) {
    let mut world = World::new(bed).await;
    world.control.settle().await.expect("settles");
    user(&world, "ann").await;
    let before = session(&world, "ann").await;
    world.jump(400 * 86_400);
    world.control.settle().await.expect("settles");
    world.control.keep_house().await.expect("keeps house");
    world.control.caller(&before).await.expect("is good");
    let ahead = session(&world, "ann").await;
    world.restart().await;
    world.jump(-400 * 86_400);
    world.control.trust_time().await.expect("knows the time");
    world.control.settle().await.expect("settles");
    world.control.caller(&before).await.expect("is good still");
    world.control.caller(&ahead).await.expect("is good still");
    world.pass(13 * 3600);
    world.control.settle().await.expect("settles");
    for secret in [before, ahead] {
        assert_eq!(refusal(world.control.caller(&secret).await), "auth.token");
    }
}

fn replace(machine: Option<&str>, no_safety_point: bool) -> Restore {
    let machine = machine.map(str::to_owned);
    Restore::Replace(RestoreReplace { machine, no_safety_point, ..RestoreReplace::default() })
}

async fn machines_are_reached_by_their_own_items_only(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    for name in ["own", "other"] {
        world.protected(name).await;
        world.backup(name).await;
    }
    world.machine("free");
    let (own, other) = (world.item("own").await, world.item("other").await);
    let host = control.host(&world.admin, "here").await.expect("a host").value.id;
    user(&world, "ann").await;
    let ann = async || control.caller(&session(&world, "ann").await).await.expect("known");
    let restore = async |caller: &Caller, restore: Restore| {
        let begun = control.restore(caller, "own", "latest", restore).await;
        if begun.is_ok() {
            control.settle().await.expect("settles");
        }
        begun
    };
    assign(&world, "ann", Role::Operator, Scope::Item(own.id)).await;
    // Its own machine, by whatever name, and no other.
    for machine in [None, Some("own"), Some("uuid-of-own")] {
        restore(&ann().await, replace(machine, true)).await.expect("its own");
    }
    for machine in ["other", "uuid-of-other", "free", "nothing"] {
        let refused = restore(&ann().await, replace(Some(machine), false)).await;
        assert_eq!(refusal(refused), "auth.forbidden", "{machine}");
    }
    let secrets =
        Restore::Machine(RestoreMachine { with_secrets: true, ..RestoreMachine::default() });
    assert_eq!(refusal(restore(&ann().await, secrets.clone()).await), "auth.forbidden");
    // One that another item protects from which she may restore, but not without a safety point.
    assign(&world, "ann", Role::Operator, Scope::Item(other.id)).await;
    restore(&ann().await, replace(Some("other"), false)).await.expect("hers too");
    let refused = restore(&ann().await, replace(Some("other"), true)).await;
    assert_eq!(refusal(refused), "auth.forbidden");
    assign(&world, "ann", Role::VaultAdmin, Scope::Item(other.id)).await;
    restore(&ann().await, replace(Some("other"), true)).await.expect("may destroy it");
    // Into a vault of hers she protects what is on hosts of hers.
    let protect = api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: None,
        sources: vec![source("free")],
        backup_now: false,
    };
    assign(&world, "ann", Role::Operator, Scope::Vault(own.vault)).await;
    let refused = control.protect(&ann().await, protect.clone()).await;
    assert_eq!(refusal(refused), "host.unknown");
    assert_eq!(
        control.hosts(&ann().await, &PageRequest::default()).await.expect("a list").items,
        []
    );
    assign(&world, "ann", Role::Reader, Scope::Host(host)).await;
    let refused = control.protect(&ann().await, protect.clone()).await;
    assert_eq!(refusal(refused), "auth.forbidden");
    assign(&world, "ann", Role::Operator, Scope::Host(host)).await;
    control.protect(&ann().await, protect).await.expect("may");
    control.settle().await.expect("settles");
    control.discover(&ann().await, "here").await.expect("may");
    control.settle().await.expect("settles");
    restore(&ann().await, replace(Some("free"), false)).await.expect("any machine of the host");
    assert_eq!(refusal(restore(&ann().await, secrets.clone()).await), "auth.forbidden");
    assign(&world, "ann", Role::Contributor, Scope::Host(host)).await;
    restore(&ann().await, secrets).await.expect("may");
}

async fn rights_are_looked_at_first(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    world.protected("web").await;
    user(&world, "ann").await;
    assign(&world, "ann", Role::Reader, Scope::Server).await;
    let ann = control.caller(&session(&world, "ann").await).await.expect("known");
    let policy = control.policy(&ann, "main", "default").await.expect("a policy").value;
    let mut rules = policy.rules;
    "Nowhere/At_All".clone_into(&mut rules.time_zone);
    let wrong = api::PolicyUpdate { rules: Some(rules), ..api::PolicyUpdate::default() };
    let as_admin =
        control.update_policy(&world.admin, "main", "default", None, wrong.clone()).await;
    assert_eq!(refusal(as_admin), "policy.invalid");
    let as_ann = control.update_policy(&ann, "main", "default", None, wrong).await;
    assert_eq!(refusal(as_ann), "auth.forbidden");
    let none = api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: None,
        sources: Vec::new(),
        backup_now: false,
    };
    assert_eq!(refusal(control.protect(&ann, none.clone()).await), "auth.forbidden");
    assert_eq!(refusal(control.protect(&world.admin, none).await), "request.invalid");
}

async fn the_owner_makes_a_token(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    let day = jiff::SignedDuration::from_hours(24);
    // Even if there is nobody.
    let (user_of, issued) = control.owner_token(None, day, "root").await.expect("a token");
    assert_eq!(user_of.name, "admin");
    let admin = control.caller(&issued.secret).await.expect("known");
    control.users(&admin, &PageRequest::default()).await.expect("may");
    user(&world, "ann").await;
    let refused = control.owner_token(Some("ann"), day, "root").await.map(drop);
    assert_eq!(refusal(refused), "auth.forbidden");
    assign(&world, "ann", Role::VaultAdmin, Scope::Server).await;
    control.owner_token(Some("ann"), day, "root").await.expect("a token");
    let entries = control.audit_entries(&world.admin, None, 100).await.expect("entries");
    assert_eq!(entries[0].action, "access.new_token");
    assert_eq!((entries[0].target.as_str(), &entries[0].detail["by"]), ("ann", &"root".into()));
}

async fn what_another_server_takes_away_is_gone_within_a_second(bed: Bed) {
    let world = World::new(bed).await;
    let secret = world.control.first_token().await.expect("asks").expect("a token");
    world.control.caller(&secret).await.expect("known");
    world.elsewhere("DELETE FROM tokens").await;
    world.control.caller(&secret).await.expect("is not asked for again within a second");
    world.pass(1);
    assert_eq!(refusal(world.control.caller(&secret).await), "auth.token");
}

async fn the_last_admin_stays(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    let first = control.first_token().await.expect("asks").expect("a token");
    let admin = control.caller(&first).await.expect("known");
    assert_eq!(refusal(control.delete_user(&world.admin, "admin").await), "user.last_admin");
    let off = UserUpdate { disabled: Some(true), ..UserUpdate::default() };
    let refused = control.update_user(&world.admin, "admin", off.clone()).await;
    assert_eq!(refusal(refused), "user.last_admin");
    // Nobody locks themselves out.
    assert_eq!(refusal(control.delete_user(&admin, "admin").await), "user.self");
    user(&world, "bob").await;
    assign(&world, "bob", Role::VaultAdmin, Scope::Server).await;
    // Who has no password does not count: bob is the last who can sign in.
    assert_eq!(refusal(control.delete_user(&admin, "bob").await), "user.last_admin");
    let refused = control.update_user(&admin, "bob", off.clone()).await;
    assert_eq!(refusal(refused), "user.last_admin");
    let bob = control.caller(&session(&world, "bob").await).await.expect("known");
    assert_eq!(refusal(control.update_user(&bob, "bob", off.clone()).await), "user.self");
    // Others can go, and a disabled user's tokens end.
    user(&world, "cid").await;
    let cid = session(&world, "cid").await;
    control.update_user(&bob, "cid", off).await.expect("may");
    let on = UserUpdate { disabled: Some(false), ..UserUpdate::default() };
    control.update_user(&bob, "cid", on).await.expect("may");
    assert_eq!(refusal(control.caller(&cid).await), "auth.token");
    control.delete_user(&bob, "admin").await.expect("another is there");
}

async fn everything_is_in_the_audit_log(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    user(&world, "ann").await;
    let entries = world.control.audit_entries(&world.admin, None, 100).await.expect("entries");
    let actions: Vec<_> = entries.iter().rev().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        ["host.create", "vault.create", "item.protect", "item.backup", "access.manage"]
    );
    assert!(entries.iter().all(|entry| !entry.detail.to_string().contains(PASSWORD)));
    let verified = world.control.verify_audit(&world.admin, None).await.expect("verifies");
    assert!(verified.intact);
    assert_eq!((verified.entries, &verified.head), (5, &entries[0].hash));
}
