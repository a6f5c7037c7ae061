//! Users, their passwords, tokens and rights.
//!
//! A password is kept as an argon2id hash, a token as the hash of its secret. Signing in is slow on
//! purpose and counted: after five failures for a name, each next try has to wait, twice as long
//! each time, whoever tries. An unknown name costs the same time as a wrong password.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use argon2::{Argon2, PasswordHash, PasswordHasher as _, PasswordVerifier as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use strongroom_api::{
    self as api, Assignment, AssignmentCreate, Role, Scope, SignIn, Token, TokenCreate,
    TokenIssued, User, UserCreate, UserUpdate, WhoAmI,
};
use strongroom_base::{AssignmentId, Clock, EntropyExt as _, TokenId, UserId, codes};
use strongroom_catalog::{Filter, Query, ReadTx, Stored, Tx};

use super::{
    Caller, Grant, Operation, Target,
    known::{Holder, Moment},
};
use crate::{
    audit,
    error::{ControlError, Result},
    model::{AssignmentDoc, TokenDoc, UserDoc},
    service::{Control, check_user_name, cut, forbidden},
    vaults::{PageRequest, page},
};

/// How long a token of signing in lasts.
const SESSION: SignedDuration = SignedDuration::from_hours(12);

/// What a secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "srt_";

/// Failures for a name that are free.
const FREE_FAILURES: u32 = 5;

/// Names that are remembered with their failures; whoever guesses names must not fill the memory.
const MAX_NAMES: usize = 10_000;

/// Failed tries to sign in, by name.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, (u32, Duration)>>);

