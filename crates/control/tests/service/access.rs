//! Who may do what; who did what.

use strongroom_api::{AssignmentCreate, Role, Scope, SignIn, TokenCreate, UserCreate, UserUpdate};
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::{ItemFilter, PageRequest};

use crate::world::{World, refusal};

on_both_databases! {
    the_first_token_opens_the_door_once,
    sign_in_and_rights,
    what_another_server_takes_away_is_gone_within_a_second,
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
    assert_eq!(refusal(world.control.caller(&secret).await), "auth.token");
}

async fn sign_in_and_rights(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    world.protected("web").await;
    let vault = control.vault(&world.admin, "main").await.expect("a vault").value.id;
    user(&world, "ann").await;
    let wrong = control.sign_in(sign_in("ann", "wrong")).await.map(drop);
    assert_eq!(refusal(wrong), "auth.failed");
    let issued = control.sign_in(sign_in("ann", PASSWORD)).await.expect("signs in");
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
        scope: None,
        days: Some(1),
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
    // Another password ends all tokens.
    let change = UserUpdate { password: Some("another long password".to_owned()), disabled: None };
    control.update_user(&ann, "ann", change).await.expect("her own");
    assert_eq!(refusal(control.caller(&issued.secret).await), "auth.token");
    for _ in 0..5 {
        let wrong = control.sign_in(sign_in("ann", "wrong")).await.map(drop);
        assert_eq!(refusal(wrong), "auth.failed");
    }
    let limited = control.sign_in(sign_in("ann", "another long password")).await.map(drop);
    assert_eq!(refusal(limited), "auth.rate");
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
    control.first_token().await.expect("asks");
    assert_eq!(refusal(control.delete_user(&world.admin, "admin").await), "user.last_admin");
    let off = UserUpdate { password: None, disabled: Some(true) };
    let refused = control.update_user(&world.admin, "admin", off).await;
    assert_eq!(refusal(refused), "user.last_admin");
    user(&world, "bob").await;
    assign(&world, "bob", Role::VaultAdmin, Scope::Server).await;
    control.delete_user(&world.admin, "admin").await.expect("another is there");
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