impl Failures {
    /// How long a name has to wait still.
    fn wait(&self, name: &str, clock: &dyn Clock) -> Option<Duration> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, last) = map.get(name)?;
        let over = count.checked_sub(FREE_FAILURES)?;
        let pause = Duration::from_secs(1)
            .saturating_mul(2_u32.saturating_pow(over))
            .min(Duration::from_mins(15));
        let until = last.saturating_add(pause);
        until.checked_sub(clock.monotonic()).filter(|wait| !wait.is_zero())
    }

    fn failed(&self, name: &str, clock: &dyn Clock) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_NAMES && !map.contains_key(name) {
            let now = clock.monotonic();
            map.retain(|_, (_, last)| now.saturating_sub(*last) < Duration::from_mins(15));
            if map.len() >= MAX_NAMES {
                map.clear();
            }
        }
        let entry = map.entry(name.to_owned()).or_default();
        *entry = (entry.0.saturating_add(1), clock.monotonic());
    }

    fn succeeded(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

fn hash_secret(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

fn check_password(password: &str) -> Result<()> {
    if (12..=1024).contains(&password.chars().count()) {
        return Ok(());
    }
    let message = "a password has 12 to 1024 characters";
    Err(ControlError::refused(&codes::USER_PASSWORD, message))
}

fn no_user(name: &str) -> ControlError {
    ControlError::refused(&codes::USER_NOT_FOUND, format!("there is no user {:?}", cut(name)))
}

async fn find_user(tx: &mut ReadTx, name: &str) -> Result<Stored<UserDoc>> {
    if let Ok(id) = name.parse::<UserId>()
        && let Some(found) = tx.get::<UserDoc>(&id.to_string()).await?
    {
        return Ok(found);
    }
    let by_name = Query::new(Filter::all().eq("name", name));
    tx.first::<UserDoc>(&by_name).await?.ok_or_else(|| no_user(name))
}

async fn assignments_of(tx: &mut ReadTx, user: UserId) -> Result<Vec<Assignment>> {
    let query = Query::new(Filter::all().eq("owner", user.to_string())).limit(1000);
    let found = tx.list::<AssignmentDoc>(&query).await?;
    Ok(found.items.into_iter().map(|stored| stored.doc.assignment).collect())
}

/// Refuses what would leave nobody who may give rights.
async fn check_admin_left(tx: &mut ReadTx) -> Result<()> {
    let admins = Filter::all().eq("role", Role::VaultAdmin.name()).eq("scope", "server");
    for stored in tx.list::<AssignmentDoc>(&Query::new(admins).limit(1000)).await?.items {
        let user = tx.get::<UserDoc>(&stored.doc.assignment.user.to_string()).await?;
        if user.is_some_and(|user| !user.doc.user.disabled) {
            return Ok(());
        }
    }
    let message = "this would leave nobody who may give rights";
    Err(ControlError::refused(&codes::USER_LAST_ADMIN, message))
}

impl Control {
    async fn hash_password(password: String, salt: [u8; 16]) -> Result<String> {
        Self::blocking(move || {
            let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
            hashed.map(|hash| hash.to_string()).map_err(|error| {
                Box::new(api::ErrorBody::new(&codes::BUG, format!("argon2: {error}")))
            })
        })
        .await
        .map_err(ControlError::from)
    }

    async fn password_is(hash: String, password: String) -> Result<bool> {
        Self::blocking(move || {
            let Ok(parsed) = PasswordHash::new(&hash) else { return Ok(false) };
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
        })
        .await
        .map_err(ControlError::from)
    }

    /// Makes the first user, `admin`, if there is none, and a token with which to begin: its secret.
    pub async fn first_token(&self) -> Result<Option<String>> {
        let users = read!(self, tx => { Ok(tx.count::<UserDoc>(&Filter::all()).await?) })?;
        if users > 0 {
            return Ok(None);
        }
        // Nobody knows it: the token is the way in, and can set another.
        let password = blake3::Hash::from_bytes(self.entropy.array()).to_hex().to_string();
        let password = Self::hash_password(password, self.entropy.array()).await?;
        let now = self.now();
        let user = UserDoc {
            user: User {
                id: UserId::generate(&*self.clock, &*self.entropy),
                name: "admin".to_owned(),
                disabled: false,
                created: now,
                last_sign_in: None,
            },
            password,
        };
        let role = AssignmentDoc {
            assignment: Assignment {
                id: AssignmentId::generate(&*self.clock, &*self.entropy),
                user: user.user.id,
                role: Role::VaultAdmin,
                scope: Scope::Server,
                created: now,
            },
        };
        let expires = now.checked_add(SESSION).unwrap_or(Timestamp::MAX);
        let all = (Role::VaultAdmin, Scope::Server);
        write!(self, tx => {
            if tx.count::<UserDoc>(&Filter::all()).await? > 0 {
                return Ok(None);
            }
            tx.insert(&user).await?;
            tx.insert(&role).await?;
            let name = "first start";
            let issued = self.issue(tx, &user.user, name, all, expires).await?;
            let system = Caller::system();
            audit::entry(tx, &system, "access.begin", "admin", "allowed", json!({})).await?;
            Ok(Some(issued.secret))
        })
    }

    async fn issue(
        &self,
        tx: &mut Tx,
        user: &User,
        name: &str,
        limit: (Role, Scope),
        expires: Timestamp,
    ) -> Result<TokenIssued> {
        let secret = blake3::Hash::from_bytes(self.entropy.array()).to_hex();
        let secret = format!("{PREFIX}{secret}");
        let token = Token {
            id: TokenId::generate(&*self.clock, &*self.entropy),
            name: name.to_owned(),
            user: user.id,
            role: limit.0,
            scope: limit.1,
            created: self.now(),
            expires,
            last_used: None,
        };
        tx.insert(&TokenDoc { token: token.clone(), hash: hash_secret(&secret) }).await?;
        Ok(TokenIssued { token, secret })
    }

    /// Signs in with a name and a password.
    pub async fn sign_in(&self, request: SignIn) -> Result<TokenIssued> {
        let name: String = request.name.chars().take(200).collect();
        if let Some(wait) = self.failures.wait(&name, &*self.clock) {
            let seconds = wait.as_secs().saturating_add(1);
            return Err(ControlError::TooOften { seconds });
        }
        let found = read!(self, tx => {
            Ok(tx.first::<UserDoc>(&Query::new(Filter::all().eq("name", name.as_str()))).await?)
        })?;
        // An unknown name takes as long as a wrong password.
        let hash = match &found {
            Some(found) => found.doc.password.clone(),
            None => Self::hash_password("no such user".to_owned(), [0; 16]).await?,
        };
        let right = Self::password_is(hash, request.password).await?;
        let user = match found {
            Some(found) if right && !found.doc.user.disabled => found.doc.user.id,
            _ => {
                self.failures.failed(&name, &*self.clock);
                let caller = Caller { name: name.clone(), ..Caller::nobody() };
                self.record_refusal(&caller, "access.sign_in", &name).await?;
                let message = codes::AUTH_FAILED.meaning;
                return Err(ControlError::refused(&codes::AUTH_FAILED, message));
            }
        };
        self.failures.succeeded(&name);
        let now = self.now();
        let expires = now.checked_add(SESSION).unwrap_or(Timestamp::MAX);
        write!(self, tx => {
            let Stored { mut doc, version } = find_user(tx, &user.to_string()).await?;
            doc.user.last_sign_in = Some(now);
            tx.update(&doc, version).await?;
            let all = (Role::VaultAdmin, Scope::Server);
            let issued = self.issue(tx, &doc.user, "sign-in", all, expires).await?;
            let caller = Caller { name: doc.user.name.clone(), ..Caller::nobody() };
            audit::entry(tx, &caller, "access.sign_in", &name, "allowed", json!({})).await?;
            Ok(issued)
        })
    }

    /// Who has a token.
    pub async fn caller(&self, secret: &str) -> Result<Caller> {
        Ok(self.recognise(secret).await?.caller.clone())
    }

    async fn recognise(&self, secret: &str) -> Result<Arc<Holder>> {
        let unknown = || ControlError::refused(&codes::AUTH_TOKEN, codes::AUTH_TOKEN.meaning);
        if !secret.starts_with(PREFIX) || secret.len() > 200 {
            return Err(unknown());
        }
        let hash = hash_secret(secret);
        let moment = Moment::now(&self.catalog, &*self.clock);
        let holder = if let Some(holder) = self.known.get(&hash, moment) {
            holder
        } else {
            let holder = Arc::new(self.holder(&hash).await?.ok_or_else(unknown)?);
            self.known.put(hash, moment, Arc::clone(&holder));
            holder
        };
        if holder.token.expires <= self.now() || holder.user.disabled {
            return Err(unknown());
        }
        Ok(holder)
    }

    async fn holder(&self, hash: &str) -> Result<Option<Holder>> {
        let found = read!(self, tx => {
            let by_hash = Query::new(Filter::all().eq("hash", hash));
            let Some(token) = tx.first::<TokenDoc>(&by_hash).await? else { return Ok(None) };
            let token = token.doc.token;
            let Some(user) = tx.get::<UserDoc>(&token.user.to_string()).await? else {
                return Ok(None);
            };
            let assignments = assignments_of(tx, token.user).await?;
            Ok(Some((token, user.doc.user, assignments)))
        })?;
        Ok(found.map(|(token, user, assignments)| {
            let grants = assignments.iter().map(|it| Grant { role: it.role, scope: it.scope });
            let caller = Caller {
                user: Some(user.id),
                name: user.name.clone(),
                grants: grants.collect(),
                limit: Grant { role: token.role, scope: token.scope },
            };
            Holder { caller, token, user, assignments }
        }))
    }

    /// Who has a token, in the words of the API.
    pub async fn who_am_i(&self, secret: &str) -> Result<WhoAmI> {
        let holder = self.recognise(secret).await?;
        let Holder { token, user, assignments, .. } = &*holder;
        let (user, assignments) = (user.clone(), assignments.clone());
        Ok(WhoAmI { user, assignments, token: token.clone() })
    }

    fn check_access(&self, caller: &Caller) -> Result<()> {
        let operation = Operation::ManageAccess;
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))
    }

    /// All users, by name.
    pub async fn users(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<User>> {
        self.check_access(caller)?;
        let query = at.of(Query::default().ascending("name"));
        Ok(page(self.catalog.list::<UserDoc>(&query).await?, |stored| stored.doc.user))
    }

    /// Makes a user, who has no rights yet.
    pub async fn create_user(&self, caller: &Caller, request: UserCreate) -> Result<User> {
        self.check_access(caller)?;
        check_user_name(&request.name)?;
        check_password(&request.password)?;
        let password = Self::hash_password(request.password, self.entropy.array()).await?;
        let doc = UserDoc {
            user: User {
                id: UserId::generate(&*self.clock, &*self.entropy),
                name: request.name,
                disabled: false,
                created: self.now(),
                last_sign_in: None,
            },
            password,
        };
        write!(self, tx => {
            tx.insert(&doc).await.map_err(|error| match error {
                strongroom_catalog::Error::Taken { .. } => {
                    ControlError::refused(&codes::USER_EXISTS, "there is a user of this name")
                }
                error => error.into(),
            })?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "user": "created" }));
            audit::record(tx, caller, operation, &doc.user.name, detail).await
        })?;
        Ok(doc.user)
    }

    /// Changes a user: anybody may change the own password.
    pub async fn update_user(
        &self,
        caller: &Caller,
        name: &str,
        change: UserUpdate,
    ) -> Result<User> {
        let found = read!(self, tx => { find_user(tx, name).await });
        let own = found.as_ref().is_ok_and(|found| caller.user == Some(found.doc.user.id));
        if !own || change.disabled.is_some() {
            self.check_access(caller)?;
        }
        let id = found?.doc.user.id;
        let password = match change.password {
            Some(password) => {
                check_password(&password)?;
                Some(Self::hash_password(password, self.entropy.array()).await?)
            }
            None => None,
        };
        write!(self, tx => {
            let Stored { mut doc, version } = find_user(tx, &id.to_string()).await?;
            doc.user.disabled = change.disabled.unwrap_or(doc.user.disabled);
            if let Some(password) = &password {
                doc.password.clone_from(password);
                tx.delete_all::<TokenDoc>(&Filter::all().eq("owner", id.to_string())).await?;
            }
            tx.update(&doc, version).await?;
            if change.disabled == Some(true) {
                check_admin_left(tx).await?;
            }
            let detail = json!({ "disabled": change.disabled, "password": password.is_some() });
            let operation = Operation::ManageAccess;
            audit::record(tx, caller, operation, &doc.user.name, detail).await?;
            Ok(doc.user)
        })
    }

    /// Deletes a user with its rights and tokens.
    pub async fn delete_user(&self, caller: &Caller, name: &str) -> Result<()> {
        self.check_access(caller)?;
        write!(self, tx => {
            let user = find_user(tx, name).await?.doc.user;
            let own = Filter::all().eq("owner", user.id.to_string());
            tx.delete_all::<TokenDoc>(&own).await?;
            tx.delete_all::<AssignmentDoc>(&own).await?;
            tx.delete::<UserDoc>(&user.id.to_string(), None).await?;
            check_admin_left(tx).await?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "user": "deleted" }));
            audit::record(tx, caller, operation, &user.name, detail).await
        })
    }

    /// All rights that were given.
    pub async fn assignments(
        &self,
        caller: &Caller,
        at: &PageRequest,
    ) -> Result<api::Page<Assignment>> {
        self.check_access(caller)?;
        let query = at.of(Query::default());
        let found = self.catalog.list::<AssignmentDoc>(&query).await?;
        Ok(page(found, |stored| stored.doc.assignment))
    }

    /// Gives a right.
    pub async fn assign(&self, caller: &Caller, request: AssignmentCreate) -> Result<Assignment> {
        self.check_access(caller)?;
        let id = AssignmentId::generate(&*self.clock, &*self.entropy);
        let now = self.now();
        write!(self, tx => {
            let user = find_user(tx, &request.user).await?.doc.user;
            let assignment = Assignment {
                id,
                user: user.id,
                role: request.role,
                scope: request.scope,
                created: now,
            };
            match tx.insert(&AssignmentDoc { assignment: assignment.clone() }).await {
                Ok(_) => {}
                // It has it already.
                Err(strongroom_catalog::Error::Taken { id, .. }) => {
                    return Ok(crate::service::named::<AssignmentDoc>(tx, id).await?.doc.assignment);
                }
                Err(error) => return Err(error.into()),
            }
            let detail = json!({ "role": request.role, "scope": request.scope });
            let operation = Operation::ManageAccess;
            audit::record(tx, caller, operation, &user.name, detail).await?;
            Ok(assignment)
        })
    }

    /// Takes a right away.
    pub async fn unassign(&self, caller: &Caller, id: AssignmentId) -> Result<()> {
        self.check_access(caller)?;
        write!(self, tx => {
            if !tx.delete::<AssignmentDoc>(&id.to_string(), None).await? {
                let message = format!("there is no role assignment {id}");
                return Err(ControlError::refused(&codes::ASSIGNMENT_NOT_FOUND, message));
            }
            check_admin_left(tx).await?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "right": "taken" }));
            audit::record(tx, caller, operation, &id.to_string(), detail).await
        })
    }

    /// The caller's own tokens, or all of them for who may manage access.
    pub async fn tokens(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<Token>> {
        let filter = if caller.may(Operation::ManageAccess, Target::Server) {
            Filter::all()
        } else {
            Filter::all().eq("owner", caller.user.map(|user| user.to_string()))
        };
        let query = at.of(Query::new(filter).ascending("expires"));
        Ok(page(self.catalog.list::<TokenDoc>(&query).await?, |stored| stored.doc.token))
    }

    /// Makes a token of the caller's own, that may no more than the one that was sent.
    pub async fn create_token(&self, caller: &Caller, request: TokenCreate) -> Result<TokenIssued> {
        let days = request.days.unwrap_or(90);
        if !(1..=366).contains(&days) || request.name.is_empty() || request.name.len() > 200 {
            let message = "a token has a name of 1 to 200 characters and lasts 1 to 366 days";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
        }
        let role = request.role.unwrap_or(caller.limit.role).min(caller.limit.role);
        let scope = match (caller.limit.scope, request.scope) {
            (Scope::Server, scope) => scope.unwrap_or(Scope::Server),
            // Whether an item is in the vault is not asked here: not wider, so not another.
            (own, _) => own,
        };
        let Some(user) = caller.user else {
            return Err(ControlError::refused(&codes::AUTH_REQUIRED, codes::AUTH_REQUIRED.meaning));
        };
        let lasts = SignedDuration::from_hours(24 * i64::from(days));
        let expires = self.now().checked_add(lasts).unwrap_or(Timestamp::MAX);
        write!(self, tx => {
            let user = find_user(tx, &user.to_string()).await?.doc.user;
            let limit = (role, scope);
            let issued = self.issue(tx, &user, &request.name, limit, expires).await?;
            let detail = json!({ "token": issued.token.id, "role": role, "scope": scope });
            audit::entry(tx, caller, "access.token", &user.name, "allowed", detail).await?;
            Ok(issued)
        })
    }

    /// Revokes a token: one's own, or anybody's for who may manage access.
    pub async fn delete_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let none =
            || ControlError::refused(&codes::TOKEN_NOT_FOUND, format!("there is no token {id}"));
        let all = caller.may(Operation::ManageAccess, Target::Server);
        write!(self, tx => {
            let found = tx.get::<TokenDoc>(&id.to_string()).await?.ok_or_else(none)?;
            if !all && caller.user != Some(found.doc.token.user) {
                return Err(none());
            }
            tx.delete::<TokenDoc>(&id.to_string(), None).await?;
            let detail = json!({ "revoked": true });
            audit::entry(tx, caller, "access.token", &id.to_string(), "allowed", detail).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Mutex<Duration>);

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().expect("locks")
        }
        fn sleep(&self, _: Duration) {}
    }

    #[test]
    fn failures_make_wait_longer_and_longer() {
        let clock = Fixed(Mutex::default());
        let failures = Failures::default();
        for _ in 0..FREE_FAILURES - 1 {
            failures.failed("ann", &clock);
            assert_eq!(failures.wait("ann", &clock), None);
        }
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            failures.failed("ann", &clock);
            let wait = failures.wait("ann", &clock).expect("waits");
            assert!(wait >= last && wait <= Duration::from_mins(15));
            last = wait;
        }
        assert_eq!(failures.wait("bob", &clock), None);
        *clock.0.lock().expect("locks") = last;
        assert_eq!(failures.wait("ann", &clock), None);
        failures.succeeded("ann");
        assert!(failures.0.lock().expect("locks").is_empty());
    }

    #[test]
    fn guessing_names_fills_no_memory() {
        let clock = Fixed(Mutex::default());
        let failures = Failures::default();
        for name in 0..=MAX_NAMES * 2 {
            failures.failed(&name.to_string(), &clock);
        }
        assert!(failures.0.lock().expect("locks").len() <= MAX_NAMES);
    }
}
